"""Feedback on vectors: a rewriter that moves a query's vector towards those of the documents that were found for it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from rankpipe.data import Corpus
from rankpipe.run import Run
from rankpipe.stage import SETTINGS, Part, QueryPart, is_default
from rankpipe.stages.encoding import Encoding


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class VectorFeedback(Encoding):
    """Move every query's vector towards the mean of its first documents' vectors, for a stage dense that follows.

    Li, Mourad, Zhuang, Koopman and Zuccon, TOIS 2023, arXiv 2108.11044. Texts and candidates stay as they are. A
    document of several windows counts with their mean. Where the encoder gives vectors of length 1, so does this.

    method     "rocchio", alpha times the query and beta times the documents' mean, or "average", the mean of the query
               and each of the documents
    alpha, beta  of "rocchio"
    documents  candidates, the first ones, that are taken for relevant
    least      candidates that a query needs; with fewer its vector stays

    model, query_model, query_prompt, document_prompt, pooling, normalise, dimensions, similarity, max_length, window,
    stride, fields, vectors
               see rankpipe.stages.encoding; those of the stage dense that follows
    """

    needs: ClassVar[frozenset[Part]] = frozenset({"candidates"})
    gives: ClassVar[frozenset[QueryPart]] = frozenset({"vectors"})
    keeps_scores: ClassVar[bool] = True

    method: Literal["rocchio", "average"] = "rocchio"
    alpha: Annotated[float, Ge(0)] = 0.4
    beta: Annotated[float, Ge(0)] = 0.6
    documents: Annotated[int, Ge(1)] = 5
    least: Annotated[int, Ge(1)] = 2

    @model_validator(mode="after")
    def _moves_somewhere(self) -> VectorFeedback:
        if self.method == "rocchio" and not (self.alpha or self.beta):
            raise ValueError("'alpha' and 'beta' are both 0, and no vector would be left")
        for name in ("alpha", "beta"):
            if self.method == "average" and not is_default(self, name):
                raise ValueError(f"'{name}' is of 'method: rocchio', and changes nothing of 'average'")
        return self

    def __call__(self, run: Run) -> Run:
        """The run, its queries with vectors. Candidates stay."""
        vectors = self.query_vectors(run)
        first = run.select(rows := np.flatnonzero((run.counts >= self.least) & vectors.any(axis=1))).top(self.documents)
        if len(rows):
            found, places = self.candidate_vectors(first)
            documents = np.stack([found.values[slice(*found.offsets[at : at + 2])].mean(axis=0) for at in places])
            for row, begin, end in zip(rows, first.offsets[:-1], first.offsets[1:], strict=True):
                vectors[row] = self._moved(vectors[row], documents[begin:end].astype(np.float32))
            if self.encoders()[1].of_length_1:
                vectors[rows] = of_length_one(vectors[rows])
        return run.with_queries(run.queries.with_vectors(vectors, self.encoders()[0].space()))

    def prepare(self, corpus: Corpus) -> None:
        """Open the encoder, and the vectors that the store has."""
        self.known_vectors(corpus)

    def _moved(self, query: NDArray[np.float32], documents: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.method == "average":
            return mean_with(query, documents)
        return np.float32(self.alpha) * query + np.float32(self.beta) * documents.mean(axis=0)


def mean_with(query: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """(D,) mean of a query's vector and n others (n, D)."""
    return np.concatenate([query[None], others]).mean(axis=0)


def of_length_one(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(Q, D) vectors divided by their lengths; one that is zero stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
