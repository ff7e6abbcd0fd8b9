"""The loop of every training: phases of steps, measurements, what is kept, checkpoints, and an end at the right time.

A training that was killed goes on from its last checkpoint, and on a CPU ends with the same weights to the last bit:
what a step draws depends on seed, phase and step alone, and a checkpoint holds everything else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from rankpipe.errors import RankpipeError
from rankpipe.models.adapters.attached import Attached
from rankpipe.progress import spoken
from rankpipe.training.checkpoints import (
    inside,
    last_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    under,
    write_checkpoint,
)
from rankpipe.training.processes import Processes
from rankpipe.training.recipe import Phase, Recipe

SAY_EVERY = 30.0
"""Seconds from one line of progress to the next."""
FIRST = 10
"""Steps of a phase whose mean loss later ones are compared with."""
EXPLODED = 100.0
"""A loss so many times that mean has exploded."""
SMALL = 0.1
"""A smaller mean counts as this."""
SHOWN_QUERIES = 8
"""Queries of a step that an error names."""


@dataclass(frozen=True, kw_only=True)
class PhasePlan:
    """One phase as the loop sees it.

    backward   computes the loss of a step (from 1) and its gradients, which are added to what is there
    queries    ids of the queries of a step, for people
    optimizer  adamw; adagrad: Duchi, Hazan and Singer, JMLR 2011
    """

    name: str
    steps: int
    learning_rate: float
    warm_up: float
    schedule: Literal["linear", "cosine"]
    weight_decay: float
    clip: float
    backward: Callable[[int], float]
    queries: Callable[[int], Sequence[str]]
    optimizer: Literal["adamw", "adagrad"] = "adamw"

    @classmethod
    def of(
        cls,
        phase: Phase,
        name: str,
        *,
        backward: Callable[[int], float],
        queries: Callable[[int], Sequence[str]],
        optimizer: Literal["adamw", "adagrad"] = "adamw",
    ) -> PhasePlan:
        """A recipe's phase as the loop sees it."""
        return cls(
            name=name,
            steps=phase.steps,
            learning_rate=phase.learning_rate,
            warm_up=phase.warm_up,
            schedule=phase.schedule,
            weight_decay=phase.weight_decay,
            clip=phase.clip,
            backward=backward,
            queries=queries,
            optimizer=optimizer,
        )

    def rate(self, step: int) -> float:
        """Learning rate of a step, from 1: rising in a line during warm-up, then falling to nearly 0 at the last."""
        rising = math.ceil(self.warm_up * self.steps)
        if step <= rising:
            return self.learning_rate * step / rising
        left = (self.steps - step + 1) / (self.steps - rising + 1)
        share = left if self.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2
        return self.learning_rate * share


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the loop is to do.

    measure     judges the network as it is: the higher, the better; None: the last weights are kept
    begun       whether the network is judged before the first step, too: its weights may be the best
    measured    name of that
    every       steps from one measurement to the next; there is one at the end of a phase as well
    patience    measurements without a better one that end a phase
    checkpoint  steps from one checkpoint to the next; every measurement makes one as well
    """

    phases: Sequence[PhasePlan]
    measure: Callable[[], float] | None
    begun: bool
    measured: str
    every: int
    patience: int | None
    checkpoint: int
    seed: int

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        phases: Sequence[PhasePlan],
        measure: Callable[[], float] | None,
        *,
        judged: bool = True,
        begun: bool = True,
    ) -> Plan:
        """A recipe's plan. Without judgements, the loss of what was held out is measured."""
        development = recipe.development
        return cls(
            phases=phases,
            measure=measure,
            begun=begun,
            measured=development.measure if judged else "-loss",
            every=development.every,
            patience=development.patience,
            checkpoint=recipe.checkpoint,
            seed=recipe.seed,
        )


@dataclass(kw_only=True)
class Progress:
    """Where a training stands, as JSON takes it.

    phase    from 0; step is the last that was done in it, from 1
    best     the highest measurement, and best_at its phase and step
    waited   measurements in this phase since the best one
    losses   sum of the losses since the last point of the curve, and their number
    first    sum of the losses of a phase's first steps
    seconds  of all steps that led to the weights; those after the last checkpoint of a killed call, taken again, are not in it
    resumed  times that a killed call was gone on with
    curve    points: phase, step, seconds of training, loss (mean since the last point), learning rate, and what was measured
    stopped  phases that ended before their last step
    """

    phase: int = 0
    step: int = 0
    best: float | None = None
    best_at: tuple[str, int] | None = None
    waited: int = 0
    losses: tuple[float, int] = (0.0, 0)
    first: float = 0.0
    seconds: float = 0.0
    resumed: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)


def train(
    plan: Plan, trained: Attached, folder: Path, *, notify: Callable[[str], None], together: Processes | None = None
) -> Progress:
    """Run all phases; the network is left with the best weights. Checkpoints stand in `folder`.

    together  the processes that run this, each of them for its share of every step

    Raises RankpipeError for a loss or a gradient that is not finite.
    """
    return _Loop(plan, trained, folder, notify, together or Processes()).run()


