"""BM25 of the package rank_bm25, over the terms of our analyzer: a second engine, to compare with. Slow by nature.

It differs from Lucene's BM25 in that
- idf is ln((N - df + 0.5) / (df + 0.5)), and where that is negative (a term in more than half of the documents)
  0.25 times the mean idf of all terms, which may itself be negative or 0 in a small corpus;
- the factor (k1 + 1) is kept, and lengths are exact; N and the mean length count empty documents too;
- nothing is stored: the whole index is made anew, in memory, from the texts.

As everywhere, a match is a document with at least one of the query's terms, be its score negative or 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from rankpipe.errors import MissingExtraError, UsageError
from rankpipe.index.analysis import Analyzer, terms
from rankpipe.index.bm25 import check_parameters
from rankpipe.index.ranking import Ranking


class RankBM25:
    """The texts of a corpus, indexed in memory by rank_bm25.BM25Okapi."""

    def __init__(
        self,
        texts: Iterable[str],
        analyzer: Analyzer,
        *,
        rows: NDArray[np.integer] | None = None,
        k1: float = 0.9,
        b: float = 0.4,
    ) -> None:
        """Index texts; rows are their rows in the corpus, without them 0, 1, 2 and so on.

        Raises MissingExtraError without the package.
        """
        try:
            from rank_bm25 import BM25Okapi
        except ImportError:
            raise MissingExtraError("engine rank-bm25", "rank-bm25", "rank-bm25") from None
        check_parameters(k1, b)
        self._analyzer = analyzer
        tokens = [terms(analyzer, text) for text in texts]
        self._rows = np.arange(len(tokens)) if rows is None else np.asarray(rows)
        if len(self._rows) != len(tokens):
            raise UsageError(f"{len(self._rows)} rows do not fit {len(tokens)} texts")
        # It divides by the number of documents and of terms, so it is not asked about a corpus without any.
        self._okapi = BM25Okapi(tokens, k1=k1, b=b) if any(tokens) else None

    def search(self, texts: Iterable[str], k: int, tie_order: NDArray[np.int32]) -> Ranking:
        """The k best of the documents that have at least one of a text's terms; ties as InvertedIndex.search.

        Raises UsageError where the package divides 0 by 0, as it does for k1 = 0.
        """
        if k <= 0:
            raise UsageError(f"k is {k}; it must be 1 or more")
        answers = [self._best(terms(self._analyzer, text), k, tie_order) for text in texts]
        sizes = [len(documents) for documents, _ in answers]
        return Ranking(
            np.cumsum([0, *sizes], dtype=np.int64),
            np.fromiter(chain.from_iterable(documents for documents, _ in answers), np.int32, sum(sizes)),
            np.fromiter(chain.from_iterable(scores for _, scores in answers), np.float32, sum(sizes)),
        )

    def _best(self, query: list[str], k: int, tie_order: NDArray[np.int32]) -> tuple[NDArray, NDArray]:
        if self._okapi is None:
            return np.empty(0, np.int32), np.empty(0, np.float32)
        wanted = set(query)
        matching = np.fromiter((not wanted.isdisjoint(document) for document in self._okapi.doc_freqs), bool)
        with np.errstate(all="ignore"):  # what is no number is refused
            scores = self._okapi.get_scores(query)[matching].astype(np.float32)
        if not np.isfinite(scores).all():
            k1, b = self._okapi.k1, self._okapi.b
            raise UsageError(f"engine rank-bm25 gives scores that are no finite numbers for k1 {k1:g} and b {b:g}")
        rows = self._rows[matching]
        order = np.lexsort([tie_order[rows], -scores])[:k]
        return rows[order], scores[order]
