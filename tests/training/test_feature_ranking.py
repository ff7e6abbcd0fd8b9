"""Feature rankers: what they learn, from grades and from clicks, and that a killed training goes on to the same bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'dense'")

from rankpipe.data.svmlight import FeatureLists  # noqa: E402
from rankpipe.models.feature_ranker import LARGEST, FeatureRanker  # noqa: E402
from rankpipe.training import losses  # noqa: E402
from rankpipe.training.click_losses import ClickLoss, Dual, PairDebias, RegressionEM, Weighted, propensities_of  # noqa: E402
from rankpipe.training.click_models import PositionBased  # noqa: E402
from rankpipe.training.feature_ranking import (  # noqa: E402
    RankerSteps,
    measured,
    train_on_clicks,
    train_on_grades,
)
from rankpipe.training.sessions import Sessions, ranked, simulate  # noqa: E402

STEPS = RankerSteps(steps=60, batch=32, every=20, weight_decay=0.001, learning_rate=0.5)


@pytest.fixture(scope="module")
def lists() -> FeatureLists:
    """60 queries of 5 to 12 documents, 4 features; the grade follows the first two."""
    rng = np.random.default_rng(0)
    counts = rng.integers(5, 13, size=60)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    features = rng.normal(size=(offsets[-1], 4)).astype(np.float32)
    grades = np.clip(np.round(1 + 1.5 * features[:, 0] - features[:, 1]), 0, 3).astype(np.float32)
    return FeatureLists(tuple(f"q{at}" for at in range(60)), offsets, grades, features)


@pytest.fixture(scope="module")
def sessions(lists: FeatureLists) -> Sessions:
    """Logged by a ranker that sees the second feature alone."""
    shown = ranked(lists, -lists.features[:, 1], 8)
    return simulate(lists, shown, PositionBased(), 20_000, np.random.default_rng(1))


def ranker(lists: FeatureLists, hidden: tuple[int, ...] = ()) -> FeatureRanker:
    torch.manual_seed(3)
    made = FeatureRanker(lists.features.shape[1], hidden)
    made.fit_scale(lists.features)
    return made


@pytest.mark.parametrize("hidden", [(), (8,), (8, 4)])
def test_grades_are_learnt(lists: FeatureLists, tmp_path: Path, hidden: tuple[int, ...]) -> None:
    made = ranker(lists, hidden)
    measure = measured(made, lists, "nDCG@5")
    with torch.inference_mode():
        before = measure()
    progress = train_on_grades(made, lists, losses.softmax, STEPS, tmp_path, measure=measure)
    assert before < 0.7
    assert progress.best is not None
    assert progress.best > 0.93
    with torch.inference_mode():
        assert measure() == pytest.approx(progress.best)  # the best weights are left


LOSSES: dict[str, Callable[[], ClickLoss]] = {
    "naive": Weighted,
    "known": lambda: Weighted(torch.from_numpy(PositionBased().propensities(8)).float()),
    "dla": lambda: Dual(8),
    "regression-em": lambda: RegressionEM(8),
    "pair-debias": lambda: PairDebias(8),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_killed_training_goes_on_to_the_same_bits(
    lists: FeatureLists, sessions: Sessions, tmp_path: Path, name: str
) -> None:
    class Killed(Exception):
        """In the place of a signal."""

    def trained(folder: Path, killed_at: int | None = None) -> tuple[list[np.ndarray], object]:
        made, loss = ranker(lists, (6,)), LOSSES[name]()
        lines = [0]

        def notify(_: str) -> None:
            lines[0] += 1
            if lines[0] == killed_at:
                raise Killed

        try:  # nothing is measured, so that the last weights are left, not the best
            train_on_clicks(made, lists, sessions, loss, STEPS, folder, notify=notify)
        except Killed:
            return trained(folder)
        state = [*made.state_dict().values(), *loss.state_dict().values()]
        return [value.numpy() for value in state], propensities_of(loss)

    whole, learnt = trained(tmp_path / "whole")
    again, learnt_again = trained(tmp_path / "killed", killed_at=2)  # after step 40; step 20 was kept
    assert all(np.array_equal(one, other) for one, other in zip(whole, again, strict=True))
    assert learnt == learnt_again


def test_known_propensities_are_better_than_none(lists: FeatureLists, sessions: Sessions, tmp_path: Path) -> None:
    values = {}
    for name in ("naive", "known", "dla"):
        made = ranker(lists)
        (tmp_path / name).mkdir()
        train_on_clicks(made, lists, sessions, LOSSES[name](), STEPS, tmp_path / name)
        with torch.inference_mode():
            values[name] = measured(made, lists, "nDCG@5")()
    assert values["known"] > values["naive"] + 0.01
    assert values["dla"] > values["naive"] + 0.01


def test_lists_that_nobody_clicked_train_nothing(lists: FeatureLists, sessions: Sessions, tmp_path: Path) -> None:
    some = sessions.clicks.copy()
    some[30:] = 0
    pairs = np.where((some > 0).any(1)[:, None, None], sessions.pairs, 0)
    half = Sessions(sessions.shown, sessions.count, some, pairs)
    few = Sessions(sessions.shown[:30], sessions.count[:30], some[:30], pairs[:30])
    weights = []
    for number, one in enumerate((half, few)):
        made = ranker(lists)
        (tmp_path / str(number)).mkdir()
        train_on_clicks(made, lists, one, Weighted(), STEPS, tmp_path / str(number))
        weights.append(made.layers[-1].weight.detach().numpy())  # type: ignore[union-attr]
    assert np.array_equal(*weights)


def test_features_are_scaled_as_they_were_where_the_ranker_was_fitted() -> None:
    made = FeatureRanker(3)
    made.fit_scale(np.array([[1, 5, 0], [3, 5, 1000]], np.float32))
    scaled = made.scaled(torch.tensor([[1.0, 5, 0], [5.0, 7, 1e9]]))
    assert scaled.tolist() == [[-1, 0, -1], [3, 0, LARGEST]]  # the second feature never varied
