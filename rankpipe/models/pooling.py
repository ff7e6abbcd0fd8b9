"""From hidden states of tokens to one vector a sequence: pooling, Dense layers, normalisation.

Shapes: S sequences of at most T tokens, D dimensions. Sequences are padded on the right. All is computed in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from rankpipe.errors import ModelError
from rankpipe.models.recipe import Head
from rankpipe.models.references import explained

ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU", "LeakyReLU", "ELU", "Softplus", "Mish")


def pool(hidden: Tensor, lengths: Tensor, modes: Sequence[str], skipped: int = 0) -> Tensor:
    """(S, D times the number of modes) vectors of hidden states (S, T, D).

    lengths  (S,) int64, tokens that are no padding
    skipped  leading tokens to leave out; a sequence that has no more keeps its last one

    The modes are those of sentence-transformers' Pooling (Reimers and Gurevych, EMNLP 2019, arXiv 1908.10084).
    """
    hidden = hidden.float()
    positions = torch.arange(hidden.shape[1], device=hidden.device)
    first = torch.clamp(lengths - 1, max=skipped)
    mask = (positions < lengths[:, None]) & (positions >= first[:, None])
    return torch.cat([_pooled(hidden, mask, first, lengths, mode) for mode in modes], dim=1)


def _pooled(hidden: Tensor, mask: Tensor, first: Tensor, lengths: Tensor, mode: str) -> Tensor:
    if mode in ("cls", "lasttoken"):
        return hidden[torch.arange(len(hidden), device=hidden.device), first if mode == "cls" else lengths - 1]
    if mode == "max":
        return hidden.masked_fill(~mask[:, :, None], -torch.inf).amax(dim=1)
    weights = mask.float()
    if mode == "weightedmean":  # Muennighoff, SGPT, 2022, arXiv 2202.08904: a token weighs its position
        weights = weights * torch.arange(1, hidden.shape[1] + 1, device=hidden.device)
    total = torch.bmm(weights[:, None, :], hidden)[:, 0]
    size = weights.sum(dim=1, keepdim=True)
    return total / (size.sqrt() if mode == "mean_sqrt_len_tokens" else size)


def normalised(vectors: Tensor) -> Tensor:
    """Vectors (S, D) of length 1; zero vectors stay as they are."""
    return functional.normalize(vectors, dim=1)


class DenseLayer(nn.Module):
    """A Dense module of sentence-transformers: linear layer, activation and, in some, the input added again."""

    def __init__(self, head: Head, inputs: int) -> None:
        """Open the layer for vectors of `inputs` dimensions. Raises ModelError if the folder holds none that fits."""
        super().__init__()
        folder = head.folder or Path()
        if head.activation not in ACTIVATIONS:
            raise ModelError(f"{folder / 'config.json'}: activation {head.activation!r} is not among {ACTIVATIONS}")
        path = folder / "model.safetensors"
        try:
            weights = load_file(path)
            self.weight = _frozen(weights["linear.weight"])
            outputs, takes = self.weight.shape
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            reason = explained(error)
            raise ModelError(f"{path} cannot be read as the weights of a Dense layer: {reason}") from None
        if takes != inputs:
            raise ModelError(f"{path} takes vectors of {takes} dimensions, and is given {inputs}")
        bias, residual = weights.get("linear.bias"), weights.get("residual.weight")
        shapes = {"linear.bias": (bias, (outputs,)), "residual.weight": (residual, (outputs, inputs))}
        for name, (tensor, shape) in shapes.items():
            if tensor is not None and tuple(tensor.shape) != shape:
                raise ModelError(f"{path}: {name} has the shape {tuple(tensor.shape)}, must be {shape}")
        self.bias = None if bias is None else _frozen(bias)
        self.residual = None if residual is None else _frozen(residual)
        self.adds_input = head.residual
        self.activation = getattr(nn, head.activation)()

    @property
    def outputs(self) -> int:
        """Dimensions of what it gives."""
        return int(self.weight.shape[0])

    def forward(self, vectors: Tensor) -> Tensor:
        """(S, inputs) to (S, outputs)."""
        device = vectors.device
        bias = None if self.bias is None else self.bias.to(device)
        result = self.activation(functional.linear(vectors, self.weight.to(device), bias))
        if not self.adds_input:
            return result
        return result + (vectors if self.residual is None else functional.linear(vectors, self.residual.to(device)))


def _frozen(weights: Tensor) -> nn.Parameter:
    return nn.Parameter(weights.float(), requires_grad=False)
