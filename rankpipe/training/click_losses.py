"""Losses that learn from clicks, and what they assume or learn of which positions people look at (propensities).

All take scores (N, G) of the documents of N shown lists, in the order in which they were shown, and what people did
with them: one session, or many of the same list added up, which costs no more. Only ratios of propensities can be known
from clicks, and only those are needed: they are relative to the first position.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional


def ratios(logits: Tensor, limit: float) -> Tensor:
    """(N, G) probability of the first place over that of each, p(1) / p(i) under a softmax; at most `limit`. No gradient.

    Ai, Bi, Luo, Guo and Croft, SIGIR 2018, arXiv 1804.05938, eq. 7 and 9: the first weight is 1. The difference of
    logits keeps what two softmaxes would round away.
    """
    logits = logits.detach()
    return (logits[:, :1] - logits).exp().clamp(max=limit)


def weighted_softmax(scores: Tensor, weights: Tensor, present: Tensor) -> Tensor:
    """(N,) minus the weighted sum of log-softmaxes of a session's clicked documents. Ai et al., eq. 6 and 8.

    weights  (N, G) of every click; 0 where nothing was clicked
    """
    lowest = torch.finfo(scores.dtype).min
    shares = scores.masked_fill(~present, lowest).log_softmax(1)
    return -(weights * shares.masked_fill(~present, 0)).sum(1)


def normalised(losses: Tensor, weights: Tensor) -> Tensor:
    """The sum of (N,) losses over the sum of all weights (N, G): the same direction, whatever the number of clicks."""
    return losses.sum() / weights.sum().clamp(min=torch.finfo(losses.dtype).tiny)


class Shown(NamedTuple):
    """What people did with N lists.

    clicks    (N, G) how often a position was clicked
    sessions  (N,) how often the list was shown
    pairs     (N, G, G) in how many of these sessions the first position was clicked and the second was not
    present   (N, G) whether there is a document; there is one in the first position
    """

    clicks: Tensor
    sessions: Tensor
    pairs: Tensor
    present: Tensor

    @classmethod
    def once(cls, clicks: Tensor, present: Tensor) -> Shown:
        """Lists that were shown once; clicks are 1 or 0."""
        pairs = clicks[:, :, None] * ((1 - clicks) * present)[:, None, :]
        return cls(clicks, torch.ones_like(clicks[:, 0]), pairs, present)


class ClickLoss(nn.Module, ABC):
    """What is learnt from lists that were shown; parameters and buffers are what it has learnt of positions."""

    @abstractmethod
    def forward(self, scores: Tensor, shown: Shown) -> Tensor:
        """The loss of a batch, one value; 0 without clicks."""

    def propensities(self) -> Tensor | None:
        """(n,) propensity of every position over that of the first; None where none is assumed or learnt."""
        return None


class Weighted(ClickLoss):
    """Softmax loss whose clicks weigh the inverse of known propensities; without any, clicks are taken for relevance.

    Wang, Bendersky, Metzler and Najork, SIGIR 2016; Joachims, Swaminathan and Schnabel, WSDM 2017, arXiv 1608.04468.
    """

    _known: Tensor | None

    def __init__(self, propensities: Tensor | None = None, *, limit: float = 100.0) -> None:
        """Take (n,) propensities, each above 0; positions beyond the last are as the last. Weights are at most `limit`."""
        super().__init__()
        self._limit = limit
        self.register_buffer("_known", None if propensities is None else propensities / propensities[0])

    def forward(self, scores: Tensor, shown: Shown) -> Tensor:
        """Normalised by the sum of the weights."""
        weights = shown.clicks
        if self._known is not None:
            weights = weights * (1 / self._known[_places(shown, len(self._known))]).clamp(max=self._limit)
        return normalised(weighted_softmax(scores, weights, shown.present), weights)

    def propensities(self) -> Tensor | None:
        """As they were given."""
        return self._known


class Dual(ClickLoss):
    """DLA: ranker and propensities learn from each other, each weighted by the inverse of what the other has learnt.

    Ai, Bi, Luo, Guo and Croft, SIGIR 2018, arXiv 1804.05938. Propensities are the softmax of free logits, one a
    position, or of a network over positions and the clicks above them.
    """

    def __init__(self, positions: int, *, context: bool = False, hidden: int = 8, limit: float = 100.0) -> None:
        """Begin with equal propensities.

        context  clicks above a position may change whether it is looked at; sessions are then not to be added up
        """
        super().__init__()
        self._limit = limit
        self.logits = nn.Parameter(torch.zeros(positions))
        self._network = None
        if context:
            last = nn.Linear(hidden, 1, bias=False)
            nn.init.zeros_(last.weight)
            self._network = nn.Sequential(nn.Linear(2 * positions, hidden), nn.ELU(), last)

    def forward(self, scores: Tensor, shown: Shown) -> Tensor:
        """Both losses, each normalised by the sum of its weights; neither has a gradient in what the other learns."""
        looked = self.looked(shown.clicks)
        ranking, looking = (shown.clicks * ratios(one, self._limit) for one in (looked, scores))
        return normalised(weighted_softmax(scores, ranking, shown.present), ranking) + normalised(
            weighted_softmax(looked, looking, shown.present), looking
        )

    def looked(self, clicks: Tensor) -> Tensor:
        """(N, G) logits that a position is looked at, given the clicks above it."""
        sessions, shown = clicks.shape
        places = torch.arange(shown, device=clicks.device).clamp(max=len(self.logits) - 1)
        logits = self.logits[places].expand(sessions, shown)
        if self._network is None:
            return logits
        positions = len(self.logits)
        above = torch.zeros(sessions, shown, positions, device=clicks.device, dtype=clicks.dtype)
        width = min(shown, positions)
        above[:, :, :width] = clicks[:, None, :width]
        rows = torch.arange(shown, device=clicks.device)
        above = above * (torch.arange(positions, device=clicks.device) < rows[:, None])
        here = functional.one_hot(places, positions).to(clicks.dtype).expand(sessions, shown, positions)
        return logits + self._network(torch.cat([here, above], dim=2))[:, :, 0]

    def propensities(self) -> Tensor:
        """Exponentials of the logits, over the first's; where clicks count too, those of a session without any."""
        none = torch.zeros(1, len(self.logits), device=self.logits.device, dtype=self.logits.dtype)
        logits = self.looked(none)[0].detach()
        return (logits - logits[0]).exp()


