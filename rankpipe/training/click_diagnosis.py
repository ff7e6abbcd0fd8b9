"""What a click log says of the people who clicked: which positions they look at, and whether it is worth correcting for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rankpipe.models.feature_ranker import FeatureRanker
from rankpipe.training.click_losses import ClickLoss, Dual, Shown, Weighted
from rankpipe.training.sessions import Sessions

NORMAL = 1.959964
"""97.5 % of the normal distribution."""
BAND = (0.05, 0.95)
"""Quantiles of the estimates on drawn lists between which the band lies."""
LIMIT = 100.0
"""Weight of a click, at most."""
FEWEST = 100.0
"""Effective clicks below which nothing is said."""
FLAT = 0.15
"""A propensity so near to 1 is no bias that matters."""
SETTLING = 10
"""Draws below which nobody can say that an estimate lies outside of its band."""
WIDE = 0.3
"""A band that reaches so far below 1 leaves room for one that does."""
ALIKE = 0.02
"""Share of pairs ordered otherwise, below which two rankings are alike."""
STRONG = 0.8
"""Rank correlation of a ranking with what was shown, above which position and relevance cannot be told apart."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Of n positions.

    click_through  (n, 3) clicks as a share of the sessions in which a position was filled, and its 95 % interval (Wilson)
    propensities   (n, 3) how likely a position is looked at, over the first, by DLA with a ranker that begins with no
                   weights, and the band of estimates on lists drawn anew by rankers whose weights are drawn; NaN where no
                   list that was clicked has a document
    truth          (n,) what the propensities are, where that is known
    effective      clicks that those weighted by the inverse of their propensities are worth (Kish)
    disagreement   share of pairs of shown documents that the ranker with and without correction order otherwise
    strength       mean rank correlation of the corrected ranking with the order shown
    draws          of lists, for the band
    """

    sessions: int
    lists: int
    clicks: int
    click_through: NDArray[np.float64]
    propensities: NDArray[np.float64]
    truth: NDArray[np.float64] | None
    effective: float
    disagreement: float
    strength: float
    draws: int

    @property
    def verdict(self) -> str:
        """Whether correcting for positions is likely to help here, and why."""
        if self.effective < FEWEST:
            return (
                f"cannot be told: {self.clicks:,} clicks, weighted, are worth {self.effective:,.0f}; at least "
                f"{FEWEST:,.0f} are needed to say anything"
            )
        known = self.propensities[~np.isnan(self.propensities[:, 0])]
        lowest, highest = known[1:, 1], known[1:, 2]
        if len(lowest) and not self.settled:
            return (
                "cannot be told: rankers that begin with other weights, on lists drawn anew, find other propensities; leave out "
                "features that follow what was shown ('--without'), or show a share of the lists in another order"
            )
        if len(lowest) == 0 or ((highest > 1 - FLAT) & (lowest < 1 + FLAT)).all():
            if len(lowest) and lowest.min() < 1 - WIDE:
                return f"cannot be told: the bands reach from {lowest.min():.2f} to {highest.max():.2f}; more lists would narrow them"
            return "hardly: no position is looked at less than the first, as far as these clicks show"
        if self.disagreement < ALIKE:
            return (
                f"hardly: with and without correction, {100 * (1 - self.disagreement):.1f} % of all pairs of shown "
                "documents are ordered alike"
            )
        if self.strength > STRONG:
            return (
                f"uncertain: what was shown was ordered almost as relevance is (correlation {self.strength:.2f}), so that "
                "position and relevance cannot be told apart; show a share of the lists in another order"
            )
        return (
            f"likely: position {len(known)} is looked at {known[-1, 0]:.2f} times as often as the first, and "
            f"correction orders {100 * self.disagreement:.0f} % of all pairs of shown documents otherwise"
        )

    @property
    def settled(self) -> bool:
        """Whether every estimate lies in its band, or as good as; of few draws the band is too narrow to say so."""
        if self.draws < SETTLING:
            return True
        found, low, high = self.propensities[~np.isnan(self.propensities[:, 0])].T
        return bool(((found > low - FLAT) & (found < high + FLAT)).all())

    @property
    def error(self) -> float | None:
        """Largest difference of a propensity to the truth, where that is known."""
        return None if self.truth is None else float(np.nanmax(np.abs(self.propensities[:, 0] - self.truth)))

    def told(self) -> dict[str, Any]:
        """As JSON takes it."""
        names = ("value", "from", "to")
        curves = {"click_through": self.click_through, "propensities": self.propensities}
        return {
            "sessions": self.sessions,
            "lists": self.lists,
            "clicks": self.clicks,
            **{
                name: [{key: _number(one) for key, one in zip(names, row, strict=True)} for row in rows.tolist()]
                for name, rows in curves.items()
            },
            "truth": None if self.truth is None else self.truth.tolist(),
            "error": self.error,
            "effective_clicks": round(self.effective, 1),
            "disagreement": round(self.disagreement, 6),
            "strength": round(self.strength, 6),
            "draws": self.draws,
            "verdict": self.verdict,
        }


def diagnose(
    features: NDArray[np.float32],
    rows: NDArray[np.int64],
    sessions: Sessions,
    *,
    whole: Sessions | None = None,
    draws: int = 20,
    steps: int = 300,
    seed: int = 0,
    truth: Sequence[float] | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Diagnosis:
    """Look at sessions of L lists with n positions.

    features  (H, F) of documents
    rows      (L, n) which of them are shown; -1 where a list is shorter
    whole     the sessions with those of lists that nobody clicked, which have no rows; None: there are none
    draws     of lists with replacement, for the band
    steps     of each training
    advance   is told of every training that is done
    """
    fit = _Fit(features, rows, sessions, steps)
    dual, debiased = fit.dual(np.arange(len(rows)), seed, drawn=False)
    advance(1)
    naive = fit.scores(fit.ranker(Weighted(), np.arange(len(rows)), seed, drawn=False))
    advance(1)
    rng = np.random.default_rng([seed, 17])
    drawn = []
    for number in range(draws):
        drawn.append(fit.dual(rng.integers(len(rows), size=len(rows)), seed + 1 + number, drawn=True)[0])
        advance(1)
    found = dual[:, None]
    band = np.quantile(np.stack(drawn), BAND, axis=0).T if drawn else np.repeat(found, 2, axis=1)
    curve = np.concatenate([found, band], axis=1)
    curve[~(rows >= 0).any(0)] = np.nan
    corrected, whole = fit.scores(debiased), whole or sessions
    weights = np.minimum(1 / dual, LIMIT)
    squares = (sessions.clicks * weights**2).sum()
    return Diagnosis(
        sessions=int(whole.count.sum()),
        lists=len(rows),
        clicks=int(sessions.clicks.sum()),
        click_through=_click_through(whole),
        propensities=curve,
        truth=None if truth is None else np.asarray(truth, np.float64) / truth[0],
        effective=float((sessions.clicks * weights).sum() ** 2 / squares) if squares > 0 else 0.0,
        disagreement=_disagreement(naive, corrected, rows >= 0),
        strength=_strength(corrected, rows >= 0),
        draws=draws,
    )


class _Fit:
    """Linear rankers, trained on lists of the log."""

    def __init__(self, features: NDArray[np.float32], rows: NDArray[np.int64], sessions: Sessions, steps: int) -> None:
        self._steps = steps
        self._rows, self._present = torch.from_numpy(np.maximum(rows, 0)), torch.from_numpy(rows >= 0)
        scale = FeatureRanker(features.shape[1])
        scale.fit_scale(features)
        self._inputs = scale.scaled(torch.from_numpy(features))  # once, for all rankers
        counted = (sessions.clicks, sessions.count, sessions.pairs)
        self._counted = [torch.from_numpy(one).float() for one in counted]

    def dual(self, lists: NDArray[np.int64], seed: int, *, drawn: bool) -> tuple[NDArray[np.float64], FeatureRanker]:
        """(n,) propensities by DLA, and the ranker that was learnt with them."""
        loss = Dual(self._rows.shape[1], limit=LIMIT)
        ranker = self.ranker(loss, lists, seed, drawn=drawn)
        return loss.propensities().double().numpy(), ranker

    def ranker(self, loss: ClickLoss, lists: NDArray[np.int64], seed: int, *, drawn: bool) -> FeatureRanker:
        """Train on some of the lists, from weights that are drawn, or from none."""
        torch.manual_seed(seed)
        ranker = FeatureRanker(self._inputs.shape[1])
        if not drawn:
            for one in ranker.parameters():
                torch.nn.init.zeros_(one)
        groups: list[dict[str, Any]] = [{"params": list(ranker.parameters()), "lr": 0.05}]
        if learnt := list(loss.parameters()):
            groups.append({"params": learnt, "lr": 0.5})
        optimizer = torch.optim.Adagrad(groups)
        rng = np.random.default_rng([seed, 19])
        for _ in range(self._steps):
            own = torch.from_numpy(rng.choice(lists, min(len(lists), 512), replace=False))
            scores = ranker(self._inputs[self._rows[own]]).masked_fill(~self._present[own], 0.0)
            clicks, count, pairs = (one[own] for one in self._counted)
            optimizer.zero_grad()
            loss(scores, Shown(clicks, count, pairs, self._present[own])).backward()
            optimizer.step()
        return ranker

    def scores(self, ranker: FeatureRanker) -> NDArray[np.float64]:
        """(L, n) of what is shown."""
        with torch.inference_mode():
            return ranker(self._inputs[self._rows]).double().numpy()


def _click_through(sessions: Sessions) -> NDArray[np.float64]:
    """(n, 3) share, and its 95 % interval. Wilson, JASA 1927."""
    seen = (sessions.present * sessions.count[:, None]).sum(0).astype(np.float64)
    clicks = sessions.clicks.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):  # a position that was never filled has no share
        share = clicks / seen
        middle = (share + NORMAL**2 / (2 * seen)) / (1 + NORMAL**2 / seen)
        half = NORMAL / (1 + NORMAL**2 / seen) * np.sqrt(share * (1 - share) / seen + NORMAL**2 / (4 * seen**2))
    return np.stack([share, middle - half, middle + half], axis=1)


def _disagreement(first: NDArray[np.float64], second: NDArray[np.float64], present: NDArray[np.bool_]) -> float:
    """Share of pairs of a list that two scorings order otherwise."""
    pairs = present[:, :, None] & present[:, None, :] & np.triu(np.ones(present.shape[1:] * 2, bool), 1)
    other = np.sign(first[:, :, None] - first[:, None, :]) != np.sign(second[:, :, None] - second[:, None, :])
    return float((other & pairs).sum() / max(pairs.sum(), 1))


def _strength(scores: NDArray[np.float64], present: NDArray[np.bool_]) -> float:
    """Mean over lists of Spearman's correlation of scores with the order shown; 0 without a list of two."""
    found = []
    for values, there in zip(scores, present, strict=True):
        count = int(there.sum())
        if count >= 2:
            ranks = np.argsort(np.argsort(-values[there], kind="stable"), kind="stable")
            apart = ranks - np.arange(count)
            found.append(1 - 6 * float((apart**2).sum()) / (count * (count**2 - 1)))
    return float(np.mean(found)) if found else 0.0


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)


