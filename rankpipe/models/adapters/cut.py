"""DyLoRA cut to a rank: its first ranks, b of them, are an adapter by themselves.

Valipour et al., 2022, arXiv:2210.07558: at b ranks the update is alpha / b times the product of the first b columns of B
and the first b rows of A.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from rankpipe.errors import ModelError, UsageError
from rankpipe.models.adapter_folder import CONFIG, WEIGHTS, find_adapter, tensor_shapes
from rankpipe.models.adapters.export import METHOD
from rankpipe.models.references import read_json
from rankpipe.writing import replacing_folder


def cut(adapter: Path | str, *, rank: int, output: Path | str) -> None:
    """Write the first ranks of an adapter that DyLoRA trained as a plain LoRA, with its head and the other files.

    rank  how many of its ranks, at least 1

    Raises ModelError for a folder that is no adapter, or whose ranks another method trained; UsageError for a rank that
    it does not have, and for an output that is there already.
    """
    folder = find_adapter(str(adapter))
    tensor_shapes(folder)  # refuses a damaged file
    with safe_open(folder / WEIGHTS, "pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    if metadata.get(METHOD) != "dylora":
        raise ModelError(
            f"adapter {folder} was not trained by dylora, so its first ranks are no adapter by themselves; train one "
            "with `adapter: {method: dylora}`"
        )
    config = read_json(folder / CONFIG)
    there = config["r"]
    if not 1 <= rank <= there:
        raise UsageError(f"rank is {rank}, and the adapter {folder} has {there} ranks; choose one from 1 to {there}")
    for name, value in tensors.items():
        if name.endswith(".lora_A.weight"):
            tensors[name] = value[:rank].contiguous()
        elif name.endswith(".lora_B.weight"):
            tensors[name] = value[:, :rank] * (there / rank)  # alpha / there is in it already
    with replacing_folder(Path(output), force=False) as place:
        shutil.copytree(folder, place, dirs_exist_ok=True)
        save_file(tensors, place / WEIGHTS, metadata=metadata)
        text = json.dumps({**config, "r": rank, "lora_alpha": rank}, indent=2, sort_keys=True)
        (place / CONFIG).write_text(text, encoding="utf-8")
