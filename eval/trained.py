"""What the evaluations of trainings have in common: recipes run by command, cells in files, values over seeds."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from cells import DTYPE

from rankpipe import Dataset, Run, Runtime
from rankpipe.errors import RankpipeError
from rankpipe.evaluation.comparison import Comparison, compare
from rankpipe.evaluation.experiment import evaluate_on
from rankpipe.evaluation.manifest import qrels_digest, queries_digest
from rankpipe.evaluation.result import Result
from rankpipe.models.references import model_digest, resolve
from rankpipe.writing import replacing

RUNTIME = Runtime(dtype=DTYPE)
"""Of pipelines that are measured, and of what candidates come from."""
LIMIT = 3600
"""Seconds that a command trains before it is stopped; the next one goes on from the last checkpoint."""


@cache
def digests(name: str) -> dict[str, str]:
    """Digests of a data set's documents and of every split's queries and judgements."""
    dataset = Dataset.load(name)
    found = {"corpus": dataset.corpus.digest}
    for split in dataset.splits:
        found[split] = queries_digest(dataset.queries(split)) + qrels_digest(dataset.qrels(split))
    return found


@cache
def weights_of(reference: str) -> str:
    """Digest of a model that cells begin with: under its name there may be another one tomorrow."""
    return model_digest(resolve(reference))


def train(recipe: Path, dataset: str, output: Path, say: Any) -> None:
    """Train in float32 if the folder is not there, or go on with a training that was stopped.

    Raises RankpipeError where it is stopped after LIMIT seconds. The seconds in its manifest are those of all calls, but
    for steps after a checkpoint that were taken twice; `resumed` says how many calls there were before the last one.
    """
    if (output / "manifest.json").exists():
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    say(f"{output}: training", markup=False)
    words = ["rankpipe", "train", str(recipe), "--dataset", dataset, "--output", str(output), "--dtype", DTYPE]
    try:
        subprocess.run([sys.executable, "-m", *words], check=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        raise RankpipeError(
            f"{output}: stopped after {LIMIT // 60} minutes; run the command again, it goes on where it was"
        ) from None


def cell_done(run: Callable[[], object], what: str, say: Any) -> bool:
    """Whether a cell is there, after `run` was called; a failure is told, with what the cell is."""
    try:
        run()
    except (RankpipeError, subprocess.SubprocessError) as error:
        say(f"{what}: failed: {error}", markup=False)
        return False
    return True


def write_all(
    output: Path, heading: str, command: Sequence[str], table: Callable[[list[dict[str, Any]]], Iterable[str]]
) -> None:
    """Write and print the table of all cells in a folder, if there are any, with the command that makes it."""
    if cells := [json.loads(file.read_text()) for file in sorted(output.glob("*/*.json"))]:
        write_table(output, heading, command, table(cells))


def write_table(output: Path, heading: str, command: Sequence[str], lines: Iterable[str]) -> None:
    """Write and print a table, with the command that makes it."""
    text = f"# {heading}\n\n```sh\n{shlex.join(command)}\n```\n\n" + "\n".join(lines)
    write(output / "table.md", text + "\n")
    print(text)


def cells_of(cells: Sequence[Mapping[str, Any]], name: str, method: str) -> list[Mapping[str, Any]]:
    """Cells of a method on a data set, the first seed first."""
    found = [one for one in cells if (one["dataset"], one["method"]) == (name, method)]
    return sorted(found, key=lambda one: one["seed"])


def finished(file: Path, key: str) -> dict[str, Any] | None:
    """What a cell's file holds, if it was made from the same."""
    if not file.exists():
        return None
    found = json.loads(file.read_text())
    return found if found["key"] == key else None


def write_cell(file: Path, content: Mapping[str, Any]) -> None:
    """Write a cell, a key a line."""
    write(file, "{\n" + ",\n".join(f'"{one}": {json.dumps(value)}' for one, value in content.items()) + "\n}\n")


def write(path: Path, text: str) -> None:
    """Write a file, whose folder need not be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(text)


def by_query(run: Run, dataset: Dataset, split: str, measure: str) -> dict[str, float]:
    """The measure of the run's queries that are judged."""
    values = evaluate_on(run, dataset, split, measures=[measure]).per_query[measure]
    return {query_id: round(value, 6) for query_id, value in values.items() if query_id in run.queries}


def curve(points: Sequence[Mapping[str, Any]], measure: str) -> str:
    """What was measured after so many minutes."""
    measured = [(point["seconds"] / 60, point[measure]) for point in points if point.get(measure) is not None]
    return ", ".join(f"{minutes:.0f} min {value:.4f}" for minutes, value in measured)


def over_seeds(seeds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each query's mean."""
    return {query_id: fmean(one[query_id] for one in seeds) for query_id in seeds[0]}


def comparison(first: Mapping[str, float], second: Mapping[str, float], measure: str) -> Comparison:
    """Two systems' values of the same queries, compared."""
    results = {
        kind: Result({measure: mean(values)}, {measure: dict(values)}, ())
        for kind, values in (("first", first), ("second", second))
    }
    return compare(results)[0]


def p_of(first: Mapping[str, float], second: Mapping[str, float], measure: str) -> str:
    """The t-test's p of two systems, as tables have it; one query has none."""
    found = comparison(first, second, measure).t_p
    return "n/a" if found is None else f"{found:.3f}"


def spread(values: Sequence[float]) -> str:
    """Mean and deviation."""
    return f"{fmean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")


def relevant(dataset: Dataset, split: str) -> dict[str, list[str]]:
    """Relevant documents of every judged query."""
    return {
        query_id: [doc_id for doc_id, grade in grades.items() if grade > 0]
        for query_id, grades in dataset.qrels(split).items()
    }


def mean(values: Mapping[str, float]) -> float:
    """Over queries."""
    return fmean(values.values())
