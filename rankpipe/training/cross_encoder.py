"""Training of a cross-encoder: from a recipe and a data set to a folder that stages and sentence-transformers open.

OUTPUT/ has, besides what every training leaves (rankpipe.training.folder):
    adapter/    what was trained of the network, where that is an adapter: small, to be put on the network it began with
"""

from __future__ import annotations

from rankpipe.errors import UsageError
from rankpipe.models.recipe import longest, network_config, transformer_folder
from rankpipe.models.references import resolve
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
    base = transformer_folder(resolve(recipe.model))
    limit = longest(network_config(base))
    if limit is not None and recipe.max_length > limit:
        raise UsageError(f"max_length is {recipe.max_length}; the network {base} reads {limit} tokens")
    runtime, dataset = asked.runtime, asked.dataset
    pipeline = Pipeline.load(recipe.candidates.pipeline, corpus=dataset.corpus, runtime=runtime)
    with runtime.active(), asked.processes.one_after_the_first():
        material = gather(recipe, dataset, pipeline, notify=asked.notify)
    return asked.run(base, material.account, lambda: CrossEncoderTraining(recipe, dataset, material, base, asked.means))
