"""Training of a cross-encoder: from a recipe and a data set to a folder that stages and sentence-transformers open.

OUTPUT/ has, besides what every training leaves (rankpipe.training.folder):
    adapter/    what was trained of the network, where that is an adapter: small, to be put on the network it began with
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rankpipe.errors import ModelError, UsageError
from rankpipe.models.adapters.attached import head_of, linear_targets
from rankpipe.models.network import check_classes, without_weights
from rankpipe.models.recipe import listed_modules, longest, network_config, transformer_folder
from rankpipe.models.references import read_json, resolve
from rankpipe.pipeline import Pipeline
from rankpipe.training.cross_encoder_recipe import CrossEncoderRecipe
from rankpipe.training.cross_encoder_training import CrossEncoderTraining
from rankpipe.training.folder import Command
from rankpipe.training.material import gather


def train_cross_encoder(recipe: CrossEncoderRecipe, asked: Command) -> str:
    """Train, leave a folder, and say what is best; what a killed, equal call has done is gone on with.

    Raises UsageError for a recipe that asks for what the data set does not have, ModelError for a model that cannot be
    trained, RankpipeError for a loss that is not finite.
    """
    folder = resolve(recipe.model)
    _check_head(folder)
    base = transformer_folder(folder)
    check_classes(base)
    limit = longest(network_config(base))
    if limit is not None and recipe.max_length > limit:
        raise UsageError(f"max_length is {recipe.max_length}; the network {base} reads {limit} tokens")
    if recipe.adapter is not None:
        _check_targets(base, recipe.adapter.targets)
    runtime, dataset = asked.runtime, asked.dataset
    pipeline = Pipeline.load(recipe.candidates.pipeline, corpus=dataset.corpus, runtime=runtime)
    with runtime.active(), asked.processes.one_after_the_first():
        material = gather(recipe, dataset, pipeline, notify=asked.notify)

    def opened() -> CrossEncoderTraining:
        training = CrossEncoderTraining(recipe, dataset, material, base, asked.means)
        if training.drawn:
            asked.notify(f"{base} has no {', '.join(training.drawn)}: drawn by the seed {recipe.seed}")
        return training

    return asked.run(base, material.account, opened)


def _check_targets(base: Path, targets: str | Sequence[str]) -> None:
    """Raise UsageError for a target that is no layer of the network, before candidates are searched and weights read."""
    network = without_weights(base)
    linear_targets(network, head_of(network, drawn=()), targets)


def _check_head(folder: Path) -> None:
    """Raise ModelError for a cross-encoder whose scores are made behind its Transformer: they would be lost."""
    path = folder / "modules.json"
    for kind, place in listed_modules(path)[1:] if path.is_file() else ():
        scores = kind == "Dense" and read_json(place / "config.json").get("module_output_name") == "scores"
        if scores or kind == "LogitScore":
            raise ModelError(
                f"model folder {folder} scores by {kind}, behind its Transformer; only a Transformer's own head can be "
                "tuned further: take a sequence classifier, or an encoder, which is given a new head"
            )
