"""Measures of lists whose documents all have a grade, as in learning to rank: numbers in, numbers out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rankpipe.errors import UsageError

CUTOFFS = (1, 3, 5, 10)


def list_measures(
    scores: NDArray[np.floating],
    grades: NDArray[np.floating],
    offsets: NDArray[np.int64],
    *,
    highest: int | None = None,
    cutoffs: Sequence[int] = CUTOFFS,
) -> Mapping[str, NDArray[np.float64]]:
    """nDCG and ERR of every list at every cutoff, (Q,) each, NaN for a list without a relevant document.

    scores   (H,) of documents, list q being offsets[q]:offsets[q + 1]; equal ones stand in their order
    grades   (H,) whole numbers, 0 and less: not relevant
    highest  grade there can be, which ERR's gains are shares of; None: the highest there is

    nDCG with gains 2^grade - 1: Burges et al., ICML 2005. ERR: Chapelle, Metzler, Zhang and Grinspan, CIKM 2009, eq. 5.
    Raises UsageError for scores that are not finite.
    """
    if not np.isfinite(scores).all():
        raise UsageError(f"score {int(np.argmin(np.isfinite(scores)))} is not finite")
    gains = 2.0 ** np.clip(np.asarray(grades, np.float64), 0, None) - 1
    top = float(gains.max(initial=0)) if highest is None else 2.0**highest - 1
    count, deepest = len(offsets) - 1, max(cutoffs)
    ranked, ideal = np.zeros((count, deepest)), np.zeros((count, deepest))
    for query, (begin, end) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
        own = gains[begin:end]
        order = np.argsort(-np.asarray(scores[begin:end], np.float64), kind="stable")[:deepest]
        ranked[query, : len(order)] = own[order]
        ideal[query, : len(order)] = np.sort(own)[::-1][:deepest]
    discounts = 1 / np.log2(np.arange(deepest) + 2)
    stops = ranked / (top + 1)
    reached = np.concatenate([np.ones((count, 1)), np.cumprod(1 - stops, axis=1)[:, :-1]], axis=1)
    err = np.cumsum(reached * stops / np.arange(1, deepest + 1), axis=1)
    gained, best = np.cumsum(ranked * discounts, axis=1), np.cumsum(ideal * discounts, axis=1)
    relevant = ideal[:, 0] > 0
    found: dict[str, NDArray[np.float64]] = {}
    for cutoff in cutoffs:
        values = np.full(count, np.nan)
        values[relevant] = gained[relevant, cutoff - 1] / best[relevant, cutoff - 1]
        found[f"nDCG@{cutoff}"] = values
        found[f"ERR@{cutoff}"] = np.where(relevant, err[:, cutoff - 1], np.nan)
    return found
