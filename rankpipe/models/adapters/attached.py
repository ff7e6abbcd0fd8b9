"""Attached: a network with what is trained of it. attach makes one, with an adapter or for full fine-tuning."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rankpipe.errors import ModelError, UsageError
from rankpipe.models.adapters.registry import AdapterSettings, entry_of, need_peft

Calibration = Callable[[], Iterator[dict[str, Tensor]]]
"""Gives batches of training pairs as the network takes them (input_ids, attention_mask, ...), as many as are asked for."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a method is told besides its settings.

    head         names of the modules that are trained as a whole and saved beside the adapter
    targets      names of the linear layers that are updated
    calibration  training pairs, for methods that look at them first
    seed         what is drawn by torch is drawn after it already
    """

    head: tuple[str, ...]
    targets: tuple[str, ...]
    calibration: Calibration | None
    seed: int


class Attached:
    """A network and what is trained of it: here all of it, and in the classes below an adapter and the head.

    A training step is: before_step, forward and backward of the loss plus penalty(), optimizer.step(), after_step,
    optimizer.zero_grad(). Steps are counted from 1 over the whole training, its phases together; it has `steps`.

    network  called as before it was attached
    head     names of the modules that are trained and saved with every adapter
    """

    def __init__(self, network: nn.Module, head: tuple[str, ...]) -> None:
        self.network = network
        self.head = head

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for a torch optimizer, named by what they hold. Vectors (biases, norms, gates) do not decay."""
        groups: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self._trained():
            part = "head" if _inside(name, self.head) else self._part(name)
            groups.setdefault(part if parameter.ndim > 1 else f"{part} vectors", []).append(parameter)
        return [
            {
                "name": name,
                "params": parameters,
                "lr": learning_rate,
                "weight_decay": 0.0 if name.endswith("vectors") else weight_decay,
            }
            for name, parameters in groups.items()
        ]

    @property
    def count(self) -> int:
        """Number of weights that are trained."""
        return sum(one.numel() for group in self.parameter_groups(0.0, 0.0) for one in group["params"])

    @property
    def may_be_kept(self) -> bool:
        """Whether training may leave the weights as they are now, if they are the best; else it goes on whatever they do."""
        return True

    def penalty(self) -> Tensor | None:
        """What is added to the loss of a step."""
        return None

    def before_step(self, step: int, steps: int) -> None:
        """To be called before the forward pass of a step."""

    def after_step(self, step: int, steps: int, learning_rate: float) -> None:
        """To be called after optimizer.step(), while the gradients are still there; learning_rate is the step's."""

    def state_dict(self) -> dict[str, Tensor]:
        """All that training has changed, by name: with it, one that was attached anew goes on to the same bits.

        As with torch's own, the tensors are those in use, not copies.
        """
        return {name: parameter.detach() for name, parameter in self._trained()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state. Raises ModelError where it is that of another network or adapter."""
        own = self.state_dict()
        if own.keys() != state.keys():
            name = min(own.keys() ^ state.keys())
            place = "is missing in" if name in own else "is not trained here, but is in"
            raise ModelError(f"the saved state is that of another training: {name} {place} it")
        for name, value in own.items():
            if value.shape != state[name].shape:
                shapes = f"{tuple(state[name].shape)}, here {tuple(value.shape)}"
                raise ModelError(f"the saved state is that of another training: {name} has the shape {shapes}")
            value.copy_(state[name])

    def export(self, folder: Path, base: str) -> None:
        """Write an adapter and the head in peft's format; `base` is what peft will open the network from."""
        raise UsageError("full fine-tuning leaves no adapter to export; save the network that merged() gives")

    def merged(self) -> nn.Module:
        """A copy of the network as it was before it was attached, with all that was trained in its own weights."""
        return copy.deepcopy(self.network).eval().requires_grad_(False)

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, parameter) for name, parameter in self.network.named_parameters() if parameter.requires_grad)

    def _part(self, name: str) -> str:
        """What a parameter outside of the head belongs to: a group of its own."""
        return "network"


def attach(
    network: nn.Module,
    settings: AdapterSettings | None,
    *,
    drawn: Sequence[str] = (),
    calibration: Calibration | None = None,
    seed: int,
) -> Attached:
    """Put an adapter on a sequence classifier of transformers, or, without settings, make all of it trainable.

    The network itself is changed. What is drawn at random depends on the seed only, and torch's own state of random
    numbers stays as it was. The head is always trained: all modules beside the network's body, and those that hold
    weights of `drawn`.

    drawn        names of weights that the checkpoint did not have, so that they were drawn: from_pretrained's missing_keys
    calibration  needed by methods that look at training pairs first: eva
    """
    head = head_of(network, drawn)
    if settings is None:
        network.requires_grad_(True)
        return Attached(network, head)
    need_peft(settings)
    build = entry_of(settings).builder()
    targets = linear_targets(network, head, settings.targets)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build(network, settings, Start(head=head, targets=targets, calibration=calibration, seed=seed))


def head_of(network: nn.Module, drawn: Sequence[str]) -> tuple[str, ...]:
    """Names of the modules that are trained as a whole: those beside the network's body, and those freshly drawn."""
    body = getattr(network, "base_model_prefix", None)
    children = dict(network.named_children())
    if body not in children:
        raise ModelError(f"a {type(network).__name__} is no sequence classifier of transformers: it has no body")
    head = [name for name, child in children.items() if name != body and any(True for _ in child.parameters())]
    missing = set(drawn)
    for name, module in network.named_modules():  # outer before inner
        inner = [f"{name}.{one}" for one, _ in module.named_parameters()]
        own = {f"{name}.{one}" for one, _ in module.named_parameters(recurse=False)}
        if name and inner and not _inside(name, head) and (missing.issuperset(inner) or own & missing):
            head.append(name)
    return tuple(head)


def linear_targets(network: nn.Module, head: Sequence[str], targets: str | Sequence[str]) -> tuple[str, ...]:
    """Names of the linear layers outside of the head: all, or those that `targets` names or names the end of.

    Raises UsageError for a target that names none, ModelError where there are none.
    """
    names = [
        name for name, module in network.named_modules() if isinstance(module, nn.Linear) and not _inside(name, head)
    ]
    if not names:
        raise ModelError(f"a {type(network).__name__} has no linear layer outside of its head, so no adapter fits")
    if isinstance(targets, str):
        return tuple(names)
    for target in targets:
        if not any(_ends_with(name, target) for name in names):
            ends = sorted({end for name in names for end in _ends(name)})
            near = get_close_matches(target, ends, n=1)
            hint = (
                f"did you mean {near[0]!r}?"
                if near
                else f"there are: {', '.join(sorted({n.rpartition('.')[2] for n in names}))}"
            )
            raise UsageError(
                f"adapter target {target!r} names no linear layer of a {type(network).__name__} outside of its head; {hint}"
            )
    return tuple(name for name in names if any(_ends_with(name, target) for target in targets))


def _inside(name: str, modules: Sequence[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _ends(name: str) -> Iterator[str]:
    """A dotted name, and what is left of it as its first parts are taken away."""
    parts = name.split(".")
    return (".".join(parts[start:]) for start in range(len(parts)))
