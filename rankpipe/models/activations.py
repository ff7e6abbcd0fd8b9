"""Activations of feed-forward layers, by the names that oneDNN has for them."""

from __future__ import annotations

import torch
from torch import Tensor


def activated(made: Tensor, activation: str, variant: str) -> Tensor:
    """What an activation makes of float32 numbers, which are overwritten: "gelu" with a variant, "relu" or "none"."""
    if activation == "gelu":
        return torch.ops.aten.gelu_(made, approximate=variant)
    return made.relu_() if activation == "relu" else made
