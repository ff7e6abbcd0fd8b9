"""AdaLoRA: which ranks of which layers stay is decided while training. peft's allocator, really run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft import AdaLoraConfig
from torch import Tensor, nn

from rankpipe.models.adapters.attached import Start
from rankpipe.models.adapters.export import Factors
from rankpipe.models.adapters.library import NAME, Adapted
from rankpipe.models.adapters.settings import AdaLora


class Allocated(Adapted):
    """AdaLoRA: an update is B diag(E) A, and the entries of E that matter least become zero on a schedule."""

    def __init__(self, network: nn.Module, start: Start, config: AdaLoraConfig, settings: AdaLora) -> None:
        super().__init__(network, start, config)
        self.settings = settings
        self.allocator: Any = self.tuned.base_model.rankallocator
        for name, parameter in self._parts("lora_"):
            for kept in (self.allocator.ipt, self.allocator.exp_avg_ipt, self.allocator.exp_avg_unc):
                kept[name] = torch.zeros_like(parameter)
        self._config.rank_pattern = {name: [True] * e.shape[0] for name, e in self._parts("lora_E")}

    @property
    def may_be_kept(self) -> bool:
        """Whether no more ranks are open than were asked for: at the end of the allocation, and before the first step."""
        ranks = sum(int((e != 0).sum()) for _, e in self._parts("lora_E"))
        return ranks <= self.allocator.target_bgt

    def penalty(self) -> Tensor | None:
        """The mean of |P P^T - I| (Frobenius) over all factors P, by its weight; the paper's equation 4 squares them."""
        if not self.settings.orthogonality:
            return None
        factors = [a for _, a in self._parts("lora_A")] + [b.T for _, b in self._parts("lora_B")]
        far = [torch.linalg.norm(p @ p.T - torch.eye(p.shape[0], device=p.device)) for p in factors]
        return self.settings.orthogonality * torch.stack(far).mean()

    def after_step(self, step: int, steps: int, learning_rate: float) -> None:
        """Weigh every entry by parameters and gradients, and close those that are beyond the schedule's budget."""
        config = self._config
        config.total_step = steps
        config.tinit = int(self.settings.start * steps)
        last = max(int(self.settings.end * steps), config.tinit + 1)
        config.tfinal = steps - last
        kept = sum(map(sum, config.rank_pattern.values()))
        if step > last and kept > self.allocator.target_bgt:  # a phase that ended early jumped over the last decision
            # of weights that no step has touched yet, nothing is known of importance, and all of them would be closed
            self.allocator.update_ipt(self.network)
            config.rank_pattern = self.allocator.update_and_allocate(self.network, last, force_mask=True)[1]
        else:
            self.tuned.base_model.update_and_allocate(step)  # type: ignore[operator]

    def factors(self) -> Factors:
        """The ranks whose entry is not zero."""
        found = {}
        for name, layer in self.layers():
            e = layer.lora_E[NAME].detach()[:, 0]
            scale = layer.scaling[NAME] / (layer.ranknum[NAME] + 1e-5)  # peft's, with its guard against rank 0
            kept = e != 0
            found[name] = (
                layer.lora_B[NAME].detach()[:, kept] * (scale * e[kept]),
                layer.lora_A[NAME].detach()[kept],
            )
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """The parameters, and what the allocator remembers of their importance and of what it has closed."""
        state = super().state_dict()
        remembered = {"importance": self.allocator.exp_avg_ipt, "uncertainty": self.allocator.exp_avg_unc}
        for what, of_parts in remembered.items():
            for name, parameter in self._parts("lora_"):  # once all is decided, the allocator forgets
                there = of_parts.get(name)
                state[f"{what}.{name}"] = torch.zeros_like(parameter) if there is None else there
        for name, kept in self._config.rank_pattern.items():
            state[f"kept.{name}"] = torch.tensor(kept)
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state, the allocator's as well."""
        super().load_state_dict(state)
        for name, parameter in self._parts("lora_"):
            self.allocator.ipt[name] = torch.zeros_like(parameter)
            self.allocator.exp_avg_ipt[name] = state[f"importance.{name}"].clone()
            self.allocator.exp_avg_unc[name] = state[f"uncertainty.{name}"].clone()
        self._config.rank_pattern = {name: state[f"kept.{name}"].tolist() for name, _ in self._parts("lora_E")}

    @property
    def _config(self) -> Any:
        return self.tuned.peft_config[NAME]

    def _parts(self, part: str) -> list[tuple[str, nn.Parameter]]:
        """The parameters of all layers that have `part` in their name, such as lora_A."""
        return [(name, one) for name, one in self.network.named_parameters() if f".{part}" in name]


def adalora(network: nn.Module, settings: AdaLora, start: Start) -> Allocated:
    """AdaLoRA."""
    config = AdaLoraConfig(
        init_r=settings.first_rank,
        target_r=settings.r,
        lora_alpha=settings.alpha,  # type: ignore[arg-type] - peft multiplies by it, whatever number it is
        lora_dropout=settings.dropout,
        target_modules=list(start.targets),
        deltaT=settings.every,
        beta1=settings.beta1,
        beta2=settings.beta2,
        total_step=1,  # after_step says how many there are
    )
    return Allocated(network, start, config, settings)
