"""The folder that a training of encoders leaves: what SentenceTransformer opens, with one encoder or two.

Two encoders are the routes "query" and "document" of sentence-transformers' Router. The files are those that all its
versions read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from rankpipe.models.pooling import DenseLayer
from rankpipe.models.recipe import LEGACY_POOLING
from rankpipe.models.tokens import quiet
from rankpipe.training.encoders import TextEncoder
from rankpipe.training.networks import copy_tokenizer, write_settings

KINDS = "sentence_transformers.models"
"""Where modules.json says that the classes of modules are."""
ROUTES = ("query", "document")

Module = tuple[str, str]
"""Kind and folder of a module, the folder relative to that of the whole."""


def write_encoders(query: TextEncoder, document: TextEncoder, folder: Path) -> None:
    """Write encoders, which may be one, into a folder."""
    if query is document:
        modules = _write_modules(query, folder, first="")
    else:
        routes = {
            name: _write_modules(encoder, folder, first=f"{name}_0_Transformer", prefix=f"{name}_")
            for name, encoder in zip(ROUTES, (query, document), strict=True)
        }
        _write_json(
            folder / "router_config.json",
            {
                "types": {place: f"{KINDS}.{kind}" for parts in routes.values() for kind, place in parts},
                "structure": {name: [place for _, place in parts] for name, parts in routes.items()},
                "parameters": {"default_route": "document", "allow_empty_key": True},
            },
        )
        modules = [("Router", "")]
    _write_json(
        folder / "modules.json",
        [
            {"idx": number, "name": str(number), "path": place, "type": f"{KINDS}.{kind}"}
            for number, (kind, place) in enumerate(modules)
        ],
    )
    prompts = {"query": query.recipe.query_prompt, "document": document.recipe.document_prompt}
    _write_json(
        folder / "config_sentence_transformers.json",
        {
            "model_type": "SentenceTransformer",
            "prompts": prompts,
            "default_prompt_name": None,
            "similarity_fn_name": document.recipe.similarity,
        },
    )


def _write_modules(encoder: TextEncoder, folder: Path, *, first: str, prefix: str = "") -> list[Module]:
    """Write the modules of an encoder, the transformer into the folder `first`."""
    _write_transformer(encoder, folder / first)
    recipe = encoder.recipe
    modules = [("Transformer", first), ("Pooling", f"{prefix}1_Pooling")]
    width = int(getattr(encoder.transformer.config, "hidden_size", None) or encoder.transformer.config.d_model)
    _write_json(
        folder / modules[-1][1] / "config.json",
        {"word_embedding_dimension": width, **_pooling(recipe.pooling), "include_prompt": recipe.include_prompt},
    )
    layers: Any = iter(encoder.layers)
    kinds = ["Normalize" if head.folder is None else "Dense" for head in recipe.heads]
    if encoder.normalises and kinds[-1:] != ["Normalize"]:
        kinds.append("Normalize")
    for number, kind in enumerate(kinds, 2):
        place = f"{prefix}{number}_{kind}"
        modules.append((kind, place))
        (folder / place).mkdir()
        if kind == "Dense":
            _write_dense(next(layers), folder / place)
    return modules


def _pooling(modes: Sequence[str]) -> dict[str, Any]:
    """How Pooling is told its modes: by the switches of old, which have an order of their own, or by a list."""
    switches = {key: mode in modes for key, mode in LEGACY_POOLING.items()}
    known = [mode for key, mode in LEGACY_POOLING.items() if switches[key]]
    return switches if known == list(modes) else {"pooling_mode": list(modes)}


def _write_transformer(encoder: TextEncoder, folder: Path) -> None:
    recipe = encoder.recipe
    with quiet():
        encoder.transformer.save_pretrained(folder)
    copy_tokenizer(recipe.transformer, folder)
    write_settings(folder, {"max_seq_length": recipe.max_length, "do_lower_case": recipe.lower_case})


def _write_dense(layer: DenseLayer, folder: Path) -> None:
    outputs, inputs = layer.weight.shape
    activation = type(layer.activation)
    config: dict[str, Any] = {
        "in_features": inputs,
        "out_features": outputs,
        "bias": layer.bias is not None,
        "activation_function": f"{activation.__module__}.{activation.__name__}",
    }
    weights = {"linear.weight": layer.weight, "linear.bias": layer.bias, "residual.weight": layer.residual}
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items() if tensor is not None},
        folder / "model.safetensors",
    )
    _write_json(folder / "config.json", config | ({"use_residual": True} if layer.adds_input else {}))


def _write_json(path: Path, content: Mapping[str, Any] | Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
