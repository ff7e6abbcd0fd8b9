"""The objective of LambdaMART on clicks: pairs of a clicked and an unclicked document, over the bias of their positions.

Hu, Wang, Peng and Li, WWW 2019, arXiv 1809.05818 (Unbiased LambdaMART). A pair's loss is that of LambdaMART, and weighs
by how much swapping the two would change the session's DCG. How a session's DCG is scaled by the best there can be is
left out: so a list can stand for all of its sessions, and one with many clicks counts by its clicks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rankpipe.training.sessions import Sessions

LOWEST = 0.01
"""Value of a ratio; a position without a click would have 0, and its pairs no end of weight."""


@dataclass(kw_only=True)
class ClickLambdas:
    """Gradients of pairs in L lists of n positions, round by round.

    sigmoid    slope of the pairs' loss
    norm       p of the paper's regulariser; None: positions have no bias (clicks are taken for relevance)
    clicked    (n,) t+: how much likelier a position is clicked for where it stands, over the first
    unclicked  (n,) t-: likewise of not being clicked
    """

    sessions: Sessions
    sigmoid: float = 1.0
    norm: float | None = 1.0
    clicked: NDArray[np.float64] = field(init=False)
    unclicked: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        positions = self.sessions.shown.shape[1]
        self.clicked, self.unclicked = np.ones(positions), np.ones(positions)
        self._present = self.sessions.present
        self._pairs = self.sessions.pairs / self.sessions.count.mean()  # a list counts 1 on average

    def gradients(self, scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """First and second derivatives by the scores of the P documents that were shown, list by list; the ratios move.

        scores  (P,)
        """
        table = np.full(self._present.shape, -np.inf)
        table[self._present] = scores
        apart = np.where(self._present, table, 0.0)
        apart = self.sigmoid * (apart[:, :, None] - apart[:, None, :])
        pairs = self._pairs * swaps(table)
        weights = pairs / (self.clicked[:, None] * self.unclicked)
        wrong = 1 / (1 + np.exp(np.clip(apart, -500, 500)))
        first = self.sigmoid * weights * wrong
        second = self.sigmoid**2 * weights * wrong * (1 - wrong)
        if self.norm is not None:
            self._move(pairs * np.logaddexp(0, -apart))
        gradient, curvature = first.sum(1) - first.sum(2), second.sum(1) + second.sum(2)
        return gradient[self._present], curvature[self._present]

    def propensities(self) -> NDArray[np.float64] | None:
        """t+ as it is; None where none is learnt."""
        return None if self.norm is None else self.clicked.copy()

    def _move(self, losses: NDArray[np.float64]) -> None:
        assert self.norm is not None
        by_place = losses.sum(0)
        clicked = ratios((by_place / self.unclicked).sum(1), self.norm)
        unclicked = ratios((by_place / self.clicked[:, None]).sum(0), self.norm)
        self.clicked, self.unclicked = clicked, unclicked


def ratios(costs: NDArray[np.float64], norm: float) -> NDArray[np.float64]:
    """(n,) bias of positions over the first, by the (n,) losses of their pairs; 1 if the first has none. Eq. 14 and 15."""
    if costs[0] <= 0:
        return np.ones_like(costs)
    return np.maximum((costs / costs[0]) ** (1 / (norm + 1)), LOWEST)


def swaps(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """(L, n, n) by how much DCG changes when two of a list change ranks and one of them is relevant.

    scores  (L, n), -inf where there is no document; equal ones stand in their order
    """
    order = np.argsort(-scores, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(scores.shape[1])[None, :], axis=1)
    discounts = 1 / np.log2(ranks + 2)
    return np.abs(discounts[:, :, None] - discounts[:, None, :])
