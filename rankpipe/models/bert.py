"""BERT's encoder on a CPU: the same network as transformers' BertModel, arranged for few, large products.

Devlin, Chang, Lee and Toutanova, NAACL 2019, arXiv 1810.04805. Query, key and value are one product; sums and
activations are written where they were read. In bfloat16, weights are packed once for oneDNN, the activation is
computed while a product is written, and the residual stream and the layer norms stay in float32, which keeps the
vectors closer to those of float32 than a network that is bfloat16 throughout. int8 is described in rankpipe.models.int8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from rankpipe.models.activations import activated
from rankpipe.models.int8 import Quantised

FUSED = {
    "gelu": ("gelu", "none"),
    "gelu_new": ("gelu", "tanh"),
    "gelu_pytorch_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
}
"""Activations that oneDNN computes while it writes a product, by their names in config.json."""
FEWEST = 16
"""Rows of a product: with fewer, how a row is rounded can depend on how many they are. Where a layer has a single output
the last rows of another number than a multiple of 4 are rounded otherwise too, so few rows are filled up to a multiple."""


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
        return activated(functional.linear(states, self.weight, self.bias), self.activation, self.variant)


Linear: TypeAlias = Packed | Plain | Quantised
"""Linear layers side by side, and an activation after them."""
LINEAR: Mapping[torch.dtype, type[Linear]] = {
    torch.float32: Plain,
    torch.bfloat16: Packed,
    torch.int8: Quantised,
}
"""How products are computed, by precision."""


class Layer(NamedTuple):
    """One layer: attention and feed-forward, each followed by the residual sum and a layer norm."""

    query_key_value: Linear
    attended: Linear
    attended_norm: nn.LayerNorm
    inner: Linear
    outer: Linear
    outer_norm: nn.LayerNorm


class FastBert:
    """The hidden states of a BertModel that was opened in float32, its products in float32, bfloat16 or int8."""

    def __init__(self, network: Any, dtype: torch.dtype) -> None:
        """Take the weights of a BertModel."""
        self._dtype = torch.float32 if dtype == torch.int8 else dtype
        linear = LINEAR[dtype]
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
        last = network.encoder.layer[-1].attention.self
        self._last_query, self._last_key_value = linear.of(last.query), linear.of(last.key, last.value)

    @staticmethod
    def fits(network: Any, dtype: torch.dtype) -> bool:
        """Whether this can stand for a network, on this processor."""
        return (
            type(network).__name__ == "BertModel"
            and network.config.hidden_act in FUSED
            and not network.config.is_decoder
            and dtype in LINEAR
            and (dtype != torch.bfloat16 or _packs())
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

    def firsts(self, ids: Tensor, types: Tensor, lengths: Sequence[int]) -> Tensor:
        """(S, D) float32 hidden states of the first tokens of S sequences, without padding and what only it needs.

        ids, types  (N,) tokens of the sequences end to end
        lengths     tokens of each; it is faster where equal ones stand together

        In the last layer the other tokens are looked at, and not computed any further. Products have at least FEWEST
        rows, so that a sequence gets the same states to the last bit whatever stands beside it.
        """
        total, lengths = len(ids), [*lengths]
        if total < FEWEST:
            lengths += [1] * (FEWEST - total)
            ids, types = (functional.pad(one, (0, FEWEST - total)) for one in (ids, types))
        groups = [(length, len(list(equal))) for length, equal in groupby(lengths)]
        positions = torch.cat([torch.arange(length) for length in lengths])
        states = self._embeddings(input_ids=ids[None], token_type_ids=types[None], position_ids=positions[None])[0]
        for layer in self._layers[:-1]:
            query, key, value = layer.query_key_value(states.to(self._dtype)).chunk(3, dim=1)
            states = self._beyond(layer, states, self._attention(query, key, value, groups))
        key, value = self._last_key_value(states.to(self._dtype)).chunk(2, dim=1)
        starts = torch.tensor([0, *lengths[:-1]]).cumsum(0)
        states = filled(states[starts])
        query = self._last_query(states.to(self._dtype))
        found = self._attention(query, key, value, groups, firsts=True)
        return self._beyond(self._layers[-1], states, filled(found))[: len(starts)]

    def _attention(
        self, query: Tensor, key: Tensor, value: Tensor, groups: Sequence[tuple[int, int]], *, firsts: bool = False
    ) -> Tensor:
        """What tokens (N, D), or the first of every sequence, take from those of their own sequence.

        groups  length, and how many sequences of that length follow
        """

        def heads(states: Tensor, begin: int, rows: int, length: int) -> Tensor:
            part = states[begin : begin + rows * length]
            return part.view(rows, length, self._heads, states.shape[1] // self._heads).transpose(1, 2)

        parts, at, first = [], 0, 0
        for length, rows in groups:
            asking = heads(query, first, rows, 1) if firsts else heads(query, at, rows, length)
            found = functional.scaled_dot_product_attention(
                asking, heads(key, at, rows, length), heads(value, at, rows, length)
            )
            parts.append(found.transpose(1, 2).reshape(-1, query.shape[1]))
            at, first = at + rows * length, first + rows
        return torch.cat(parts)

    def _beyond(self, layer: Layer, states: Tensor, found: Tensor) -> Tensor:
        """What a layer makes of states, which are overwritten, and of what attention found for them."""
        states = layer.attended_norm(states.add_(layer.attended(found)))
        return layer.outer_norm(states.add_(layer.outer(layer.inner(states.to(self._dtype)))))

    def _layer(self, layer: Layer, states: Tensor, allowed: Tensor | None) -> Tensor:
        rows, length, width = states.shape
        projected = layer.query_key_value(states.to(self._dtype))
        split = projected.view(rows, length, 3, self._heads, width // self._heads).permute(2, 0, 3, 1, 4)
        found = functional.scaled_dot_product_attention(split[0], split[1], split[2], attn_mask=allowed)
        return self._beyond(layer, states, found.transpose(1, 2).reshape(rows, length, width))


def filled(states: Tensor) -> Tensor:
    """States (S, D), with rows of zeros behind them up to a multiple of FEWEST."""
    return functional.pad(states, (0, 0, 0, -len(states) % FEWEST))
