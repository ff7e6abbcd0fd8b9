"""Adapters that rankpipe computes: layers of its own in peft's place, by peft's seam for custom modules.

An update is B C A with a core C between the factors: here the first b ranks (DyLoRA), or a gate for every rank (SoRA).
peft's LoRA Linear does all but the core; `LoraConfig._register_custom_module`, which peft calls experimental, has it use
our class. What is saved is the plain LoRA that the three multiply to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.nn import functional

from rankpipe.models.adapters.attached import Start
from rankpipe.models.adapters.export import Factors, write_lora
from rankpipe.models.adapters.library import NAME, Adapted, lora_config
from rankpipe.models.adapters.settings import DyLora, Sora


class CoreLinear(Linear):
    """A linear layer whose update is the product of two factors that a subclass makes of its parameters."""

    def factors(self, *, training: bool) -> tuple[Tensor, Tensor]:
        """B (D_out, r) and A (r, D_in), the scale in one of them."""
        raise NotImplementedError

    def weights(self) -> tuple[Tensor, Tensor]:
        """B and A as they are trained."""
        b: Any = self.lora_B[NAME]
        a: Any = self.lora_A[NAME]
        return b.weight, a.weight

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The base layer's output and the update's."""
        if self.disable_adapters or self.merged:
            return super().forward(x, *args, **kwargs)
        b, a = self.factors(training=self.training)
        return self.base_layer(x) + functional.linear(functional.linear(self.lora_dropout[NAME](x), a), b)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """(D_out, D_in) update, which peft merges."""
        b, a = self.factors(training=False)
        return b @ a


class PrefixLinear(CoreLinear):
    """DyLoRA: the first ranks of the factors, as many as `rank` says.

    rank    how many in training
    kept    how many in evaluation
    frozen  of these ranks, the last one alone is trained
    """

    rank: int
    kept: int
    frozen: bool

    def factors(self, *, training: bool) -> tuple[Tensor, Tensor]:
        """The first b ranks, scaled by alpha / b."""
        rank = self.rank if training else self.kept
        b, a = self.weights()
        b, a = b[:, :rank], a[:rank]
        if training and self.frozen:
            b = torch.cat([b[:, :-1].detach(), b[:, -1:]], dim=1)
            a = torch.cat([a[:-1].detach(), a[-1:]])
        return self.lora_alpha[NAME] / rank * b, a


class GatedLinear(CoreLinear):
    """SoRA: a gate for every rank, between the factors."""

    adapter_layer_names = (*Linear.adapter_layer_names, "lora_gate")

    def update_layer(self, adapter_name: str, r: int, *args: Any, **kwargs: Any) -> None:
        """Draw the gates, and the factors as peft does."""
        self.lora_gate = nn.ParameterDict({adapter_name: nn.Parameter(torch.randn(r))})
        super().update_layer(adapter_name, r, *args, **kwargs)

    def factors(self, *, training: bool) -> tuple[Tensor, Tensor]:
        """s B diag(g) and A."""
        b, a = self.weights()
        return self.scaling[NAME] * b * self.lora_gate[NAME], a


class Cored(Adapted):
    """A network with layers of ours."""

    def factors(self) -> Factors:
        """What the layers make of their parameters in evaluation."""
        found = {name: layer.factors(training=False) for name, layer in self.layers()}
        return {name: (b.detach(), a.detach()) for name, (b, a) in found.items()}


class Dynamic(Cored):
    """DyLoRA: every step draws how many ranks it trains, from the seed and the step's number alone."""

    def __init__(self, network: nn.Module, start: Start, config: LoraConfig, settings: DyLora, seed: int) -> None:
        super().__init__(network, start, config)
        self.settings = settings
        self.seed = seed
        for _, layer in self.layers():
            layer.rank, layer.kept, layer.frozen = settings.r, settings.kept_rank, settings.frozen

    def before_step(self, step: int, steps: int) -> None:
        """Draw the rank of the step, from 1 to r, each as likely as any other."""
        rank = drawn_rank(self.seed, step, self.settings.r)
        for _, layer in self.layers():
            layer.rank = rank
        if self.settings.frozen:
            self._before = [[part.detach().clone() for part in layer.weights()] for _, layer in self.layers()]

    def after_step(self, step: int, steps: int, learning_rate: float) -> None:
        """With `frozen`, put back what the optimizer moved of the other ranks: its momentum goes on without gradients."""
        if not self.settings.frozen:
            return
        with torch.no_grad():
            for (_, layer), (old_b, old_a) in zip(self.layers(), self._before, strict=True):
                b, a = layer.weights()
                last = layer.rank - 1
                old_b[:, last], old_a[last] = b[:, last], a[last]
                b.copy_(old_b)
                a.copy_(old_a)

    def export(self, folder: Path, base: str) -> None:
        """Write a plain LoRA of the ranks that are evaluated, named as one that can be cut, and the head."""
        write_lora(folder, base, self.factors(), self._head_modules(), method=self.settings.method)


class Gated(Cored):
    """SoRA: after every step the gates are drawn towards zero, and what is closed is not exported."""

    def __init__(self, network: nn.Module, start: Start, config: LoraConfig, settings: Sora) -> None:
        super().__init__(network, start, config)
        self.settings = settings

    def gates(self) -> list[Tensor]:
        """(r,) gates of each layer."""
        return [layer.lora_gate[NAME] for _, layer in self.layers()]

    def penalty(self) -> Tensor | None:
        """The mean size of all gates, by its weight."""
        return self.settings.l1 * torch.cat(self.gates()).abs().mean() if self.settings.l1 else None

    def after_step(self, step: int, steps: int, learning_rate: float) -> None:
        """The proximal step: g <- S_t(g)."""
        with torch.no_grad():
            for gate in self.gates():
                gate.copy_(soft_threshold(gate, self.settings.threshold))

    def factors(self) -> Factors:
        """The ranks whose gates are open."""
        opened = [gate.detach() != 0 for gate in self.gates()]
        pairs = super().factors().items()
        return {name: (b[:, kept], a[kept]) for (name, (b, a)), kept in zip(pairs, opened, strict=True)}

    def _part(self, name: str) -> str:
        return "gate" if ".lora_gate." in name else "adapter"  # without decay: the threshold draws gates towards zero


def dylora(network: nn.Module, settings: DyLora, start: Start) -> Dynamic:
    """DyLoRA, by PrefixLinear."""
    return Dynamic(network, start, _with_layers_of(PrefixLinear, lora_config(settings, start)), settings, start.seed)


def sora(network: nn.Module, settings: Sora, start: Start) -> Gated:
    """SoRA, by GatedLinear."""
    return Gated(network, start, _with_layers_of(GatedLinear, lora_config(settings, start)), settings)


def drawn_rank(seed: int, step: int, r: int) -> int:
    """A rank from 1 to r, uniform over the steps of a seed."""
    return int(np.random.default_rng([seed, step]).integers(1, r, endpoint=True))


def soft_threshold(values: Tensor, threshold: float) -> Tensor:
    """S_t(x) = sign(x) max(|x| - t, 0)."""
    return values.sign() * (values.abs() - threshold).clamp(min=0)


def _with_layers_of(kind: type[CoreLinear], config: LoraConfig) -> LoraConfig:
    config._register_custom_module({nn.Linear: kind})
    return config
