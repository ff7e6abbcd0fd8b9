"""tune: choose how fuse joins its branches, or how much interpolate leaves of an earlier stage's scores, by a measure on
judged queries that are not the test queries.

What is joined is run once for each data set; then every setting joins the same runs. One setting is chosen for all data
sets together: the one with the highest mean of their means.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

from rankpipe.data import Dataset
from rankpipe.errors import UsageError
from rankpipe.evaluation.experiment import evaluate_on
from rankpipe.evaluation.measures import read_measures
from rankpipe.pipeline import Pipeline
from rankpipe.run import Run
from rankpipe.stage import apply
from rankpipe.stages.fuse import BY_SCORES, Fuse, Method
from rankpipe.stages.interpolate import Interpolate
from rankpipe.stages.normalise import Normalisation

Joining: TypeAlias = Fuse | Interpolate
"""A stage that makes one ranking of several."""

STEP = 0.1
"""Distance between the weights that are tried for two branches; more branches get coarser steps."""
SHARES = tuple(round(step / 20, 2) for step in range(1, 20))
"""Of the earlier scores, that are tried for interpolate."""
SMOOTHINGS = (60.0, 40.0, 100.0, 20.0, 10.0)
"""Of reciprocal rank fusion. Cormack, Clarke and Büttcher found 60, and little difference around it."""
SHOWN = 5
"""Other settings that are kept as evidence beside the chosen one."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A split of a data set to tune on."""

    dataset: Dataset
    split: str

    def __str__(self) -> str:
        return f"{self.dataset.name} {self.split}"


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A setting of the stage and what it gave: the mean over the data sets, and the value on each."""

    stage: Joining
    mean: float
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The pipeline with the chosen setting, and the evidence.

    tried   all settings, the best first; among equals the pipeline's own, then the plainer
    before  what the pipeline's own setting gave
    single  what is joined, by name, and what each gave by itself: the value on each data set
    """

    pipeline: Pipeline
    measure: str
    judged: tuple[Judged, ...]
    tried: tuple[Tried, ...]
    before: Tried
    single: dict[str, tuple[float, ...]]

    def to_yaml(self, command: str) -> str:
        """The chosen pipeline as a file, the evidence in comments above it."""
        lines = [f"made by: {command}", f"measure: {self.measure}, mean over {', '.join(map(str, self.judged))}"]
        lines.append(f"chosen of {len(self.tried)} settings: {numbers_text(self.tried[0].mean, self.tried[0].values)}")
        lines += [f"  {name} alone: {numbers_text(mean_of(values), values)}" for name, values in self.single.items()]
        lines.append(f"  as it was before: {numbers_text(self.before.mean, self.before.values)}")
        lines += [
            f"  next: {settings_text(one.stage)}: {numbers_text(one.mean, one.values)}"
            for one in self.tried[1 : SHOWN + 1]
        ]
        return "".join(f"# {line}\n" for line in lines) + self.pipeline.to_yaml()


def tune(
    pipeline: Pipeline,
    judged: Sequence[Judged],
    *,
    measure: str = "nDCG@10",
    notify: Callable[[str], None] | None = None,
) -> Tuning:
    """Choose the settings of the pipeline's last stage that joins rankings; all other stages stay as they are.

    Of fuse they are method, normalisation and weights, of interpolate normalisation and weight. Stages behind it are not
    run.

    judged  dev or train splits; one setting is chosen for all of them

    Raises UsageError for a pipeline without such a stage, and for a split that is called test: what is chosen on test
    queries says nothing about others.
    """
    notify = notify or (lambda _: None)
    read_measures(measure)
    place, stage = _last_joining(pipeline)
    not_test(judged)
    rankings = []
    for one in judged:
        notify(f"{one}: running what {stage.type_name()} joins over {len(one.dataset.queries(one.split))} queries")
        rankings.append(_rankings(pipeline, place, stage, one))
    settings = list(dict.fromkeys((stage, *_settings(stage))))
    if (reason := _no_theoretical_minimum(stage)) is not None:
        notify(f"theoretical-minimum is left out: {reason}")
    notify(f"trying {len(settings)} settings of {stage.type_name()}")

    def measured(stage: Joining) -> Tried:
        values = tuple(
            value_on(of_one.joined(stage), one, measure) for of_one, one in zip(rankings, judged, strict=True)
        )
        return Tried(stage=stage, mean=mean_of(values), values=values)

    before, *others = map(measured, settings)
    tried = sorted((before, *others), key=lambda one: -one.mean)
    single = {
        name: tuple(value_on(of_one.alone[name], one, measure) for of_one, one in zip(rankings, judged, strict=True))
        for name in rankings[0].alone
    }
    stages = (*pipeline.stages[:place], tried[0].stage, *pipeline.stages[place + 1 :])
    return Tuning(
        pipeline=replace(pipeline, stages=stages),
        measure=measure,
        judged=tuple(judged),
        tried=tuple(tried),
        before=before,
        single=single,
    )


def settings_text(stage: Joining) -> str:
    """The settings that tuning chooses, on one line."""
    if isinstance(stage, Interpolate):
        return f"{stage.normalise}, weight {stage.weight:g}"
    parts = [stage.method]
    if stage.method == "reciprocal-rank":
        parts.append(f"smoothing {stage.smoothing:g}")
    if stage.method in BY_SCORES:
        parts.append(stage.normalise)
    if stage.weights is not None:
        parts.append("weights " + " ".join(f"{weight:g}" for weight in stage.weights))
    return ", ".join(parts)