def picture(diagnosis: Diagnosis) -> str:
    """The propensities by position as an SVG: estimate, band, and the truth where it is known."""
    width, height, left, bottom, top = 560, 320, 50, 40, 20
    curve = diagnosis.propensities[~np.isnan(diagnosis.propensities[:, 0])]
    highest = max(1.0, float(np.nanmax(curve)), float(np.max(diagnosis.truth)) if diagnosis.truth is not None else 0)
    count = len(curve)

    def place(position: int, value: float) -> str:
        x = left + (width - left - 20) * position / max(count - 1, 1)
        y = height - bottom - (height - bottom - top) * value / highest
        return f"{x:.1f},{y:.1f}"

    band = [place(at, curve[at, 2]) for at in range(count)] + [place(at, curve[at, 1]) for at in reversed(range(count))]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        f'<polygon points="{" ".join(band)}" fill="#9ec5fe"/>',
        f'<polyline points="{" ".join(place(at, curve[at, 0]) for at in range(count))}" fill="none" stroke="#084298" stroke-width="2"/>',
    ]
    if diagnosis.truth is not None:
        truth = " ".join(place(at, value) for at, value in enumerate(diagnosis.truth[:count].tolist()))
        parts.append(
            f'<polyline points="{truth}" fill="none" stroke="#842029" stroke-dasharray="5 4" stroke-width="2"/>'
        )
        parts.append(f'<text x="{width - 20}" y="{top + 16}" text-anchor="end" fill="#842029">truth</text>')
    parts.append(f'<text x="{width - 20}" y="{top}" text-anchor="end" fill="#084298">estimate, and its band</text>')
    for at in range(count):
        x = place(at, 0).partition(",")[0]
        parts.append(f'<text x="{x}" y="{height - bottom + 18}" text-anchor="middle">{at + 1}</text>')
    for value in (0.0, 0.5, 1.0):
        y = place(0, value).partition(",")[2]
        parts.append(f'<line x1="{left}" x2="{width - 20}" y1="{y}" y2="{y}" stroke="#ccc"/>')
        parts.append(f'<text x="{left - 8}" y="{y}" text-anchor="end" dominant-baseline="middle">{value:g}</text>')
    parts.append(f'<text x="{width / 2}" y="{height - 6}" text-anchor="middle">position</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
