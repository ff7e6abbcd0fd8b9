"""Search for the vectors that have the largest dot product with a query's.

`flat` looks at all of them, and is exact. Scores are computed twice: by a matrix product in float32, whose rounding
depends on how many queries and documents are multiplied at once, and, for all that could be among the best k by it,
by a sum in float64, rounded once. So equal vectors have equal scores, and a query's answer does not depend on what
else is asked; ties at the cut fall as the corpus orders them.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
from numba import njit
from numpy.typing import NDArray

from rankpipe.errors import UsageError
from rankpipe.index.vectors import Vectors

QUERIES = 256
"""Queries that are multiplied at once."""
BLOCK = 1 << 14
"""Vectors that are multiplied at once: with QUERIES, 16 MiB of scores."""


class Nearest(NamedTuple):
    """The best documents of Q queries: query q owns offsets[q]:offsets[q + 1], the best first.

    offsets    (Q + 1,) int64
    documents  (H,) int32, rows of the corpus
    scores     (H,) float32, dot products, that of the best window where a document has several
    passages   (H,) int32, which window that is, from 0; None where every document has one
    """

    offsets: NDArray[np.int64]
    documents: NDArray[np.int32]
    scores: NDArray[np.float32]
    passages: NDArray[np.int32] | None


class DenseIndex(Protocol):
    """What a kind of index offers."""

    def search(
        self, queries: NDArray[np.float32], k: int, tie_order: NDArray[np.int32], *, threads: int = 1
    ) -> Nearest:
        """The best k documents for queries (Q, D); equal scores in the order of tie_order (rows,)."""
        ...


@dataclass(frozen=True)
class FlatIndex:
    """Exact search through all vectors."""

    vectors: Vectors

    def search(
        self, queries: NDArray[np.float32], k: int, tie_order: NDArray[np.int32], *, threads: int = 1
    ) -> Nearest:
        """The best k documents for queries (Q, D). Raises UsageError for queries of other dimensions."""
        queries = checked_queries(queries, self.vectors)
        with ThreadPoolExecutor(max_workers=threads) as pool:
            parts = [
                part
                for begin in range(0, len(queries), QUERIES)
                for part in self._search_block(queries[begin : begin + QUERIES], k, tie_order, pool)
            ]
        return _joined(parts, plain=self.vectors.plain)

    def _search_block(
        self, queries: NDArray[np.float32], k: int, tie_order: NDArray[np.int32], pool: ThreadPoolExecutor
    ) -> list[_Answer]:
        vectors = self.vectors
        slacks = (2 * rounding(queries, vectors)).tolist()
        kept = [_Kept.empty(k) for _ in queries]
        for begin, end in vectors.blocks(BLOCK):
            spans = vectors.offsets[begin : end + 1] - vectors.offsets[begin]
            block = vectors.values[vectors.offsets[begin] : vectors.offsets[end]].astype(np.float32, copy=False)
            take = partial(_kept, spans=spans, first=begin, plain=vectors.plain, k=k)
            kept = list(pool.map(take, kept, queries @ block.T, slacks))
        finish = partial(_finished, vectors=vectors, k=k, tie_order=tie_order)
        return list(pool.map(finish, kept, queries, slacks))


def checked_queries(queries: NDArray[np.float32], vectors: Vectors) -> NDArray[np.float32]:
    """Queries (Q, D) as the kernels take them. Raises UsageError where they and the vectors do not fit."""
    if queries.ndim != 2 or queries.shape[1] != vectors.dimensions:
        raise UsageError(
            f"queries are vectors of {queries.shape[-1]} dimensions, the documents' have {vectors.dimensions}; "
            "both must come from encoders that fit each other"
        )
    return np.ascontiguousarray(queries, np.float32)


def rounding(queries: NDArray[np.float32], vectors: Vectors) -> NDArray[np.float32]:
    """(Q,) how far a float32 dot product may be from the true one: D u |q| |d|, u = 2^-24, for any order of the sum.

    Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1; doubled, for what is not first order.
    """
    norms = np.sqrt(np.einsum("qd,qd->q", queries, queries, dtype=np.float64))
    return (2 * queries.shape[1] * 2.0**-24 * norms * vectors.norm).astype(np.float32)


def exact_scores(
    queries: NDArray[np.float32], rows: NDArray[np.integer], places: NDArray[np.integer], vectors: Vectors
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """(H,) scores of documents, given by their places among the vectors, for queries[rows]; and their best windows."""
    scores, windows = np.empty(len(places), np.float32), np.empty(len(places), np.int32)
    for begin in range(0, len(places), BLOCK):
        part = slice(begin, begin + BLOCK)
        at, offsets, values = places[part].astype(np.int64), vectors.offsets, vectors.values
        if values.dtype != np.float32:  # compiled code knows no float16
            at, offsets, values = _gathered(at, offsets, values)
        _score_pairs(queries, rows[part], at, offsets, values, scores[part], windows[part])
    return scores, windows


def _gathered(
    places: NDArray[np.int64], offsets: NDArray[np.int64], values: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """The documents at these places alone, in float32: their places, offsets and vectors."""
    counts = offsets[places + 1] - offsets[places]
    starts = np.concatenate([[0], np.cumsum(counts)])
    taken = np.arange(starts[-1]) + np.repeat(offsets[places] - starts[:-1], counts)
    return np.arange(len(places)), starts, values[taken].astype(np.float32)


class _Kept(NamedTuple):
    """Documents that may be among a query's best k: the first `filled` of scores and places; all others score below."""

    scores: NDArray[np.float32]
    places: NDArray[np.int64]
    filled: int
    floor: float

    @classmethod
    def empty(cls, k: int) -> _Kept:
        size = 4 * k + 64
        return cls(np.empty(size, np.float32), np.empty(size, np.int64), 0, -np.inf)


