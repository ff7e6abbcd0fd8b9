"""Models of who looks at a ranking and clicks, to simulate clicks with: what they say is known, and can be found again.

A click is a document that was looked at (examined) and thought relevant. Relevance (S, n) is the probability that
whoever looks at a document of a session's list thinks it relevant; lists shorter than n are filled with 0, and are
never clicked there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from pydantic import Strict
from pydantic.dataclasses import dataclass

from rankpipe.errors import UsageError
from rankpipe.training.recipe import INNER

EYE_TRACKING = (0.68, 0.61, 0.48, 0.34, 0.28, 0.20, 0.11, 0.10, 0.08, 0.06)
"""Share of people who look at positions 1 to 10. Joachims, Granka, Pan, Hembrooke and Gay, SIGIR 2005."""
BROWSING = (
    (1.0,),
    (0.98, 1.0),
    (1.0, 0.62, 0.95),
    (1.0, 0.77, 0.42, 0.82),
    (1.0, 0.92, 0.55, 0.31, 0.69),
    (1.0, 0.96, 0.63, 0.4, 0.22, 0.54),
    (1.0, 0.99, 0.73, 0.46, 0.29, 0.17, 0.47),
    (1.0, 1.0, 0.89, 0.52, 0.35, 0.24, 0.14, 0.43),
    (1.0, 1.0, 0.95, 0.68, 0.4, 0.29, 0.19, 0.12, 0.41),
    (1.0, 1.0, 1.0, 0.96, 0.52, 0.36, 0.27, 0.18, 0.12, 0.43),
)
"""Share of people who look at positions 1 to 10 by the distance to the last click above, 1 first; the last value of a
row is that without a click above. Dupret and Piwowarski, SIGIR 2008."""


def perceived_relevance(
    grades: NDArray[np.floating] | NDArray[np.integer], *, noise: float = 0.1, highest: int | None = None
) -> NDArray[np.float64]:
    """Probability that a document of a grade is thought relevant: noise + (1 - noise)(2^grade - 1)/(2^highest - 1).

    Chapelle, Metzler, Zhang and Grinspan, CIKM 2009, eq. 4, with clicks on what is not relevant as in Ai et al., SIGIR
    2018, section 5.1.

    highest  grade there can be; None: the highest one there is

    Raises UsageError for a grade below 0 or above the highest.
    """
    grades = np.asarray(grades, np.float64)
    top = float(grades.max(initial=0)) if highest is None else float(highest)
    if grades.size and (grades.min() < 0 or grades.max() > top):
        raise UsageError(f"grades run from {grades.min():g} to {grades.max():g}; they must lie between 0 and {top:g}")
    return noise + (1 - noise) * (2.0**grades - 1) / (2.0 ** max(top, 1.0) - 1)


@dataclass(frozen=True, kw_only=True, config=INNER)
class ClickModel(ABC):
    """How a session's clicks come about."""

    name: ClassVar[str]

    @abstractmethod
    def draw(self, relevance: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.bool_]:
        """(S, n) clicks of S sessions."""

    @abstractmethod
    def examination(self, relevance: NDArray[np.float64]) -> NDArray[np.float64]:
        """(S, n) probability that a position is looked at, over all that may be clicked above it."""


@dataclass(frozen=True, kw_only=True, config=INNER)
class PositionBased(ClickModel):
    """PBM: a position is looked at with a probability of its own. Richardson, Dominowska and Ragno, WWW 2007.

    eta  exponent of the probabilities measured by eye tracking: 0 no position bias, 1 as measured, 2 severe; positions
         beyond the tenth are as the tenth
    """

    name: ClassVar[str] = "pbm"

    eta: Annotated[float, Strict(), Ge(0)] = 1.0

    def draw(self, relevance: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.bool_]:
        """(S, n) clicks, each by itself."""
        return rng.random(relevance.shape) < relevance * self.propensities(relevance.shape[1])

    def examination(self, relevance: NDArray[np.float64]) -> NDArray[np.float64]:
        """(S, n), every row the same."""
        return np.broadcast_to(self.propensities(relevance.shape[1]), relevance.shape)

    def propensities(self, positions: int) -> NDArray[np.float64]:
        """(n,) probability that a position is looked at."""
        return np.array([EYE_TRACKING[min(at, 9)] for at in range(positions)]) ** self.eta


