"""What the machine gives a training."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Means:
    """What the machine gives a training.

    dtype      precision of products; weights are float32
    recompute  whether activations are computed a second time for their gradients, layer by layer, and not kept
    """

    device: torch.device
    dtype: torch.dtype
    batch_tokens: int | None
    threads: int
    recompute: bool = False
