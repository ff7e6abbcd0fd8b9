"""Linear layers whose products are of 8-bit integers, on a CPU; everything around them stays in float32.

Each row of a layer's input is scaled so that its largest number becomes 127, each row of the weights so that its largest
becomes 63. Scales of tokens, and not of a batch, keep what a token gets the same whatever is computed with it, to the
last bit: sums of integers have no rounding. Weights have seven bits because processors without VNNI add two products of
a byte and a byte in 16 bits: 2 x 255 x 63 is the most that fits. Dettmers, Lewis, Belkada and Zettlemoyer, "LLM.int8()",
NeurIPS 2022, arXiv 2208.07339, scale by rows of both in the same way.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rankpipe.compiled import compiled
from rankpipe.errors import UsageError
from rankpipe.models.activations import activated

INPUT, WEIGHT = 127, 63
"""The largest integers of a row of inputs, and of weights."""
ZERO = 128
"""What stands for 0 among a layer's inputs, which are bytes without a sign."""
MAGNITUDE = 0x7FFFFFFF
"""The bits of a float32 without its sign; as integers they sort like the numbers, infinity and nan above all."""


def has_products() -> bool:
    """Whether this torch computes products of 8-bit integers."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qlinear_pointwise")


def check_products() -> None:
    """Raise UsageError where torch has no products of 8-bit integers."""
    if not has_products():
        raise UsageError("dtype int8 needs a torch that is built with oneDNN, and this one is not; choose float32")


class Quantised(NamedTuple):
    """A linear layer in 8-bit integers.

    weight  packed by oneDNN
    scales  (M,) float32 of the rows of the weights
    bias    (M,) float32
    """

    weight: Tensor
    scales: Tensor
    zeros: Tensor
    bias: NDArray[np.float32]
    activation: str = "none"
    variant: str = ""

    @classmethod
    def of(cls, *layers: nn.Linear, activation: str = "none", variant: str = "") -> Quantised:
        """Layers of one input, their outputs side by side."""
        weight = torch.cat([layer.weight.detach().float() for layer in layers])
        largest = weight.abs().amax(dim=1)
        scales = torch.where(largest > 0, largest / WEIGHT, 1.0)
        integers = (weight / scales[:, None]).round().to(torch.int8)
        bias = torch.cat([_bias(layer) for layer in layers])
        packed = torch.ops.onednn.qlinear_prepack(integers, None)
        zeros = torch.zeros(len(weight), dtype=torch.int64)
        return cls(packed, scales, zeros, bias.numpy(), activation, variant)

    def __call__(self, states: Tensor) -> Tensor:
        """(..., K) float32 to (..., M)."""
        given = states.reshape(-1, states.shape[-1]).contiguous().numpy()
        integers = np.empty(given.shape, np.uint8)
        scales = np.empty(len(given), np.float32)
        _to_integers(given, given.view(np.int32), integers, scales, scales.view(np.int32))
        made = self.product(torch.from_numpy(integers))
        _to_numbers(made.numpy(), scales, self.bias)
        return activated(made.view(*states.shape[:-1], -1), self.activation, self.variant)

    def product(self, integers: Tensor) -> Tensor:
        """(N, K) uint8, ZERO standing for 0, to (N, M) float32: products with the integers of the weights, times scales."""
        given = (integers, 1.0, ZERO, self.weight, self.scales, self.zeros, None)
        return torch.ops.onednn.qlinear_pointwise(*given, 1.0, 0, torch.float32, "none", [], "")


class QuantisedLinear(nn.Module):
    """A linear layer in 8-bit integers, in the place of one in float32.

    weight  none: T5 asks its layers for the precision of theirs
    """

    weight = None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self._layer = Quantised.of(layer)

    def forward(self, states: Tensor) -> Tensor:
        """(..., K) to (..., M)."""
        return self._layer(states)


def quantise(network: Any) -> Any:
    """The network with the linear layers of its body in 8-bit integers; it is changed. Heads stay as they are.

    Raises UsageError where there are no linear layers: GPT-2, whose layers are of a kind of its own.
    """
    check_products()
    network = network.float()
    body = getattr(network, "base_model", network)
    places = [
        (parent, name, layer)
        for parent in body.modules()
        for name, layer in parent.named_children()
        if type(layer) is nn.Linear
    ]
    if not places:
        raise UsageError(f"a {type(network).__name__} has no linear layers that dtype int8 could stand for")
    for parent, name, layer in places:
        setattr(parent, name, QuantisedLinear(layer))
    return network


def _bias(layer: nn.Linear) -> Tensor:
    return torch.zeros(layer.out_features) if layer.bias is None else layer.bias.detach().float()


@compiled
def _to_integers(
    states: NDArray[np.float32],
    bits: NDArray[np.int32],
    integers: NDArray[np.uint8],
    scales: NDArray[np.float32],
    scale_bits: NDArray[np.int32],
) -> None:
    """Rows (N, K) as integers and what these are to be multiplied by. A row with nan gets the scale nan."""
    rows, width = states.shape
    for row in range(rows):
        largest = np.int32(0)
        for place in range(width):
            largest = max(largest, bits[row, place] & np.int32(MAGNITUDE))
        scale_bits[row] = largest
        most = scales[row]
        factor = np.float32(INPUT) / most if most > 0 else np.float32(0)
        for place in range(width):  # a half is added because integers are cut, and all of these are positive
            integers[row, place] = np.uint8(np.int32(states[row, place] * factor + np.float32(ZERO + 0.5)))
        scales[row] = most / np.float32(INPUT)


@compiled
def _to_numbers(made: NDArray[np.float32], scales: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
    """Multiply rows (N, M) by their scales and add the bias, in place."""
    rows, width = made.shape
    for row in range(rows):
        scale = scales[row]
        for place in range(width):
            made[row, place] = made[row, place] * scale + bias[place]
