"""Scores of documents from the attention that a query pays to their tokens. Numbers only, no network.

Chen, Gutiérrez and Su, Attention in Large Language Models Yields Efficient Zero-Shot Re-Rankers, ICLR 2025,
arXiv 2410.02642. A token's score is the attention that the query's tokens pay to it, their mean, summed over heads; less
the same for a query without content. Tokens far below the others of their document are outliers, and left out.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankpipe.errors import DataError, UsageError, told_of_a_setting

HEAD = re.compile(r"([0-9]{1,5})-([0-9]{1,5})")
"""A head as text: its layer and its number in it, both from 0."""
HEADS_FORMAT = 1
"""Of files of heads."""
CHOICES = "choose all, a list such as [14-22], or a file"
"""What heads can be, as errors say it."""
FEWEST = 2
"""Tokens of a document, with fewer of which there is no deviation and so no outlier."""


@dataclass(frozen=True)
class Heads:
    """Heads that are read, and their weights.

    layers   (W,) different layers, rising
    weights  (W, H) of every head of these; 0: the head is not read
    """

    layers: tuple[int, ...]
    weights: NDArray[np.float64]

    @classmethod
    def all(cls, layers: int, heads: int, between: tuple[int, int] | None = None) -> Heads:
        """Every head of a network, or of its layers from a first to a last. Raises UsageError for layers it lacks."""
        first, last = between or (0, layers - 1)
        if not 0 <= first <= last < layers:
            raise UsageError(f"layers is [{first}, {last}]; the model has the layers 0 to {layers - 1}")
        return cls(tuple(range(first, last + 1)), np.ones((last + 1 - first, heads)))

    @classmethod
    def of(cls, chosen: Sequence[tuple[int, int, float]], layers: int, heads: int) -> Heads:
        """Heads by layer, number and weight. Raises UsageError for one that the network lacks or that is there twice."""
        weights = np.zeros((layers, heads))
        for layer, head, weight in chosen:
            if not (0 <= layer < layers and 0 <= head < heads):
                raise UsageError(
                    f"head {layer}-{head}: the model has the layers 0 to {layers - 1}, heads 0 to {heads - 1}"
                )
            if weights[layer, head]:
                raise UsageError(f"head {layer}-{head} is given twice")
            weights[layer, head] = weight
        used = np.flatnonzero(weights.any(axis=1))
        if not len(used):
            raise UsageError("no head is given")
        return cls(tuple(used.tolist()), weights[used])

    def summed(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """(T,) attention (W, H, T) of the layers, summed over the heads by their weights."""
        return np.einsum("wh,wht->t", self.weights, rows.astype(np.float64))


def parsed_heads(texts: Sequence[str]) -> list[tuple[int, int, float]]:
    """Heads such as "14-22", with the weight 1. Raises UsageError for a text that names none, and where there is none."""
    if not texts:
        raise UsageError(f"no head is given; {CHOICES}")
    found = []
    for text in texts:
        if not (match := HEAD.fullmatch(text)):
            raise UsageError(f"head {text!r} is not of the form LAYER-HEAD, such as 14-22")
        found.append((int(match[1]), int(match[2]), 1.0))
    return found


def read_heads(path: Path) -> dict[str, Any]:
    """A file of heads, as a training writes it; `chosen` are its heads by layer, number and weight.

    Raises UsageError where there is no such file, DataError for one that cannot be read as such.
    """
    if not os.path.isfile(path):
        raise UsageError(f"there is no file of heads {str(path)!r}; {CHOICES}")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["format"] != HEADS_FORMAT:
            raise DataError(
                f"{path} is of format {told['format']}, and format {HEADS_FORMAT} is read; detect heads again"
            )
        told["chosen"] = [_head(path, at, one) for at, one in enumerate(told["heads"])]
        if not isinstance(told["model"]["weights"], str):
            raise TypeError("the digest of the model's weights is no text")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read as a file of heads: {type(error).__name__}: {error}") from None
    return told


def _head(path: Path, at: int, entry: Any) -> tuple[int, int, float]:
    """Layer, number and weight of an entry of a file of heads."""
    layer, head, weight = entry["layer"], entry["head"], entry["weight"]
    for name, value in (("layer", layer), ("head", head)):
        if type(value) is not int:  # a bool is an int, too
            raise DataError(f"{path}: the {name} of heads[{at}] is {value!r}, must be a whole number")
    if type(weight) not in (int, float) or not abs(weight) <= sys.float_info.max:  # nor is NaN
        raise DataError(f"{path}: the weight of heads[{at}] is {weight!r}, must be a finite number")
    return layer, head, float(weight)


def known_heads(heads: str | Sequence[str]) -> str | Sequence[str]:
    """The setting, if it is "all", heads, or a file of heads; a validator of settings."""
    with told_of_a_setting():
        if not isinstance(heads, str):
            parsed_heads(heads)
        elif heads != "all":
            read_heads(Path(os.path.expanduser(heads)))
    return heads


def document_scores(
    tokens: NDArray[np.float64],
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
    *,
    sigma: float | None,
    mean: bool = False,
) -> NDArray[np.float64]:
    """(..., N) scores of documents, from those of the tokens (..., T): the sum over tokens begins[n]:ends[n].

    sigma  tokens that lie more than so many standard deviations under the mean of their document are left out; the
           deviation is the sample's (ddof 1). None: none are. Fewer than six tokens never have such an outlier at 2
    mean   divide by the number of the document's tokens
    """
    scores = np.zeros((*tokens.shape[:-1], len(begins)))
    for at, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
        own = tokens[..., begin:end]
        kept = kept_tokens(own, sigma)
        scores[..., at] = np.where(kept, own, 0).sum(-1)
        if mean and end > begin:
            scores[..., at] /= end - begin
    return scores


def kept_tokens(own: NDArray[np.float64], sigma: float | None) -> NDArray[np.bool_]:
    """(..., T) which tokens of one document are no outliers."""
    if sigma is None or own.shape[-1] < FEWEST:
        return np.ones(own.shape, bool)
    threshold = own.mean(-1, keepdims=True) - sigma * own.std(-1, ddof=1, keepdims=True)
    return own >= threshold
