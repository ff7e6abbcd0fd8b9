"""Training of a bi-encoder (STAR and its like), and of the query encoder of one (ADORE)."""

from __future__ import annotations

from rankpipe.errors import UsageError
from rankpipe.models.references import resolve
from rankpipe.pipeline import Pipeline
from rankpipe.training.bi_encoder_training import BiEncoderTraining
from rankpipe.training.encoder_recipe import BiEncoderRecipe, QueryEncoderRecipe
from rankpipe.training.encoders import check_encoders
from rankpipe.training.folder import Command
from rankpipe.training.material import gather
from rankpipe.training.query_encoder_training import QueryEncoderTraining, gather_queries


def train_bi_encoder(recipe: BiEncoderRecipe, asked: Command) -> str:
    """Train, leave a folder, and say what is best; what a killed, equal call has done is gone on with.

    Raises UsageError for a recipe that asks for what the data set does not have, ModelError for a model that cannot be
    trained, RankpipeError for a loss that is not finite.
    """
    base, runtime, dataset = resolve(recipe.model), asked.runtime, asked.dataset
    check_encoders(recipe, base)
    if recipe.candidates.pipeline is None:
        stage = recipe.dense(k=max(recipe.candidates.depth, recipe.development_depth))
        pipeline = Pipeline(stages=(stage,), corpus=dataset.corpus, runtime=runtime)
    else:
        pipeline = Pipeline.load(recipe.candidates.pipeline, corpus=dataset.corpus, runtime=runtime)
    with runtime.active(), asked.processes.one_after_the_first():
        material = gather(recipe, dataset, pipeline, notify=asked.notify)
    return asked.run(base, material.account, lambda: BiEncoderTraining(recipe, dataset, material, base, asked.means))


def train_query_encoder(recipe: QueryEncoderRecipe, asked: Command) -> str:
    """Train the query encoder, leave a folder with both, and say what is best; see train_bi_encoder.

    Documents are encoded once, into the store.
    """
    base, runtime, dataset = resolve(recipe.model), asked.runtime, asked.dataset
    check_encoders(recipe, base)
    with runtime.active(), asked.processes.one_after_the_first():
        queries = gather_queries(recipe, dataset, notify=asked.notify)
        stage = recipe.dense(k=max(phase.depth for phase in recipe.adore))
        vectors = stage.all_vectors(dataset.corpus)
    if not len(vectors.rows):
        raise UsageError(f"data set '{dataset.name}' has no documents to search in")

    def opened() -> QueryEncoderTraining:
        with runtime.active():
            return QueryEncoderTraining(recipe, dataset, queries, vectors, base, asked.means)

    return asked.run(base, queries.account, opened)
