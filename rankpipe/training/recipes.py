"""All recipes, by what `train` says in their files. No torch here."""

from collections.abc import Mapping

from rankpipe.training.cross_encoder_recipe import CrossEncoderRecipe
from rankpipe.training.encoder_recipe import BiEncoderRecipe, QueryEncoderRecipe
from rankpipe.training.recipe import Recipe

RECIPES: Mapping[str, type[Recipe]] = {
    recipe.name: recipe for recipe in (CrossEncoderRecipe, BiEncoderRecipe, QueryEncoderRecipe)
}
