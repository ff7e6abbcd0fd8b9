"""Attention that the last tokens of a prompt pay to all of its tokens, read layer by layer as a network computes.

The prefix of a prompt is computed once and its keys and values are kept; any number of suffixes are then computed behind
it. Of a suffix, the whole attention (S, T) is small, so it is computed outright, in float32, and its mean over the
suffix's tokens is what is read. The attention of the prefix's own tokens is never materialised.

This goes through the attention interface of transformers, so every network that takes its attention function from there
is read, whatever its architecture. Layers above the highest that is wanted are not computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from rankpipe.errors import ModelError

NAME = "rankpipe_rows"
"""Of the attention function."""
STRANGE = ("softcap", "s_aux", "position_bias")
"""What some networks do to attention beside the softmax, which is not done here."""
ROWS = 1024
"""Rows of attention, of a weight for each token of the prompt, that stand in memory at once: a group of heads has each
for some of the suffix's tokens. A suffix that is longer is taken in parts."""
BLOCK = 256
"""Tokens of the prefix that a sliding window is applied to at once: their mask has only what the window reaches."""
READ = ("full_attention", "sliding_attention")
"""Kinds of layers, by their names in a config of transformers, whose tokens attend to what is taken for granted here."""


class _Done(Exception):
    """The highest layer that is wanted has been read."""


@dataclass(kw_only=True)
class _Pass:
    """A pass of the network.

    top     the highest layer that is wanted
    prefix  keys and values of each layer; None: this pass computes them
    kept    layer -> keys (G, P, d) and values of this pass, G groups of heads
    read    layer -> (H, T) mean over the suffix's tokens
    """

    top: int
    wanted: frozenset[int] = frozenset()
    prefix: Mapping[int, tuple[Tensor, Tensor]] | None = None
    kept: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    read: dict[int, Tensor] = field(default_factory=dict)