class RegressionEM(ClickLoss):
    """Propensities by expectation-maximisation, as training goes; the ranker learns the relevance that is expected.

    Wang, Golbandi, Bendersky, Metzler and Najork, WSDM 2018: a click needs looking (E) and relevance (R). Instead of
    relevance that is drawn, its expectation is learnt: the same gradient on average, without the noise.
    """

    examined: Tensor

    def __init__(self, positions: int, *, first: float = 0.9, rate: float = 0.05) -> None:
        """Begin with one propensity everywhere; `rate`: of a step's estimate in the moving average."""
        super().__init__()
        self._rate = rate
        self.register_buffer("examined", torch.full((positions,), first))

    def forward(self, scores: Tensor, shown: Shown) -> Tensor:
        """Mean cross-entropy with the expected relevance; moves the propensities while training."""
        places = _places(shown, len(self.examined))
        looked, relevant = posteriors(self.examined[places].expand_as(scores), scores.detach().sigmoid())
        seen = shown.sessions[:, None] * shown.present
        unclicked = seen - shown.clicks
        if self.training:
            self._move(shown.clicks + unclicked * looked, seen, places)
        wanted = (shown.clicks + unclicked * relevant) / seen.clamp(min=1)
        losses = functional.binary_cross_entropy_with_logits(scores, wanted, reduction="none")
        return (losses * seen).sum() / seen.sum().clamp(min=1)

    def propensities(self) -> Tensor:
        """Over the first's."""
        return self.examined / self.examined[0]

    def _move(self, looked: Tensor, seen: Tensor, places: Tensor) -> None:
        total, count = (_by_place(one.sum(0), places, self.examined) for one in (looked, seen))
        there = count > 0
        self.examined[there] += self._rate * (total[there] / count[there] - self.examined[there])


