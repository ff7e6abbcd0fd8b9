"""How well single attention heads tell relevant documents from others, and weights for them. Numbers only.

A query's documents have F features, one for each head: what the head attends to in a document.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CUTOFF = 10
SHARES = (0.5, 0.3, 0.2, 0.1, 0.05, 0.02)
"""Penalties of the logistic regression that are tried, as shares of the one from which on all weights are 0."""
FOLDS = 5
ROUNDS = 3000
"""Of FISTA, at most."""
SETTLED = 1e-8
"""Change of the weights, as a share of the largest, under which they are taken as found."""


class Example(NamedTuple):
    """A query's documents.

    features  (N, F)
    grades    (N,) 0 for what is not relevant
    ideal     (R,) grades of all relevant documents of the query, found or not, falling
    """

    features: NDArray[np.float64]
    grades: NDArray[np.float64]
    ideal: NDArray[np.float64]


def ndcg(scores: NDArray[np.float64], grades: NDArray[np.float64], ideal: NDArray[np.float64]) -> NDArray[np.float64]:
    """(F,) nDCG@10 of the rankings of N documents by F scores each (N, F); equal ones stand in their order.

    Järvelin and Kekäläinen, TOIS 2002, with the grade as the gain.
    """
    order = np.argsort(-scores, axis=0, kind="stable")[:CUTOFF]
    discounts = 1 / np.log2(np.arange(CUTOFF) + 2)
    best = float((ideal[:CUTOFF] * discounts[: len(ideal[:CUTOFF])]).sum())
    return (grades[order] * discounts[: len(order), None]).sum(0) / best


def retrieval_scores(examples: Sequence[Example]) -> NDArray[np.float64]:
    """(F,) mean nDCG@10 of the rankings by each feature alone. Zhang et al., EMNLP 2025, arXiv 2506.09944."""
    return np.mean([ndcg(one.features, one.grades, one.ideal) for one in examples], axis=0)


def contrastive_scores(examples: Sequence[Example], temperature: float) -> NDArray[np.float64]:
    """(F,) mean share of a relevant document in the softmax over it and all that are not relevant.

    Tran et al., arXiv 2510.02219. Documents are weighed within their query, and queries equally.
    """
    shares = []
    for one in examples:
        relevant = one.grades > 0
        scaled = one.features / temperature
        top = scaled.max(0)
        others = np.exp(scaled[~relevant] - top).sum(0)
        found = np.exp(scaled[relevant] - top)
        shares.append((found / (found + others)).mean(0))
    return np.mean(shares, axis=0)


class Weighting(NamedTuple):
    """Weights (F,) of the features, the penalty they were found with, and the cross-validated nDCG@10 of every penalty."""

    weights: NDArray[np.float64]
    share: float
    by_share: dict[float, float]


def logistic_weights(examples: Sequence[Example], seed: int) -> Weighting:
    """Weights of an L1-penalised logistic regression on differences of a relevant document and another one.

    The penalty is the one whose weights rank held-out queries best, over folds drawn by the seed; of equal ones, the
    largest. Features are scaled by the standard deviation of their differences, and the weights given for unscaled ones.
    """
    folds = np.random.default_rng([seed, 3]).permutation(len(examples)) % min(FOLDS, len(examples))
    by_share = dict.fromkeys(SHARES, 0.0)
    for fold in range(int(folds.max()) + 1):
        train = [one for one, other in zip(examples, folds, strict=True) if other != fold]
        held = [one for one, other in zip(examples, folds, strict=True) if other == fold]
        pairs = _pairs(train)
        for share, weights in zip(SHARES, _path(pairs, SHARES), strict=True):
            for one in held:
                by_share[share] += float(ndcg((one.features @ weights)[:, None], one.grades, one.ideal)[0])
    by_share = {share: total / len(examples) for share, total in by_share.items()}
    best = max(SHARES, key=lambda share: (by_share[share], share))
    path = _path(_pairs(examples), [share for share in SHARES if share >= best])
    return Weighting(path[-1], best, by_share)


class _Pairs(NamedTuple):
    """Differences (D, F) of a relevant document and another one, and their weights (D,): each query counts once."""

    differences: NDArray[np.float64]
    weights: NDArray[np.float64]


def _pairs(examples: Sequence[Example]) -> _Pairs:
    parts = []
    for one in examples:
        relevant = one.grades > 0
        parts.append(
            (one.features[relevant][:, None] - one.features[~relevant][None]).reshape(-1, one.features.shape[1])
        )
    weights = np.concatenate([np.full(len(part), 1 / len(part)) for part in parts])
    return _Pairs(np.concatenate(parts), weights / weights.sum())


def _path(pairs: _Pairs, shares: Sequence[float]) -> list[NDArray[np.float64]]:
    """Weights (F,) for every penalty, falling, each found from the one before. FISTA: Beck and Teboulle, 2009."""
    scale = pairs.differences.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    x = pairs.differences / scale
    largest = np.abs(pairs.weights @ x).max() / 2  # of the gradient at weights 0
    lipschitz = np.linalg.norm(x * np.sqrt(pairs.weights)[:, None], 2) ** 2 / 4
    found, weights = [], np.zeros(x.shape[1])
    for share in shares:
        weights = _fista(x, pairs.weights, weights, share * largest, lipschitz)
        found.append(weights / scale)
    return found


def _fista(
    x: NDArray[np.float64],
    counts: NDArray[np.float64],
    weights: NDArray[np.float64],
    penalty: float,
    lipschitz: float,
) -> NDArray[np.float64]:
    ahead, pace = weights, 1.0
    for _ in range(ROUNDS):
        gradient = -(counts * (1 - np.tanh(x @ ahead / 2)) / 2) @ x
        moved = ahead - gradient / lipschitz
        new = np.sign(moved) * np.maximum(np.abs(moved) - penalty / lipschitz, 0)
        faster = (1 + np.sqrt(1 + 4 * pace**2)) / 2
        ahead = new + (pace - 1) / faster * (new - weights)
        settled = np.abs(new - weights).max() <= SETTLED * max(1e-12, np.abs(new).max())
        weights, pace = new, faster
        if settled:
            break
    return weights