class _Answer(NamedTuple):
    documents: NDArray[np.int32]
    scores: NDArray[np.float32]
    passages: NDArray[np.int32]


def _kept(
    kept: _Kept, scores: NDArray[np.float32], slack: float, *, spans: NDArray[np.int64], first: int, plain: bool, k: int
) -> _Kept:
    return _Kept(*_keep(*kept, scores, spans, first, plain, k, slack))


def _finished(
    kept: _Kept, query: NDArray[np.float32], slack: float, *, vectors: Vectors, k: int, tie_order: NDArray[np.int32]
) -> _Answer:
    count, _ = _compacted(kept.scores, kept.places, kept.filled, k, slack)
    places = kept.places[:count]
    scores, windows = exact_scores(query[None], np.zeros(count, np.int64), places, vectors)
    documents = vectors.rows[places]
    order = np.lexsort((tie_order[documents], -scores))[:k]
    return _Answer(documents[order], scores[order], windows[order])


def _joined(parts: list[_Answer], *, plain: bool) -> Nearest:
    offsets = np.cumsum([0, *(len(part.documents) for part in parts)], dtype=np.int64)
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    if not columns:
        columns = [np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.int32)]
    documents, scores, passages = columns
    return Nearest(offsets, documents, scores, None if plain else passages)


@njit(cache=True, nogil=True)
def _keep(kept_scores, kept_places, count, floor, scores, spans, first, plain, k, slack):
    """Add a block's documents that reach the floor, raising it whenever the room is used up; more room if that fails.

    spans are the documents' windows among the scores, first is the place of the first document.
    """
    for document in range(spans.size - 1):
        best = scores[document] if plain else scores[spans[document] : spans[document + 1]].max()
        if best >= floor:
            if count == kept_scores.size:
                count, floor = _compacted(kept_scores, kept_places, count, k, slack)
                if 2 * count > kept_scores.size:
                    kept_scores = np.concatenate((kept_scores, np.empty_like(kept_scores)))
                    kept_places = np.concatenate((kept_places, np.empty_like(kept_places)))
                if best < floor:
                    continue
            kept_scores[count], kept_places[count] = best, first + document
            count += 1
    return kept_scores, kept_places, count, floor


@njit(cache=True, nogil=True)
def _compacted(scores, places, count, k, slack):
    """Move the documents that may be among the best k to the front; how many there are, and the score they reach."""
    if count <= k:
        return count, -np.inf
    floor = np.partition(scores[:count], count - k)[count - k] - slack
    kept = 0
    for entry in range(count):
        if scores[entry] >= floor:
            scores[kept], places[kept] = scores[entry], places[entry]
            kept += 1
    return kept, floor


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _score_pairs(queries, rows, places, offsets, values, scores, windows):
    """Best dot product of a query with the windows of a document, in float64, and which window that is."""
    for pair in range(places.size):
        query, begin = queries[rows[pair]], offsets[places[pair]]
        best, place = -np.inf, 0
        for window in range(begin, offsets[places[pair] + 1]):
            total = 0.0
            for dimension in range(query.size):
                total += np.float64(query[dimension]) * np.float64(values[window, dimension])
            score = np.float32(total)
            if score > best:
                best, place = score, window - begin
        scores[pair], windows[pair] = best, place
