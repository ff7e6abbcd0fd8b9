"""Training of a feature ranker, from grades or from clicks, by the loop of all trainings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankpipe.data.svmlight import FeatureLists
from rankpipe.evaluation.list_measures import list_measures
from rankpipe.models.adapters.attached import Attached
from rankpipe.models.feature_ranker import FeatureRanker
from rankpipe.training.click_losses import ClickLoss
from rankpipe.training.loop import PhasePlan, Plan, Progress, train
from rankpipe.training.positions import WithPositions, shown
from rankpipe.training.sessions import Sessions, ranked

GroupLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of scores, grades and presence (N, G): a value per list (N,)."""


@dataclass(frozen=True, kw_only=True)
class RankerSteps:
    """How long a ranker is trained, and how.

    batch            lists of a step; where there are fewer, all of them
    learning_rate    of the ranker; Adagrad with .05: Ai et al., SIGIR 2018
    propensity_rate  of what is learnt of positions
    weight_decay     of the ranker's matrices
    every            steps from one measurement to the next
    """

    steps: int = 1000
    batch: int = 256
    learning_rate: float = 0.05
    propensity_rate: float = 0.5
    weight_decay: float = 0.0
    clip: float = 5.0
    every: int = 50
    optimizer: Literal["adamw", "adagrad"] = "adagrad"
    seed: int = 0


def train_on_grades(
    ranker: FeatureRanker,
    lists: FeatureLists,
    loss: GroupLoss,
    steps: RankerSteps,
    folder: Path,
    *,
    measure: Callable[[], float] | None = None,
    notify: Callable[[str], None] = lambda _: None,
) -> Progress:
    """Train on grades, the ranker being left with its best weights; `folder` takes checkpoints, and is gone on from."""
    width = int(lists.counts.max())
    rows = ranked(lists, np.zeros(len(lists.grades)), width)  # equal scores stand in their order
    features, grades = torch.from_numpy(lists.features), torch.from_numpy(lists.grades)

    def value(ids: NDArray[np.int64]) -> Tensor:
        scores, present = scored(ranker, features, rows[ids])
        places = torch.from_numpy(np.maximum(rows[ids], 0))
        return loss(scores, grades[places] * present, present).mean()

    return _train(Attached(ranker, ()), value, list(lists.query_ids), steps, folder, measure, notify)


def train_on_clicks(
    ranker: FeatureRanker,
    lists: FeatureLists,
    sessions: Sessions,
    loss: ClickLoss,
    steps: RankerSteps,
    folder: Path,
    *,
    measure: Callable[[], float] | None = None,
    notify: Callable[[str], None] = lambda _: None,
) -> Progress:
    """Train on clicks, as train_on_grades does on grades; only lists that were clicked are drawn."""
    clicked = np.flatnonzero(sessions.clicks.sum(1) > 0)
    features = torch.from_numpy(lists.features)
    first = sessions.shown[clicked, 0]
    ids = [lists.query_ids[int(np.searchsorted(lists.offsets, row, side="right")) - 1] for row in first]

    def value(places: NDArray[np.int64]) -> Tensor:
        own = clicked[places]
        drawn = sessions.select(own)
        scores, present = scored(ranker, features, drawn.shown)
        return loss(scores, shown(drawn, present))

    attached = WithPositions(Attached(ranker, ()), [(loss, steps.propensity_rate / steps.learning_rate)])
    return _train(attached, value, ids, steps, folder, measure, notify)


def measured(ranker: FeatureRanker, lists: FeatureLists, name: str) -> Callable[[], float]:
    """Mean of a measure, such as nDCG@10, over lists that have a relevant document."""
    features = torch.from_numpy(lists.features)

    def value() -> float:
        scores = ranker(features).numpy()
        return float(np.nanmean(list_measures(scores, lists.grades, lists.offsets)[name]))

    return value


def scored(ranker: FeatureRanker, features: Tensor, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """(N, G) scores of documents by their rows among features (H, F), 0 where there is none, and whether there is one."""
    places = torch.from_numpy(rows).to(features.device)
    present = places >= 0
    scores = torch.zeros(present.shape, device=features.device)
    scores[present] = ranker(features[places[present]])
    return scores, present


def _train(
    attached: Attached,
    value: Callable[[NDArray[np.int64]], Tensor],
    ids: list[str],
    steps: RankerSteps,
    folder: Path,
    measure: Callable[[], float] | None,
    notify: Callable[[str], None],
) -> Progress:
    folder.mkdir(parents=True, exist_ok=True)
    count, size = len(ids), min(steps.batch, len(ids))

    def drawn(step: int) -> NDArray[np.int64]:
        return np.random.default_rng([steps.seed, 5, step]).choice(count, size, replace=False)

    def backward(step: int) -> float:
        loss = value(drawn(step))
        loss.backward()
        return float(loss.detach())

    phase = PhasePlan(
        name="ranker",
        steps=steps.steps,
        learning_rate=steps.learning_rate,
        warm_up=0.0,
        schedule="linear",
        weight_decay=steps.weight_decay,
        clip=steps.clip,
        backward=backward,
        queries=lambda step: [ids[place] for place in drawn(step).tolist()],
        optimizer=steps.optimizer,
    )
    plan = Plan(
        phases=[phase],
        measure=measure,
        begun=False,
        measured="measure",
        every=steps.every,
        patience=None,
        checkpoint=max(steps.every, 100),
        seed=steps.seed,
    )
    return train(plan, attached, folder, notify=notify)
