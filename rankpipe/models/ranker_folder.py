"""The folder of a feature ranker: written by its training, opened by the stage `learned`.

FOLDER/
    ranker.json         kind, names of the columns, in the ranker's order, and what their values depend on; of a network its
                        layers, of trees their digest
    model.safetensors   of a network: weights, and the columns' means and deviations
    model.txt           of trees: LightGBM's model in its own text
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rankpipe.errors import ModelError
from rankpipe.models.references import need_extra
from rankpipe.store import file_digest, key_digest

if TYPE_CHECKING:
    from rankpipe.models.feature_ranker import FeatureRanker
    from rankpipe.models.tree_ranker import TreeRanker

FORMAT = 1
SETTINGS, WEIGHTS, TREES = "ranker.json", "model.safetensors", "model.txt"
MOST_UNITS = 4096
"""Units of a layer at most: a damaged file must not ask for all memory."""
MOST_COLUMNS = 1 << 20
"""As many features as a file of lists may have."""

Scores = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""(H,) scores of (H, F) features."""


@dataclass(frozen=True, eq=False)
class OpenRanker:
    """A ranker that scores.

    columns   names of the F features, in the ranker's order
    scores    (H,) scores of (H, F) features
    digest    of its files
    features  settings that the features depend on, as they were in training; None where nothing is known of them
    """

    columns: tuple[str, ...]
    scores: Scores
    digest: str
    features: Mapping[str, Any] | None = None


def write_ranker(
    ranker: FeatureRanker, columns: Sequence[str], folder: Path, *, features: Mapping[str, Any] | None = None
) -> None:
    """Write a network into a folder that is there. `features`: settings that the columns depend on."""
    import torch
    from safetensors.torch import save_file

    hidden = [layer.out_features for layer in ranker.layers if isinstance(layer, torch.nn.Linear)][:-1]
    _tell(folder, {"kind": "network", "columns": list(columns), "hidden": hidden}, features)
    save_file({name: value.contiguous() for name, value in ranker.state_dict().items()}, folder / WEIGHTS)


def write_trees(
    ranker: TreeRanker, columns: Sequence[str], folder: Path, *, features: Mapping[str, Any] | None = None
) -> None:
    """Write trees into a folder that is there. `features`: settings that the columns depend on."""
    (folder / TREES).write_text(ranker.text, encoding="utf-8", newline="\n")
    _tell(folder, {"kind": "trees", "columns": list(columns), "digest": file_digest(folder / TREES)}, features)


def open_ranker(folder: Path, user: str = "a ranker") -> OpenRanker:
    """Open what write_ranker or write_trees wrote.

    user  who asks, for the error that says what is not installed

    Raises ModelError for a folder that is none, or whose files do not fit together; MissingExtraError.
    """
    path = folder / SETTINGS
    if not path.is_file():
        raise ModelError(f"{folder} holds no ranker: there is no {SETTINGS}; `rankpipe train` leaves such a folder")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from None
    kind = told.get("kind") if isinstance(told, dict) and told.get("format") == FORMAT else None
    if kind not in ("network", "trees"):
        raise ModelError(
            f"{path}: not a ranker of this version of rankpipe (format {FORMAT}, kind 'network' or 'trees')"
        )
    columns: Any = told.get("columns")
    named = isinstance(columns, list) and columns and all(isinstance(one, str) for one in columns)
    if not named or len(columns) > MOST_COLUMNS:
        raise ModelError(f"{path}: 'columns' must be a list of at most {MOST_COLUMNS:,} names")
    features: Any = told.get("features")
    if features is not None and not isinstance(features, dict):
        raise ModelError(f"{path}: 'features' must be a map of settings")
    if kind == "network":
        need_extra(user, ("torch", "safetensors"), "torch", "dense")
        return OpenRanker(tuple(columns), _network(folder, told), _digest(folder, WEIGHTS), features)
    need_extra(user, ("lightgbm",), "lightgbm", "ltr")
    return OpenRanker(tuple(columns), _trees(folder, told), _digest(folder, TREES), features)


def ranker_digest(folder: Path) -> str:
    """The digest of a ranker, which need not be opened. Raises ModelError for a folder that holds none."""
    for model in (WEIGHTS, TREES):
        if all((folder / name).is_file() for name in (SETTINGS, model)):
            return _digest(folder, model)
    raise ModelError(f"folder {folder} of a ranker has no {SETTINGS} with {WEIGHTS} or {TREES}")


def _tell(folder: Path, told: dict[str, Any], features: Mapping[str, Any] | None) -> None:
    told = told if features is None else {**told, "features": dict(features)}
    (folder / SETTINGS).write_text(json.dumps({"format": FORMAT, **told}, indent=1) + "\n", encoding="utf-8")


def _digest(folder: Path, model: str) -> str:
    return key_digest({name: file_digest(folder / name) for name in (SETTINGS, model)})


def _network(folder: Path, told: dict[str, Any]) -> Scores:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from rankpipe.models.feature_ranker import FeatureRanker

    path, hidden = folder / SETTINGS, told.get("hidden")
    if not isinstance(hidden, list) or not all(type(one) is int and 0 < one <= MOST_UNITS for one in hidden):
        raise ModelError(f"{path}: 'hidden' must be a list of numbers from 1 to {MOST_UNITS:,}")
    ranker = FeatureRanker(len(told["columns"]), hidden)
    try:
        ranker.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise ModelError(f"{folder / WEIGHTS}: not the weights of {path}: {reason}") from None
    ranker.eval()

    def scores(features: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return ranker(torch.from_numpy(np.ascontiguousarray(features))).numpy()

    return scores


def _trees(folder: Path, told: dict[str, Any]) -> Scores:
    from rankpipe.models.tree_ranker import TreeRanker

    path = folder / TREES
    if not path.is_file():
        raise ModelError(f"{folder} holds no trees: there is no {TREES}")
    if file_digest(path) != told.get("digest"):  # LightGBM takes the first half of a model for a model
        raise ModelError(
            f"{path}: not the trees that {folder / SETTINGS} was written with; it was changed or is damaged"
        )
    try:
        ranker = TreeRanker(path.read_text(encoding="utf-8"))
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    if ranker.features != len(told["columns"]):
        raise ModelError(f"{path}: has {ranker.features} features, and {folder / SETTINGS} {len(told['columns'])}")
    return ranker.scores
