"""Trainer of a cross-encoder: the network, and how the loss of a step and its gradients are computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from rankpipe.data import Dataset
from rankpipe.errors import UsageError
from rankpipe.models.adapters.attached import attach
from rankpipe.models.adapters.diagnose import intruder_dimensions
from rankpipe.models.pairs import PairReader
from rankpipe.models.recipe import transformer_settings
from rankpipe.training import losses
from rankpipe.training.development import HeldOutLoss, Reranking
from rankpipe.training.examples import Group
from rankpipe.training.loop import PhasePlan, Plan
from rankpipe.training.material import Material
from rankpipe.training.networks import open_cross_encoder
from rankpipe.training.pairs import Pair, PairTexts
from rankpipe.training.recipe import CrossEncoderRecipe, Distil, Labels, Phase
from rankpipe.training.scoring import PairScorer

STEP_TOKENS = {"cpu": 32_768, "mps": 32_768, "cuda": 131_072}
"""Tokens of groups whose activations are kept together until their gradients are computed, by the kind of device."""
CALIBRATED = 32
"""Steps whose pairs an adapter may look at before it is trained."""

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of scores, targets and presence (N, G): a value per group (N,)."""


def loss_of(phase: Phase) -> Loss:
    """The loss that a phase names, with its settings."""
    if isinstance(phase, Distil):
        if phase.loss == "kl":
            return lambda s, t, there: losses.kl(s, t, there, phase.temperature)
        return losses.margin_mse
    if not isinstance(phase, Labels):
        raise UsageError(f"a cross-encoder has no phase {type(phase).__name__}")
    return {
        "binary": losses.binary,
        "ranknet": losses.ranknet,
        "margin": lambda s, t, there: losses.margin(s, t, there, phase.margin),
        "softmax": lambda s, t, there: losses.softmax(s, t, there, phase.temperature),
        "lambda": losses.lambda_ndcg,
        "list-mle": losses.list_mle,
    }[phase.loss]


class Trainer:
    """The network and how a step's loss and gradients are computed.

    drawn    names of weights that the folder does not have: a head's, drawn from the recipe's seed
    trained  the network, and what of it is trained
    """

    def __init__(
        self,
        recipe: CrossEncoderRecipe,
        dataset: Dataset,
        material: Material,
        base: Path,
        *,
        device: torch.device,
        dtype: torch.dtype,
        batch_tokens: int | None,
    ) -> None:
        self._recipe, self._dataset, self._material, self._device = recipe, dataset, material, device
        lower_case = bool(transformer_settings(base).get("do_lower_case"))
        reader = PairReader(base, max_length=recipe.max_length, lower_case=lower_case)
        self._texts = PairTexts(reader, dataset.corpus, recipe.fields)
        network, self.drawn = open_cross_encoder(base, recipe.seed, dropout=recipe.dropout, device=device)
        self._before = {
            name: layer.weight.detach().cpu().clone()
            for name, layer in network.named_modules()
            if isinstance(layer, nn.Linear) and f"{name}.weight" not in self.drawn
        }
        self._scores = PairScorer(network, device=device, dtype=dtype, batch_tokens=batch_tokens)
        self.trained = attach(
            network, recipe.adapter, drawn=self.drawn, calibration=self._calibration, seed=recipe.seed
        )

    @property
    def trained_parameters(self) -> int:
        """Number of weights that are trained."""
        groups = self.trained.parameter_groups(0.0, 0.0)
        return sum(parameter.numel() for group in groups for parameter in group["params"])

    @property
    def measured(self) -> str:
        """Name of what decides."""
        return "-loss" if self._material.run is None else self._recipe.development.measure

    def intruders(self, merged: nn.Module) -> dict[str, int]:
        """Intruder dimensions of the linear layers that the network began with."""
        after = {name: merged.get_submodule(name).weight.detach().cpu() for name in self._before}  # type: ignore[union-attr]
        return intruder_dimensions(self._before, after)

    def plan(self) -> Plan:
        """What the loop is to do."""
        development = self._recipe.development
        return Plan(
            phases=[self._phase(number, phase) for number, phase in enumerate(self._recipe.phases)],
            measure=self._measure(),
            begun=not self.drawn,
            measured=self.measured,
            every=development.every,
            patience=development.patience,
            checkpoint=self._recipe.checkpoint,
            seed=self._recipe.seed,
        )

    def _phase(self, number: int, phase: Phase) -> PhasePlan:
        groups, loss = self._material.groups[number], loss_of(phase)
        return PhasePlan(
            name=f"{number + 1} {self._recipe.kind_of(phase)}",
            steps=phase.steps,
            learning_rate=phase.learning_rate,
            warm_up=phase.warm_up,
            schedule=phase.schedule,
            weight_decay=phase.weight_decay,
            clip=phase.clip,
            backward=lambda step: self._backward(groups.step(step), loss),
        )

    def _measure(self) -> Callable[[], float] | None:
        material = self._material
        if material.run is not None and material.qrels is not None:
            measure = self._recipe.development.measure
            return Reranking(material.run, material.qrels, self._dataset, measure, self._texts, self._scores)
        if not material.held:
            return None
        loss = loss_of(self._recipe.phases[0])
        return HeldOutLoss(material.held, lambda groups: float(self._losses(groups, loss).mean()))

    def _calibration(self) -> Iterator[dict[str, Tensor]]:
        """The pairs of the first phase's first steps, as the network takes them."""
        for step in range(1, min(CALIBRATED, self._recipe.phases[0].steps) + 1):
            groups = self._material.groups[0].step(step)
            yield self._scores.given(self._pairs(groups))

    def _backward(self, groups: Sequence[Group], loss: Loss) -> float:
        """Mean loss of groups; its gradients are added to what is there.

        Groups are never taken apart; where all together are too many, gradients are added part by part.
        """
        total = 0.0
        for part in self._parts(groups):
            share = self._losses(part, loss).sum() / len(groups)
            share.backward()
            total += float(share.detach())
        return total

    def _parts(self, groups: Sequence[Group]) -> list[list[Group]]:
        """Groups, so many together that their tokens are within STEP_TOKENS; at least one."""
        limit = STEP_TOKENS[self._device.type]
        parts: list[list[Group]] = [[]]
        tokens = 0
        for group in groups:
            more = sum(len(ids) for ids, _ in self._pairs([group]))
            if parts[-1] and tokens + more > limit:
                parts.append([])
                tokens = 0
            parts[-1].append(group)
            tokens += more
        return parts

    def _pairs(self, groups: Sequence[Group]) -> list[Pair]:
        return self._texts.pairs([one.query for one in groups], [one.documents for one in groups])

    def _losses(self, groups: Sequence[Group], loss: Loss) -> Tensor:
        """(N,) losses of groups."""
        found = self._scores(self._pairs(groups))
        sizes = torch.tensor([len(one.documents) for one in groups])
        present = (torch.arange(int(sizes.max())) < sizes[:, None]).to(self._device)
        wanted = torch.cat([torch.from_numpy(one.targets) for one in groups]).to(self._device)
        scores, targets = (torch.zeros(present.shape, device=self._device) for _ in range(2))
        scores[present], targets[present] = found, wanted
        return loss(scores, targets, present)
