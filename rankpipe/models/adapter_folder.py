"""Adapters in peft's format: a folder with adapter_config.json and adapter_model.safetensors, merged into a network.

Whatever the method (LoRA, DoRA, RandLoRA, ...), peft loads and merges it, so that what is run is the plain network.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from rankpipe.data.shipped import shipped
from rankpipe.errors import ModelError, RankpipeError
from rankpipe.models.recipe import transformer_folder
from rankpipe.models.references import explained, need_extra, read_json, resolve, weights_digest
from rankpipe.models.tokens import quiet

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What peft puts before the names of a network's weights."""
HEADS = ("classifier.weight", "classifier.out_proj.weight", "score.weight")
"""Weights of heads, the classes being their rows."""


def find_adapter(reference: str) -> Path:
    """The folder of an adapter: a path, the name of one that rankpipe ships, or package:NAME/PATH.

    Raises ModelError for a folder without the adapter's two files.
    """
    folder = resolve(reference) if reference.startswith("package:") else _named(reference)
    if not (folder / CONFIG).is_file():
        raise ModelError(f"adapter folder {folder} has no {CONFIG}; it must be one that peft saved")
    if not (folder / WEIGHTS).is_file():
        pickled = (
            " but a pickle, which can run code when it is loaded" if (folder / "adapter_model.bin").is_file() else ""
        )
        raise ModelError(f"adapter folder {folder} has no {WEIGHTS}{pickled}")
    return folder


def _named(reference: str) -> Path:
    folder = Path(os.path.expanduser(reference))
    known = shipped("adapters")
    if (known / folder.name).is_dir() and len(folder.parts) == 1 and not (folder / CONFIG).is_file():
        return known / folder.name  # where a folder of that name is something else: documents, for one
    if folder.is_dir():
        return folder
    if len(folder.parts) != 1:
        raise ModelError(f"there is no adapter folder {reference!r}")
    if not (known / reference).is_dir():
        names = ", ".join(sorted(path.name for path in known.iterdir() if path.is_dir()))
        raise ModelError(
            f"there is no adapter folder {reference!r}, and rankpipe ships none of that name; it ships {names}"
        )
    return known / reference


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of an adapter's tensors by the names that they have in the network. Raises ModelError for a damaged file."""
    path = folder / WEIGHTS
    try:
        with safe_open(path, "np") as file:
            return {_in_network(name): tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - it is no dict
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged or cut short: {error}") from None


def classes(folder: Path) -> int | None:
    """How many classes the head of an adapter has; None where it has no head."""
    shapes = tensor_shapes(folder)
    return next((shapes[name][0] for name in HEADS if name in shapes), None)


def merged(network: Any, folder: Path, base: Path, lacking: Sequence[str]) -> Any:
    """The network with an adapter merged into its weights; it is changed.

    base     folder of the network
    lacking  weights that the folder does not have, so that the adapter must

    Raises ModelError for an adapter that does not fit the network or was trained on another, and for weights that
    neither of the two has.
    """
    need_extra(f"the adapter {folder}", ("peft",), "peft", "train")
    from peft import PeftModel, get_peft_model_state_dict

    if _config(folder).is_prompt_learning:
        raise ModelError(f"adapter {folder} learned a prompt, which cannot be merged into a network")
    _check_base(folder, base)
    known = tensor_shapes(folder)
    if absent := [name for name in lacking if name not in known]:
        raise ModelError(f"neither the model folder {base} nor the adapter {folder} has {absent[0]}")
    misfit = f"adapter {folder} does not fit the network {base}"
    try:
        with quiet(), warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")  # of weights that it has or lacks, which are compared below
            wrapped = PeftModel.from_pretrained(network, str(folder), torch_device="cpu", ignore_mismatched_sizes=True)
            # said rather than "auto", for which peft asks the hub about the network that the adapter names
            embeddings = any("lora_" not in name and "embed" in name for name in known)
            expected = {
                name.removeprefix(PREFIX): tuple(value.shape)
                for name, value in get_peft_model_state_dict(wrapped, save_embedding_layers=embeddings).items()
            }
            if surplus := sorted(known.keys() - expected.keys()):
                raise ModelError(f"{misfit}: it has no place for {surplus[0]}")
            if missing := sorted(name for name in expected.keys() - known.keys() if not _shared(name, known)):
                raise ModelError(f"{misfit}: {missing[0]} is not in {WEIGHTS}")
            for name, shape in sorted(known.items()):
                if shape != expected[name]:
                    raise ModelError(f"{misfit}: {name} has the shape {shape}, and should have {expected[name]}")
            return wrapped.merge_and_unload(safe_merge=True)  # type: ignore[operator] - of the tuner, by __getattr__
    except RankpipeError:
        raise
    except Exception as error:  # peft's errors are of many kinds
        raise ModelError(f"{misfit}: {explained(error)}") from error


def _in_network(name: str) -> str:
    """A tensor's name in the network; DoRA's lengths of rows, which peft finds by either of two, get the one it writes."""
    name = name.removeprefix(PREFIX)
    return name.removesuffix(".weight") if name.endswith(".lora_magnitude_vector.weight") else name


def _shared(name: str, known: Container[str]) -> bool:
    """Whether all layers have this tensor in common, as RandLoRA's random matrices, and the file has it for them all."""
    return f"base_model.{name.rpartition('.')[2]}" in known


def _config(folder: Path) -> Any:
    from peft import PeftConfig

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # whatever a damaged or strange file makes of the method's class
        raise ModelError(f"{folder / CONFIG} cannot be read as an adapter: {explained(error)}") from error


def _check_base(folder: Path, base: Path) -> None:
    """Raise ModelError for an adapter that names a network which is there, and has other weights."""
    named = read_json(folder / CONFIG).get("base_model_name_or_path")
    if not isinstance(named, str):
        return
    try:
        meant = transformer_folder(resolve(named, download=False))
    except RankpipeError:
        return  # not on this machine, so that it cannot be compared
    if not any(meant.glob("*.safetensors")):
        return  # a pickle, say, that another program has fetched: nothing to compare with
    if weights_digest(meant) != weights_digest(base):
        raise ModelError(f"adapter {folder} was trained on {named!r}, whose weights are not those of {base}")
