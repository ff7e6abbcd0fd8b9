"""BERT's encoder on a CPU: the same network as transformers' BertModel, arranged for few, large products.

Devlin, Chang, Lee and Toutanova, NAACL 2019, arXiv 1810.04805. Query, key and value are one product; sums and
activations are written where they were read. In bfloat16, weights are packed once for oneDNN, the activation is
computed while a product is written, and the residual stream and the layer norms stay in float32, which keeps the
vectors closer to those of float32 than a network that is bfloat16 throughout.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

FUSED = {
    "gelu": ("gelu", "none"),
    "gelu_new": ("gelu", "tanh"),
    "gelu_pytorch_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
}
"""Activations that oneDNN computes while it writes a product, by their names in config.json."""


def _packs() -> bool:
    """Whether oneDNN packs bfloat16 weights on this processor."""
    has = torch.cpu.get_capabilities()
    fits = has.get("avx_ne_convert") or all(has.get(f"avx512_{part}") for part in ("bw", "vl", "dq"))
    return bool(fits) and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class Packed(NamedTuple):
    """A linear layer whose weights are packed for oneDNN."""

    weight: Tensor
    bias: Tensor
    activation: str = "none"
    variant: str = ""

    @classmethod
    def of(cls, *layers: nn.Linear, activation: str = "none", variant: str = "") -> Packed:
        """Layers of one input, their outputs side by side."""
        weight = torch.cat([layer.weight for layer in layers]).to(torch.bfloat16).contiguous()
        bias = torch.cat([layer.bias for layer in layers]).to(torch.bfloat16)
        return cls(torch.ops.mkldnn._reorder_linear_weight(weight, None), bias, activation, variant)

    def __call__(self, states: Tensor) -> Tensor:
        """(..., inputs) bfloat16 to (..., outputs)."""
        return torch.ops.mkldnn._linear_pointwise(states, self.weight, self.bias, self.activation, [], self.variant)


class Plain(NamedTuple):
    """A linear layer in float32, its activation, if it has one, computed in place."""

    weight: Tensor
    bias: Tensor
    activation: str = "none"
    variant: str = ""

    @classmethod
    def of(cls, *layers: nn.Linear, activation: str = "none", variant: str = "") -> Plain:
        """Layers of one input, their outputs side by side."""
        weight, bias = (torch.cat([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
        return cls(weight, bias, activation, variant)

    def __call__(self, states: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        made = functional.linear(states, self.weight, self.bias)
        if self.activation == "gelu":
            return torch.ops.aten.gelu_(made, approximate=self.variant)
        return made.relu_() if self.activation == "relu" else made


class Layer(NamedTuple):
    """One layer: attention and feed-forward, each followed by the residual sum and a layer norm."""

    query_key_value: Packed | Plain
    attended: Packed | Plain
    attended_norm: nn.LayerNorm
    inner: Packed | Plain
    outer: Packed | Plain
    outer_norm: nn.LayerNorm


class FastBert:
    """The hidden states of a BertModel that was opened in float32, its products in float32 or bfloat16."""

    def __init__(self, network: Any, dtype: torch.dtype) -> None:
        """Take the weights of a BertModel."""
        self._dtype = dtype
        linear = Packed if dtype == torch.bfloat16 else Plain
        self._embeddings = network.embeddings
        self._heads = network.config.num_attention_heads
        activation, variant = FUSED[network.config.hidden_act]
        self._layers = [
            Layer(
                linear.of(layer.attention.self.query, layer.attention.self.key, layer.attention.self.value),
                linear.of(layer.attention.output.dense),
                layer.attention.output.LayerNorm,
                linear.of(layer.intermediate.dense, activation=activation, variant=variant),
                linear.of(layer.output.dense),
                layer.output.LayerNorm,
            )
            for layer in network.encoder.layer
        ]

    @staticmethod
    def fits(network: Any, dtype: torch.dtype) -> bool:
        """Whether this can stand for a network, on this processor."""
        return (
            type(network).__name__ == "BertModel"
            and network.config.hidden_act in FUSED
            and not network.config.is_decoder
            and (dtype == torch.float32 or (dtype == torch.bfloat16 and _packs()))
        )

    def __call__(self, ids: Tensor, mask: Tensor, types: Tensor | None = None) -> Tensor:
        """(S, T, D) float32 hidden states of tokens (S, T).

        mask   (S, T), true where a token is no padding
        types  (S, T), which of the texts of a pair a token belongs to; None for single texts
        """
        states = self._embeddings(input_ids=ids, token_type_ids=types)
        # attention is a good deal faster where it has nothing to leave out
        allowed = None if mask.all() else mask[:, None, None, :].expand(-1, 1, ids.shape[1], -1)
        for layer in self._layers:
            states = self._layer(layer, states, allowed)
        return states

    def _layer(self, layer: Layer, states: Tensor, allowed: Tensor | None) -> Tensor:
        rows, length, width = states.shape
        projected = layer.query_key_value(states.to(self._dtype))
        split = projected.view(rows, length, 3, self._heads, width // self._heads).permute(2, 0, 3, 1, 4)
        found = functional.scaled_dot_product_attention(split[0], split[1], split[2], attn_mask=allowed)
        attended = layer.attended(found.transpose(1, 2).reshape(rows, length, width))
        states = layer.attended_norm(states.add_(attended))
        return layer.outer_norm(states.add_(layer.outer(layer.inner(states.to(self._dtype)))))
