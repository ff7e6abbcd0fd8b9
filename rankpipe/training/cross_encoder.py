"""Training of a cross-encoder: from a recipe and a data set to a folder that stages and sentence-transformers open.

OUTPUT/
    model.safetensors, config.json, tokenizer.json, ...   the whole network, as CrossEncoder opens it
    adapter/         what was trained of it, where that is an adapter: small, to be put on the network it began with
    manifest.json    recipe, digests, what was drawn, the curve, versions, intruder dimensions
    curve.jsonl      the curve alone, a point a line
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter
from typing import Any

from rankpipe.data import Dataset
from rankpipe.errors import UsageError
from rankpipe.evaluation.manifest import qrels_digest, queries_digest, versions
from rankpipe.machine import machine, most_memory
from rankpipe.models.network import device_of, dtype_of, thread_limit
from rankpipe.models.recipe import longest, network_config, transformer_folder
from rankpipe.models.references import model_digest, resolve
from rankpipe.models.runtime import Runtime
from rankpipe.pipeline import Pipeline
from rankpipe.store import check_replaceable, replacing_folder, unfinished
from rankpipe.training.loop import Progress, train
from rankpipe.training.material import gather
from rankpipe.training.networks import write_adapter_settings, write_cross_encoder
from rankpipe.training.recipe import CrossEncoderRecipe
from rankpipe.training.trainer import Trainer

FORMAT = 1
"""Of what is drawn and computed: raised where an unfinished training of an earlier version could not be gone on with."""


def train_cross_encoder(
    recipe: CrossEncoderRecipe,
    dataset: Dataset,
    output: Path,
    runtime: Runtime,
    *,
    command: str,
    force: bool = False,
    notify: Callable[[str], None],
) -> str:
    """Train, leave a folder at `output`, and say what is best; what a killed, equal call has done is gone on with.

    Raises UsageError for an output that is there already and for a recipe that asks for what the data set does not
    have, ModelError for a model that cannot be trained, RankpipeError for a loss that is not finite.
    """
    check_replaceable(output, force=force)
    if runtime.dtype in ("int8", "float16"):
        why = "is for networks that are trained already" if runtime.dtype == "int8" else "loses small gradients"
        raise UsageError(f"dtype {runtime.dtype} {why}; choose auto, float32 or bfloat16")
    base = transformer_folder(resolve(recipe.model))
    limit = longest(network_config(base))
    if limit is not None and recipe.max_length > limit:
        raise UsageError(f"max_length is {recipe.max_length}; the network {base} reads {limit} tokens")
    started, began = perf_counter(), datetime.now(timezone.utc)
    pipeline = Pipeline.load(recipe.candidates.pipeline, corpus=dataset.corpus, runtime=runtime)
    with runtime.active():
        material = gather(recipe, dataset, pipeline, notify=notify)
    gathered = perf_counter() - started
    device = device_of(runtime)
    dtype = str(dtype_of(runtime, device)).removeprefix("torch.")
    made_by = {
        "recipe": recipe.described(),
        "digests": _digests(recipe, dataset, base),
        "examples": material.account,
        "runtime": {**asdict(runtime), "device": str(device), "dtype": dtype, "threads": runtime.thread_count},
    }
    key = {"format": FORMAT, **made_by, "runtime": [device.type, dtype]}
    with unfinished(output, key) as folder, thread_limit(runtime.thread_count):
        trainer = Trainer(
            recipe,
            dataset,
            material,
            base,
            device=device,
            dtype=dtype_of(runtime, device),
            batch_tokens=runtime.batch_tokens,
        )
        progress = train(trainer.plan(), trainer.trained, folder, notify=notify)
        merged: Any = trainer.trained.merged().cpu()
        manifest = {
            "format": FORMAT,
            "command": command,
            **made_by,
            "dataset": {"name": dataset.name, "card": dataset.card.name, "documents": dataset.corpus.size},
            "trained_parameters": trainer.trained_parameters,
            "drawn_weights": trainer.drawn,
            **_told(trainer, progress),
            "intruder_dimensions": trainer.intruders(merged),
            "versions": versions(),
            "machine": machine(),
            "most_memory": most_memory(),
            "seconds": {"examples": round(gathered, 1), "training": round(progress.seconds, 1)},
            "started": began.isoformat(timespec="seconds"),
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        with replacing_folder(output, force=force) as place:
            write_cross_encoder(merged, base, place, max_length=recipe.max_length)
            if recipe.adapter is not None:
                trainer.trained.export(place / "adapter", recipe.model)
                write_adapter_settings(base, place / "adapter", max_length=recipe.max_length)
            lines = "".join(json.dumps(point) + "\n" for point in progress.curve)
            (place / "curve.jsonl").write_text(lines, encoding="utf-8")
            (place / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    if progress.best is None or progress.best_at is None:
        return f"{recipe.steps:,} steps, not measured"
    phase, step = progress.best_at
    return f"{trainer.measured} {progress.best:.4f} at step {step:,} of phase '{phase}'"


def _told(trainer: Trainer, progress: Progress) -> dict[str, Any]:
    """How training went, for the manifest."""
    best = None
    if progress.best is not None and progress.best_at is not None:
        phase, step = progress.best_at
        best = {"measure": trainer.measured, "value": progress.best, "phase": phase, "step": step}
    return {"best": best, "stopped_early": progress.stopped, "curve": progress.curve}


def _digests(recipe: CrossEncoderRecipe, dataset: Dataset, base: Path) -> dict[str, str]:
    """Digests of the network, the documents, and queries and judgements of the splits that are used."""
    found = {"model": model_digest(base), "corpus": dataset.corpus.digest}
    for split in dataset.splits:
        if split in (recipe.split, recipe.development.split or "dev"):
            found[f"queries {split}"] = queries_digest(dataset.queries(split))
            found[f"qrels {split}"] = qrels_digest(dataset.qrels(split))
    return found
