"""A layer with a low-rank update in one product, for training: what peft does beside the frozen weight goes into it.

The update is added to the weight, which is small beside all the tokens of a step: W' = W + B A, and y = x W'^T + b.
Backward, the products are those of the frozen weight, and four thin ones: dx = dy W', dB = dy^T (x A^T),
dA = (dy B)^T x. As much as peft computes, in far fewer passes through memory.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.adalora import SVDLinear
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn import functional

from rankpipe.models.adapters.core import CoreLinear
from rankpipe.models.adapters.library import NAME


def applied(layer: nn.Module, states: Tensor) -> Tensor:
    """(..., D_out) what `layer(states)` gives, in one product where the layer's update is one of two factors alone."""
    pair = low_rank(layer)
    if pair is None:
        return layer(states)
    base: Any = layer.base_layer
    return LowRank.apply(states, base.weight, base.bias, *pair)  # type: ignore[return-value]


def low_rank(layer: nn.Module) -> tuple[Tensor, Tensor] | None:
    """B (D_out, r) and A (r, D_in) of a layer as it computes now; None where it does more, or is no adapter's.

    Gradients flow from both to what is trained.
    """
    if not isinstance(layer, (Linear, SVDLinear)) or layer.disable_adapters or layer.merged:
        return None
    if layer.training and isinstance(dropout := layer.lora_dropout[NAME], nn.Dropout) and dropout.p > 0:
        return None
    if isinstance(layer, CoreLinear):
        return layer.factors(training=layer.training)
    scale: Any = layer.scaling[NAME]
    b, a = (part[NAME] for part in (layer.lora_B, layer.lora_A))  # modules of LoRA, parameters of AdaLoRA
    if isinstance(layer, SVDLinear):
        return scale / (layer.ranknum[NAME] + 1e-5) * b, a * layer.lora_E[NAME]  # type: ignore[operator]
    return None if layer.lora_variant else (scale * b.weight, a.weight)  # type: ignore[union-attr]


class LowRank(torch.autograd.Function):
    """x (..., D_in) through a weight (D_out, D_in) that takes no gradient, and an update B A that does."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, b: Tensor, a: Tensor) -> Tensor:
        """Under autocast, in its precision."""
        kind = states.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
        ctx.dtypes = states.dtype, a.dtype
        with torch.autocast(kind, enabled=False):
            whole, states = torch.addmm(weight, b, a).to(dtype), states.to(dtype)
            ctx.save_for_backward(states, whole, b.to(dtype), a.to(dtype))
            return functional.linear(states, whole, None if bias is None else bias.to(dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor]:
        """Gradients of the input and of both factors."""
        states, whole, b, a = ctx.saved_tensors
        outer, inner = grads[0].flatten(0, -2), states.flatten(0, -2)
        to_states = (grads[0] @ whole).to(ctx.dtypes[0]) if ctx.needs_input_grad[0] else None
        to_b = outer.T @ (inner @ a.T)
        to_a = (outer @ b).T @ inner
        return to_states, None, None, to_b.to(ctx.dtypes[1]), to_a.to(ctx.dtypes[1])
