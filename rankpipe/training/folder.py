"""From a recipe to a folder: what every training does around its loop.

OUTPUT/
    model.safetensors, config.json, ...   what is trained, as stages and sentence-transformers open it
    manifest.json        recipe, digests, what was drawn, the curve, versions
    curve.jsonl          the curve alone, a point a line
    negatives.parquet    every candidate of the judged queries, and whether it was a negative, where candidates were mined
    rewrites.parquet     every training query that a language model was asked to rewrite, and what became of it
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import torch
from safetensors import SafetensorError

from rankpipe.data import Dataset
from rankpipe.errors import UsageError
from rankpipe.evaluation.manifest import qrels_digest, queries_digest, versions
from rankpipe.machine import machine, most_memory
from rankpipe.models.adapters.attached import Attached
from rankpipe.models.network import device_of, dtype_name, dtype_of, thread_limit
from rankpipe.models.references import model_digest
from rankpipe.models.runtime import Runtime
from rankpipe.store import unfinished
from rankpipe.training.loop import Plan, Progress, train
from rankpipe.training.means import Means
from rankpipe.training.processes import processes
from rankpipe.training.recipe import Recipe
from rankpipe.writing import check_replaceable, replacing_folder

FORMAT = 3
"""Of what is drawn and computed: raised where an unfinished training of an earlier version could not be gone on with."""


class Training(Protocol):
    """One kind of training, opened.

    trained  the network, and what of it is trained
    """

    trained: Attached

    def plan(self) -> Plan:
        """What the loop is to do."""
        ...

    def write(self, folder: Path) -> dict[str, Any]:
        """Write what was trained into an empty folder; what the manifest should say of it."""
        ...


@dataclass(frozen=True, eq=False)
class Trained:
    """What was trained.

    measured  name of what decided
    count     numbers that were learnt
    write     see Training.write
    """

    measured: str
    progress: Progress
    count: int
    write: Callable[[Path], dict[str, Any]]


@dataclass(kw_only=True)
class Command:
    """What was asked for, and how the machine is used for it.

    command    as a person would give it
    recompute  see Means
    """

    recipe: Recipe
    dataset: Dataset
    output: Path
    runtime: Runtime
    command: str
    force: bool
    notify: Callable[[str], None]
    recompute: bool = False
    started: float = field(default_factory=perf_counter)
    began: datetime = field(default_factory=lambda: datetime.now(timezone.utc))

    def __post_init__(self) -> None:
        """Raises UsageError for an output that is there already, and for a precision that nothing is trained in."""
        self.processes = processes()
        self.notify = self.processes.quiet(self.notify)
        check_replaceable(self.output, force=self.force)
        if self.runtime.dtype in ("int8", "float16"):
            why = (
                "is for networks that are trained already" if self.runtime.dtype == "int8" else "loses small gradients"
            )
            raise UsageError(f"dtype {self.runtime.dtype} {why}; choose auto, float32 or bfloat16")

    @property
    def device(self) -> torch.device:
        """Where networks run."""
        own = self.processes.device
        if own is not None and self.runtime.device in ("auto", own.type):
            return own
        return device_of(self.runtime)

    @property
    def means(self) -> Means:
        """What the machine gives."""
        return Means(
            device=self.device,
            dtype=dtype_of(self.runtime, self.device),
            batch_tokens=self.runtime.batch_tokens,
            threads=self.runtime.thread_count,
            recompute=self.recompute,
        )

    def run(self, base: Path | None, account: dict[str, Any], opened: Callable[[], Training]) -> str:
        """Train in the loop of all trainings, and leave the folder; see `leave`."""

        def trained(folder: Path) -> Trained:
            training = opened()
            plan = training.plan()
            progress = train(plan, training.trained, folder, notify=self.notify, together=self.processes)
            return Trained(plan.measured, progress, training.trained.count, training.write)

        return self.leave(base, account, trained)

    def leave(self, base: Path | None, account: dict[str, Any], trained: Callable[[Path], Trained]) -> str:
        """Train, leave the folder, and say what is best; what a killed, equal call has done is gone on with.

        base     folder of the model that training begins with; None where it begins with none
        account  what was drawn and what was left out, as JSON takes it
        trained  trains; its folder is for what a killed training goes on from
        """
        recipe, dataset, runtime, output = self.recipe, self.dataset, self.runtime, self.output
        gathered = perf_counter() - self.started
        means = self.means
        dtype = dtype_name(means.dtype)
        made_by: dict[str, Any] = {
            "recipe": recipe.described(),
            "digests": _digests(recipe, dataset, base),
            "judged_as": {"relevance_cut": dataset.card.relevance_cut, "self_match": dataset.card.self_match},
            "examples": account,
            "runtime": {**asdict(runtime), "device": str(means.device), "dtype": dtype, "threads": means.threads},
        }
        if self.processes.count > 1:
            made_by["runtime"]["processes"] = self.processes.count
        key = {"format": FORMAT, **made_by, "runtime": [means.device.type, dtype]}
        with self._unfinished(key) as folder, thread_limit(means.threads):
            done = trained(folder)
            progress = done.progress
            if not self.processes.first:
                return ""
            with replacing_folder(output, force=self.force) as place:
                try:
                    told = done.write(place)
                except SafetensorError as error:  # which is no OSError, and stands for one here: a full disk
                    raise OSError(str(error).removeprefix("Error while serializing: I/O error: ")) from error
                manifest = {
                    "format": FORMAT,
                    "command": self.command,
                    **made_by,
                    "dataset": {"name": dataset.name, "card": dataset.card.name, "documents": dataset.corpus.size},
                    "trained_parameters": done.count,
                    **_went(done),
                    **told,
                    "versions": versions(),
                    "machine": machine(),
                    "most_memory": most_memory(),
                    "seconds": {"examples": round(gathered, 1), "training": round(progress.seconds, 1)},
                    "started": self.began.isoformat(timespec="seconds"),
                    "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                }
                lines = "".join(json.dumps(point) + "\n" for point in progress.curve)
                (place / "curve.jsonl").write_text(lines, encoding="utf-8")
                (place / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        if progress.best is None or progress.best_at is None:
            return f"{recipe.steps:,} steps, not measured"
        phase, step = progress.best_at
        return f"{done.measured} {progress.best:.4f} at step {step:,} of phase '{phase}'"

    @contextmanager
    def _unfinished(self, key: Mapping[str, Any]) -> Iterator[Path]:
        """The folder of checkpoints: the first process holds it, the others are told where it is."""
        together = self.processes
        if together.first:
            with unfinished(self.output, key) as folder:
                together.same(folder)
                yield folder
                together.wait()  # nobody reads a checkpoint any more
        else:
            folder = together.same(Path())
            yield folder
            together.wait()


def _went(done: Trained) -> dict[str, Any]:
    """How training went, for the manifest."""
    best, progress = None, done.progress
    if progress.best is not None and progress.best_at is not None:
        phase, step = progress.best_at
        best = {"measure": done.measured, "value": progress.best, "phase": phase, "step": step}
    return {
        "best": best,
        "stopped_early": progress.stopped,
        "resumed": progress.resumed,
        "curve": progress.curve,
    }


def _digests(recipe: Recipe, dataset: Dataset, base: Path | None) -> dict[str, str]:
    """Digests of the network, the documents, and queries and judgements of the splits that are used."""
    found = {} if base is None else {"model": model_digest(base)}
    found["corpus"] = dataset.corpus.digest
    for split in dataset.splits:
        if split in (recipe.split, recipe.development.split or "dev"):
            found[f"queries {split}"] = queries_digest(dataset.queries(split))
            found[f"qrels {split}"] = qrels_digest(dataset.qrels(split))
    return found
