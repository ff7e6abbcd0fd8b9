"""Rescore: a re-ranker that scores candidates by vectors of a bi-encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from annotated_types import Gt
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from rankpipe.data import Corpus
from rankpipe.models.runtime import current_runtime
from rankpipe.run import Rest, Run
from rankpipe.stage import SETTINGS, Part
from rankpipe.stages.encoding import Encoding

if TYPE_CHECKING:
    from rankpipe.index.vectors import Vectors


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Rescore(Encoding):
    """Score the first candidates of every query by the dot product of vectors.

    Vectors of the corpus that the store has (a dense stage with the same settings left them) are taken from there;
    otherwise the candidates alone are encoded, each document once however many queries share it.

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
        """Rescore the candidates."""
        return run.rescored_to(self.depth, self._score, rest=self.rest)

    def prepare(self, corpus: Corpus) -> None:
        """Open the encoder, and the vectors if the store has them."""
        self._documents(corpus)

    def _score(self, run: Run) -> NDArray[np.float32]:
        from rankpipe.index.dense import checked_queries, exact_scores  # brings numba

        vectors = self._documents(run.corpus).of(run.documents)
        queries = checked_queries(self.encoded_queries(run), vectors)
        return exact_scores(queries, run.query_rows, vectors.places(run.documents), vectors)[0]

    def _documents(self, corpus: Corpus) -> _Documents:
        return self.open_once((corpus.digest, current_runtime()), lambda: _Documents(self, corpus))


class _Documents:
    """Vectors of a corpus: all of them from the store, or those that were asked for so far."""

    def __init__(self, stage: Rescore, corpus: Corpus) -> None:
        self._stage, self._corpus = stage, corpus
        self._known = stage.stored_vectors(corpus)

    def of(self, rows: NDArray[np.int32]) -> Vectors:
        """Vectors that hold at least the documents at these rows."""
        from rankpipe.index.vectors import merged

        known, wanted = self._known, np.unique(rows)
        missing = wanted if known is None else wanted[known.places(wanted) < 0]
        if known is None or len(missing):
            fresh = self._stage.candidate_vectors(self._corpus, missing)
            known = self._known = fresh if known is None else merged([known, fresh])
        return known
