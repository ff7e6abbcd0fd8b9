"""`rankpipe train`: from a recipe and a data set to a folder that a stage opens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rankpipe.errors import UsageError
from rankpipe.models.references import need_extra
from rankpipe.models.runtime import Runtime

NEEDS = ("torch", "transformers", "sentence_transformers")


def train_recipe(
    recipe: str, dataset: str, output: Path, runtime: Runtime, *, command: str, force: bool, say: Callable[[str], None]
) -> None:
    """Train what a recipe says. Raises MissingExtraError without the packages that training needs."""
    from rankpipe.data import Dataset
    from rankpipe.store import check_replaceable
    from rankpipe.training.recipe import CrossEncoderRecipe
    from rankpipe.training.recipe_file import load_recipe

    loaded = load_recipe(recipe)
    check_replaceable(output, force=force)
    need_extra("training", NEEDS, "sentence-transformers", "train")
    data = Dataset.load(dataset)
    for note in data.notes:
        say(note)
    if not isinstance(loaded, CrossEncoderRecipe):
        raise UsageError(f"no trainer for {loaded.name}")
    from rankpipe.training.cross_encoder import train_cross_encoder

    print(train_cross_encoder(loaded, data, output, runtime, command=command, force=force, notify=say))
    say(f"trained: {output}")
