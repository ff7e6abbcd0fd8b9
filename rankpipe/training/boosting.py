"""Trees, one a step, by LightGBM: from documents with features to a ranker, the best step by what is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from time import perf_counter
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray

from rankpipe.data.svmlight import FeatureLists
from rankpipe.errors import RankpipeError, UsageError
from rankpipe.models.tree_ranker import TreeRanker
from rankpipe.training.lambda_clicks import ClickLambdas
from rankpipe.training.loop import Progress
from rankpipe.training.ranker_recipe import LambdaMart, Trees

HIGHEST = 30
"""Grade there can be: the gain of a grade is 2^grade - 1, and LightGBM has gains up to this one."""


@dataclass(frozen=True, eq=False)
class Judge:
    """What decides which step is the best.

    features  (D, F) of documents that train nothing
    measure   of their (D,) scores: the higher, the better
    name      of the measure
    every     steps from one measurement to the next; there is one after the last step as well
    patience  measurements without a better one that end the training; None: never
    phase     as the curve calls the training
    notify    is told every measurement
    """

    features: NDArray[np.float32]
    measure: Callable[[NDArray[np.float32]], float]
    name: str
    every: int = 10
    patience: int | None = 10
    phase: str = "trees"
    notify: Callable[[str], None] = lambda _: None


@dataclass(frozen=True, eq=False)
class Grown:
    """What came of it.

    positions  (n,) bias of positions that the best step was grown with; None where none was learnt
    """

    ranker: TreeRanker
    progress: Progress
    positions: NDArray[np.float64] | None = None


def grow_on_grades(
    lists: FeatureLists, settings: LambdaMart, judge: Judge | None = None, *, seed: int = 0, threads: int = 1
) -> Grown:
    """Grow trees on grades; without a judge, all of them are kept. The same again gives the same trees.

    Raises UsageError for grades above 30 or that are no whole numbers; those below 0 count as 0.
    """
    grades = np.maximum(lists.grades, 0)
    if (wrong := (grades != np.round(grades)) | (grades > HIGHEST)).any():
        raise UsageError(
            f"grade {grades[int(np.argmax(wrong))]:g} is none that LambdaMART learns: whole numbers up to {HIGHEST}"
        )
    data = lightgbm.Dataset(lists.features, label=grades, group=lists.counts, params=_binning(settings))
    return _grow(data, None, settings, judge, parameters(settings, seed, threads))


def grow_on_clicks(
    features: NDArray[np.float32],
    lambdas: ClickLambdas,
    settings: Trees,
    judge: Judge | None = None,
    *,
    seed: int = 0,
    threads: int = 1,
) -> Grown:
    """Grow trees on the lists of `lambdas`, whose shown documents are rows of (H, F) features."""
    shown = lambdas.sessions.shown
    data = lightgbm.Dataset(features[shown[shown >= 0]], params=_binning(settings))
    return _grow(data, lambdas, settings, judge, parameters(settings, seed, threads))


def parameters(settings: Trees, seed: int, threads: int) -> dict[str, Any]:
    """What LightGBM is told: the settings under its own names, and whatever makes the same call give the same trees."""
    own = {field.name for field in fields(Trees)} | {field.name for field in fields(LambdaMart)}
    own -= {"steps"}
    told = {field.name: getattr(settings, field.name) for field in fields(settings) if field.name in own}
    told["max_depth"] = -1 if settings.max_depth is None else settings.max_depth
    objective = "lambdarank" if isinstance(settings, LambdaMart) else "none"
    same = {"seed": seed, "deterministic": True, "force_row_wise": True, "num_threads": threads}
    return {"objective": objective, "metric": "None", "verbosity": -1, **same, **told}


def _binning(settings: Trees) -> dict[str, Any]:
    return {"max_bin": settings.max_bin, "min_data_in_leaf": settings.min_data_in_leaf, "verbosity": -1}


def _grow(
    data: lightgbm.Dataset,
    lambdas: ClickLambdas | None,
    settings: Trees,
    judge: Judge | None,
    told: dict[str, Any],
) -> Grown:
    try:
        return _Growing(data, lambdas, settings, judge, told).run()
    except lightgbm.basic.LightGBMError as error:
        raise RankpipeError(f"LightGBM: {error}") from error


class _Growing:
    def __init__(
        self,
        data: lightgbm.Dataset,
        lambdas: ClickLambdas | None,
        settings: Trees,
        judge: Judge | None,
        told: dict[str, Any],
    ) -> None:
        self._lambdas, self._settings, self._judge = lambdas, settings, judge
        self._booster = lightgbm.Booster(told, data)
        self._documents = data.num_data()
        self._started = perf_counter()
        if judge is not None:
            self._booster.add_valid(data.create_valid(judge.features, params=data.get_params()), "development")
        self._progress = Progress()
        self._best = 0
        self._positions: NDArray[np.float64] | None = None

    def run(self) -> Grown:
        """All steps, or as many as there is patience for."""
        for step in range(1, self._settings.steps + 1):
            learnt = None if self._lambdas is None else self._lambdas.propensities()
            full = self._booster.update(fobj=None if self._lambdas is None else self._gradients)
            self._progress.step = step
            # No leaf can be parted any more; another bag may have one that can.
            ended = full and not self._settings.bagging_freq
            last = ended or step == self._settings.steps
            if self._judge is None:
                self._best, self._positions = self._booster.current_iteration(), learnt
            elif (last or step % self._judge.every == 0) and self._measured(self._judge, step, learnt):
                break
            if ended:
                break
        self._check_parted()
        self._progress.seconds = perf_counter() - self._started
        text = self._booster.model_to_string(num_iteration=self._best)
        return Grown(TreeRanker(text), self._progress, self._positions)

    def _check_parted(self) -> None:
        """Raise UsageError where no tree tells two documents apart: such a ranker would order them by their ids."""
        if all(tree["num_leaves"] < 2 for tree in self._booster.dump_model()["tree_info"]):
            raise UsageError(
                f"no tree parts the {self._documents:,} documents of the lists, where a leaf keeps 'min_data_in_leaf: "
                f"{self._settings.min_data_in_leaf}' of them and 'min_sum_hessian_in_leaf: "
                f"{self._settings.min_sum_hessian_in_leaf:g}'; lower these, or train on more lists"
            )

    def _gradients(self, scores: NDArray[np.float64], _: lightgbm.Dataset) -> tuple[NDArray, NDArray]:
        assert self._lambdas is not None
        first, second = self._lambdas.gradients(scores)
        return first.astype(np.float32), second.astype(np.float32)

    def _measured(self, judge: Judge, step: int, learnt: NDArray[np.float64] | None) -> bool:
        """Add a point to the curve, keep the step if it is the best; whether it has waited long enough."""
        progress, value = self._progress, judge.measure(self._scores())
        progress.curve.append(
            {
                "phase": judge.phase,
                "step": step,
                judge.name: value,
                "seconds": round(perf_counter() - self._started, 1),
            }
        )
        judge.notify(f"{judge.phase}: step {step:,} of {self._settings.steps:,}, {judge.name} {value:.4f}")
        if progress.best is None or value > progress.best:
            progress.best, progress.best_at, progress.waited = value, (judge.phase, step), 0
            self._best, self._positions = self._booster.current_iteration(), learnt
            return False
        progress.waited += 1
        ended = judge.patience is not None and progress.waited >= judge.patience
        if ended:
            progress.stopped.append(judge.phase)
            judge.notify(f"{judge.phase}: no better {judge.name} in {judge.patience} measurements; stopped")
        return ended

    def _scores(self) -> NDArray[np.float32]:
        """(D,) scores of the documents that decide, by all trees so far."""
        found: list[NDArray[np.float32]] = []

        def taken(scores: NDArray[np.float64], _: lightgbm.Dataset) -> tuple[str, float, bool]:
            found.append(scores.astype(np.float32))
            return "none", 0.0, True

        self._booster.eval_valid(taken)
        return found[0]
