"""RM3, Rocchio, Bo1: rewriters that take terms for a query from the documents that were found for it."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from annotated_types import Ge, Gt, Le, MinLen
from numpy.typing import NDArray
from pydantic import AfterValidator, model_validator
from pydantic.dataclasses import dataclass

from rankpipe.data import Corpus, Queries
from rankpipe.errors import UsageError
from rankpipe.index import analysis
from rankpipe.index.analysis import Analyzer
from rankpipe.run import Run
from rankpipe.stage import SETTINGS, Part, QueryPart, Several, Stage
from rankpipe.stages.bm25 import BM25, Analysis, known_analyzer

if TYPE_CHECKING:
    from rankpipe.index.feedback import Counts
    from rankpipe.index.inverted import InvertedIndex


class Given(NamedTuple):
    """What a query is expanded from.

    own     its terms
    counts  how often texts have the terms that may be taken
    texts   those among them that are taken for relevant, then those that are taken for the contrary, if any
    shares  (n,) of each relevant one in the feedback
    """

    own: Mapping[str, float]
    counts: Counts
    texts: Sequence[int]
    shares: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Feedback(Stage):
    """Settings of pseudo-relevance feedback. Queries get weighted terms, for the stage bm25 that follows; their texts and
    the candidates stay as they are.

    documents  candidates, the first ones, that are taken for relevant
    least      candidates that a query needs. With fewer it keeps its own terms, each as often as it stands in the text: a
               single one says nothing of what relevant documents have in common
    terms      terms that are taken from them
    max_share  largest share of the documents that have text, in these fields, that may have such a term
    analyzer, fields  as the stage bm25 has them; the one that follows must have the same analyzer
    """

    needs: ClassVar[frozenset[Part]] = frozenset({"candidates"})
    gives: ClassVar[frozenset[QueryPart]] = frozenset({"terms"})
    takes: ClassVar[frozenset[QueryPart]] = frozenset({"terms"})
    keeps_scores: ClassVar[bool] = True
    plain: ClassVar[bool] = False
    """Whether only terms of letters and digits are taken."""

    documents: Annotated[int, Ge(1)] = 10
    least: Annotated[int, Ge(1)] = 2
    terms: Annotated[int, Ge(1)] = 10
    max_share: Annotated[float, Gt(0), Le(1)] = 0.1
    analyzer: Annotated[Analysis, AfterValidator(known_analyzer)] = "english"
    fields: Annotated[Several[str], MinLen(1)] = ("title", "text")

    @property
    def shared(self) -> Mapping[str, Any]:
        """The analyzer, which the retriever that takes the terms must have, too."""
        return self._bm25.shared

    def __call__(self, run: Run) -> Run:
        """The run, its queries with weighted terms. Candidates stay."""
        index, analyzer = self._bm25.index(run.corpus)
        run.queries.check_taken("terms", self.type_name(), self.shared)
        own = own_terms(run.queries, analyzer)
        enough = np.flatnonzero(run.counts >= self.least).tolist()
        shown = {row: self._places(run, row) for row in enough}
        read = np.unique(run.documents[np.concatenate([np.empty(0, np.int64), *shown.values()])])
        counts = self._counts(index, analyzer, run.corpus.joined_texts(read, self.fields))
        for row, places in shown.items():
            texts = np.searchsorted(read, run.documents[places]).tolist()
            expanded = self._expanded(index, Given(own[row], counts, texts, self._shares(run, row, places)))
            own[row] = expanded or own[row]  # where nothing may be taken, and its own terms have no weight
        return run.with_queries(run.queries.with_terms(own, self.shared))

    def prepare(self, corpus: Corpus) -> None:
        """Build the index if the store does not have it, and open it."""
        self._bm25.prepare(corpus)

    @abstractmethod
    def _expanded(self, index: InvertedIndex, given: Given) -> Mapping[str, float]:
        """Terms of a query."""

    def _places(self, run: Run, row: int) -> NDArray[np.int64]:
        """Where the documents of a query that are read stand in the run."""
        span = run.span(row)
        return np.arange(span.start, min(span.stop, span.start + self.documents))

    def _shares(self, run: Run, row: int, places: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.ones(len(places))

    def _counts(self, index: InvertedIndex, analyzer: Analyzer, texts: Sequence[str]) -> Counts:
        """Terms of texts that queries may be given."""
        from rankpipe.index.feedback import counted_terms, may_expand  # brings numba, so not before it is needed

        counts = counted_terms(index, analyzer, texts)
        distinct, places = np.unique(counts.terms, return_inverse=True)
        return counts.keep(may_expand(index, distinct, self.max_share, plain=self.plain)[places.reshape(-1)])

    def _taken(self, index: InvertedIndex, terms: NDArray[np.int64], weights: NDArray[np.float64]) -> dict[str, float]:
        """The terms with the greatest weights."""
        from rankpipe.index.feedback import first_terms

        best = first_terms(weights, self.terms)
        return {index.term(int(terms[place])): float(weights[place]) for place in best}

    @cached_property
    def _bm25(self) -> BM25:
        return BM25(k=1, analyzer=self.analyzer, fields=self.fields)


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class RM3(Feedback):
    """Mix a query's terms with a relevance model of the first documents.

    Lavrenko and Croft, SIGIR 2001; Abdul-Jaleel and others, TREC 2004. As Anserini's Rm3Reranker has it: of every
    document its `terms` most frequent terms are taken, as shares of each other; then the documents' mean, weighted by
    their scores, and of it the first `terms`.

    weight  of the query's own terms, from 0 to 1
    scores  how documents are weighted: "score", which then may not be negative; "softmax" of the scores; "equal"

    documents, least, terms, max_share, analyzer, fields  see rankpipe.stages.feedback
    """

    plain: ClassVar[bool] = True

    weight: Annotated[float, Ge(0), Le(1)] = 0.5
    scores: Literal["score", "softmax", "equal"] = "score"

    def _shares(self, run: Run, row: int, places: NDArray[np.int64]) -> NDArray[np.float64]:
        scores = run.scores[places].astype(np.float64)
        if self.scores == "score" and scores.min() < 0:
            raise UsageError(
                f"'rm3' weights documents by their scores, and query {run.queries.ids[row]!r} has one of "
                f"{scores.min():.6g}; choose 'scores: softmax' or 'scores: equal'"
            )
        if self.scores == "softmax":
            return np.exp(scores - scores.max())
        return scores if self.scores == "score" else np.ones(len(scores))

    def _expanded(self, index: InvertedIndex, given: Given) -> Mapping[str, float]:
        from rankpipe.index.feedback import added, first_terms, relevance_model, summing_to_one

        terms, table = given.counts.table(given.texts)
        for frequencies in table:
            left_out = np.ones(len(terms), bool)
            left_out[first_terms(frequencies, self.terms)] = False
            frequencies[left_out] = 0
        model = self._taken(index, terms, relevance_model(table, table.sum(axis=1), given.shares))
        return added((self.weight, summing_to_one(given.own)), (1 - self.weight, summing_to_one(model)))


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Rocchio(Feedback):
    """Move a query's terms towards the mean of the first documents, and away from that of the last ones.

    Rocchio, 1971, 'Relevance Feedback in Information Retrieval', as Anserini's RocchioReranker has it: query and
    documents are counts of terms, made to have length 1, and so is the mean, cut to `terms`.

    alpha, beta, gamma  factors of the query, of the first documents, and of the last ones: as many as there are first
                        ones, and none of these. 0: they are not read

    documents, least, terms, max_share, analyzer, fields  see rankpipe.stages.feedback
    """

    alpha: Annotated[float, Ge(0)] = 1.0
    beta: Annotated[float, Ge(0)] = 0.75
    gamma: Annotated[float, Ge(0)] = 0.0

    @model_validator(mode="after")
    def _moves_somewhere(self) -> Rocchio:
        if not (self.alpha or self.beta):
            raise ValueError("'alpha' and 'beta' are both 0, and no term would be left")
        return self

    def _places(self, run: Run, row: int) -> NDArray[np.int64]:
        first = super()._places(run, row)
        if not self.gamma:
            return first
        end = run.span(row).stop
        return np.concatenate([first, np.arange(max(end - self.documents, int(first[-1]) + 1), end)[::-1]])

    def _expanded(self, index: InvertedIndex, given: Given) -> Mapping[str, float]:
        from rankpipe.index.feedback import added, of_unit_length

        parts = (given.texts[: self.documents], given.texts[self.documents :])
        means = [self._mean(index, given.counts, part) for part in parts if part]
        factors = (self.alpha, self.beta, -self.gamma)
        return added(*zip(factors, map(of_unit_length, (given.own, *means)), strict=False))

    def _mean(self, index: InvertedIndex, counts: Counts, texts: Sequence[int]) -> dict[str, float]:
        from rankpipe.index.feedback import mean_direction

        terms, table = counts.table(texts)
        return self._taken(index, terms, mean_direction(table))


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Bo1(Feedback):
    """Add the terms that the first documents have more often than chance would have it, by Bose and Einstein's statistics.

    Amati, 2003, as Terrier has it: a query's term weighs its count over the highest count, and a taken term its weight
    over the highest weight.

    documents, least, terms, max_share, analyzer, fields  see rankpipe.stages.feedback; Terrier takes three documents,
                                                          and leaves no term out for being common
    """

    documents: Annotated[int, Ge(1)] = 3
    max_share: Annotated[float, Gt(0), Le(1)] = 1.0

    def _expanded(self, index: InvertedIndex, given: Given) -> Mapping[str, float]:
        from rankpipe.index.feedback import added, bose_einstein, with_highest_one

        terms, table = given.counts.table(given.texts)
        collection = index.collection_frequencies(terms).astype(np.float64)
        weights = bose_einstein(table.sum(axis=0), collection, index.header.documents)
        taken = self._taken(index, terms, weights)
        return added((1.0, with_highest_one(given.own)), (1.0, with_highest_one(taken)))


def own_terms(queries: Queries, analyzer: Analyzer) -> list[Mapping[str, float]]:
    """Terms of queries: the weighted ones that they have, or those of their texts, each as often as it stands there."""
    if queries.terms is not None:
        return list(queries.terms)
    counted = (Counter(analysis.terms(analyzer, text)) for text in queries.texts)
    return [{term: float(count) for term, count in one.items()} for one in counted]
