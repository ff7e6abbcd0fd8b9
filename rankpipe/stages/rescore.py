"""Rescore: a re-ranker that scores candidates by vectors of a bi-encoder."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Gt
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from rankpipe.data import Corpus
from rankpipe.run import Rest, Run
from rankpipe.stage import SETTINGS, Part
from rankpipe.stages.encoding import Encoding


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Rescore(Encoding):
    """Score the first candidates of every query by the dot product of vectors.

    Vectors of the corpus that the store has (a dense stage with the same settings left them) are taken from there;
    otherwise the candidates alone are encoded, and kept in the store: each document once, however many queries, runs
    and pipelines share it. A dense stage takes them over when it encodes the corpus.

    depth  candidates scored per query
    rest   what becomes of those below: "keep" leaves them below in their order, "drop" removes them

    model, query_model, query_prompt, document_prompt, pooling, normalise, dimensions, similarity, max_length, window,
    stride, fields, vectors
           see rankpipe.stages.encoding
    """

    needs: ClassVar[frozenset[Part]] = frozenset({"candidates"})

    depth: Annotated[int, Gt(0)] = 100
    rest: Rest = "keep"

    def __call__(self, run: Run) -> Run:
        """Rescore the candidates. With `window`, run.passages says which of a document's windows counted."""
        if not len(run.documents):
            return run
        scored = run.ranks <= self.depth
        found, windows = self._scored(run.keep(scored))
        if self.window is not None:
            passages = np.full(len(run.documents), -1, np.int32)
            passages[scored] = windows
            run = replace(run, passages=passages)
        return run.rescored_to(self.depth, lambda _: found, rest=self.rest)

    def prepare(self, corpus: Corpus) -> None:
        """Open the encoder, and the vectors that the store has."""
        self.known_vectors(corpus)

    def scores(self, run: Run) -> NDArray[np.float32]:
        """(H,) dot products of all candidates, in their order."""
        return self._scored(run)[0]

    def _scored(self, run: Run) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """(H,) dot products of all candidates, and the windows that they are of."""
        from rankpipe.index.dense import checked_queries, exact_scores  # brings numba

        vectors, places = self.candidate_vectors(run)
        queries = checked_queries(self.encoded_queries(run), vectors)
        return exact_scores(queries, run.query_rows, places, vectors)
