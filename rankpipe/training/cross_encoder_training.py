"""Training of a cross-encoder: the network, how the loss of a step and its gradients are computed, what is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rankpipe.data import Dataset
from rankpipe.models.adapters.attached import attach
from rankpipe.models.adapters.diagnose import intruder_dimensions
from rankpipe.models.network import set_padding
from rankpipe.models.pairs import PairReader
from rankpipe.models.recipe import network_config, transformer_settings
from rankpipe.training.click_lists import ClickBatch, ClickBatches
from rankpipe.training.cross_encoder_recipe import CrossEncoderRecipe
from rankpipe.training.development import HeldOutLoss, Reranking
from rankpipe.training.examples import Group
from rankpipe.training.groups import Loss, in_groups, loss_of
from rankpipe.training.loop import PhasePlan, Plan
from rankpipe.training.material import Material
from rankpipe.training.means import Means
from rankpipe.training.networks import open_cross_encoder, write_adapter_settings, write_cross_encoder
from rankpipe.training.pairs import Pair, PairTexts
from rankpipe.training.positions import Positions
from rankpipe.training.processes import processes
from rankpipe.training.recipe import Phase
from rankpipe.training.scoring import STEP_TOKENS, PairScorer


class CrossEncoderTraining:
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
        means: Means,
    ) -> None:
        self._recipe, self._dataset, self._material, self._device = recipe, dataset, material, means.device
        self._base = base
        lower_case = bool(transformer_settings(base).get("do_lower_case"))
        known = network_config(base).get("vocab_size")
        reader = PairReader(base, max_length=recipe.max_length, lower_case=lower_case, known=known)
        self._texts = PairTexts(reader, dataset.corpus, recipe.fields)
        network, self.drawn = open_cross_encoder(base, recipe.seed, dropout=recipe.dropout, device=means.device)
        set_padding(network, reader.tokenizer)
        self._before = {
            name: layer.weight.detach().cpu().clone()
            for name, layer in network.named_modules()
            if isinstance(layer, nn.Linear) and f"{name}.weight" not in self.drawn
        }
        self._scores = PairScorer(
            network,
            device=means.device,
            dtype=means.dtype,
            batch_tokens=means.batch_tokens,
            recompute=means.recompute,
        )
        attached = attach(network, recipe.adapter, drawn=self.drawn, calibration=self._calibration, seed=recipe.seed)
        self._positions = Positions(recipe.planned, recipe.seed)
        self.trained = self._positions.beside(attached)

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the network, and the adapter beside it; what was drawn and the intruder dimensions of every layer."""
        merged: Any = self.trained.merged().cpu()
        recipe, base = self._recipe, self._base
        write_cross_encoder(merged, base, folder, max_length=recipe.max_length)
        if recipe.adapter is not None:
            self.trained.export(folder / "adapter", recipe.model)
            write_adapter_settings(base, folder / "adapter", max_length=recipe.max_length)
        told = self._material.write_tables(folder, self._dataset.corpus)
        after = {name: merged.get_submodule(name).weight.detach().cpu() for name in self._before}
        told |= self._positions.told_of(self._material.groups)
        intruders = intruder_dimensions(self._before, after)
        return {"drawn_weights": self.drawn, "intruder_dimensions": intruders, **told}

    def plan(self) -> Plan:
        """What the loop is to do."""
        phases = [self._phase(number, phase) for number, phase in enumerate(self._recipe.planned)]
        judged = self._material.run is not None
        return Plan.of(self._recipe, phases, self._measure(), judged=judged, begun=not self.drawn)

    def _phase(self, number: int, phase: Phase) -> PhasePlan:
        groups: Any = self._material.groups[number]
        name = f"{number + 1} {self._recipe.kind_of(phase)}"
        if isinstance(groups, ClickBatches):
            return PhasePlan.of(
                phase,
                name,
                backward=lambda step: self._backward_clicks(number, groups.step(step)),
                queries=lambda step: groups.step(step).query_ids,
            )
        loss = loss_of(phase)
        return PhasePlan.of(
            phase,
            name,
            backward=lambda step: self._backward(groups.step(step), loss),
            queries=lambda step: [group.query_id for group in groups.step(step)],
        )

    def _measure(self) -> Callable[[], float] | None:
        material = self._material
        if material.run is not None and material.qrels is not None:
            measure = self._recipe.development.measure
            return Reranking(material.run, material.qrels, self._dataset, measure, self._texts, self._scores)
        if not material.held:
            return None
        loss = loss_of(self._recipe.planned[0])
        return HeldOutLoss(material.held, lambda groups: float(self._losses(groups, loss).mean()))

    def _calibration(self) -> Iterator[dict[str, Tensor]]:
        """The pairs of the first phase's steps, as the network takes them, drawn on without end behind its last one."""
        drawn: Any = self._material.groups[0]
        for step in count(1):
            groups = drawn.step(step)
            yield self._scores.given(self._shown(groups) if isinstance(groups, ClickBatch) else self._pairs(groups))

    def _backward(self, groups: Sequence[Group], loss: Loss) -> float:
        """Mean loss of groups; its gradients are added to what is there.

        Groups are never taken apart; where all together are too many, gradients are added part by part. Of several
        processes each takes its share of the groups.
        """
        total, together = 0.0, processes()
        own = together.share([len(one.documents) for one in groups])
        for part in self._parts([groups[row] for row in sorted(own)]):
            share = self._losses(part, loss).sum() / len(groups)
            share.backward()
            total += float(share.detach())
        return together.total(total)

    def _backward_clicks(self, number: int, lists: ClickBatch) -> float:
        """Loss of lists that were shown; its gradients are added to what is there."""
        pairs = self._shown(lists)
        return self._positions.learn(number, lists.sessions, lambda loss: self._scores.backward(pairs, loss))

    def _parts(self, groups: Sequence[Group]) -> list[list[Group]]:
        """Groups, so many together that their tokens are within STEP_TOKENS; at least one."""
        limit = STEP_TOKENS[self._device.type]
        parts: list[list[Group]] = []
        tokens = 0
        for group in groups:
            more = sum(len(ids) for ids, _ in self._pairs([group]))
            if not parts or tokens + more > limit:
                parts.append([])
                tokens = 0
            parts[-1].append(group)
            tokens += more
        return parts

    def _pairs(self, groups: Sequence[Group]) -> list[Pair]:
        return self._texts.pairs([one.query for one in groups], [one.documents for one in groups])

    def _shown(self, lists: ClickBatch) -> list[Pair]:
        return self._texts.pairs(lists.queries, lists.documents)

    def _losses(self, groups: Sequence[Group], loss: Loss) -> Tensor:
        """(N,) losses of groups."""
        return loss(*in_groups(self._scores(self._pairs(groups)), groups))
