"""What a language model sees of a document when it rewrites a query: the window that is best for the query by BM25."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rankpipe.index import analysis
from rankpipe.training.examples import random_rows
from rankpipe.training.negatives import Judged

if TYPE_CHECKING:
    from rankpipe.index.analysis import Analyzer
    from rankpipe.index.inverted import InvertedIndex

K1 = 0.9
"""Saturation of BM25: that of the stage bm25. Windows have one length, so b has nothing to do."""


def relevant_row(judged: Judged) -> int:
    """Row of the relevant document with the highest grade; of equal ones the first in the corpus."""
    return int(judged.positives[np.lexsort((judged.positives, -judged.grades))[0]])


def random_row(judged: Judged, live: NDArray[np.int32], seed: int) -> int | None:
    """Row of a document that is not relevant to a query, drawn by the seed and the query's id; None without such a one."""
    rng = np.random.default_rng([seed, zlib.crc32(judged.query_id.encode())])
    found = random_rows(live, 1, judged.masked, rng)
    return int(found[0]) if len(found) else None


def best_window(occurrences: NDArray[np.int64], weights: NDArray[np.float64], size: int) -> int:
    """Where the window of `size` words begins that scores best: the sum of idf tf / (tf + K1); the first of equal ones.

    occurrences  (n, T) how often each word of a document holds each of a query's terms
    weights      (T,) idf of the terms, times how often the query has them
    """
    size = min(size, len(occurrences))
    sums = np.concatenate([np.zeros((1, occurrences.shape[1]), np.int64), np.cumsum(occurrences, axis=0)])
    frequencies = sums[size:] - sums[: len(sums) - size]
    scores = (frequencies / (frequencies + K1)) @ weights
    # equal sums may differ in their last digits by the order of the terms
    return int(np.argmax(scores >= scores.max() - 1e-9))


def window_of(text: str, query: str, size: int, index: InvertedIndex, analyzer: Analyzer) -> str:
    """The best window of a text for a query, its words parted by one blank."""
    words = text.split()
    if len(words) <= size:
        return " ".join(words)
    terms, counts = np.unique(analysis.terms(analyzer, query), return_counts=True)
    place = {term: at for at, term in enumerate(terms.tolist())}
    occurrences = np.zeros((len(words), len(place)), np.int64)
    for row, word in enumerate(words):
        for term in analysis.terms(analyzer, word):
            if term in place:
                occurrences[row, place[term]] += 1
    start = best_window(occurrences, counts * _idf(index, terms.tolist()), size)
    return " ".join(words[start : start + size])


def _idf(index: InvertedIndex, terms: Sequence[str]) -> NDArray[np.float64]:
    from rankpipe.index.bm25 import inverse_document_frequency

    frequencies = np.array([index.document_frequency(term) for term in terms], np.int64)
    return inverse_document_frequency(frequencies, index.header.documents).astype(np.float64)
