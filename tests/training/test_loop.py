"""The loop: schedules, what is kept, when it ends, what a killed training goes on with, and what stops it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'dense'")

from torch import Tensor, nn  # noqa: E402

from rankpipe.errors import RankpipeError  # noqa: E402
from rankpipe.models.adapters.attached import Attached  # noqa: E402
from rankpipe.training.click_losses import Dual  # noqa: E402
from rankpipe.training.loop import PhasePlan, Plan, train  # noqa: E402
from rankpipe.training.positions import WithPositions  # noqa: E402


def phase(backward: Callable[[int], float], **settings: Any) -> PhasePlan:
    values = {
        "name": "first",
        "steps": 10,
        "learning_rate": 0.1,
        "warm_up": 0.0,
        "schedule": "linear",
        "weight_decay": 0.0,
        "clip": 1.0,
        "queries": lambda step: [f"q{step}", f"q{step + 1}"],
    }
    return PhasePlan(backward=backward, **{**values, **settings})


def plan(*phases: PhasePlan, measure: Callable[[], float] | None = None, **settings: Any) -> Plan:
    values = {"measured": "value", "every": 2, "patience": None, "checkpoint": 3, "seed": 0, "begun": False, **settings}
    return Plan(phases=phases, measure=measure, **values)


class Line:
    """A network of one layer with dropout, trained towards what the step's number gives."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.network = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        self.trained = Attached(self.network, ("2",))

    def backward(self, step: int) -> float:
        generator = torch.Generator().manual_seed(step)
        loss = (self.network(torch.randn(8, 4, generator=generator)) - step).square().mean()
        loss.backward()
        return float(loss.detach())

    def weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.network.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_the_learning_rate_rises_and_falls_in_lines() -> None:
    # 10 steps, the first 4 warm up; then it falls from 1 by sevenths
    rates = [phase(lambda _: 0.0, learning_rate=1.0, warm_up=0.4).rate(step) for step in range(1, 11)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7])
    assert phase(lambda _: 0.0, learning_rate=1.0).rate(1) == pytest.approx(10 / 11)


def test_the_learning_rate_falls_as_a_cosine() -> None:
    rates = [
        phase(lambda _: 0.0, learning_rate=2.0, warm_up=0.1, schedule="cosine").rate(step) for step in (1, 2, 6, 10)
    ]
    wanted = [1 + math.cos(math.pi * done / 10) for done in (0, 1, 5, 9)]
    assert rates == pytest.approx(wanted)


def test_the_best_weights_are_kept_and_the_next_phase_begins_with_them(tmp_path: Path) -> None:
    line = Line()
    values = iter([0.1, 0.9, 0.2, 0.3, 0.4, 0.1, 0.2, 0.3, 0.4, 0.5])
    seen: list[dict[str, Tensor]] = []

    def measure() -> float:
        seen.append(line.weights())
        return next(values)

    first = phase(line.backward)
    second = phase(
        lambda step: (seen.append(line.weights()) if step == 1 else None, line.backward(step))[1], name="second"
    )
    done = train(plan(first, second, measure=measure), line.trained, tmp_path, notify=lambda _: None)
    assert (done.best, done.best_at) == (0.9, ("first", 4))
    assert same(seen[5], seen[1])  # what the second phase began with
    assert same(line.weights(), seen[1])
    assert [(one["phase"], one["step"], one["value"]) for one in done.curve[:3]] == [
        ("first", 2, 0.1),
        ("first", 4, 0.9),
        ("first", 6, 0.2),
    ]


def test_a_network_that_training_makes_worse_is_kept_as_it_was(tmp_path: Path) -> None:
    line = Line()
    before, values, said = line.weights(), iter([0.5, 0.4, 0.3]), []
    given = plan(phase(line.backward, steps=4), measure=lambda: next(values), begun=True)
    done = train(given, line.trained, tmp_path, notify=said.append)
    assert (done.best, done.best_at) == (0.5, ("first", 0))
    assert same(line.weights(), before)
    assert {name: value for name, value in done.curve[0].items() if name != "seconds"} == {
        "phase": "first",
        "step": 0,
        "value": 0.5,
    }
    assert [point["step"] for point in done.curve] == [0, 2, 4]
    assert said[0] == "first: before the first step, value 0.5000"


def test_a_line_of_progress_has_the_mean_loss_since_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, said, seconds = Line(), [], [0.0]

    def backward(step: int) -> float:
        line.backward(step)
        seconds[0] += 12.0  # so every third step is more than half a minute after the last line
        return float(step)

    monkeypatch.setattr("rankpipe.training.loop.perf_counter", lambda: seconds[0])
    train(plan(phase(backward, steps=8), every=100, checkpoint=100), line.trained, tmp_path, notify=said.append)
    assert said == [
        "first: step 3 of 8, loss 2.0000, learning rate 0.067, 0.0833 steps/s, about 60 s left",
        "first: step 6 of 8, loss 5.0000, learning rate 0.033, 0.0833 steps/s, about 24 s left",
        "first: step 8 of 8, loss 4.5000",
    ]


def test_a_phase_ends_when_nothing_gets_better(tmp_path: Path) -> None:
    line, said = Line(), []
    values = iter([0.5, 0.4, 0.3, 0.6, 0.7, 0.8, 0.9, 0.9])
    phases = phase(line.backward), phase(line.backward, name="second")
    done = train(plan(*phases, measure=lambda: next(values), patience=2), line.trained, tmp_path, notify=said.append)
    assert [(one["phase"], one["step"]) for one in done.curve] == [
        ("first", 2),
        ("first", 4),
        ("first", 6),
        *(("second", step) for step in (2, 4, 6, 8, 10)),
    ]
    assert done.stopped == ["first"]
    assert "first: no better value in 2 measurements; stopped" in said


