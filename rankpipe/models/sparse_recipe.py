"""How a folder's masked language model makes weighted terms of a text. No torch here.

A folder with modules.json lists a masked language model (MLMTransformer, or Transformer with the task fill-mask) and
SpladePooling. A plain Hugging Face folder is taken for SPLADE as of its version 2: the maximum, and one logarithm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rankpipe.errors import ModelError, UsageError
from rankpipe.models.recipe import (
    checked_settings,
    listed_modules,
    longest,
    network_config,
    stated,
    stated_length,
    stated_prompts,
    transformer_settings,
)
from rankpipe.models.references import read_json

SparsePooling = Literal["max", "sum"]
LOGARITHMS = {"relu": 1, "log1p_relu": 2}
"""How often log(1 + x) is taken of the positive part of a logit, by the name of SpladePooling's activation."""


@dataclass(frozen=True, kw_only=True)
class SparseRecipe:
    """All that makes the weighted terms of a text, except for the weights.

    transformer  folder of the network and its tokenizer
    pooling      how the tokens' weights of a term become one
    logarithms   1: log(1 + relu(logit)); 2: once more log(1 + ...), as OpenSearch's models (arXiv 2504.14839)
    max_length   tokens of a text that are read, special ones included
    lower_case   texts are put into lower case first
    query_prompt, document_prompt   what stands before every text
    most         terms of a text that are kept, those with the greatest weights; None: all
    """

    transformer: Path
    pooling: SparsePooling = "max"
    logarithms: int = 1
    max_length: int
    lower_case: bool = False
    query_prompt: str = ""
    document_prompt: str = ""
    most: int | None = None


def read_sparse_recipe(folder: Path, *, max_length: int | None = None) -> SparseRecipe:
    """Read a folder's recipe; `max_length` stands above what the folder says.

    Raises ModelError where the folder holds no masked language model or further modules, UsageError for a max_length
    that is beyond the network's positions.
    """
    if (folder / "modules.json").is_file():
        transformer, pooled = _modules(folder / "modules.json")
    else:
        transformer, pooled = folder, {}
    config = network_config(transformer)
    settings = checked_settings(transformer)
    query_prompt, document_prompt = stated_prompts(folder)
    recipe = SparseRecipe(
        transformer=transformer,
        max_length=max_length or stated_length(transformer, config, settings),
        lower_case=bool(settings.get("do_lower_case")),
        query_prompt=query_prompt,
        document_prompt=document_prompt,
        most=stated(folder).get("max_active_dims"),
    )
    limit = longest(config)
    if limit is not None and recipe.max_length > limit:
        raise UsageError(f"max_length is {max_length}; the network {transformer} reads {limit} tokens")
    return replace(recipe, **pooled)


def _modules(path: Path) -> tuple[Path, Mapping[str, Any]]:
    """Folder of the masked language model, and what the pooling module states."""
    modules = listed_modules(path)
    kinds = [kind for kind, _ in modules]
    if kinds not in (["MLMTransformer", "SpladePooling"], ["Transformer", "SpladePooling"]):
        raise ModelError(
            f"{path}: the modules are {', '.join(kinds)}; a sparse encoder is supported as a masked language model "
            "(MLMTransformer, or Transformer) and SpladePooling"
        )
    transformer, pooling = (place for _, place in modules)
    task = transformer_settings(transformer).get("transformer_task", "fill-mask")
    if task != "fill-mask":
        raise ModelError(f"{path}: the Transformer's task is {task!r}; before SpladePooling it must be 'fill-mask'")
    pooled = read_json(pooling / "config.json")
    strategy, activation = pooled.get("pooling_strategy", "max"), pooled.get("activation_function", "relu")
    if strategy not in ("max", "sum"):
        raise ModelError(f"{pooling / 'config.json'}: pooling_strategy {strategy!r} is not known; there are max, sum")
    if activation not in LOGARITHMS:
        raise ModelError(
            f"{pooling / 'config.json'}: activation_function {activation!r} is not known; there are "
            f"{', '.join(LOGARITHMS)}"
        )
    return transformer, {"pooling": strategy, "logarithms": LOGARITHMS[activation]}
