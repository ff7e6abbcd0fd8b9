"""Cells of an experiment: one pipeline on one split of one data set, kept in a small file, and not run again.

A cell's file holds the measures, their values for every query, seconds, what was assumed, and all that those depend on.
It counts as finished while pipeline, data and measures are still the same, so a stopped experiment goes on where it was.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from rankpipe import Dataset, Pipeline, Run, Runtime
from rankpipe.errors import RankpipeError, UsageError
from rankpipe.evaluation.experiment import Experiment, evaluate_on, given_run, run_experiment
from rankpipe.evaluation.manifest import described, facts, qrels_digest, queries_digest, versions
from rankpipe.evaluation.result import Result
from rankpipe.evaluation.tables import Cell, results_csv, results_json, results_table
from rankpipe.machine import machine
from rankpipe.models.adapter_folder import find_adapter
from rankpipe.models.ranker_folder import ranker_digest
from rankpipe.models.references import model_digest, resolve
from rankpipe.models.runtime import Dtype
from rankpipe.pipeline.order import NOTHING
from rankpipe.pipeline.pipeline import GIVEN_RUN
from rankpipe.stage import walk
from rankpipe.stages.learned import Learned
from rankpipe.store import file_digest, key_digest
from rankpipe.writing import replacing

SCORING = 1
"""Raised whenever the same pipeline may score otherwise than before: then no finished cell counts any more."""
DTYPE: Dtype = "float32"
"""Precision of networks unless another is asked for: what every machine computes alike."""
DIGITS = 6
"""Decimals of a single query's value in a cell's file."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One cell that is wanted, and its file.

    given  a run file that the pipeline re-ranks, in place of searching; its name then stands beside the data set's
    dtype  precision of the networks, so that the same figures come out on any machine
    """

    pipeline: str
    dataset: str
    split: str
    measures: tuple[str, ...]
    file: Path
    given: Path | None = None
    dtype: Dtype = DTYPE

    @property
    def name(self) -> str:
        """Of the pipeline, in the table."""
        return Path(self.pipeline).stem

    @property
    def row(self) -> str:
        """Of the data set, in the table."""
        return self.dataset if self.given is None else f"{self.dataset}, {self.given.name.partition('.')[0]}"


def tables(output: Path, heading: str, finished: Sequence[Cell], measures: Sequence[str]) -> None:
    """Write table.md, .csv and .json of cells, and show the table."""
    table = results_table(finished, measures)
    _write(output / "table.md", heading + table.markdown())
    _write(output / "table.csv", results_csv(finished, measures))
    _write(output / "table.json", results_json(finished))
    table.show()


def check_names(names: Sequence[str], kind: str) -> None:
    if repeated := next((name for place, name in enumerate(names) if name in names[:place]), None):
        raise UsageError(f"two of the {kind} are called {repeated!r}; a row of the table needs a name of its own")


def cell(task: Task, *, force: bool, progress: Console) -> Cell:
    """The cell from its file if that still holds, else run; an error becomes the cell's."""
    where = f"{task.row}, {task.name}"
    try:
        dataset = Dataset.load(task.dataset)
        given = GIVEN_RUN if task.given else NOTHING
        runtime = Runtime(dtype=task.dtype)
        pipeline = Pipeline.load(task.pipeline, corpus=dataset.corpus, runtime=runtime, given=given)
        key = _key(task, pipeline, dataset)
        content = None if force else _finished(task.file, key)
        if content is None:
            progress.print(f"{where}: running", markup=False)
            content = _content(_experiment(task, pipeline, dataset), key)
            task.file.parent.mkdir(parents=True, exist_ok=True)
            _write(task.file, _one_key_a_line(content))
        else:
            progress.print(f"{where}: finished before", markup=False)
    except Exception as error:
        if not isinstance(error, RankpipeError):
            traceback.print_exc()
        text = str(error) if isinstance(error, RankpipeError) else f"{type(error).__name__}: {error}"
        progress.print(f"{where}: failed: {text}", markup=False)
        return Cell(pipeline=task.name, dataset=task.row, error=text)
    result = Result(content["measures"], content["per_query"], tuple(content["assumed"]))
    return Cell(pipeline=task.name, dataset=task.row, result=result, seconds=content["seconds"])


def given_cell(task: Task) -> Cell:
    """What the given run is worth as it is: measured anew each time, which takes no time."""
    try:
        dataset = Dataset.load(task.dataset)
        result = evaluate_on(_given(task, dataset), dataset, task.split, measures=task.measures)
    except RankpipeError as error:
        return Cell(pipeline=task.name, dataset=task.row, error=str(error))
    return Cell(pipeline=task.name, dataset=task.row, result=result)


def _experiment(task: Task, pipeline: Pipeline, dataset: Dataset) -> Experiment:
    given = _given(task, dataset) if task.given else None
    return run_experiment(pipeline, dataset, task.split, measures=task.measures, given=given)


def _given(task: Task, dataset: Dataset) -> Run:
    # ties="rank": published runs may have rounded scores, and were measured in the order of their ranks
    return given_run(task.given or "", dataset, task.split, ties="rank")


def _key(task: Task, pipeline: Pipeline, dataset: Dataset) -> dict[str, Any]:
    """All that a cell's values depend on. What other paths in the pipeline lead to is not looked at: --force then."""
    card, models = dataset.card, _models(pipeline)
    return {
        "scoring": SCORING,
        "stages": key_digest({"stages": [described(stage) for stage in pipeline.stages]}),
        "corpus": dataset.corpus.digest,
        "queries": queries_digest(dataset.queries(task.split)),
        "qrels": qrels_digest(dataset.qrels(task.split)),
        "measures": list(task.measures),
        "relevance_cut": card.relevance_cut,
        "self_match_removed": card.self_match,
        **({"given": file_digest(task.given)} if task.given else {}),
        **({"models": models, "dtype": task.dtype} if models else {}),
    }


def _models(pipeline: Pipeline) -> dict[str, str]:
    """Digests of the networks that stages name, adapters included."""
    found: dict[str, str] = {}
    for stage in walk(pipeline):
        if getattr(stage, "endpoint", None) is not None:  # then the names are those of a server's models
            continue
        if isinstance(stage, Learned):
            found[stage.model] = ranker_digest(Path(stage.model).expanduser())
            continue
        networks = {"model": resolve, "query_model": resolve, "writer": resolve, "adapter": find_adapter}
        for setting, find in networks.items():
            if (reference := getattr(stage, setting, None)) is not None:
                found[reference] = model_digest(find(reference))
    return found


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
        "opened": facts(experiment.pipeline),
        "runtime": {
            "threads": experiment.pipeline.runtime.thread_count,
            "device": experiment.pipeline.runtime.device,
            "dtype": experiment.pipeline.runtime.dtype,
        },
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


def slug(name: str) -> str:
    """A name as a file's name."""
    return name.strip("/").replace("/", "--")


def _write(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text)
