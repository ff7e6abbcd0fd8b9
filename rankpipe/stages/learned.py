"""Learned: a re-ranker that has learnt what features are worth, from judgements or from clicks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Gt
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from rankpipe.data import Corpus
from rankpipe.errors import ModelError, UsageError
from rankpipe.models.ranker_folder import OpenRanker, open_ranker
from rankpipe.run import Rest, Run
from rankpipe.stage import SETTINGS, Part, Reference, Stage
from rankpipe.stages.features import Features, feature_columns, feature_matrix


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Learned(Stage):
    """Score the first candidates of every query by a ranker that `rankpipe train` has left, from their features.

    model  its folder
    depth  candidates scored per query
    rest   what becomes of those below: "keep" leaves them below in their order, "drop" removes them
    """

    needs: ClassVar[frozenset[Part]] = frozenset({"candidates", "features"})

    model: Reference
    depth: Annotated[int, Gt(0)] = 100
    rest: Rest = "keep"

    def __call__(self, run: Run) -> Run:
        """Rescore the candidates. Raises UsageError where a column is missing that the ranker was trained on."""
        return run.rescored_to(self.depth, self._score, rest=self.rest)

    def check_behind(self, earlier: Sequence[Stage]) -> None:
        """Raise UsageError where the features come about otherwise than they did in training."""
        trained = self._ranker().features
        features = next((stage for stage in reversed(earlier) if isinstance(stage, Features)), None)
        if trained is None or features is None:
            return
        here = features.deciding()
        if (name := next((name for name in here if name in trained and here[name] != trained[name]), None)) is None:
            return
        if name == "model":
            what = "with another encoder as 'model' of the stage 'features'"
        else:
            what = f"with '{name}: {trained[name]}' in the stage 'features', and here it is {here[name]}"
        raise UsageError(f"the ranker {self.model} was trained {what}; give that stage the settings it had in training")

    def prepare(self, corpus: Corpus) -> None:
        """Open the ranker."""
        self._ranker()

    def facts(self, corpus: Corpus) -> Mapping[str, Any]:
        """Its digest."""
        return {"ranker": self._ranker().digest}

    def _score(self, run: Run) -> NDArray[np.float32]:
        ranker = self._ranker()
        columns = feature_columns(run)
        missing = [name for name in ranker.columns if name not in columns]
        if missing:
            there = ", ".join(columns) or "none"
            raise UsageError(
                f"the ranker {self.model} was trained on the feature {missing[0]!r}, which the stage 'features' did not "
                f"leave; it left: {there}. Give that stage the settings it had in training"
            )
        return ranker.scores(feature_matrix(run, ranker.columns))

    def _ranker(self) -> OpenRanker:
        def opened() -> OpenRanker:
            folder = Path(os.path.expanduser(self.model))
            if not os.path.isdir(folder):
                raise ModelError(f"there is no folder {self.model!r} of a ranker")
            return open_ranker(folder, f"stage '{self.type_name()}'")

        return self.open_once("ranker", opened)
