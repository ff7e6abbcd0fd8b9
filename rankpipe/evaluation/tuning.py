"""tune: choose how a fuse stage joins its branches, by a measure on judged queries that are not the test queries.

The branches are run once for each data set; then every setting joins the same runs. One setting is chosen for all data
sets together: the one with the highest mean of their means.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from rankpipe.data import Dataset
from rankpipe.errors import UsageError
from rankpipe.evaluation.experiment import evaluate_on
from rankpipe.evaluation.measures import read_measures
from rankpipe.pipeline import Pipeline
from rankpipe.run import Run
from rankpipe.stage import Stage, apply, walk
from rankpipe.stages.fuse import Fuse, Method
from rankpipe.stages.normalise import Normalisation

STEP = 0.1
"""Distance between the weights that are tried for two branches; more branches get coarser steps."""
SMOOTHINGS = (10.0, 20.0, 40.0, 60.0, 100.0)
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
    """A setting of the fuse stage and what it gave: the mean over the data sets, and the value on each."""

    stage: Fuse
    mean: float
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The pipeline with the chosen setting, and the evidence.

    tried   all settings, the best first; equal ones in the order they were tried, the plainer before
    before  what the pipeline's own setting gave
    single  what each branch gave by itself: the mean, and the value on each data set
    """

    pipeline: Pipeline
    measure: str
    judged: tuple[Judged, ...]
    tried: tuple[Tried, ...]
    before: Tried
    single: tuple[tuple[float, ...], ...]

    def to_yaml(self, command: str) -> str:
        """The chosen pipeline as a file, the evidence in comments above it."""
        lines = [f"made by: {command}", f"measure: {self.measure}, mean over {', '.join(map(str, self.judged))}"]
        lines.append(f"chosen of {len(self.tried)} settings: {_numbers(self.tried[0].mean, self.tried[0].values)}")
        lines += [
            f"  branch {number} alone: {_numbers(_mean(values), values)}"
            for number, values in enumerate(self.single, 1)
        ]
        lines.append(f"  as it was before: {_numbers(self.before.mean, self.before.values)}")
        lines += [
            f"  next: {settings_text(one.stage)}: {_numbers(one.mean, one.values)}" for one in self.tried[1 : SHOWN + 1]
        ]
        return "".join(f"# {line}\n" for line in lines) + self.pipeline.to_yaml()


def tune(
    pipeline: Pipeline,
    judged: Sequence[Judged],
    *,
    measure: str = "nDCG@10",
    notify: Callable[[str], None] | None = None,
) -> Tuning:
    """Choose method, normalisation and weights of the pipeline's one fuse stage; its branches stay as they are.

    judged  dev or train splits; one setting is chosen for all of them

    Raises UsageError for a pipeline without a fuse stage or with several, and for a split that is called test: what is
    chosen on test queries says nothing about others.
    """
    notify = notify or (lambda _: None)
    read_measures(measure)
    fuse = _only_fuse(pipeline)
    for one in judged:
        if one.split == "test":
            raise UsageError(f"{one}: settings are chosen on train or dev splits; a test split is for reporting")
    runs = []
    for one in judged:
        notify(f"{one}: running {len(fuse.branches)} branches over {len(one.dataset.queries(one.split))} queries")
        runs.append(_branch_runs(pipeline, fuse, one))
    settings = list(dict.fromkeys(_settings(fuse)))
    notify(f"trying {len(settings)} settings")

    def measured(stage: Fuse) -> Tried:
        values = tuple(
            _value(stage.fused(given, of_branches), one, measure)
            for (given, of_branches), one in zip(runs, judged, strict=True)
        )
        return Tried(stage=stage, mean=_mean(values), values=values)

    tried = sorted(map(measured, settings), key=lambda one: -one.mean)
    single = tuple(
        tuple(_value(of_branches[number], one, measure) for (_, of_branches), one in zip(runs, judged, strict=True))
        for number in range(len(fuse.branches))
    )
    return Tuning(
        pipeline=_with(pipeline, fuse, tried[0].stage),
        measure=measure,
        judged=tuple(judged),
        tried=tuple(tried),
        before=measured(fuse),
        single=single,
    )


def settings_text(stage: Fuse) -> str:
    """The settings that tuning chooses, on one line."""
    parts = [stage.method]
    if stage.method == "reciprocal-rank":
        parts.append(f"smoothing {stage.smoothing:g}")
    if stage.method in ("convex", "comb-sum", "comb-mnz"):
        parts.append(stage.normalise)
    if stage.weights is not None:
        parts.append("weights " + " ".join(f"{weight:g}" for weight in stage.weights))
    return ", ".join(parts)


def _only_fuse(pipeline: Pipeline) -> Fuse:
    found = [stage for stage in walk(pipeline) if isinstance(stage, Fuse)]
    if len(found) != 1 or found[0] not in pipeline.stages:
        raise UsageError(
            f"tune chooses the settings of one fuse stage, which is a stage of the pipeline itself; there are {len(found)}"
        )
    return found[0]


def _branch_runs(pipeline: Pipeline, fuse: Fuse, judged: Judged) -> tuple[Run, list[Run]]:
    """What the stages before the fuse stage give, and what each of its branches makes of that."""
    bound = pipeline.on(judged.dataset.corpus)
    bound.prepare()
    given = Run.empty(judged.dataset.queries(judged.split), judged.dataset.corpus)
    with bound.runtime.active():
        for stage in pipeline.stages[: pipeline.stages.index(fuse)]:
            given = apply(stage, given)
        return given, [apply(branch, given) for branch in fuse.branches]


def _settings(fuse: Fuse) -> Iterator[Fuse]:
    """All settings to try, the plainer first."""
    plain = replace(fuse, method="reciprocal-rank", weights=None, smoothing=60.0, normalise="min-max", minimum=None)
    for smoothing in SMOOTHINGS:
        yield replace(plain, smoothing=smoothing)
    by_rank: tuple[Method, ...] = ("inverse-square-rank", "borda")
    yield from (replace(plain, method=method) for method in by_rank)
    ways: list[tuple[Normalisation, tuple[float, ...] | None]] = [("min-max", None), ("z-score", None)]
    known = [branch.lowest_score is not None for branch in fuse.branches]
    if fuse.minimum is not None or all(known):
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
    for shares in itertools.product(range(1, parts), repeat=branches):
        if sum(shares) == parts:
            yield tuple(round(share / parts, 6) for share in shares)


def _value(run: Run, judged: Judged, measure: str) -> float:
    cutoff = read_measures(measure)[measure].params.get("cutoff")
    if isinstance(cutoff, int) and not judged.dataset.card.self_match:
        run = run.top(cutoff)  # the rest is not looked at
    return evaluate_on(run, judged.dataset, judged.split, measures=[measure])[measure]


def _with(pipeline: Pipeline, old: Fuse, new: Stage) -> Pipeline:
    stages = tuple(new if stage is old else stage for stage in pipeline.stages)
    return replace(pipeline, stages=stages)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _numbers(mean: float, values: Sequence[float]) -> str:
    return f"{mean:.4f}" + (f" ({', '.join(f'{value:.4f}' for value in values)})" if len(values) > 1 else "")
