"""Models that stand in one GGUF file, made once into a folder of safetensors, which opens fast.

Reading such a file takes transformers half a minute for 135 million weights, since all of them are dequantised; the
folder is kept in the store. Its weights are the dequantised ones in float32, to the last bit.
"""

from __future__ import annotations

import json
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from rankpipe.errors import MissingExtraError, ModelError
from rankpipe.models.references import explained, has_package
from rankpipe.models.tokens import quiet
from rankpipe.store import artefact, file_digest

MAGIC = b"GGUF"
FORMAT = 1
"""Raised whenever the same file may become another folder."""


def unpacked(file: Path) -> Path:
    """The folder that a GGUF file has become: config.json, model.safetensors, tokenizer and chat template.

    Raises ModelError for a file that is damaged or of no causal language model, MissingExtraError without gguf.
    """
    with file.open("rb") as opened:
        if opened.read(len(MAGIC)) != MAGIC:
            raise ModelError(f"{file} is no GGUF file: it does not begin with {MAGIC.decode()}")
    if not has_package("gguf"):
        raise MissingExtraError(f"model {str(file)!r}", "gguf", "llm")
    return artefact("models", {"gguf": file_digest(file), "format": FORMAT}, lambda folder: _unpack(file, folder))


def _unpack(file: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    named: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    try:
        with quiet(), redirect_stderr(StringIO()):  # it draws a bar of its own
            opened: Any = AutoModelForCausalLM.from_pretrained(
                file.parent, dtype=torch.float32, output_loading_info=True, **named
            )
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **named)
    except Exception as error:  # a damaged file, or one of a strange kind, fails in nearly any way
        raise ModelError(f"{file} cannot be opened as a causal language model: {explained(error)}") from error
    network, found = opened
    if lacking := sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]])):
        raise ModelError(
            f"{file} has {len(lacking)} weights of a {type(network).__name__} not, or not in its shape, such as "
            f"{lacking[0]}; a model in several files has to be joined into one (llama-gguf-split --merge)"
        )
    weights, seen = {}, set()
    for name, weight in network.state_dict().items():
        if weight.data_ptr() not in seen:  # a head that shares the embeddings' weights is tied again when it is opened
            weights[name] = weight.contiguous()
        seen.add(weight.data_ptr())
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = network.config.to_dict()
    del config["quantization_config"]
    for name in ("_name_or_path", "transformers_version"):  # the same file is to become the same folder
        config.pop(name, None)
    config["architectures"] = [type(network).__name__]
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(folder)
