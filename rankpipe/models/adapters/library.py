"""Adapters that peft computes, and what all adapters have in common."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftConfig, PeftModel, RandLoraConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from rankpipe.errors import UsageError
from rankpipe.models.adapters.attached import Attached, Start
from rankpipe.models.adapters.export import PREFIX, Factors, write, write_lora
from rankpipe.models.adapters.settings import Adapter, Dora, Lora, Olora, Pissa, RandLora

NAME = "default"
"""What peft calls an adapter that has been given no name."""


class Adapted(Attached):
    """A network with a low-rank update on some of its layers; these, and the head, are what is trained.

    tuned  peft's view of the network
    """

    def __init__(self, network: nn.Module, start: Start, config: PeftConfig) -> None:
        super().__init__(network, start.head)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft 0.21 asks for a property that transformers renamed
            warnings.filterwarnings("ignore", "lora with eva")  # a hint at how to save memory
            self.tuned = cast(PeftModel, get_peft_model(network, config))  # type: ignore[arg-type]
        for name in self.head:
            network.get_submodule(name).requires_grad_(True)

    def export(self, folder: Path, base: str) -> None:
        """Write a plain LoRA and the head in peft's format."""
        write_lora(folder, base, self.factors(), self._head_modules())

    def merged(self) -> nn.Module:
        """The network alone, its weights updated."""
        plain: Any = copy.deepcopy(self.tuned.base_model)
        return plain.merge_and_unload().eval().requires_grad_(False)

    def factors(self) -> Factors:
        """The update of each layer's weight, in evaluation."""
        return {
            name: (layer.scaling[NAME] * layer.lora_B[NAME].weight.detach(), layer.lora_A[NAME].weight.detach())
            for name, layer in self.layers()
        }

    def layers(self) -> Iterator[tuple[str, Any]]:
        """The updated layers, by their names in the network."""
        return ((name, module) for name, module in self.network.named_modules() if isinstance(module, LoraLayer))

    def _head_modules(self) -> dict[str, nn.Module]:
        return {name: self.network.get_submodule(name) for name in self.head}

    def _part(self, name: str) -> str:
        return "adapter"


class Residual(Adapted):
    """LoRA that begins at a part of the weight, which is taken out of the frozen weight.

    What has been learnt is the product of the factors less the one they began at: a LoRA of twice the rank.

    began  the factors at first
    """

    def __init__(self, network: nn.Module, start: Start, config: LoraConfig) -> None:
        super().__init__(network, start, config)
        self.began = {name: (b.clone(), a.clone()) for name, (b, a) in super().factors().items()}

    def factors(self) -> Factors:
        """The update of the weight as it was before anything was taken out of it."""
        now = super().factors()
        return {
            name: (torch.cat([now[name][0], -b], dim=1), torch.cat([now[name][1], a]))
            for name, (b, a) in self.began.items()
        }

    def state_dict(self) -> dict[str, Tensor]:
        """The parameters, and the factors at first."""
        began = {
            f"began.{name}.{side}": x for name, pair in self.began.items() for side, x in zip("BA", pair, strict=True)
        }
        return {**super().state_dict(), **began}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state; where its decomposition came out otherwise, in the last bits, it is the one that counts."""
        here = {name: (b.clone(), a.clone()) for name, (b, a) in self.began.items()}
        super().load_state_dict(state)
        for name, layer in self.layers():
            (b, a), (saved_b, saved_a) = here[name], self.began[name]
            if not (torch.equal(b, saved_b) and torch.equal(a, saved_a)):
                layer.get_base_layer().weight.data += b @ a - saved_b @ saved_a


class Foreign(Adapted):
    """A method whose update has no low rank: it is saved as peft itself saves it."""

    def export(self, folder: Path, base: str) -> None:
        """Write the method's own format of peft, and the head."""
        config = copy.copy(self.tuned.peft_config[NAME])
        write(folder, base, config, self.tensors(), self._head_modules())

    def tensors(self) -> dict[str, Tensor]:
        """What is saved, by peft's names."""
        return get_peft_model_state_dict(self.tuned, save_embedding_layers=False)


class Decomposed(Foreign):
    """DoRA. The lengths of rows are saved as weights of a module, a name that peft and transformers both find.

    peft itself saves them as `lora_magnitude_vector`, which transformers, and with it sentence-transformers, passes
    over: rows then keep the lengths they began with, without an error.
    """

    def tensors(self) -> dict[str, Tensor]:
        """What is saved, by names that peft knows."""
        lengths = ".lora_magnitude_vector"
        return {
            f"{name}.weight" if name.endswith(lengths) else name: value for name, value in super().tensors().items()
        }


class FullRank(Foreign):
    """RandLoRA, whose layers share two random matrices.

    They are saved twice: under the name by which peft looks for them, and under that of one layer, since transformers
    looks there; the other layers get them with it. The seed is no substitute: another machine may draw in another precision.
    """

    def tensors(self) -> dict[str, Tensor]:
        """What is saved, by peft's names."""
        tensors = super().tensors()
        shared = [name for name in tensors if name.endswith((".randlora_A", ".randlora_B"))]
        layer = min(name.rpartition(".")[0] for name in shared if name.startswith(PREFIX))
        for name in shared:
            if name.rpartition(".")[0] in ("base_model", layer):
                tensors[name] = tensors[name].clone()
            else:
                del tensors[name]
        return tensors


def lora(network: nn.Module, settings: Lora, start: Start) -> Adapted:
    """LoRA, with either of two scales."""
    return Adapted(network, start, lora_config(settings, start, use_rslora=settings.rslora))


def dora(network: nn.Module, settings: Dora, start: Start) -> Decomposed:
    """DoRA."""
    return Decomposed(network, start, lora_config(settings, start, use_dora=True))


def pissa(network: nn.Module, settings: Pissa, start: Start) -> Residual:
    """PiSSA, by the whole singular value decomposition."""
    _check_rank(network, settings.r, start)
    return Residual(network, start, lora_config(settings, start, init_lora_weights="pissa"))


def olora(network: nn.Module, settings: Olora, start: Start) -> Residual:
    """OLoRA."""
    _check_rank(network, settings.r, start)
    return Residual(network, start, lora_config(settings, start, init_lora_weights="olora"))


def randlora(network: nn.Module, settings: RandLora, start: Start) -> FullRank:
    """RandLoRA."""
    config = RandLoraConfig(
        r=settings.r,
        randlora_alpha=settings.alpha,  # type: ignore[arg-type] - see lora_config
        randlora_dropout=settings.dropout,
        target_modules=list(start.targets),
        projection_prng_key=start.seed,
        save_projection=True,
    )
    return FullRank(network, start, config)


def lora_config(settings: Adapter, start: Start, **more: Any) -> LoraConfig:
    """What peft is told of a method of LoRA's family."""
    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,  # type: ignore[arg-type] - peft multiplies by it, whatever number it is
        lora_dropout=settings.dropout,
        target_modules=list(start.targets),
        **more,
    )


def _check_rank(network: nn.Module, rank: int, start: Start) -> None:
    """Refuse more ranks than the weight of a layer has."""
    for name in start.targets:
        shape = tuple(network.get_parameter(f"{name}.weight").shape)
        if rank > min(shape):
            raise UsageError(
                f"{rank} ranks are more than {name} has room for, whose weight is {shape}; at most {min(shape)}"
            )