def _last_joining(pipeline: Pipeline) -> tuple[int, Joining]:
    """Place and stage."""
    for place, stage in reversed(list(enumerate(pipeline.stages))):
        if isinstance(stage, (Fuse, Interpolate)):
            return place, stage
    names = ", ".join(stage.type_name() for stage in pipeline.stages)
    raise UsageError(
        "tune chooses the settings of the last stage of a pipeline that is fuse or interpolate; "
        f"the stages of this one are {names}"
    )


class _Rankings(NamedTuple):
    """What a stage joins, on one data set.

    alone   by name
    joined  what a setting of the stage makes of them
    """

    alone: dict[str, Run]
    joined: Callable[[Any], Run]


def _rankings(pipeline: Pipeline, place: int, stage: Joining, judged: Judged) -> _Rankings:
    """Run the stages before the one at a place, and its branches if it has any."""
    bound = pipeline.on(judged.dataset.corpus)
    bound.prepare()
    given = Run.empty(judged.dataset.queries(judged.split), judged.dataset.corpus)
    with bound.runtime.active():
        for before in pipeline.stages[:place]:
            given = apply(before, given)
        if isinstance(stage, Fuse):
            branches = [apply(branch, given) for branch in stage.branches]
            alone = {f"branch {number}": run for number, run in enumerate(branches, 1)}
            return _Rankings(alone, lambda setting: setting.fused(given, branches))
    earlier = apply(replace(stage, weight=1.0), given)
    alone = {f"the scores of {stage.with_!r}": earlier, "the scores before interpolate": given}
    return _Rankings(alone, lambda setting: apply(setting, given))


def _no_theoretical_minimum(stage: Joining) -> str | None:
    """Why normalising by the theoretical minimum is not tried; None where it is."""
    if isinstance(stage, Fuse):
        return stage.unknown_minimum
    return None if stage.minimum is not None else "interpolate states no 'minimum'"


def _settings(stage: Joining) -> Iterator[Joining]:
    """All settings to try, the plainer first."""
    return _ways_to_fuse(stage) if isinstance(stage, Fuse) else _ways_to_interpolate(stage)


def _ways_to_interpolate(stage: Interpolate) -> Iterator[Interpolate]:
    ways: list[Normalisation] = ["min-max", "z-score"]
    for normalise in ways:
        for weight in SHARES:
            yield replace(stage, normalise=normalise, minimum=None, weight=weight)
    if _no_theoretical_minimum(stage) is None:
        yield from (replace(stage, weight=weight) for weight in SHARES)


def _ways_to_fuse(fuse: Fuse) -> Iterator[Fuse]:
    plain = replace(fuse, method="reciprocal-rank", weights=None, smoothing=60.0, normalise="min-max", minimum=None)
    for smoothing in SMOOTHINGS:
        yield replace(plain, smoothing=smoothing)
    by_rank: tuple[Method, ...] = ("inverse-square-rank", "borda")
    yield from (replace(plain, method=method) for method in by_rank)
    ways: list[tuple[Normalisation, tuple[float, ...] | None]] = [("min-max", None), ("z-score", None)]
    if _no_theoretical_minimum(fuse) is None:
        ways.append(("theoretical-minimum", None if fuse.minimum is None else tuple(fuse.minimum)))
    for normalise, minimum in ways:
        yield replace(plain, method="comb-mnz", normalise=normalise, minimum=minimum)
        for weights in _weights(len(fuse.branches)):
            yield replace(plain, method="convex", normalise=normalise, minimum=minimum, weights=weights)
    for weights in _weights(len(fuse.branches)):
        yield replace(plain, weights=weights)


def _weights(branches: int) -> Iterator[tuple[float, ...]]:
    """Weights above 0 that sum to 1, in equal steps."""
    parts = round(1 / STEP) if branches == 2 else max(branches + 2, 6)
    for cuts in itertools.combinations(range(1, parts), branches - 1):
        yield tuple(round((end - begin) / parts, 6) for begin, end in pairwise((0, *cuts, parts)))


def not_test(judged: Sequence[Judged]) -> None:
    """Raise UsageError for a split that is called test."""
    for one in judged:
        if one.split == "test":
            raise UsageError(f"{one}: settings are chosen on train or dev splits; a test split is for reporting")


def value_on(run: Run, judged: Judged, measure: str) -> float:
    """The measure of a run, on a data set."""
    parameters = read_measures(measure)[measure].params
    cutoff, skips = parameters.get("cutoff"), parameters.get("judged_only") or judged.dataset.card.self_match
    if isinstance(cutoff, int) and not skips:
        run = run.top(cutoff)  # the rest is not looked at
    return evaluate_on(run, judged.dataset, judged.split, measures=[measure])[measure]


def mean_of(values: Sequence[float]) -> float:
    """Their mean."""
    return math.fsum(values) / len(values)


def numbers_text(mean: float, values: Sequence[float]) -> str:
    """The mean and, of several data sets, the value on each."""
    return f"{mean:.4f}" + (f" ({', '.join(f'{value:.4f}' for value in values)})" if len(values) > 1 else "")
