"""EVA: the first factor of each layer begins at the principal components of what the layer sees of training pairs.

Paischer et al., 2024, arXiv:2410.07170. The components are computed exactly, from the covariance of all calibration
tokens, in one pass; peft looks for the same ones batch by batch until they no longer move.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from peft import EvaConfig
from peft.tuners.lora.eva import initialize_lora_eva_weights
from torch import Tensor, nn

from rankpipe.errors import UsageError
from rankpipe.models.adapters.attached import Start
from rankpipe.models.adapters.export import PREFIX
from rankpipe.models.adapters.library import Adapted, lora_config
from rankpipe.models.adapters.settings import Eva


class Components(NamedTuple):
    """Principal components of a layer's inputs, the strongest first.

    directions  (k, D_in), orthonormal rows
    shares      (k,) of the inputs' variance
    """

    directions: Tensor
    shares: Tensor


def eva(network: nn.Module, settings: Eva, start: Start) -> Adapted:
    """LoRA whose first factors are principal components, and whose ranks are shared out by the variance they explain."""
    if start.calibration is None:
        raise UsageError("adapter method 'eva' looks at training pairs first, and attach was given no calibration")
    most = round(settings.r * settings.rho)
    found = principal_components(network, start.targets, _first(settings.pairs, start.calibration()), most)
    budget, there = settings.r * len(found), sum(len(one.shares) for one in found.values())
    if there < budget:
        raise UsageError(
            f"adapter method 'eva' shares out {budget} ranks, and the calibration pairs have {there} components; lower "
            "r, or take more pairs"
        )
    ranks = shared_ranks({name: one.shares for name, one in found.items()}, budget)
    adapted = Adapted(network, start, lora_config(settings, start, init_lora_weights="eva", eva_config=EvaConfig()))
    begins: dict[str, Any] = {f"{PREFIX}{name}": one.directions[: ranks[name]] for name, one in found.items()}
    initialize_lora_eva_weights(adapted.tuned, eva_state_dict=begins)  # scales alpha, so that alpha / rank stays
    return adapted


def principal_components(
    network: nn.Module, layers: Iterable[str], batches: Iterable[Mapping[str, Tensor]], most: int
) -> dict[str, Components]:
    """At most `most` components of what each linear layer sees of tokens that are no padding.

    A layer that sees one vector of a pair, as a pooler does, sees it at its first token.
    """
    sums = {name: _Sums(network.get_parameter(f"{name}.weight").shape[1]) for name in layers}
    device = next(network.parameters()).device
    mask = torch.empty(0)

    def look(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            sums[name].add(inputs[0][mask] if inputs[0].ndim == 3 else inputs[0])

        return hook

    hooks = [network.get_submodule(name).register_forward_pre_hook(look(name)) for name in sums]
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                inputs = {name: value.to(device) for name, value in batch.items()}
                mask = inputs["attention_mask"].bool()
                network(**inputs)
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return {name: one.components(most) for name, one in sums.items()}


def shared_ranks(shares: Mapping[str, Tensor], budget: int) -> dict[str, int]:
    """How many of its components each layer gets: the `budget` largest shares of variance over all layers.

    Of equal shares, those of earlier layers come first.
    """
    every = [(-share, position, name) for position, (name, one) in enumerate(shares.items()) for share in one.tolist()]
    ranks = dict.fromkeys(shares, 0)
    for _, _, name in sorted(every)[:budget]:
        ranks[name] += 1
    return ranks


def _first(count: int, batches: Iterable[Mapping[str, Tensor]]) -> Iterator[Mapping[str, Tensor]]:
    """Batches that hold so many pairs together."""
    for batch in batches:
        yield {name: value[:count] for name, value in batch.items()}
        count -= len(batch["input_ids"])
        if count <= 0:
            return


class _Sums:
    """Sums over what a layer saw, from which the covariance follows."""

    def __init__(self, size: int) -> None:
        self.count = 0
        self.sum = torch.zeros(size, dtype=torch.float64)
        self.products = torch.zeros(size, size, dtype=torch.float64)

    def add(self, seen: Tensor) -> None:
        """Add vectors (N, D_in)."""
        seen = seen.float()
        self.count += len(seen)
        self.sum += seen.sum(dim=0).double().cpu()
        self.products += (seen.T @ seen).double().cpu()

    def components(self, most: int) -> Components:
        """The strongest eigenvectors of the covariance; N vectors have N - 1 at most."""
        mean = self.sum / max(self.count, 1)
        values, vectors = torch.linalg.eigh(self.products / max(self.count, 1) - torch.outer(mean, mean))
        kept = max(min(most, len(mean), self.count - 1), 0)
        values = values.flip(0).clamp(min=0)
        return Components(vectors.flip(1)[:, :kept].T.float().contiguous(), values[:kept] / values.sum())
