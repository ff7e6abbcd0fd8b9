"""Scores of different stages brought to one unit, query by query.

Everywhere here: scores (H,) in any order within a query, offsets (Q + 1,) as in Run; results are float64, because the
square of a float32 may be too large or too small for one.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rankpipe.errors import UsageError
from rankpipe.run import Run

Normalisation = Literal["min-max", "z-score", "theoretical-minimum", "none"]
"""Names of the normalisations, as YAML writes them."""
ROUNDING = 2.0**-10
"""How far, relative to it, a score may be under the theoretical minimum: a cosine is a little under -1 where vectors are
rounded, by 2^-11 of each value at most where they are stored as float16."""


def min_max(scores: NDArray[np.floating], offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Give the query's lowest score 0 and its highest 1; where all scores are equal, all get 1.

    Lee, SIGIR 1997, 'Analyses of Multiple Evidence Combination', section 3.
    """
    values = scores.astype(np.float64)
    lowest, highest = per_query(np.minimum, values, offsets), per_query(np.maximum, values, offsets)
    return _share(values, lowest, highest, offsets, flat=1)


def z_score(scores: NDArray[np.floating], offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Distance from the query's mean score, in standard deviations; where all scores are equal, all get 0.

    Montague and Aslam, CIKM 2001, 'Relevance Score Normalization for Metasearch': zero mean, unit variance.
    """
    values = scores.astype(np.float64)
    counts = np.diff(offsets)
    some = np.maximum(counts, 1)
    centred = values - np.repeat(per_query(np.add, values, offsets) / some, counts)
    deviation = np.sqrt(per_query(np.add, centred**2, offsets) / some)
    flat = per_query(np.minimum, values, offsets) == per_query(np.maximum, values, offsets)
    deviation = np.where(flat, np.inf, deviation)  # rounding leaves equal scores a deviation that means nothing
    return centred / np.repeat(deviation, counts)


def theoretical_minimum(
    scores: NDArray[np.floating], offsets: NDArray[np.int64], minimum: float
) -> NDArray[np.float64]:
    """Give 0 to the lowest score that the scoring function can give, and 1 to the query's highest.

    minimum  of the scoring function: 0 for BM25, -1 for a cosine. Where the query's highest score is no higher, all
             get 0. A score that rounding has put under it counts as it; a lower one raises UsageError.

    Bruch, Gai and Ingber, TOIS 2023, 'An Analysis of Fusion Functions for Hybrid Retrieval' (arXiv 2210.11934): 'TMM'.
    """
    values = scores.astype(np.float64)
    if len(values) and values.min() < minimum - ROUNDING * abs(minimum):
        raise UsageError(f"a score is {values.min():.9g}, under the theoretical minimum of {minimum:g} that was stated")
    values = np.maximum(values, minimum)
    highest = per_query(np.maximum, values, offsets)
    return _share(values, np.full(len(highest), minimum, np.float64), highest, offsets, flat=0)


def normalised(
    scores: NDArray[np.floating], offsets: NDArray[np.int64], how: Normalisation, minimum: float | None
) -> NDArray[np.float64]:
    """(H,) scores normalised by name; `minimum` is read by "theoretical-minimum" only."""
    if how == "min-max":
        return min_max(scores, offsets)
    if how == "z-score":
        return z_score(scores, offsets)
    if how == "theoretical-minimum" and minimum is not None:
        return theoretical_minimum(scores, offsets, minimum)
    return scores.astype(np.float64)


def of_earlier(run: Run, name: str, user: str, how: Normalisation, minimum: float | None = None) -> NDArray[np.float64]:
    """(H,) normalised scores of an earlier stage; where it gave none, the query's floor.

    user  the stage that reads them, for the error. Raises UsageError if no stage left scores under the name.
    """
    if name not in run.features:
        there = ", ".join(map(repr, run.features)) or "none"
        raise UsageError(f"{user} finds no scores under the name {name!r}; names with scores: {there}")
    scores = run.features[name]
    known = ~np.isnan(scores)
    offsets = np.concatenate([[0], np.cumsum(known)])[run.offsets]
    values = normalised(scores[known], offsets, how, minimum)
    filled = np.repeat(floors(values, offsets), run.counts)
    filled[known] = values
    return filled


def floors(values: NDArray[np.float64], offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """(Q,) what a document gets that is missing from a list: 0, or the query's lowest value where that is less.

    So no document gains by being missing: under min-max and a theoretical minimum it gets 0, under z-scores the lowest
    one, among raw scores 0 if none is negative. Where the list is empty it is 0.
    """
    return np.minimum(per_query(np.minimum, values, offsets), 0)


def per_query(reduce: np.ufunc, values: NDArray[np.float64], offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """(Q,) each query's values reduced to one by a ufunc such as np.minimum; 0 for a query without any."""
    reduced = np.zeros(len(offsets) - 1)
    filled = np.diff(offsets) > 0
    if filled.any():
        reduced[filled] = reduce.reduceat(values, offsets[:-1][filled])
    return reduced


def _share(
    values: NDArray[np.float64],
    lowest: NDArray[np.float64],
    highest: NDArray[np.float64],
    offsets: NDArray[np.int64],
    flat: float,
) -> NDArray[np.float64]:
    """How far up each value stands between its query's lowest and highest; `flat` where those are equal."""
    counts = np.diff(offsets)
    room = highest - lowest
    share = (values - np.repeat(lowest, counts)) / np.repeat(np.where(room > 0, room, 1), counts)
    return np.where(np.repeat(room > 0, counts), share, flat)