def posteriors(examined: Tensor, relevant: Tensor) -> tuple[Tensor, Tensor]:
    """P(E = 1, R = 0) and P(E = 0, R = 1) of what was not clicked, by probabilities of looking and of relevance.

    Wang et al., WSDM 2018, eq. 1.
    """
    neither = (1 - examined * relevant).clamp(min=torch.finfo(relevant.dtype).eps)
    return examined * (1 - relevant) / neither, (1 - examined) * relevant / neither


class PairDebias(ClickLoss):
    """RankNet over pairs of a clicked and an unclicked document, over the bias of both their positions.

    Hu, Wang, Peng and Li, WWW 2019, arXiv 1809.05818: t+ of clicked and t- of unclicked positions, by the losses
    themselves.
    """

    clicked: Tensor
    unclicked: Tensor

    def __init__(self, positions: int, *, norm: float = 1.0, rate: float = 0.05, lowest: float = 0.01) -> None:
        """Begin without bias. `norm`: p of the paper's regulariser; `rate`: of a step's estimate in the moving average.

        lowest  value of a ratio; a position without a click would have 0, and its pairs no end of weight
        """
        super().__init__()
        self._power, self._rate, self._lowest = 1 / (norm + 1), rate, lowest
        self.register_buffer("clicked", torch.ones(positions))
        self.register_buffer("unclicked", torch.ones(positions))

    def forward(self, scores: Tensor, shown: Shown) -> Tensor:
        """Sum over a session's pairs, mean over sessions; moves the ratios while training."""
        places = _places(shown, len(self.clicked))
        losses = functional.softplus(scores[:, None, :] - scores[:, :, None]) * shown.pairs
        plus, minus = self.clicked[places][:, None], self.unclicked[places]
        weighted = losses / (plus * minus)
        if self.training:
            by_place = losses.detach().sum(0)
            new_plus, new_minus = (by_place / minus).sum(1), (by_place / plus).sum(0)
            self._move(self.clicked, new_plus, places)
            self._move(self.unclicked, new_minus, places)
        return weighted.sum() / shown.sessions.sum().clamp(min=1)

    def propensities(self) -> Tensor:
        """t+ over the first's: of being clicked, given relevance."""
        return self.clicked / self.clicked[0]

    def _move(self, kept: Tensor, sums: Tensor, places: Tensor) -> None:
        """The moving average of a ratio to the first position. Hu et al., eq. 14 and 15."""
        total = _by_place(sums, places, kept)
        if total[0] > 0:
            kept += self._rate * ((total / total[0]) ** self._power - kept)
            kept.clamp_(min=self._lowest)


def propensities_of(loss: ClickLoss, filled: NDArray[np.bool_] | None = None) -> dict[str, list[float | None]]:
    """What a loss assumes or has learnt of positions, as JSON takes it; nothing where it does not.

    filled  positions that held a document; of the others nothing was learnt, and None is told
    """
    found = loss.propensities()
    if found is None:
        return {}
    known = np.ones(len(found), bool)
    if filled is not None:  # as many as are learnt from; given propensities may be fewer or more
        known = np.append(filled, np.zeros(len(found), bool))[: len(found)]
    return {"propensities": [round(float(one), 6) if there else None for one, there in zip(found, known, strict=True)]}


def _places(shown: Shown, positions: int) -> Tensor:
    """(G,) which propensity a position has; those beyond the last have its."""
    return torch.arange(shown.clicks.shape[1], device=shown.clicks.device).clamp(max=positions - 1)


def _by_place(sums: Tensor, places: Tensor, like: Tensor) -> Tensor:
    """(n,) sums (G,) of positions, added up by the propensity that they have."""
    return torch.zeros_like(like).index_add_(0, places, sums.to(like))
