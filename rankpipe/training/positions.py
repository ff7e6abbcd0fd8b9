"""What is learnt of positions beside a network: how it is opened, trained with it, kept and told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rankpipe.errors import UsageError
from rankpipe.models.adapters.attached import Attached
from rankpipe.training.click_lists import ClickBatches
from rankpipe.training.click_losses import ClickLoss, Dual, PairDebias, RegressionEM, Shown, Weighted, propensities_of
from rankpipe.training.click_phases import ClickMethod
from rankpipe.training.processes import processes
from rankpipe.training.recipe import AnyPhase
from rankpipe.training.sessions import Sessions

UNDER = "positions."
"""What names of a state begin with that are of positions."""


class WithPositions(Attached):
    """What is trained of a network, and what is learnt of positions beside it."""

    def __init__(self, trained: Attached, learnt: Iterable[tuple[ClickLoss, float]]) -> None:
        """Take what is trained, and what is learnt, each with its learning rate over that of the network in its phase."""
        super().__init__(trained.network, trained.head)
        pairs = list(learnt)
        self._trained_alone, self._times = trained, [times for _, times in pairs]
        self._learnt = nn.ModuleList(one for one, _ in pairs).to(next(trained.network.parameters()).device)

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Those of the network, and one of each that learns positions, which do not decay."""
        groups = self._trained_alone.parameter_groups(learning_rate, weight_decay)
        for number, (times, learnt) in enumerate(zip(self._times, self._learnt, strict=True)):
            if parameters := list(learnt.parameters()):
                own = {"name": f"positions {number}", "params": parameters, "lr": learning_rate * times, "times": times}
                groups.append({**own, "weight_decay": 0.0})
        return groups

    @property
    def may_be_kept(self) -> bool:
        """Whether the network may be left as it is."""
        return self._trained_alone.may_be_kept

    def penalty(self) -> Tensor | None:
        """That of the network."""
        return self._trained_alone.penalty()

    def before_step(self, step: int, steps: int) -> None:
        """As the network needs it."""
        self._trained_alone.before_step(step, steps)

    def after_step(self, step: int, steps: int, learning_rate: float) -> None:
        """As the network needs it."""
        self._trained_alone.after_step(step, steps, learning_rate)

    def state_dict(self) -> dict[str, Tensor]:
        """That of the network; of positions parameters, and buffers that move while training, too."""
        learnt = {f"{UNDER}{name}": value.detach() for name, value in self._learnt.state_dict().items()}
        return {**self._trained_alone.state_dict(), **learnt}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state, that of positions as well."""
        alone = {name: value for name, value in state.items() if not name.startswith(UNDER)}
        self._trained_alone.load_state_dict(alone)
        learnt = {name.removeprefix(UNDER): value for name, value in state.items() if name.startswith(UNDER)}
        self._learnt.load_state_dict(learnt)

    def export(self, folder: Path, base: str) -> None:
        """The network's alone."""
        self._trained_alone.export(folder, base)

    def merged(self) -> nn.Module:
        """The network alone."""
        return self._trained_alone.merged()


class Positions:
    """What the phases of a recipe learn of positions.

    losses  of every phase; None where it does not learn from clicks along a gradient
    """

    def __init__(self, phases: Sequence[AnyPhase], seed: int) -> None:
        """Open what the phases name; what is drawn depends on the seed alone."""
        self._phases = phases
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.losses = [click_loss(phase) if isinstance(phase, ClickMethod) else None for phase in phases]

    def beside(self, trained: Attached) -> Attached:
        """What is trained of a network, and this beside it, on its device."""
        learnt = [
            (loss, phase.propensity_rate / phase.learning_rate)
            for loss, phase in zip(self.losses, self._phases, strict=True)
            if loss is not None and isinstance(phase, ClickMethod)
        ]
        return WithPositions(trained, learnt) if learnt else trained

    def learn(self, number: int, sessions: Sessions, backward: Callable[[Callable[[Tensor], Tensor]], float]) -> float:
        """Loss of a step of a phase, and its gradients, which are added to what is there.

        backward  does both for the network, given the loss of the (H,) scores of all documents, list by list
        """
        loss, together = self.losses[number], processes()
        if loss is None:
            raise UsageError(f"phase {number + 1} learns no clicks")
        value = backward(lambda scores: of_lists(loss, scores, sessions))
        if not together.first:  # every process has the whole gradient of what is learnt of positions
            loss.zero_grad()
        return value

    def told(self, filled: Sequence[NDArray[np.bool_] | None]) -> dict[str, Any]:
        """What was learnt by each phase, as a manifest says it.

        filled  which positions held a document, of phases that learn clicks
        """
        told = zip(self.losses, filled, strict=True)
        return {"positions": [None if loss is None else propensities_of(loss, there) for loss, there in told]}

    def told_of(self, drawn: Sequence[Any]) -> dict[str, Any]:
        """Likewise, given what the steps of every phase were drawn from; nothing where no phase learns clicks."""
        filled = [one.filled if isinstance(one, ClickBatches) else None for one in drawn]
        return self.told(filled) if any(one is not None for one in filled) else {}


def click_loss(phase: ClickMethod) -> ClickLoss:
    """What a phase learns clicks with."""
    if phase.method == "dla":
        return Dual(phase.positions, context=phase.context, limit=phase.limit)
    if phase.method == "regression-em":
        return RegressionEM(phase.positions)
    if phase.method == "pair-debias":
        return PairDebias(phase.positions)
    known = None if phase.propensities is None else torch.tensor(phase.propensities)
    return Weighted(known, limit=phase.limit)


def of_lists(loss: ClickLoss, scores: Tensor, sessions: Sessions) -> Tensor:
    """The loss of lists, given the (H,) scores of all their documents, list by list, from the best position on."""
    present = torch.from_numpy(sessions.present).to(scores.device)
    placed = torch.zeros(present.shape, device=scores.device)
    placed[present] = scores
    return loss(placed, shown(sessions, present))


def shown(sessions: Sessions, present: Tensor) -> Shown:
    """What people did with lists, as tensors beside `present` (N, G)."""
    counted = (sessions.clicks, sessions.count, sessions.pairs)
    clicks, count, pairs = (torch.from_numpy(one).to(present.device).float() for one in counted)
    return Shown(clicks, count, pairs, present)
