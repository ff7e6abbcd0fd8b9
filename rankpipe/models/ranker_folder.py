"""The folder of a feature ranker: written by its training, opened by the stage `learned`.

FOLDER/
    ranker.json         names of the columns, in the network's order, and its layers
    model.safetensors   weights, and the columns' means and deviations
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from rankpipe.errors import ModelError
from rankpipe.models.feature_ranker import FeatureRanker
from rankpipe.store import file_digest, key_digest

FORMAT = 1
SETTINGS, WEIGHTS = "ranker.json", "model.safetensors"
MOST_UNITS = 4096
"""Columns, and units of a layer, at most: a damaged file must not ask for all memory."""


@dataclass(frozen=True, eq=False)
class OpenRanker:
    """A ranker that scores.

    columns  names of the F features, in the network's order
    digest   of its files
    """

    columns: tuple[str, ...]
    ranker: FeatureRanker
    digest: str

    def scores(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """(H,) scores of (H, F) features."""
        with torch.inference_mode():
            return self.ranker(torch.from_numpy(np.ascontiguousarray(features))).numpy()


def write_ranker(ranker: FeatureRanker, columns: Sequence[str], folder: Path) -> None:
    """Write a ranker into a folder that is there."""
    hidden = [layer.out_features for layer in ranker.layers if isinstance(layer, torch.nn.Linear)][:-1]
    told = {"format": FORMAT, "kind": "network", "columns": list(columns), "hidden": hidden}
    (folder / SETTINGS).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    save_file({name: value.contiguous() for name, value in ranker.state_dict().items()}, folder / WEIGHTS)


def open_ranker(folder: Path) -> OpenRanker:
    """Open what write_ranker wrote. Raises ModelError for a folder that is none, or whose files do not fit together."""
    path = folder / SETTINGS
    if not path.is_file():
        raise ModelError(f"{folder} holds no ranker: there is no {SETTINGS}; `rankpipe train` leaves such a folder")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from None
    if not isinstance(told, dict) or told.get("format") != FORMAT or told.get("kind") != "network":
        raise ModelError(f"{path}: not a ranker of this version of rankpipe (format {FORMAT}, kind 'network')")
    columns: Any = told.get("columns")
    hidden: Any = told.get("hidden")
    named = isinstance(columns, list) and columns and all(isinstance(one, str) for one in columns)
    sized = isinstance(hidden, list) and all(type(one) is int and 0 < one <= MOST_UNITS for one in hidden)
    if not named or not sized or len(columns) > MOST_UNITS:
        raise ModelError(f"{path}: 'columns' must be a list of names, 'hidden' one of numbers from 1 to {MOST_UNITS:,}")
    ranker = FeatureRanker(len(columns), hidden)
    try:
        ranker.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise ModelError(f"{folder / WEIGHTS}: not the weights of {path}: {reason}") from None
    digest = key_digest({name: file_digest(folder / name) for name in (SETTINGS, WEIGHTS)})
    return OpenRanker(tuple(columns), ranker.eval(), digest)