class Late(Attached):
    """May be kept as it was, and from the fourteenth step on."""

    done = 0

    @property
    def may_be_kept(self) -> bool:
        return self.done == 0 or self.done >= 14

    def after_step(self, step: int, steps: int, learning_rate: float) -> None:
        self.done = step


def test_weights_that_may_not_be_kept_are_neither_the_best_nor_waited_for(tmp_path: Path) -> None:
    line, seen = Line(), []
    values = iter([0.5, *[0.9, 0.8, 0.7, 0.6, 0.5], 0.9, 0.6, 0.5])

    def measure() -> float:
        seen.append(line.weights())
        return next(values)

    def backward(step: int) -> float:
        if step == 1:
            seen.append(line.weights())
        return line.backward(step)

    trained = Late(line.network, ("2",))
    phases = phase(line.backward), phase(backward, name="second")
    given = plan(*phases, measure=measure, begun=True, patience=1)
    done = train(given, trained, tmp_path, notify=lambda _: None)
    assert (done.best, done.best_at) == (0.6, ("second", 4))
    assert done.stopped == ["second"]
    assert same(seen[6], seen[5])  # the second phase goes on from the end of the first
    assert same(line.weights(), seen[8])


def test_what_is_learnt_of_positions_beside_a_network_does_not_change_when_it_may_be_kept() -> None:
    line = Line()
    both = WithPositions(Late(line.network, ("2",)), [(Dual(3), 1.0)])
    kept = [both.may_be_kept]
    for step in range(1, 15):
        both.after_step(step, 20, 0.1)
        kept.append(both.may_be_kept)
    assert kept == [True, *[False] * 13, True]


class Killed(BaseException):
    """What a kill is for a test inside one process: nothing of ours gets to run."""


@pytest.mark.parametrize(("at", "patience"), [*((at, None) for at in range(1, 21)), *((at, 2) for at in (5, 7, 9, 11))])
def test_a_training_that_was_killed_ends_with_the_same_weights(at: int, patience: int | None, tmp_path: Path) -> None:
    def run(folder: Path, kill: int | None) -> tuple[dict[str, Tensor], list[tuple[Any, ...]], int]:
        line, calls = Line(), iter(range(1, 100))

        def backward(step: int) -> float:
            if next(calls) == kill:
                raise Killed
            return line.backward(step)

        def measure() -> float:
            return float(line.network.state_dict()["2.weight"].sum().sin())

        phases = phase(backward, warm_up=0.2), phase(backward, name="second", schedule="cosine")
        folder.mkdir(exist_ok=True)
        done = train(plan(*phases, measure=measure, patience=patience), line.trained, folder, notify=lambda _: None)
        curve = [(one["phase"], one["step"], one["loss"], one["value"]) for one in done.curve]
        return line.weights(), curve, done.resumed

    expected, curve, never = run(tmp_path / "whole", None)
    with pytest.raises(Killed):
        run(tmp_path / "killed", at)
    weights, found, resumed = run(tmp_path / "killed", None)
    assert same(weights, expected)
    assert found == curve
    assert (never, resumed) == (0, int(at > 2))  # the first checkpoint is that of the second step


def test_a_loss_that_is_no_number_stops_the_training(tmp_path: Path) -> None:
    line = Line()

    def backward(step: int) -> float:
        return line.backward(step) if step < 8 else float("nan")

    with pytest.raises(RankpipeError) as error:
        train(plan(phase(backward)), line.trained, tmp_path, notify=lambda _: None)
    assert str(error.value) == (
        "phase 'first', step 8 of 10: the loss is nan at learning rate 0.0273, on the queries q8, q9; the last "
        f"checkpoint is kept in {tmp_path}; choose a lower learning_rate or a longer warm_up"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000006"]


def test_gradients_that_are_no_numbers_stop_the_training(tmp_path: Path) -> None:
    line = Line()

    def backward(step: int) -> float:
        loss = line.backward(step)
        line.network[0].weight.grad.fill_(torch.inf)  # type: ignore[union-attr]
        return loss

    with pytest.raises(
        RankpipeError, match=r"step 1 of 10: the loss is [0-9.]+, and its gradient (inf|nan) at .*; choose a"
    ):
        train(plan(phase(backward)), line.trained, tmp_path, notify=lambda _: None)


@pytest.mark.parametrize(("begins", "stops"), [(2.0, 200.1), (0.001, 10.1)])
def test_a_loss_that_explodes_stops_the_training(tmp_path: Path, begins: float, stops: float) -> None:
    line = Line()

    def backward(step: int) -> float:
        line.backward(step)
        return begins if step <= 12 else stops - 0.2 if step == 13 else stops

    many = phase(backward, steps=20, queries=lambda step: [f"q{number}" for number in range(11)])
    with pytest.raises(RankpipeError) as error:
        train(plan(many), line.trained, tmp_path, notify=lambda _: None)
    assert f"step 14 of 20: the loss is {stops:.4g}, and was {begins:.4g} in the first 10 steps, at" in str(error.value)
    assert "on the queries q0, q1, q2, q3, q4, q5, q6, q7 and 3 more; the last checkpoint is kept" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000012"]


def test_a_damaged_checkpoint_is_told(tmp_path: Path) -> None:
    line = Line()
    train(plan(phase(line.backward)), line.trained, tmp_path, notify=lambda _: None)
    (folder,) = tmp_path.iterdir()
    (folder / "tensors.safetensors").write_bytes(b"no tensors")
    with pytest.raises(RankpipeError, match=f"^the checkpoint {folder} cannot be read: .*; delete {tmp_path} to begin"):
        train(plan(phase(line.backward)), Line().trained, tmp_path, notify=lambda _: None)
