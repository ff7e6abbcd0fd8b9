"""Training of a bi-encoder: encoders, how the loss of a step and its gradients are computed, what is written.

STAR is one phase `contrastive` whose hard negatives the model mined itself: Zhan et al., SIGIR 2021, arXiv 2104.08051.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankpipe.data import Dataset
from rankpipe.errors import UsageError
from rankpipe.models.adapters.attached import Attached
from rankpipe.training import batch_losses
from rankpipe.training.batches import Batch, Batches
from rankpipe.training.click_lists import ClickBatches
from rankpipe.training.development import HeldOutLoss, Searching
from rankpipe.training.encoder_folder import write_encoders
from rankpipe.training.encoder_recipe import BiEncoderRecipe, Contrastive
from rankpipe.training.encoders import open_encoders
from rankpipe.training.examples import Group, Groups
from rankpipe.training.group_phases import Distil
from rankpipe.training.groups import Loss, in_groups, loss_of
from rankpipe.training.loop import PhasePlan, Plan
from rankpipe.training.material import Material
from rankpipe.training.means import Means
from rankpipe.training.positions import Positions
from rankpipe.training.recipe import Phase

ALPHA = 0.1
"""Weight of random pairs where the recipe says nothing."""
Masks = tuple[Tensor, Tensor, Tensor]
"""Of hard, random and other queries' hard negatives, (Q, C) each."""


def batch_loss_of(phase: Contrastive) -> Callable[[Tensor, Tensor, Masks], Tensor]:
    """The loss that a phase names: of scores (Q, C), the columns (Q,) of relevant documents, and masks."""
    if phase.weighting == "alpha":
        alpha = ALPHA if phase.alpha is None else phase.alpha
        return lambda scores, positive, masks: batch_losses.weighted(scores, positive, masks[0], masks[1], alpha)
    loss = batch_losses.info_nce if phase.loss == "softmax" else batch_losses.pooled
    return lambda scores, positive, masks: loss(scores, positive, masks[0] | masks[1] | masks[2])


class BiEncoderTraining:
    """The encoders, and how a step's loss and gradients are computed.

    trained  them, and what of them is trained: everything
    """

    def __init__(
        self,
        recipe: BiEncoderRecipe,
        dataset: Dataset,
        material: Material,
        base: Path,
        means: Means,
    ) -> None:
        self._recipe, self._dataset, self._material = recipe, dataset, material
        self._device = means.device
        self._encoders = open_encoders(recipe, base, means)
        self._temperature = recipe.temperature or self._encoders.temperature
        self._positions = Positions(recipe.planned, recipe.seed)
        self.trained = self._positions.beside(Attached(self._encoders, ()))

    def plan(self) -> Plan:
        """What the loop is to do."""
        phases = [self._phase(number, phase) for number, phase in enumerate(self._recipe.planned)]
        return Plan.of(self._recipe, phases, self._measure(), judged=self._material.run is not None)

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the encoders as a folder of sentence-transformers, and the tables of what was drawn; the temperature."""
        write_encoders(self._encoders.query, self._encoders.document, folder)
        told = self._material.write_tables(folder, self._dataset.corpus)
        return {"temperature": self._temperature, **told, **self._positions.told_of(self._material.groups)}

    def _phase(self, number: int, phase: Phase) -> PhasePlan:
        drawn: Any = self._material.groups[number]
        name = f"{number + 1} {self._recipe.kind_of(phase)}"
        if isinstance(phase, Contrastive):
            return self._contrastive(phase, name, drawn)
        if isinstance(phase, Distil):
            return self._distil(phase, name, drawn)
        if isinstance(drawn, ClickBatches):
            return self._clicks(phase, name, number, drawn)
        raise UsageError(f"a bi-encoder has no phase {type(phase).__name__}")

    def _contrastive(self, phase: Contrastive, name: str, drawn: Batches) -> PhasePlan:
        loss = batch_loss_of(phase)

        def backward(step: int) -> float:
            batch = drawn.step(step)
            encoders, corpus, fields = self._encoders, self._dataset.corpus, self._recipe.fields
            parts = [encoders.queries(batch.queries), encoders.documents(corpus, batch.documents, fields)]
            columns, positive, *masks = (torch.from_numpy(array).to(self._device) for array in _arrays(batch))

            def of_vectors(queries: Tensor, documents: Tensor) -> Tensor:
                scores = queries @ documents[columns].T / self._temperature
                return loss(scores, positive, (masks[0], masks[1], masks[2]))

            return encoders.backward(parts, of_vectors)

        return PhasePlan.of(phase, name, backward=backward, queries=lambda step: drawn.step(step).query_ids)

    def _distil(self, phase: Distil, name: str, drawn: Groups) -> PhasePlan:
        loss = loss_of(phase)

        def backward(step: int) -> float:
            groups = drawn.step(step)
            return self._encoders.backward(
                self._parts(groups), lambda *found: self._losses(groups, loss, *found).mean()
            )

        queries = lambda step: [group.query_id for group in drawn.step(step)]  # noqa: E731
        return PhasePlan.of(phase, name, backward=backward, queries=queries)

    def _clicks(self, phase: Phase, name: str, number: int, drawn: ClickBatches) -> PhasePlan:
        def backward(step: int) -> float:
            lists = drawn.step(step)
            parts, sizes = self._parts_of(lists.queries, lists.documents), [len(one) for one in lists.documents]
            return self._positions.learn(
                number,
                lists.sessions,
                lambda loss: self._encoders.backward(parts, lambda *found: loss(self._scores(sizes, *found))),
            )

        return PhasePlan.of(phase, name, backward=backward, queries=lambda step: drawn.step(step).query_ids)

    def _parts(self, groups: Sequence[Group]) -> list[Any]:
        """Queries and documents of groups, to be encoded; a group's documents one after another."""
        return self._parts_of([group.query for group in groups], [group.documents for group in groups])

    def _parts_of(self, queries: Sequence[str], documents: Sequence[NDArray[np.int32]]) -> list[Any]:
        rows = np.concatenate(documents)
        return [
            self._encoders.queries(queries),
            self._encoders.documents(self._dataset.corpus, rows, self._recipe.fields),
        ]

    def _scores(self, sizes: Sequence[int], queries: Tensor, documents: Tensor) -> Tensor:
        """(H,) scores of documents, so many of each query, given the vectors of the queries (N, D) and of all documents."""
        counts = torch.tensor(sizes, device=queries.device)
        return (queries.repeat_interleave(counts, 0) * documents).sum(1) / self._temperature

    def _losses(self, groups: Sequence[Group], loss: Loss, queries: Tensor, documents: Tensor) -> Tensor:
        """(N,) losses of groups, given the vectors of their queries (N, D) and documents."""
        scores = self._scores([len(group.documents) for group in groups], queries, documents)
        return loss(*in_groups(scores, groups))

    def _measure(self) -> Callable[[], float] | None:
        material, recipe, encoders = self._material, self._recipe, self._encoders
        if material.run is not None and material.qrels is not None:
            return Searching(
                encoders, material.run, material.qrels, self._dataset, recipe.fields, recipe.development.measure
            )
        if not material.held:
            return None
        loss = loss_of(recipe.planned[0])

        def of_groups(groups: Sequence[Group]) -> float:
            vectors = [encoders.vectors(part) for part in self._parts(groups)]
            return float(self._losses(groups, loss, *vectors).mean())

        return HeldOutLoss(material.held, of_groups)


def _arrays(batch: Batch) -> tuple[Any, ...]:
    return batch.columns, batch.positive, batch.hard, batch.random, batch.other_hard
