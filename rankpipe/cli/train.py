"""`rankpipe train`: from a recipe and a data set to a folder that a stage opens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rankpipe.errors import UsageError
from rankpipe.models.adapters.registry import need_peft
from rankpipe.models.references import need_extra
from rankpipe.models.runtime import Runtime

NEEDS = ("torch", "transformers", "sentence_transformers")


def train_recipe(
    recipe: str,
    dataset: str,
    output: Path,
    runtime: Runtime,
    *,
    model: str | None,
    recompute: bool,
    command: str,
    force: bool,
    say: Callable[[str], None],
) -> None:
    """Train what a recipe says, from another model where one is given; see rankpipe.training.folder.Command.

    Raises MissingExtraError without the packages that training needs.
    """
    from rankpipe.data import Dataset
    from rankpipe.training.attention_heads_recipe import AttentionHeadsRecipe
    from rankpipe.training.cross_encoder_recipe import CrossEncoderRecipe
    from rankpipe.training.encoder_recipe import BiEncoderRecipe, QueryEncoderRecipe
    from rankpipe.training.feature_dataset import feature_files, read_feature_dataset
    from rankpipe.training.ranker_recipe import RankerRecipe
    from rankpipe.training.recipe import FromModel, Recipe
    from rankpipe.training.recipe_file import load_recipe
    from rankpipe.writing import check_replaceable

    loaded = load_recipe(recipe)
    if model is not None:
        if not isinstance(loaded, FromModel):
            raise UsageError(f"a {loaded.name} begins with no model; leave out --model")
        loaded = replace(loaded, model=model)
    check_replaceable(output, force=force)
    need_extra("training", NEEDS, "sentence-transformers", "train")
    if (adapter := getattr(loaded, "adapter", None)) is not None:
        need_peft(adapter)
    lists = None
    if isinstance(loaded, RankerRecipe) and (files := feature_files(dataset)) is not None:
        lists = read_feature_dataset(dataset, files)
    data = Dataset.load(dataset) if lists is None else lists.dataset
    if isinstance(loaded, AttentionHeadsRecipe):
        from rankpipe.training.attention_heads import find_heads

        for note in data.notes:
            say(note)
        print(find_heads(loaded, data, output, runtime, command=command, force=force, notify=say))
        say(f"found: {output}")
        return
    if not isinstance(loaded, Recipe):
        raise UsageError(f"no trainer for {loaded.name}")
    from rankpipe.training.bi_encoder import train_bi_encoder, train_query_encoder
    from rankpipe.training.cross_encoder import train_cross_encoder
    from rankpipe.training.folder import Command
    from rankpipe.training.ranker_training import train_ranker

    asked = Command(
        recipe=loaded,
        dataset=data,
        output=output,
        runtime=runtime,
        command=command,
        force=force,
        notify=say,
        recompute=recompute,
    )
    for note in data.notes:
        asked.notify(note)
    if isinstance(loaded, CrossEncoderRecipe):
        best = train_cross_encoder(loaded, asked)
    elif isinstance(loaded, BiEncoderRecipe):
        best = train_bi_encoder(loaded, asked)
    elif isinstance(loaded, QueryEncoderRecipe):
        best = train_query_encoder(loaded, asked)
    elif isinstance(loaded, RankerRecipe):
        best = train_ranker(loaded, asked, lists)
    else:
        raise UsageError(f"no trainer for {loaded.name}")
    if asked.processes.first:
        print(best)
        say(f"trained: {output}")
