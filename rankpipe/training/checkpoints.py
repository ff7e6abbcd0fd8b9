"""Checkpoints: all that a training needs to go on to the same weights, bit by bit, after it was killed.

FOLDER/step-NNNNNNNN/   tensors.safetensors and state.json; written aside and renamed, so whole or not there
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rankpipe.errors import RankpipeError

FORMAT = 1


def write_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint, and then remove older ones. Raises RankpipeError where it cannot be written."""
    try:
        for left in folder.glob(".writing-*"):
            shutil.rmtree(left)
        aside = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder))
        save_file({name: value.contiguous() for name, value in tensors.items()}, aside / "tensors.safetensors")
        (aside / "state.json").write_text(json.dumps({"format": FORMAT, **state}), encoding="utf-8")
        for path in aside.iterdir():
            _sync(path)
        final = _place(folder, step)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(aside, final)
        for old in _all(folder):
            if old != final:
                shutil.rmtree(old)
    except (OSError, SafetensorError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).removeprefix("Error while serializing: I/O error: ")
        raise RankpipeError(
            f"cannot write a checkpoint into {folder}: {reason}; the one before is whole, and the same command goes on "
            "from it"
        ) from error


def last_checkpoint(folder: Path, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and state of the last checkpoint in a folder; None where there is none."""
    there = _all(folder)
    if not there:
        return None
    path = there[-1]
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        tensors = load_file(path / "tensors.safetensors", device=str(device))
    except Exception as error:  # of safetensors' own kind
        raise RankpipeError(f"the checkpoint {path} cannot be read: {error}; delete {folder} to begin anew") from error
    if state.get("format") != FORMAT:
        raise RankpipeError(f"the checkpoint {path} is of another version of rankpipe; delete {folder} to begin anew")
    return tensors, state


def under(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by names that begin with `name/`."""
    return {f"{name}/{inner}": value for inner, value in tensors.items()}


def inside(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of under."""
    start = f"{name}/"
    return {full.removeprefix(start): value for full, value in tensors.items() if full.startswith(start)}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimizer whose state is all tensors, as AdamW's is, by parameter number and name."""
    return {
        f"{number}/{name}": value
        for number, of_parameter in optimizer.state_dict()["state"].items()
        for name, value in of_parameter.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of optimizer_tensors, for an optimizer that was made with the same groups."""
    state: dict[int, dict[str, Tensor]] = {}
    for full, value in tensors.items():
        number, _, name = full.partition("/")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _place(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
