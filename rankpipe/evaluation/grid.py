"""tune over settings that are named: every combination of their values is run, and measured on judged queries.

One combination is chosen for all data sets together: the one with the highest mean of their means. What stands before the
first stage that changes is run once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from pydantic import ValidationError

from rankpipe.errors import UsageError
from rankpipe.evaluation.measures import read_measures
from rankpipe.evaluation.tuning import SHOWN, Judged, mean_of, not_test, numbers_text, value_on
from rankpipe.pipeline import Pipeline
from rankpipe.pipeline.registry import suggestion
from rankpipe.pipeline.settings import plain_words, settings_of
from rankpipe.run import Run
from rankpipe.stage import Stage, apply, stage_labels, walk

MOST = 2000
"""Combinations, at most."""


@dataclass(frozen=True, kw_only=True)
class Combination:
    """Values by "LABEL.SETTING", and what they gave: the mean over the data sets, and the value on each."""

    chosen: Mapping[str, Any]
    mean: float
    values: tuple[float, ...]

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.chosen.items())


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The pipeline with the chosen values, and the evidence.

    tried   all combinations, the best first; among equals the earlier
    before  what the pipeline's own values gave
    """

    pipeline: Pipeline
    measure: str
    judged: tuple[Judged, ...]
    tried: tuple[Combination, ...]
    before: Combination

    def to_yaml(self, command: str) -> str:
        """The chosen pipeline as a file, the evidence in comments above it."""
        best = self.tried[0]
        lines = [f"made by: {command}", f"measure: {self.measure}, mean over {', '.join(map(str, self.judged))}"]
        lines.append(f"chosen of {len(self.tried)} combinations: {best}: {numbers_text(best.mean, best.values)}")
        lines.append(f"  as it was before: {numbers_text(self.before.mean, self.before.values)}")
        lines += [f"  next: {one}: {numbers_text(one.mean, one.values)}" for one in self.tried[1 : SHOWN + 1]]
        return "".join(f"# {line}\n" for line in lines) + self.pipeline.to_yaml()


def tune_settings(
    pipeline: Pipeline,
    judged: Sequence[Judged],
    tries: Mapping[str, Sequence[Any]],
    *,
    measure: str = "nDCG@10",
    notify: Callable[[str], None] | None = None,
) -> Grid:
    """Choose among all combinations of values.

    judged  dev or train splits; one combination is chosen for all of them
    tries   values by "LABEL.SETTING", the label being a stage's name, or its type, as reports have it: {"bm25.k1": [0.6, 0.9]}

    Raises UsageError for a stage or setting that is not there, a value that it cannot have, and a split that is called test.
    """
    notify = notify or (lambda _: None)
    read_measures(measure)
    not_test(judged)
    places = {name: _place(pipeline, name) for name in tries}
    count = math.prod(map(len, tries.values()))
    if not 1 <= count <= MOST:
        raise UsageError(f"{count:,} combinations; there must be 1 to {MOST:,}")
    combinations = [dict(zip(tries, values, strict=True)) for values in itertools.product(*tries.values())]
    stages = [_with(pipeline, places, one).stages for one in combinations]  # what cannot be is said before any work
    first = min(
        at
        for at, stage in enumerate(pipeline.stages)
        if any(one is part for part in (stage, *walk(stage)) for one, _ in places.values())
    )
    notify(f"trying {count:,} combinations of {', '.join(tries)}")
    given = [_run(pipeline, pipeline.stages[:first], one, None) for one in judged]

    def measured(chosen: Mapping[str, Any], suffix: Sequence[Stage]) -> Combination:
        runs = [_run(pipeline, suffix, one, before) for one, before in zip(judged, given, strict=True)]
        values = tuple(value_on(run, one, measure) for run, one in zip(runs, judged, strict=True))
        return Combination(chosen=chosen, mean=mean_of(values), values=values)

    before = measured({}, pipeline.stages[first:])
    tried = [measured(chosen, one[first:]) for chosen, one in zip(combinations, stages, strict=True)]
    tried.sort(key=lambda one: -one.mean)
    return Grid(
        pipeline=_with(pipeline, places, tried[0].chosen),
        measure=measure,
        judged=tuple(judged),
        tried=tuple(tried),
        before=before,
    )


def _run(pipeline: Pipeline, stages: Sequence[Stage], judged: Judged, given: Run | None) -> Run:
    """Run some stages of the pipeline on what those before them gave."""
    corpus = judged.dataset.corpus
    run = Run.empty(judged.dataset.queries(judged.split), corpus) if given is None else given
    with pipeline.runtime.active():
        for stage in stages:
            stage.prepare(corpus)
            run = apply(stage, run)
    return run


def _place(pipeline: Pipeline, name: str) -> tuple[Stage, str]:
    """The stage and the setting, as Python calls it, that "LABEL.SETTING" names."""
    label, _, setting = name.rpartition(".")
    labels = stage_labels(pipeline)
    stages = {labels[id(stage)]: stage for stage in walk(pipeline)}
    if label not in stages:
        raise UsageError(f"{name!r}: no stage is called {label!r}{suggestion(label, stages)}")
    known = settings_of(type(stages[label]))
    if setting not in known:
        raise UsageError(f"{name!r}: '{label}' has no setting {setting!r}{suggestion(setting, known)}")
    return stages[label], known[setting].python_name


def _with(pipeline: Pipeline, places: Mapping[str, tuple[Stage, str]], chosen: Mapping[str, Any]) -> Pipeline:
    changes: dict[int, dict[str, Any]] = {}
    for name, value in chosen.items():
        stage, setting = places[name]
        changes.setdefault(id(stage), {})[setting] = value
    try:
        return _changed(pipeline, changes)
    except ValidationError as error:
        told = ", ".join(f"{name} {value!r}" for name, value in chosen.items())
        raise UsageError(f"{told}: {plain_words(error.errors(include_url=False)[0])}") from None


def _changed(stage: Any, changes: Mapping[int, Mapping[str, Any]]) -> Any:
    """The stage with other settings, and the stages inside it."""
    inside = {
        one.name: tuple(_changed(part, changes) for part in parts)
        for one in fields(stage)
        if isinstance(parts := getattr(stage, one.name), tuple) and any(isinstance(part, Stage) for part in parts)
    }
    own = changes.get(id(stage), {})
    same = not own and all(
        part is before
        for name, parts in inside.items()
        for part, before in zip(parts, getattr(stage, name), strict=True)
    )
    return stage if same else replace(stage, **inside, **own)
