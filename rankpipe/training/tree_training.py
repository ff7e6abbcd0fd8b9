"""Training of a ranker of trees: from the lists of a recipe to what LightGBM is given, and to a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankpipe.data.svmlight import FeatureLists
from rankpipe.models.ranker_folder import write_trees
from rankpipe.stages.features import feature_matrix
from rankpipe.training.boosting import Grown, Judge, grow_on_clicks, grow_on_grades
from rankpipe.training.development import measured
from rankpipe.training.folder import Command, Trained
from rankpipe.training.lambda_clicks import ClickLambdas
from rankpipe.training.ranker_material import RankerMaterial
from rankpipe.training.ranker_recipe import LambdaMart, LambdaMartClicks, RankerRecipe


class TreeTraining:
    """Trees on the one phase of a recipe. Nothing is gone on with after a kill: they grow in seconds."""

    def __init__(self, recipe: RankerRecipe, asked: Command, material: RankerMaterial) -> None:
        self._recipe, self._asked, self._material = recipe, asked, material

    def trained(self) -> Trained:
        """Grow them, as many as development decides."""
        grown = self._grown()
        measure = self._recipe.development.measure
        return Trained(measure, grown.progress, grown.ranker.trees, lambda folder: self._write(grown, folder))

    def _grown(self) -> Grown:
        lists, phase, features = self._material.lists[0], self._recipe.phases[0], self._material.features
        same = {"seed": self._recipe.seed, "threads": self._asked.runtime.thread_count}
        if isinstance(phase, LambdaMart) and lists.grades is not None:
            return grow_on_grades(packed(lists.ids, lists.rows, lists.grades, features), phase, self._judge(), **same)
        assert isinstance(phase, LambdaMartClicks)
        assert lists.sessions is not None
        norm = phase.norm if phase.method == "pair-debias" else None
        sessions = replace(lists.sessions, shown=lists.rows)
        lambdas = ClickLambdas(sessions=sessions, sigmoid=phase.sigmoid, norm=norm)
        return grow_on_clicks(features, lambdas, phase, self._judge(), **same)

    def _judge(self) -> Judge:
        (run, qrels), development = self._material.development, self._recipe.development
        return Judge(
            feature_matrix(run, self._material.columns),
            lambda scores: measured(run.rescored(scores), qrels, self._asked.dataset, development.measure),
            development.measure,
            development.every,
            development.patience,
            f"1 {self._recipe.kind_of(self._recipe.phases[0])}",
            self._asked.notify,
        )

    def _write(self, grown: Grown, folder: Path) -> dict[str, Any]:
        """Write the trees; what was learnt of positions."""
        write_trees(grown.ranker, self._material.columns, folder, features=self._material.deciding)
        if grown.positions is None:
            return {"positions": [None if self._material.lists[0].sessions is None else {}]}
        sessions = self._material.lists[0].sessions
        assert sessions is not None
        filled = np.asarray(sessions.present.any(0)).tolist()
        told = [round(float(one), 6) if there else None for one, there in zip(grown.positions, filled, strict=True)]
        return {"positions": [{"propensities": told}]}


def packed(
    ids: list[str], rows: NDArray[np.int64], grades: NDArray[np.float32], features: NDArray[np.float32]
) -> FeatureLists:
    """Lists of rows (L, G) of features (H, F), -1 where a list is shorter, as documents one below the other."""
    there = rows >= 0
    offsets = np.concatenate([[0], np.cumsum(there.sum(1))]).astype(np.int64)
    return FeatureLists(tuple(ids), offsets, grades[there], features[rows[there]])
