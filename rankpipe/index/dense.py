"""Search for the vectors that have the largest dot product with a query's.

`flat` looks at all of them, and is exact. Scores are computed twice: by a matrix product in float32, whose rounding
depends on how many queries and documents are multiplied at once, and, for all that could be among the best k by it,
by a sum in float64, rounded once. So equal vectors have equal scores, and a query's answer does not depend on what
else is asked; ties at the cut fall as the corpus orders them.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from rankpipe.compiled import compiled
from rankpipe.errors import UsageError
from rankpipe.index.selection import Contenders
from rankpipe.index.vectors import Vectors

QUERIES = 512
"""Queries that are multiplied at once."""
BLOCK = 1 << 13
"""Vectors that are multiplied at once: with QUERIES, 16 MiB of scores."""
LONGER = 8
"""So many times BLOCK at most where there are fewer queries."""
FEW = 16
"""Up to so many queries are multiplied by a loop that reads every vector once; BLAS rearranges the vectors first."""

_multiplying = threading.Lock()
"""Held while BLAS works for one search: how many threads it has is a setting of the whole process."""


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
                for part in self._search(queries[begin : begin + QUERIES], k, tie_order, pool, threads)
            ]
        return joined(parts, plain=self.vectors.plain)

    def _search(
        self,
        queries: NDArray[np.float32],
        k: int,
        tie_order: NDArray[np.int32],
        pool: ThreadPoolExecutor,
        threads: int,
    ) -> list[Nearest]:
        """What is found for at most QUERIES queries, in as many parts as there are threads."""
        vectors = self.vectors
        cuts = [len(queries) * thread // threads for thread in range(1, threads)]
        kept = [Contenders.nothing(slacks, k) for slacks in np.split(2 * rounding(queries, vectors), cuts)]
        room = np.empty(0, np.float32)  # for scores, used again: memory that is new takes as long as half the product
        for begin, end in vectors.blocks(BLOCK * max(1, min(LONGER, QUERIES // len(queries)))):
            spans = vectors.offsets[begin : end + 1] - vectors.offsets[begin]
            block = vectors.values[vectors.offsets[begin] : vectors.offsets[end]].astype(np.float32, copy=False)
            if room.size < len(queries) * len(block):
                room = np.empty(len(queries) * len(block), np.float32)
            scores = room[: len(queries) * len(block)].reshape(len(queries), len(block))
            _multiply(queries, block, scores, pool, threads)
            keep = partial(Contenders.after, spans=spans, first=begin, plain=vectors.plain, k=k)
            kept = list(pool.map(keep, kept, np.split(scores, cuts)))
        rank = partial(ranked, vectors=vectors, k=k, tie_order=tie_order)
        rows, places = zip(*(pool.map(partial(Contenders.pairs, k=k), kept)), strict=True)
        return list(pool.map(rank, np.split(queries, cuts), rows, places))


def checked_queries(queries: NDArray[np.float32], vectors: Vectors) -> NDArray[np.float32]:
    """Queries (Q, D) as the kernels take them.

    Raises UsageError where they and the vectors do not fit, and where a product of them may not be finite.
    """
    if queries.ndim != 2 or queries.shape[1] != vectors.dimensions:
        raise UsageError(
            f"queries are vectors of {queries.shape[-1]} dimensions, the documents' have {vectors.dimensions}; "
            "both must come from encoders that fit each other"
        )
    queries = np.ascontiguousarray(queries, np.float32)
    norms = np.sqrt(np.einsum("qd,qd->q", queries, queries, dtype=np.float64))
    finite = norms * vectors.norm <= np.finfo(np.float32).max  # of NaN it is false
    if not finite.all():
        row = int(finite.argmin())
        raise UsageError(
            f"the vector of the query in row {row} has the length {norms[row]:g}; its products with vectors of documents "
            "would not be finite"
        )
    return queries


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


def ranked(
    queries: NDArray[np.float32],
    rows: NDArray[np.integer],
    places: NDArray[np.integer],
    *,
    vectors: Vectors,
    k: int,
    tie_order: NDArray[np.int32],
) -> Nearest:
    """The best k of given documents, different ones for every query: those at `places` for queries[rows]; exact scores."""
    scores, windows = exact_scores(queries, rows, places, vectors)
    documents = vectors.rows[places]
    order = np.lexsort((tie_order[documents], -scores, rows))
    counts = np.bincount(rows, minlength=len(queries))
    ranks = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    best = order[ranks < k]
    offsets = np.concatenate([[0], np.cumsum(np.minimum(counts, k))])
    return Nearest(offsets, documents[best], scores[best], None if vectors.plain else windows[best])


def nothing(queries: int, *, plain: bool) -> Nearest:
    """No documents, for so many queries."""
    passages = None if plain else np.empty(0, np.int32)
    return Nearest(np.zeros(queries + 1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32), passages)


def joined(parts: Sequence[Nearest], *, plain: bool) -> Nearest:
    """What was found for different queries, in turn."""
    parts = [nothing(0, plain=plain), *parts]
    counts = np.concatenate([np.diff(part.offsets) for part in parts])
    return Nearest(
        np.concatenate([[0], np.cumsum(counts)]),
        np.concatenate([part.documents for part in parts]),
        np.concatenate([part.scores for part in parts]),
        None if plain else np.concatenate([part.passages for part in parts if part.passages is not None]),
    )


def _multiply(
    queries: NDArray[np.float32],
    block: NDArray[np.float32],
    scores: NDArray[np.float32],
    pool: ThreadPoolExecutor,
    threads: int,
) -> None:
    """Write the dot products of queries and a block's vectors into scores (Q, n), by so many threads."""
    if len(queries) <= FEW:
        cuts = [len(block) * thread // threads for thread in range(threads + 1)]
        list(pool.map(partial(_multiply_few, queries, block, scores), cuts[:-1], cuts[1:]))
    else:
        with _multiplying, _blas().limit(limits=threads):
            np.matmul(queries, block.T, out=scores)


@cache
def _blas() -> ThreadpoolController:
    """The BLAS that is loaded; looking for it takes as long as many products."""
    return ThreadpoolController().select(user_api="blas")


@partial(compiled, fastmath={"reassoc", "contract"})
def _multiply_few(queries, block, scores, begin, end):
    """Write the products of queries and vectors begin..end - 1 of a block, four queries at a time."""
    fours = queries.shape[0] // 4 * 4
    for place in range(begin, end):
        vector = block[place]
        for query in range(0, fours, 4):
            one, two, three, four = queries[query], queries[query + 1], queries[query + 2], queries[query + 3]
            first = second = third = fourth = np.float32(0)
            for dimension in range(vector.size):
                value = vector[dimension]
                first += one[dimension] * value
                second += two[dimension] * value
                third += three[dimension] * value
                fourth += four[dimension] * value
            scores[query, place], scores[query + 1, place] = first, second
            scores[query + 2, place], scores[query + 3, place] = third, fourth
        for query in range(fours, queries.shape[0]):
            total = np.float32(0)
            for dimension in range(vector.size):
                total += queries[query, dimension] * vector[dimension]
            scores[query, place] = total


@partial(compiled, fastmath={"reassoc", "contract"})
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
