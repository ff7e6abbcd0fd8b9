"""Keep, block by block, the documents that may be among the best k of each query, though their scores are rounded.

A query has a floor: k documents seen so far reach it even if all rounding was against them, so whatever scores below
it is out. Most of a block is, and is passed over by comparing many scores at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankpipe.compiled import compiled

GLANCE = np.uint64(64)
"""Scores that are compared at once. Unsigned: of other indices numba asks whether they are negative."""


class Contenders(NamedTuple):
    """The documents in question for Q queries.

    counts          (Q,) documents
    floors          (Q,) scores that all further ones must reach
    slacks          (Q,) twice the rounding of a score
    scores, places  (Q, room) of the documents, the first counts[q] of a row
    """

    counts: NDArray[np.int64]
    floors: NDArray[np.float32]
    slacks: NDArray[np.float32]
    scores: NDArray[np.float32]
    places: NDArray[np.int64]

    @classmethod
    def nothing(cls, slacks: NDArray[np.float32], k: int) -> Contenders:
        """Room for so many queries as there are slacks."""
        shape = (len(slacks), 4 * k + 2 * int(GLANCE))
        counts, floors = np.zeros(len(slacks), np.int64), np.full(len(slacks), -np.inf, np.float32)
        return cls(counts, floors, slacks, np.empty(shape, np.float32), np.empty(shape, np.int64))

    def after(
        self, scores: NDArray[np.float32], spans: NDArray[np.int64], first: int, *, plain: bool, k: int
    ) -> Contenders:
        """With a block of documents as well, the first of them at place `first`; this one is used up.

        scores are those of windows, (Q, n); document d of the block has spans[d]:spans[d + 1] of them, one if plain.
        """
        kept_scores, kept_places = _keep(self, scores, spans, first, plain, k)
        return self._replace(scores=kept_scores, places=kept_places)

    def pairs(self, k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(H,) queries, rising, and places of the documents that may be among their best k; this one is used up."""
        return _pairs(self, k)


@compiled
def _compacted(scores, places, count, k, slack):
    """Move the documents that may be among the best k to the front; how many there are, and the score they reach."""
    if count <= k:
        return count, np.float32(-np.inf)
    floor = np.partition(scores[:count], count - k)[count - k] - slack
    kept = 0
    for entry in range(count):
        if scores[entry] >= floor:
            scores[kept], places[kept] = scores[entry], places[entry]
            kept += 1
    return kept, floor


@compiled
def _wider(kept, counts):
    """The same with twice the room; what is not filled stays untouched, and so takes no memory."""
    wider = np.empty((kept.shape[0], 2 * kept.shape[1]), kept.dtype)
    for query in range(counts.size):
        wider[query, : counts[query]] = kept[query, : counts[query]]
    return wider


@compiled
def _best_windows(scores, spans):
    """(n,) the best score of every document, given those of its windows."""
    best = np.empty(spans.size - 1, np.float32)
    for document in range(best.size):
        best[document] = scores[spans[document] : spans[document + 1]].max()
    return best


@compiled
def _reached(scores, begin, end, floor):
    """Whether a score of a range reaches the floor."""
    reached = False
    for place in range(begin, end):
        reached |= scores[place] >= floor
    return reached


@compiled
def _keep(kept, scores, spans, first, plain, k):
    """Add the documents of a block that reach their query's floor, raising it whenever the room is used up.

    Returns the scores and places that are kept, in more room where raising the floor did not help.
    """
    kept_scores, kept_places = kept.scores, kept.places
    for query in range(kept.counts.size):
        best = scores[query] if plain else _best_windows(scores[query], spans)
        count, floor, size = kept.counts[query], kept.floors[query], np.uint64(best.size)
        own_scores, own_places = kept_scores[query], kept_places[query]
        for begin in range(np.uint64(0), size, GLANCE):
            end = min(begin + GLANCE, size)
            if not _reached(best, begin, end, floor):
                continue
            if count + np.int64(GLANCE) > own_scores.size:
                count, floor = _compacted(own_scores, own_places, count, k, kept.slacks[query])
                if 2 * count > own_scores.size:
                    kept.counts[query] = count
                    kept_scores, kept_places = _wider(kept_scores, kept.counts), _wider(kept_places, kept.counts)
                    own_scores, own_places = kept_scores[query], kept_places[query]
            for document in range(begin, end):
                own_scores[count], own_places[count] = best[document], first + np.int64(document)
                count += best[document] >= floor
        kept.counts[query], kept.floors[query] = count, floor
    return kept_scores, kept_places


@compiled
def _pairs(kept, k):
    counts = kept.counts
    for query in range(counts.size):
        own_scores, own_places = kept.scores[query], kept.places[query]
        counts[query], _ = _compacted(own_scores, own_places, counts[query], k, kept.slacks[query])
    places = np.empty(counts.sum(), np.int64)
    begin = 0
    for query in range(counts.size):
        places[begin : begin + counts[query]] = kept.places[query, : counts[query]]
        begin += counts[query]
    return np.repeat(np.arange(counts.size), counts), places
