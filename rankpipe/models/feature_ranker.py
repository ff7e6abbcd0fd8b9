"""A network that scores documents by numbers: a linear one, or layers with ELU between them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

LARGEST = 10.0
"""Standard deviations from the mean beyond which a feature counts as so far: one wild value must not decide."""


class FeatureRanker(nn.Module):
    """Scores of documents by F features each, brought to mean 0 and deviation 1 as they were where it was fitted."""

    mean: Tensor
    scale: Tensor

    def __init__(self, features: int, hidden: Sequence[int] = ()) -> None:
        """Draw weights from torch's generator; `hidden`: units of each layer, none of them for a linear ranker."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        sizes = [features, *hidden]
        layers: list[nn.Module] = []
        for width, units in pairwise(sizes):
            layers += [nn.Linear(width, units), nn.ELU(inplace=True)]  # its gradient needs no second exp
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], 1))

    def fit_scale(self, features: NDArray[np.float32]) -> None:
        """Take mean and deviation of (H, F) features; one that never varies counts as 0."""
        values = torch.from_numpy(features).double()
        deviation = values.std(0, unbiased=False)
        self.mean.copy_(values.mean(0))
        self.scale.copy_(torch.where(deviation > 1e-9 * (1 + values.abs().amax(0)), 1 / deviation, 0.0))

    def forward(self, features: Tensor) -> Tensor:
        """(...) scores of (..., F) features."""
        return self.layers(self.scaled(features))[..., 0]

    def scaled(self, features: Tensor) -> Tensor:
        """(..., F) features as the first layer takes them."""
        return ((features - self.mean) * self.scale).clamp(-LARGEST, LARGEST)