class _Loop:
    def __init__(
        self, plan: Plan, trained: Attached, folder: Path, notify: Callable[[str], None], together: Processes
    ) -> None:
        self._plan, self._trained, self._folder, self._notify = plan, trained, folder, notify
        self._together = together
        self._progress = Progress()
        self._best: dict[str, Tensor] = {}
        self._device = next(trained.network.parameters()).device
        self._total = sum(phase.steps for phase in plan.phases)
        self._resumed: dict[str, Tensor] = {}

    def run(self) -> Progress:
        """All that is left to be done."""
        self._restore()
        self._started = perf_counter() - self._progress.seconds
        self._lines = _Lines(self._notify)
        if self._plan.begun and not self._progress.curve:
            self._measured_at_first()
        while self._progress.phase < len(self._plan.phases):
            self._phase(self._progress.phase, self._plan.phases[self._progress.phase])
            self._go_to_next()
        self._progress.seconds = perf_counter() - self._started
        return self._progress

    def _phase(self, number: int, phase: PhasePlan) -> None:
        groups = self._trained.parameter_groups(phase.learning_rate, phase.weight_decay)
        optimizer = _optimizer(phase.optimizer, groups, self._device)
        if state := inside("optimizer", self._resumed):
            restore_optimizer(optimizer, state)
        before = sum(one.steps for one in self._plan.phases[:number])
        self._lines.begin(phase, self._progress.step)
        ended = False
        while not ended:
            step = self._progress.step + 1
            self._step(number, phase, step, before, optimizer)
            self._progress.step = step
            last = step == phase.steps
            measured = last or step % self._plan.every == 0
            ended = (self._measured(phase, step) or last) if measured else False
            if ended and not last:
                self._progress.stopped.append(phase.name)
                self._notify(
                    f"{phase.name}: no better {self._plan.measured} in {self._plan.patience} measurements; stopped"
                )
            if measured or step % self._plan.checkpoint == 0:
                self._checkpoint(before + step, optimizer, ended=ended)

    def _go_to_next(self) -> None:
        """Leave a phase that has ended; the next one begins with the best weights, or, where none may be kept yet, these."""
        self._progress.phase, self._progress.step, self._progress.waited = self._progress.phase + 1, 0, 0
        self._progress.first = 0.0
        self._resumed = {}
        if self._best and self._trained.may_be_kept:
            self._trained.load_state_dict(self._best)

    def _step(self, number: int, phase: PhasePlan, step: int, before: int, optimizer: torch.optim.Optimizer) -> None:
        _seed(int(np.random.SeedSequence([self._plan.seed, number, step]).generate_state(1)[0]), self._device)
        rate = phase.rate(step)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("times", 1.0)
        self._trained.network.train()
        self._trained.before_step(before + step, self._total)
        loss = phase.backward(step)
        parameters = [one for group in optimizer.param_groups for one in group["params"]]
        self._together.sum_gradients(parameters)
        if (penalty := self._trained.penalty()) is not None:
            penalty.backward()
            loss += float(penalty.detach())
        norm = float(nn.utils.clip_grad_norm_(parameters, phase.clip))
        if (what := self._wrong(step, loss, norm)) is not None:
            kept = f"the last checkpoint is kept in {self._folder}; " if any(self._folder.iterdir()) else ""
            raise RankpipeError(
                f"phase '{phase.name}', step {step} of {phase.steps}: {what} at learning rate {rate:.3g}, on the queries "
                f"{_shown(phase.queries(step))}; {kept}choose a lower learning_rate or a longer warm_up"
            )
        if step <= FIRST:
            self._progress.first += loss
        optimizer.step()
        self._trained.after_step(before + step, self._total, rate)
        optimizer.zero_grad()
        total, count = self._progress.losses
        self._progress.losses = total + loss, count + 1
        self._lines.step(step, loss, rate)

    def _wrong(self, step: int, loss: float, norm: float) -> str | None:
        """What is wrong with a step's loss and the norm of its gradient, if anything is."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(norm):
            return f"the loss is {loss:.4g}, and its gradient {norm}"
        mean = self._progress.first / FIRST
        if step > FIRST and loss > EXPLODED * max(mean, SMALL):
            return f"the loss is {loss:.4g}, and was {mean:.4g} in the first {FIRST} steps,"
        return None

    def _measured_at_first(self) -> None:
        """The first point of the curve, before any step."""
        if (value := self._value()) is None:
            return
        name, measured = self._plan.phases[0].name, self._plan.measured
        if self._trained.may_be_kept:
            self._kept(value, name, 0)
        self._progress.curve.append({"phase": name, "step": 0, measured: value, "seconds": self._seconds()})
        self._notify(f"{name}: before the first step, {measured} {value:.4f}")

    def _value(self) -> float | None:
        """What the measure gives the network as it is; None without one."""
        if self._plan.measure is None:
            return None
        self._trained.network.eval()
        with torch.inference_mode():
            return self._together.same(self._plan.measure())

    def _kept(self, value: float, phase: str, step: int) -> None:
        """Keep the weights as the best ones."""
        self._progress.best, self._progress.best_at, self._progress.waited = value, (phase, step), 0
        self._best = {name: tensor.clone() for name, tensor in self._trained.state_dict().items()}

    def _seconds(self) -> float:
        return round(perf_counter() - self._started, 1)

    def _measured(self, phase: PhasePlan, step: int) -> bool:
        """Add a point to the curve, keep the weights if they are the best that may be kept; whether the phase is to end."""
        progress = self._progress
        total, count = progress.losses
        point: dict[str, Any] = {
            "phase": phase.name,
            "step": step,
            "loss": total / count,
            "learning_rate": phase.rate(step),
        }
        progress.losses = 0.0, 0
        ended = False
        if (value := self._value()) is not None:
            point[self._plan.measured] = value
            if not self._trained.may_be_kept:
                pass  # and nothing is waited for: no weights that might be kept were measured
            elif progress.best is None or value > progress.best:
                self._kept(value, phase.name, step)
            else:
                progress.waited += 1
                ended = self._plan.patience is not None and progress.waited >= self._plan.patience
        point["seconds"] = self._seconds()
        progress.curve.append(point)
        said = f", {self._plan.measured} {point[self._plan.measured]:.4f}" if self._plan.measured in point else ""
        self._notify(f"{phase.name}: step {step:,} of {phase.steps:,}, loss {point['loss']:.4f}{said}")
        return ended

    def _checkpoint(self, done: int, optimizer: torch.optim.Optimizer, *, ended: bool) -> None:
        self._progress.seconds = perf_counter() - self._started
        if not self._together.first:
            return
        tensors = {
            **under("trained", self._trained.state_dict()),
            **under("best", self._best),
            **under("optimizer", optimizer_tensors(optimizer)),
        }
        write_checkpoint(self._folder, done, tensors, {"ended": ended, **asdict(self._progress)})

    def _restore(self) -> None:
        there = last_checkpoint(self._folder, self._device)
        if there is None:
            return
        tensors, state = there
        ended = state.pop("ended")
        state.pop("format")
        state["losses"] = tuple(state["losses"])
        state["best_at"] = tuple(state["best_at"]) if state["best_at"] else None
        self._progress = Progress(**state)
        self._progress.resumed += 1
        self._best = inside("best", tensors)
        self._trained.load_state_dict(inside("trained", tensors))
        phase = self._plan.phases[self._progress.phase]
        self._notify(f"going on after step {self._progress.step:,} of phase '{phase.name}'")
        self._resumed = tensors
        if ended:
            self._go_to_next()


class _Lines:
    """Lines of progress, not more often than every SAY_EVERY seconds."""

    def __init__(self, notify: Callable[[str], None]) -> None:
        self._notify = notify

    def begin(self, phase: PhasePlan, done: int) -> None:
        """A phase begins, or goes on."""
        self._phase, self._first = phase, done
        self._started = self._said = perf_counter()
        self._losses: list[float] = []

    def step(self, step: int, loss: float, rate: float) -> None:
        """A step was done. A line tells the mean loss of the steps since the one before: that of one batch says little."""
        now = perf_counter()
        self._losses.append(loss)
        if now - self._said < SAY_EVERY:
            return
        self._said = now
        loss = fmean(self._losses)
        self._losses.clear()
        speed = (step - self._first) / (now - self._started)
        left = spoken((self._phase.steps - step) / speed)
        self._notify(
            f"{self._phase.name}: step {step:,} of {self._phase.steps:,}, loss {loss:.4f}, learning rate {rate:.2g}, "
            f"{speed:.3g} steps/s, about {left} left"
        )


def _shown(queries: Sequence[str]) -> str:
    """The first of the ids of queries."""
    more = f" and {len(queries) - SHOWN_QUERIES} more" if len(queries) > SHOWN_QUERIES else ""
    return ", ".join(queries[:SHOWN_QUERIES]) + more


def _seed(seed: int, device: torch.device) -> None:
    """Seed what torch draws on the CPU and on a device.

    torch.manual_seed seeds every kind of device; where there is none it takes note of the whole call stack, each time.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _optimizer(
    kind: Literal["adamw", "adagrad"], groups: list[dict[str, Any]], device: torch.device
) -> torch.optim.Optimizer:
    """Groups may have learning rates so many "times" that of the phase."""
    if kind == "adagrad":
        return torch.optim.Adagrad(groups, fused=device.type == "cpu")
    return torch.optim.AdamW(groups, fused=device.type in ("cpu", "cuda"))
