"""Sessions: lists that were shown, and what was clicked in them, added up list by list; simulated ones to begin with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rankpipe.data.svmlight import FeatureLists
from rankpipe.errors import UsageError
from rankpipe.training.click_models import ClickModel, perceived_relevance

TOGETHER = 1 << 16
"""Sessions that are drawn at once."""


@dataclass(frozen=True, eq=False)
class Sessions:
    """What people did with L lists of up to n positions.

    shown   (L, n) int64 rows of documents, best position first; -1 where a list is shorter
    count   (L,) int64 how often each was shown
    clicks  (L, n) int64 how often a position was clicked
    pairs   (L, n, n) int64 in how many sessions the first position was clicked and the second was not
    """

    shown: NDArray[np.int64]
    count: NDArray[np.int64]
    clicks: NDArray[np.int64]
    pairs: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of lists."""
        return len(self.shown)

    @property
    def present(self) -> NDArray[np.bool_]:
        """(L, n) whether there is a document."""
        return self.shown >= 0

    def select(self, lists: NDArray[np.int64]) -> Sessions:
        """Some of the lists, in the order given."""
        return Sessions(self.shown[lists], self.count[lists], self.clicks[lists], self.pairs[lists])

    def click_through(self) -> NDArray[np.float64]:
        """(n,) clicks of a position as a share of the sessions in which it held a document; NaN where it never did."""
        seen = (self.present * self.count[:, None]).sum(0)
        return np.where(seen > 0, self.clicks.sum(0) / np.maximum(seen, 1), np.nan)


def ranked(lists: FeatureLists, scores: NDArray[np.floating], positions: int) -> NDArray[np.int64]:
    """(Q, n) rows of each list's first documents by score, falling; -1 beyond its end. Equal scores stand in order."""
    found = np.full((len(lists), positions), -1, np.int64)
    for query, (begin, end) in enumerate(zip(lists.offsets[:-1].tolist(), lists.offsets[1:].tolist(), strict=True)):
        order = np.argsort(-np.asarray(scores[begin:end], np.float64), kind="stable")[:positions]
        found[query, : len(order)] = begin + order
    return found


def shuffled(lists: FeatureLists, positions: int, rng: np.random.Generator, *, orders: int = 1) -> NDArray[np.int64]:
    """(orders * Q, n) rows of documents of each list in random orders."""
    return np.concatenate([ranked(lists, rng.random(len(lists.grades)), positions) for _ in range(orders)])


def shown_relevance(
    lists: FeatureLists, shown: NDArray[np.int64], *, noise: float = 0.1, highest: int | None = None
) -> NDArray[np.float64]:
    """(L, n) probability that what is shown is thought relevant; 0 where nothing is. What is raised: see simulate."""
    if not len(shown) or (shown[:, 0] < 0).any():
        raise UsageError("every list that is shown needs a document")
    top = int(lists.grades.max()) if highest is None else highest
    relevance = perceived_relevance(lists.grades, noise=noise, highest=top)
    return np.where(shown >= 0, relevance[np.maximum(shown, 0)], 0.0)


def simulate(
    lists: FeatureLists,
    shown: NDArray[np.int64],
    model: ClickModel,
    sessions: int,
    rng: np.random.Generator,
    *,
    noise: float = 0.1,
    highest: int | None = None,
) -> Sessions:
    """Clicks of so many sessions, each of a list drawn at random.

    noise    probability that what is not relevant is thought relevant
    highest  grade there can be; None: the highest of the lists

    Raises UsageError for lists without documents, and for grades below 0.
    """
    relevance = shown_relevance(lists, shown, noise=noise, highest=highest)
    count = rng.multinomial(sessions, np.full(len(shown), 1 / len(shown)))
    clicks, pairs = np.zeros(shown.shape, np.int64), np.zeros((*shown.shape, shown.shape[1]), np.int64)
    owners = np.repeat(np.arange(len(shown)), count)
    for start in range(0, sessions, TOGETHER):
        own = owners[start : start + TOGETHER]
        drawn = model.draw(relevance[own], rng)
        there, begins = np.unique(own, return_index=True)
        clicks[there] += np.add.reduceat(drawn, begins, axis=0, dtype=np.int64)
        not_clicked = ~drawn & (shown[own] >= 0)
        apart = drawn[:, :, None] & not_clicked[:, None, :]
        pairs[there] += np.add.reduceat(apart, begins, axis=0, dtype=np.int64)
    return Sessions(shown, count, clicks, pairs)


def randomised_propensities(sessions: Sessions) -> NDArray[np.float64]:
    """(n,) propensities over the first position's, from lists that were shown in random orders.

    There, what a position is clicked less is not looked at. It is compared with the first position of lists that are long
    enough to have it: short lists may be of other queries. Joachims, Swaminathan and Schnabel, WSDM 2017, arXiv
    1608.04468, section 5. Raises UsageError where a position was never clicked.
    """
    there = sessions.present
    clicks, first = sessions.clicks.sum(0), (there * sessions.clicks[:, :1]).sum(0)  # of lists that have the position
    if not ((clicks > 0) & (first > 0)).all():
        position = int(np.argmin((clicks > 0) & (first > 0))) + 1
        raise UsageError(f"position {position} was never clicked in {sessions.count.sum():,} sessions; more are needed")
    return clicks / first
