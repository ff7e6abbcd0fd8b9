"""BERT over sequences that are laid end to end, for training: nothing is computed that the result does not depend on.

There is no padding but in attention; and where the first token alone is looked at, as the head of a classifier does, the
last layer computes only what that token needs: keys and values of all tokens, everything else of the first ones. With
six layers that is a seventh less work, for the same scores. The modules of the network itself are called, so weights
and adapters get their gradients. Devlin, Chang, Lee and Toutanova, NAACL 2019, arXiv 1810.04805.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

ROWS = 8
"""Sequences, at least, that attention pads to one length; they are neighbours by length."""
PADDED = 1.1
"""How many times the tokens that there are such a block may have, padding included, to take in more sequences."""


def recomputing(network: Any) -> None:
    """Have a network of transformers keep only what goes into its layers, as PackedBody does with `recompute`."""
    network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


class Block(NamedTuple):
    """Sequences that attention is computed for together.

    first       the first of them among all
    begin, end  their tokens among all
    places      (end - begin,) int64 places of the tokens among rows * length padded ones; None if there is no padding
    mask        (rows, 1, 1, length) true where a token is; None if there is no padding
    """

    first: int
    begin: int
    end: int
    rows: int
    length: int
    places: Tensor | None
    mask: Tensor | None


class PackedBody:
    """Hidden states of a BertModel."""

    def __init__(self, bert: Any, *, recompute: bool = False) -> None:
        """Take a network; with `recompute`, only what goes into a layer is kept until its gradients are computed.

        Chen, Xu, Zhang and Guestrin, arXiv 1604.06174: a second forward pass for memory that does not grow with layers.
        """
        self._bert, self._recompute = bert, recompute
        self._heads = bert.config.num_attention_heads

    @staticmethod
    def fits(bert: Any) -> bool:
        """Whether this can stand for a network's own forward."""
        return (
            type(bert).__name__ == "BertModel"
            and getattr(bert.config, "position_embedding_type", None) in (None, "absolute")
            and not bert.config.is_decoder
        )

    def states(
        self,
        tokens: Sequence[NDArray[np.int64]],
        types: Sequence[NDArray[np.int64]] | None,
        device: torch.device,
        *,
        firsts: bool,
    ) -> Tensor:
        """(T, D) last hidden states of all tokens of sequences, or with `firsts` (S, D) of the first of each.

        tokens  S sequences, in rising order of their lengths
        types   token types of each; None: 0
        """
        bert, lengths = self._bert, [len(one) for one in tokens]
        ids = torch.from_numpy(np.concatenate(tokens)).to(device)
        kinds = torch.zeros_like(ids) if types is None else torch.from_numpy(np.concatenate(types)).to(device)
        positions = torch.from_numpy(np.concatenate([np.arange(length) for length in lengths])).to(device)
        embeddings = bert.embeddings
        states = embeddings.word_embeddings(ids) + embeddings.token_type_embeddings(kinds)
        states = states + embeddings.position_embeddings(positions)
        states = embeddings.dropout(embeddings.LayerNorm(states))
        blocks = _blocks(lengths, device)
        *layers, last = bert.encoder.layer
        for layer in layers:
            if self._recompute and torch.is_grad_enabled():
                states = checkpoint(self._layer, layer, states, blocks, use_reentrant=False)
            else:
                states = self._layer(layer, states, blocks)
        begins = torch.from_numpy(np.cumsum([0, *lengths[:-1]])).to(device) if firsts else None
        return self._layer(last, states, blocks, begins)

    def _layer(self, layer: Any, states: Tensor, blocks: Sequence[Block], firsts: Tensor | None = None) -> Tensor:
        """States after a layer, (T, D), or with `firsts` those of the first tokens alone, (S, D)."""
        attention = layer.attention
        drop = attention.self.dropout.p if attention.self.training else 0.0
        key, value = self._linear(attention.self.key, states), self._linear(attention.self.value, states)
        if firsts is not None:
            states = states[firsts]
        query = self._linear(attention.self.query, states)
        found = torch.cat([self._attended(block, query, key, value, drop, firsts is not None) for block in blocks])
        output = attention.output
        states = output.LayerNorm(output.dropout(self._linear(output.dense, found)) + states)
        inner = layer.intermediate.intermediate_act_fn(self._linear(layer.intermediate.dense, states))
        return layer.output.LayerNorm(layer.output.dropout(self._linear(layer.output.dense, inner)) + states)

    def _linear(self, layer: nn.Module, states: Tensor) -> Tensor:
        """What a linear layer gives, adapted or not."""
        if isinstance(layer, nn.Linear):
            return layer(states)
        from rankpipe.models.adapters.fused import applied  # brings peft, which adapters alone need

        return applied(layer, states)

    def _attended(
        self, block: Block, query: Tensor, key: Tensor, value: Tensor, drop: float, only_firsts: bool
    ) -> Tensor:
        """(tokens of the block, D), or of its first tokens alone, which the query then has alone."""
        key, value = (self._split(block, part[block.begin : block.end]) for part in (key, value))
        if only_firsts:
            query = query[block.first : block.first + block.rows].view(block.rows, 1, self._heads, -1).transpose(1, 2)
            found = functional.scaled_dot_product_attention(query, key, value, attn_mask=block.mask, dropout_p=drop)
            return found.reshape(block.rows, -1)
        query = self._split(block, query[block.begin : block.end])
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=block.mask, dropout_p=drop)
        found = found.transpose(1, 2).reshape(block.rows * block.length, -1)
        return found if block.places is None else Taken.apply(found, block.places)  # type: ignore[return-value]

    def _split(self, block: Block, states: Tensor) -> Tensor:
        """(rows, heads, length, D / heads) of the block's tokens."""
        if block.places is not None:
            states = Spread.apply(states, block.places, block.rows * block.length)  # type: ignore[assignment]
        return states.view(block.rows, block.length, self._heads, -1).transpose(1, 2)