@dataclass(frozen=True, kw_only=True, config=INNER)
class UserBrowsing(ClickModel):
    """UBM: whether a position is looked at depends on it and on where the last click above it was.

    Dupret and Piwowarski, SIGIR 2008.

    eta  exponent of the measured probabilities; positions beyond the tenth are as the tenth
    """

    name: ClassVar[str] = "ubm"

    eta: Annotated[float, Strict(), Ge(0)] = 1.0

    def draw(self, relevance: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.bool_]:
        """(S, n) clicks, from the top down."""
        sessions, positions = relevance.shape
        table = self._table(positions)
        clicks, last = np.zeros(relevance.shape, bool), np.zeros(sessions, np.int64)
        for at in range(positions):
            clicks[:, at] = rng.random(sessions) < relevance[:, at] * table[at, last]
            last[clicks[:, at]] = at + 1
        return clicks

    def examination(self, relevance: NDArray[np.float64]) -> NDArray[np.float64]:
        """(S, n), over the places of the last click above."""
        sessions, positions = relevance.shape
        table, looked = self._table(positions), np.empty(relevance.shape)
        last = np.zeros((sessions, positions + 1))  # probability that the last click is there; 0: none so far
        last[:, 0] = 1.0
        for at in range(positions):
            looked[:, at] = last @ table[at]
            clicked = last * table[at] * relevance[:, at, None]
            last = last - clicked
            last[:, at + 1] = clicked.sum(1)
        return looked

    def _table(self, positions: int) -> NDArray[np.float64]:
        """(n, n + 1) probability that a position is looked at by the place of the last click above, 0 for none."""
        table = np.zeros((positions, positions + 1))
        for at in range(positions):
            row = BROWSING[min(at, 9)]
            table[at, 0] = row[-1]
            for last in range(1, at + 1):
                table[at, last] = row[min(at - last, len(row) - 2)]
        return table**self.eta


@dataclass(frozen=True, kw_only=True, config=INNER)
class DependentClick(ClickModel):
    """DCM: people look from the top down, and may stop after a click. Guo, Liu and Wang, WSDM 2009.

    eta  exponent of the probability to go on after a click, which is by how much fewer people look at the next position
         than at this one, as measured by eye tracking; 0: all go on
    """

    name: ClassVar[str] = "dcm"

    eta: Annotated[float, Strict(), Ge(0)] = 1.0

    def draw(self, relevance: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.bool_]:
        """(S, n) clicks, from the top down."""
        sessions, positions = relevance.shape
        goes_on, looking = self._goes_on(positions), np.ones(sessions, bool)
        clicks = np.zeros(relevance.shape, bool)
        for at in range(positions):
            clicks[:, at] = looking & (rng.random(sessions) < relevance[:, at])
            looking &= ~clicks[:, at] | (rng.random(sessions) < goes_on[at])
        return clicks

    def examination(self, relevance: NDArray[np.float64]) -> NDArray[np.float64]:
        """(S, n): that nobody stopped above."""
        stays = 1 - relevance * (1 - self._goes_on(relevance.shape[1]))
        looked = np.ones(relevance.shape)
        looked[:, 1:] = np.cumprod(stays, axis=1)[:, :-1]
        return looked

    def _goes_on(self, positions: int) -> NDArray[np.float64]:
        """(n,) probability to look further after a click at a position."""
        looked = np.array([EYE_TRACKING[min(at, 9)] for at in range(positions + 1)])
        return (looked[1:] / looked[:-1]) ** self.eta


@dataclass(frozen=True, kw_only=True, config=INNER)
class Cascade(ClickModel):
    """People look from the top down to the first click, and no further. Craswell, Zoeter, Taylor and Ramsey, WSDM 2008."""

    name: ClassVar[str] = "cascade"

    def draw(self, relevance: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.bool_]:
        """(S, n) clicks, at most one of a session."""
        wanted = rng.random(relevance.shape) < relevance
        return wanted & (np.cumsum(wanted, axis=1) == 1)

    def examination(self, relevance: NDArray[np.float64]) -> NDArray[np.float64]:
        """(S, n): that nothing above was clicked."""
        looked = np.ones(relevance.shape)
        looked[:, 1:] = np.cumprod(1 - relevance, axis=1)[:, :-1]
        return looked


CLICK_MODELS: Mapping[str, type[ClickModel]] = {
    one.name: one for one in (PositionBased, UserBrowsing, DependentClick, Cascade)
}
"""By name."""
