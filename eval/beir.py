"""Pipelines x data sets -> one table.

    RANKPIPE_DATA=FOLDER python eval/beir.py --pipelines bm25 hybrid.yaml --datasets scifact nfcorpus --output eval/results/beir

A finished cell (one pipeline on one data set) is left in OUTPUT/PIPELINE/DATASET.json, small enough to commit: measures,
their values for every query, seconds, what was assumed, and what all of that depends on. A cell whose pipeline, data and
measures are still the same is not run again, so a stopped comparison goes on where it was. OUTPUT/table.md, .csv and
.json hold all cells of the command. Exit status: 0 all cells are there, 1 one or more failed, 2 a wrong command.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from rankpipe import Dataset, Pipeline
from rankpipe.errors import RankpipeError, UsageError
from rankpipe.evaluation.experiment import Experiment, run_experiment
from rankpipe.evaluation.manifest import described, machine, qrels_digest, queries_digest, versions
from rankpipe.evaluation.measures import DEFAULT_MEASURES, read_measures
from rankpipe.evaluation.result import Result
from rankpipe.evaluation.tables import Cell, results_csv, results_json, results_table
from rankpipe.store import key_digest, replacing

SCORING = 1
"""Raised whenever the same pipeline may score otherwise than before: then no finished cell counts any more."""
DATASETS = ("scifact", "nfcorpus", "vaswani", "cranfield", "cisi")
DIGITS = 6
"""Decimals of a single query's value in a cell's file."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One cell that is wanted, and its file."""

    pipeline: str
    dataset: str
    split: str
    measures: tuple[str, ...]
    file: Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill the table and show it; give the exit status."""
    options = _parser().parse_args(arguments)
    measures = tuple(options.measures)
    progress = Console(stderr=True)
    try:
        read_measures(measures)
        _check_names([Path(pipeline).stem for pipeline in options.pipelines], "pipelines")
        _check_names(options.datasets, "data sets")
        options.output.mkdir(parents=True, exist_ok=True)
    except (RankpipeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    cells: list[Cell] = []
    for dataset in options.datasets:
        for pipeline in options.pipelines:
            file = options.output / _slug(Path(pipeline).stem) / f"{_slug(dataset)}.json"
            task = Task(pipeline=pipeline, dataset=dataset, split=options.split, measures=measures, file=file)
            cells.append(_cell(task, force=options.force, progress=progress))
    table = results_table(cells, measures)
    command = shlex.join(["python", "eval/beir.py", *(sys.argv[1:] if arguments is None else arguments)])
    heading = f"# Pipelines by data sets, split {options.split}\n\n```sh\n{command}\n```\n\n"
    _write(options.output / "table.md", heading + table.markdown())
    _write(options.output / "table.csv", results_csv(cells, measures))
    _write(options.output / "table.json", results_json(cells))
    table.show()
    return int(any(cell.result is None for cell in cells))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure pipelines on data sets and put them into one table.")
    parser.add_argument(
        "--pipelines", nargs="+", required=True, help="files, or names of shipped ones; the first is the baseline"
    )
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS), help="as rankpipe run --dataset takes them")
    parser.add_argument("--split", default="test")
    parser.add_argument("--measures", nargs="+", default=list(DEFAULT_MEASURES))
    parser.add_argument("--output", type=Path, required=True, help="folder of the cells and the tables")
    parser.add_argument("--force", action="store_true", help="run finished cells again")
    return parser


def _check_names(names: Sequence[str], kind: str) -> None:
    if repeated := next((name for place, name in enumerate(names) if name in names[:place]), None):
        raise UsageError(f"two of the {kind} are called {repeated!r}; a row of the table needs a name of its own")


def _cell(task: Task, *, force: bool, progress: Console) -> Cell:
    """The cell from its file if that still holds, else run; an error becomes the cell's."""
    where = f"{task.dataset}, {Path(task.pipeline).stem}"
    try:
        dataset = Dataset.load(task.dataset)
        pipeline = Pipeline.load(task.pipeline, corpus=dataset.corpus)
        key = _key(task, pipeline, dataset)
        content = None if force else _finished(task.file, key)
        if content is None:
            progress.print(f"{where}: running", markup=False)
            content = _content(run_experiment(pipeline, dataset, task.split, measures=task.measures), key)
            task.file.parent.mkdir(parents=True, exist_ok=True)
            _write(task.file, _one_key_a_line(content))
        else:
            progress.print(f"{where}: finished before", markup=False)
    except Exception as error:
        if not isinstance(error, RankpipeError):
            traceback.print_exc()
        text = str(error) if isinstance(error, RankpipeError) else f"{type(error).__name__}: {error}"
        progress.print(f"{where}: failed: {text}", markup=False)
        return Cell(pipeline=Path(task.pipeline).stem, dataset=task.dataset, error=text)
    result = Result(content["measures"], content["per_query"], tuple(content["assumed"]))
    return Cell(pipeline=Path(task.pipeline).stem, dataset=task.dataset, result=result, seconds=content["seconds"])


def _key(task: Task, pipeline: Pipeline, dataset: Dataset) -> dict[str, Any]:
    """All that a cell's values depend on. What a path in the pipeline leads to is not looked at: --force then."""
    card = dataset.card
    return {
        "scoring": SCORING,
        "stages": key_digest({"stages": [described(stage) for stage in pipeline.stages]}),
        "corpus": dataset.corpus.digest,
        "queries": queries_digest(dataset.queries(task.split)),
        "qrels": qrels_digest(dataset.qrels(task.split)),
        "measures": list(task.measures),
        "relevance_cut": card.relevance_cut,
        "self_match_removed": card.self_match,
    }


def _finished(file: Path, key: dict[str, Any]) -> dict[str, Any] | None:
    """What a cell's file holds, if it was made from the same."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RankpipeError(f"{file}: cannot be read as a finished cell: {error}; delete it, or use --force") from error
    same = isinstance(content, dict) and content.get("key") == key
    return content if same else None


def _content(experiment: Experiment, key: dict[str, Any]) -> dict[str, Any]:
    result = experiment.result
    return {
        "key": key,
        "pipeline": [described(stage) for stage in experiment.pipeline.stages],
        "dataset": {"name": experiment.dataset.name, "card": experiment.dataset.card.name, "split": experiment.split},
        "measures": dict(result),
        "assumed": list(result.assumed),
        "seconds": {label: round(seconds, 3) for label, seconds in experiment.seconds.items()},
        "prepare_seconds": round(experiment.prepare_seconds, 3),
        "finished": experiment.finished.isoformat(timespec="seconds"),
        "runtime": {"threads": experiment.pipeline.runtime.thread_count, "device": experiment.pipeline.runtime.device},
        "versions": versions(),
        "machine": machine(),
        "per_query": {
            measure: {query_id: round(value, DIGITS) for query_id, value in values.items()}
            for measure, values in result.per_query.items()
        },
    }


def _one_key_a_line(content: dict[str, Any]) -> str:
    """JSON that is compact, and yet shows in a diff what has changed."""
    lines = (f'"{key}": {json.dumps(value, ensure_ascii=False, allow_nan=False)}' for key, value in content.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _slug(name: str) -> str:
    return name.strip("/").replace("/", "--")


def _write(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text)


if __name__ == "__main__":
    sys.exit(main())