_current: ContextVar[_Pass] = ContextVar("rankpipe_attention_pass")


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of one layer, as transformers calls it: query (1, H, S, d), key and value (1, G, S, d) -> (1, S, H, d)."""
    one, layer = _current.get(), int(module.layer_idx)
    if (strange := _strange(module, query, value, attention_mask, options)) is not None:
        raise ModelError(f"the attention of a {type(module).__name__} {strange}, which is not supported")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = options.get("sliding_window")
    if one.prefix is None:
        if layer in one.kept:
            raise ModelError(
                f"the attention of a {type(module).__name__} is computed twice in a layer, which is not supported"
            )
        one.kept[layer] = (key[0], value[0])
        if layer == one.top:
            raise _Done
        if window is None or window >= key.shape[2]:
            out = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True)
        else:
            out = _windowed(query, key, value, scale, window)
        return out.transpose(1, 2), None
    keys, values = one.prefix[layer]
    keys = torch.cat([keys, key[0]], dim=1)
    values = torch.cat([values, value[0]], dim=1)
    out, means = _rows(query[0], keys, values, scale, window)
    if layer in one.wanted:
        one.read[layer] = means
    if layer == one.top:
        raise _Done
    return out.transpose(0, 1)[None], None


def _strange(module: Any, query: Tensor, value: Tensor, mask: Tensor | None, options: Mapping[str, Any]) -> str | None:
    """What an attention does that is not done here, if anything."""
    if mask is not None:  # transformers made none, see _no_mask
        return "has a mask of its own"
    if found := next((name for name in STRANGE if options.get(name) is not None), None):
        return f"has a {found}"
    if getattr(module, "is_causal", True) is False:
        return "reaches tokens that come later"
    if value.shape[-1] != query.shape[-1]:
        return f"has values of {value.shape[-1]} dimensions and keys of {query.shape[-1]}"
    return None


def _rows(query: Tensor, keys: Tensor, values: Tensor, scale: float, window: int | None) -> tuple[Tensor, Tensor]:
    """Attention of the last S of T tokens: outputs (H, S, d), and weights (H, T), their mean over the S tokens.

    query (H, S, d), keys and values (G, T, d); one group of heads after the other and few tokens at once, so that ROWS of
    the weights are all that stands in memory.
    """
    heads, rows, width = query.shape
    groups, length, _ = keys.shape
    out, means = torch.empty_like(query), query.new_zeros((heads, length), dtype=torch.float32)
    each = heads // groups
    step = max(1, ROWS // each)
    for begin in range(0, rows, step):
        end = min(begin + step, rows)
        hidden = ~_seen(slice(length - rows + begin, length - rows + end), slice(0, length), window, query.device)
        for group in range(groups):
            part = slice(group * each, (group + 1) * each)
            scores = query[part, begin:end].float().reshape(-1, width) @ keys[group].float().T
            weights = scores.mul_(scale).view(each, -1, length).masked_fill_(hidden, float("-inf")).softmax(-1)
            means[part] += weights.sum(1)
            mixed = weights.to(values.dtype).reshape(-1, length) @ values[group]
            out[part, begin:end] = mixed.view(each, -1, width)
    return out, means.div_(rows)


def _windowed(query: Tensor, key: Tensor, value: Tensor, scale: float, window: int) -> Tensor:
    """Attention (1, H, T, d) of tokens to themselves and those before them, `window` in all."""
    length, out = key.shape[2], torch.empty_like(query)
    for begin in range(0, length, BLOCK):
        end = min(begin + BLOCK, length)
        reached = slice(max(0, begin - window + 1), end)
        seen = _seen(slice(begin, end), reached, window, query.device)
        out[:, :, begin:end] = scaled_dot_product_attention(
            query[:, :, begin:end],
            key[:, :, reached],
            value[:, :, reached],
            attn_mask=seen,
            scale=scale,
            enable_gqa=True,
        )
    return out


def _seen(tokens: slice, others: slice, window: int | None, device: torch.device) -> Tensor:
    """(tokens, others) true where a token sees another one: itself and those before it, `window` in all; None: all."""
    at = torch.arange(tokens.start, tokens.stop, device=device)[:, None]
    other = torch.arange(others.start, others.stop, device=device)[None, :]
    return other <= at if window is None else (other <= at) & (other > at - window)


def _no_mask(*_: Any, **__: Any) -> None:
    """Masks are made where attention is computed."""


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, _no_mask)


class Prefix:
    """Keys and values of the first P tokens of a prompt, in every layer up to the highest that was wanted."""

    def __init__(self, kept: Mapping[int, tuple[Tensor, Tensor]], size: int) -> None:
        self.kept, self.size = kept, size


class AttentionReader:
    """A network whose attention is read; by several threads at once, too.

    layers  of the network, L
    heads   of each layer, H
    """

    def __init__(self, network: Any) -> None:
        """Take a base network of transformers, without a head. Raises ModelError where its attention cannot be read."""
        config = network.config.get_text_config()
        self.layers, self.heads = int(config.num_hidden_layers), int(config.num_attention_heads)
        kinds = getattr(config, "layer_types", None) or ()
        if other := next((kind for kind in kinds if kind not in READ), None):
            raise ModelError(
                f"a {type(network).__name__} has layers of the kind {other}, which is not supported; choose a model whose "
                f"layers are {' or '.join(READ)}"
            )
        self._network, self._device = network, next(network.parameters()).device
        network.set_attn_implementation(NAME)
        self._check()

    @torch.inference_mode()
    def prefix(self, ids: Sequence[int] | Any, top: int | None = None) -> Prefix:
        """Compute the first tokens (P,) of a prompt, up to a layer; by default, all."""
        one = self._run(ids, 0, top=self.layers - 1 if top is None else top)
        return Prefix(one.kept, len(ids))

    @torch.inference_mode()
    def rows(self, prefix: Prefix, ids: Sequence[int] | Any, layers: Sequence[int] | None = None) -> Tensor:
        """(W, H, P + S) float32: what tokens (S,) behind a prefix attend to, their mean, in each of the W layers."""
        wanted = list(range(self.layers) if layers is None else layers)
        one = self._run(ids, prefix.size, top=max(wanted), wanted=frozenset(wanted), prefix=prefix.kept)
        return torch.stack([one.read[layer] for layer in wanted])

    def _run(self, ids: Any, begin: int, **what: Any) -> _Pass:
        tokens = torch.as_tensor(ids, dtype=torch.long, device=self._device)[None]
        places = torch.arange(begin, begin + tokens.shape[1], device=self._device)[None]
        with reading(**what) as one:
            try:
                self._network(input_ids=tokens, position_ids=places, use_cache=False)
            except _Done:
                return one
        kind = type(self._network).__name__
        raise ModelError(f"a {kind} has layers without attention that can be read; choose a model that is a decoder")

    def _check(self) -> None:
        """Raise ModelError unless every layer of the network calls the attention function."""
        with torch.inference_mode():
            one = self._run([0, 0], 0, top=self.layers - 1)
        if sorted(one.kept) != list(range(self.layers)):
            missing = next(layer for layer in range(self.layers) if layer not in one.kept)
            raise ModelError(
                f"layer {missing} of a {type(self._network).__name__} has no attention that can be read: it is of "
                "another kind, such as linear attention or a state space"
            )


@contextmanager
def reading(**what: Any) -> Iterator[_Pass]:
    """Within the block, attention is computed for a pass of the network, see _Pass."""
    one = _Pass(**what)
    token = _current.set(one)
    try:
        yield one
    finally:
        _current.reset(token)
