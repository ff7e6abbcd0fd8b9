"""All recipes, by what `train` says in their files. No torch here."""

from collections.abc import Mapping

from rankpipe.training.attention_heads_recipe import AttentionHeadsRecipe
from rankpipe.training.cross_encoder_recipe import CrossEncoderRecipe
from rankpipe.training.encoder_recipe import BiEncoderRecipe, QueryEncoderRecipe
from rankpipe.training.ranker_recipe import RankerRecipe
from rankpipe.training.recipe import AnyRecipe

RECIPES: Mapping[str, type[AnyRecipe]] = {
    recipe.name: recipe
    for recipe in (CrossEncoderRecipe, BiEncoderRecipe, QueryEncoderRecipe, AttentionHeadsRecipe, RankerRecipe)
}
