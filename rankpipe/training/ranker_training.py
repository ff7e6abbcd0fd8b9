"""Training of a ranker of features: the loss of a step, what is written. Trees grow in rankpipe.training.boosting.

OUTPUT/ has, besides what every training leaves (rankpipe.training.folder):
    ranker.json   kind, names of the columns; model.safetensors or model.txt (rankpipe.models.ranker_folder)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankpipe.data import Dataset
from rankpipe.errors import UsageError
from rankpipe.models.adapters.attached import Attached
from rankpipe.models.feature_ranker import FeatureRanker
from rankpipe.models.ranker_folder import write_ranker
from rankpipe.models.references import need_extra
from rankpipe.stages.features import feature_matrix
from rankpipe.training import losses
from rankpipe.training.click_losses import ClickLoss
from rankpipe.training.development import measured
from rankpipe.training.examples import Turns
from rankpipe.training.feature_dataset import FeatureDataset
from rankpipe.training.feature_ranking import scored
from rankpipe.training.folder import Command
from rankpipe.training.loop import PhasePlan, Plan
from rankpipe.training.means import Means
from rankpipe.training.positions import Positions, shown
from rankpipe.training.ranker_material import Candidates, FromLists, FromPipeline, Lists, RankerMaterial, gather_lists
from rankpipe.training.ranker_recipe import Grades, RankerPhase, RankerRecipe

LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "softmax": losses.softmax,
    "list-net": losses.list_net,
    "ranknet": losses.ranknet,
    "lambda": losses.lambda_ndcg,
    "list-mle": losses.list_mle,
    "approx-ndcg": losses.approx_ndcg,
}


def train_ranker(recipe: RankerRecipe, asked: Command, lists: FeatureDataset | None = None) -> str:
    """Train, leave a folder, and say what is best; a network goes on with what a killed, equal call has done.

    lists  the data set, where it has features itself

    Raises UsageError for a recipe that asks for what the data set does not have, DataError for a log that is wrong.
    """
    if asked.processes.count > 1:
        raise UsageError(f"a ranker is trained by one process; {asked.processes.count} were started")
    if recipe.trees is not None:
        need_extra(f"phase '{recipe.kind_of(recipe.trees)}'", ("lightgbm",), "lightgbm", "ltr")
    candidates = _candidates(recipe, asked, lists)
    with asked.runtime.active():
        material = gather_lists(recipe, asked.dataset, candidates, notify=asked.notify)
    if recipe.trees is not None:
        from rankpipe.training.tree_training import TreeTraining

        return asked.leave(None, material.account, lambda _: TreeTraining(recipe, asked, material).trained())
    return asked.run(None, material.account, lambda: RankerTraining(recipe, asked.dataset, material, asked.means))


def _candidates(recipe: RankerRecipe, asked: Command, lists: FeatureDataset | None) -> Candidates:
    name = asked.dataset.name
    if recipe.candidates is None:
        if lists is None:
            raise UsageError(
                f"the recipe has no 'candidates', and data set '{name}' has no features; name the pipeline that finds them: "
                "candidates: {pipeline: features}"
            )
        return FromLists(lists)
    if lists is not None:
        raise UsageError(
            f"data set '{name}' has features itself, and no texts that pipeline {recipe.candidates.pipeline!r} could search; "
            "take 'candidates' out of the recipe"
        )
    return FromPipeline(recipe.candidates, asked.dataset.corpus, asked.runtime)


class RankerTraining:
    """The ranker, what is learnt of positions, and how a step's loss and gradients are computed.

    trained  both
    """

    def __init__(self, recipe: RankerRecipe, dataset: Dataset, material: RankerMaterial, means: Means) -> None:
        self._recipe, self._dataset, self._material, self._device = recipe, dataset, material, means.device
        torch.manual_seed(recipe.seed)
        self._ranker = FeatureRanker(len(material.columns), recipe.hidden)
        self._ranker.fit_scale(material.features)
        self._ranker.to(self._device)
        self._features = torch.from_numpy(material.features).to(self._device)
        self._positions = Positions(recipe.phases, recipe.seed)
        self.trained: Attached = self._positions.beside(Attached(self._ranker, ()))

    def plan(self) -> Plan:
        """What the loop is to do."""
        phases = [self._phase(number, phase) for number, phase in enumerate(self._recipe.planned)]
        return Plan.of(self._recipe, phases, self._measure, begun=False)

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the ranker; what was learnt of positions, by phase."""
        write_ranker(self._ranker.cpu(), self._material.columns, folder, features=self._material.deciding)
        filled = [
            None if one.sessions is None else np.asarray(one.sessions.present.any(0)) for one in self._material.lists
        ]
        return self._positions.told(filled)

    def _phase(self, number: int, phase: Any) -> PhasePlan:
        lists: Lists = self._material.lists[number]
        turns = Turns(lists.ids, (self._recipe.seed, number), self._recipe.subset)
        size = turns.batch(phase.batch)

        def drawn(step: int) -> NDArray[np.int64]:
            return np.array([turns[turn] for turn in range((step - 1) * size, step * size)], np.int64)

        def backward(step: int) -> float:
            loss = self._loss(phase, lists, self._positions.losses[number], drawn(step))
            loss.backward()
            return float(loss.detach())

        return PhasePlan.of(
            phase,
            f"{number + 1} {self._recipe.kind_of(self._recipe.phases[number])}",
            backward=backward,
            queries=lambda step: [lists.ids[at] for at in drawn(step).tolist()],
            optimizer=phase.optimizer,
        )

    def _loss(self, phase: RankerPhase, lists: Lists, clicks: ClickLoss | None, drawn: NDArray[np.int64]) -> Tensor:
        scores, present = scored(self._ranker, self._features, lists.rows[drawn])
        if isinstance(phase, Grades) and lists.grades is not None:
            grades = torch.from_numpy(lists.grades[drawn]).to(self._device)
            return LOSSES[phase.loss](scores, grades, present).mean()
        if clicks is None or lists.sessions is None:  # never: a phase learns one or the other
            raise UsageError(f"a ranker has no phase {type(phase).__name__}")
        return clicks(scores, shown(lists.sessions.select(drawn), present))

    def _measure(self) -> float:
        """The measure's mean over development queries, whose candidates are re-ranked."""
        run, qrels = self._material.development
        columns = feature_matrix(run, self._material.columns)
        scores = self._ranker(torch.from_numpy(columns).to(self._device)).cpu().numpy()
        return measured(run.rescored(scores), qrels, self._dataset, self._recipe.development.measure)
