"""The network that a cross-encoder's training begins with, and the folder that it leaves."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rankpipe.errors import ModelError
from rankpipe.models.network import opened_for_training
from rankpipe.models.recipe import TRANSFORMER_SETTINGS, transformer_settings
from rankpipe.models.references import read_json
from rankpipe.models.tokens import quiet

ACTIVATION = "torch.nn.modules.linear.Identity"
"""What sentence-transformers applies to the scores of the folder: nothing, they stay logits."""
OWN_DROPOUT = re.compile(r"\w*dropout\w*|\w*_pdrop")
"""Names under which modules of transformers, and configurations, keep a share that is dropped."""
FROM_CONFIGURATION = ("falcon", "gpt_neo", "gptj", "persimmon")
"""Types of models whose modules ask the configuration for it at every step."""
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("vocab.txt", "merges.txt", "*.model"),
)


def open_cross_encoder(folder: Path, seed: int, *, dropout: float, device: torch.device) -> tuple[Any, list[str]]:
    """A sequence classifier with one output, in float32, and the names of weights that were drawn from the seed.

    Only a head may be drawn. Raises ModelError where the folder lacks more than that.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, drawn = opened_for_training(folder)
    body = f"{network.base_model_prefix}."
    lacking = [name for name in drawn if name.startswith(body) and ".pooler." not in name]
    if lacking:
        raise ModelError(
            f"model folder {folder}: {len(lacking)} weights of a {type(network).__name__} are not in its safetensors, "
            f"or have another shape; the first is {lacking[0]}"
        )
    set_dropout(network, dropout)
    return network.to(device), drawn


def set_dropout(network: nn.Module, share: float) -> None:
    """Have a network drop this share of its activations, wherever it keeps it: as a module, a number or a setting."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = share
        _set_shares(module, share)
    config = getattr(network, "config", None)
    if config is not None and config.model_type in FROM_CONFIGURATION:
        _set_shares(config, share)


def _set_shares(keeper: Any, share: float) -> None:
    for name, value in list(vars(keeper).items()):
        if isinstance(value, float) and OWN_DROPOUT.fullmatch(name):
            setattr(keeper, name, share)


def write_cross_encoder(network: Any, base: Path, folder: Path, *, max_length: int) -> None:
    """Write a network with the tokenizer of `base` as a folder that CrossEncoder of sentence-transformers opens."""
    import sentence_transformers
    from sentence_transformers import CrossEncoder

    network.config.sentence_transformers = {"activation_fn": ACTIVATION, "version": sentence_transformers.__version__}
    with tempfile.TemporaryDirectory(dir=folder) as name, quiet():
        plain = Path(name)
        network.save_pretrained(plain)
        copy_tokenizer(base, plain)
        path = plain / "tokenizer_config.json"
        stated = read_json(path) if path.is_file() else {}
        path.write_text(json.dumps({**stated, "model_max_length": max_length}, indent=2), encoding="utf-8")
        CrossEncoder(str(plain), local_files_only=True, device="cpu").save_pretrained(
            str(folder), create_model_card=False
        )
    if transformer_settings(base).get("do_lower_case"):
        write_settings(folder, read_json(folder / TRANSFORMER_SETTINGS) | {"do_lower_case": True})


def write_adapter_settings(base: Path, folder: Path, *, max_length: int) -> None:
    """Write beside an adapter how texts were read for it, where the stage cross-encoder looks for it."""
    lower_case = bool(transformer_settings(base).get("do_lower_case"))
    write_settings(folder, {"max_seq_length": max_length, "do_lower_case": lower_case})


def copy_tokenizer(base: Path, folder: Path) -> None:
    """Copy the files of a model's tokenizer into another folder."""
    for path in (path for pattern in TOKENIZER_FILES for path in base.glob(pattern)):
        shutil.copy(path, folder / path.name)


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write sentence_bert_config.json."""
    (folder / TRANSFORMER_SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