class PackedBert:
    """Scores of a BertForSequenceClassification with one output."""

    def __init__(self, network: Any, *, recompute: bool = False) -> None:
        self._network, self._body = network, PackedBody(network.bert, recompute=recompute)

    @staticmethod
    def fits(network: Any) -> bool:
        """Whether this can stand for a network's own forward."""
        return type(network).__name__ == "BertForSequenceClassification" and PackedBody.fits(network.bert)

    def __call__(
        self, sequences: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], device: torch.device
    ) -> Tensor:
        """(S,) scores of sequences of tokens and token types, given in rising order of their lengths."""
        tokens, types = zip(*sequences, strict=True)
        pooler = self._network.bert.pooler
        pooled = pooler.activation(pooler.dense(self._body.states(tokens, types, device, firsts=True)))
        return self._network.classifier(self._network.dropout(pooled))[:, 0].float()


class Spread(torch.autograd.Function):
    """Rows put at places among more rows, the others zero."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, places: Tensor, rows: int) -> Tensor:
        """(T, D) to (rows, D)."""
        ctx.save_for_backward(places)
        return states.new_zeros(rows, states.shape[1]).index_copy_(0, places, states)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """The gradients at the places."""
        return grads[0].index_select(0, ctx.saved_tensors[0]), None, None


class Taken(torch.autograd.Function):
    """Rows taken from places, no place twice: the inverse of Spread, and its gradient is no sum."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, places: Tensor) -> Tensor:
        """(rows, D) to (T, D)."""
        ctx.save_for_backward(places)
        ctx.rows = states.shape[0]
        return states.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """The gradients put at their places."""
        return grads[0].new_zeros(ctx.rows, grads[0].shape[1]).index_copy_(0, ctx.saved_tensors[0], grads[0]), None


def _blocks(lengths: Sequence[int], device: torch.device) -> list[Block]:
    """Blocks of neighbours; lengths rise."""
    blocks: list[Block] = []
    begin = token = 0
    while begin < len(lengths):
        end = begin + 1
        while end < len(lengths) and (
            end - begin < ROWS or (end + 1 - begin) * lengths[end] <= PADDED * sum(lengths[begin : end + 1])
        ):
            end += 1
        part = lengths[begin:end]
        length, tokens = part[-1], sum(part)
        places = mask = None
        if tokens < length * len(part):
            there = torch.arange(length) < torch.tensor(part)[:, None]
            places, mask = there.flatten().nonzero()[:, 0].to(device), there[:, None, None].to(device)
        blocks.append(Block(begin, token, token + tokens, len(part), length, places, mask))
        begin, token = end, token + tokens
    return blocks
