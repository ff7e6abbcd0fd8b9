"""Click models: probabilities by hand, and clicks that come about as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from rankpipe.errors import UsageError
from rankpipe.training.click_models import (
    BROWSING,
    CLICK_MODELS,
    EYE_TRACKING,
    Cascade,
    ClickModel,
    DependentClick,
    PositionBased,
    UserBrowsing,
    perceived_relevance,
)

RELEVANCE = np.array([[0.9, 0.2, 0.6, 0.1, 0.5, 0.8, 0.3, 0.4, 0.7, 0.2, 0.6, 0.9]])
MODELS = [PositionBased(eta=0.5), PositionBased(), UserBrowsing(), UserBrowsing(eta=0.3), DependentClick(), Cascade()]


def test_perceived_relevance_of_five_grades() -> None:
    expected = [0.10, 0.16, 0.28, 0.52, 1.00]
    assert perceived_relevance(np.arange(5)).tolist() == pytest.approx(expected, abs=1e-12)
    assert perceived_relevance(np.arange(3), highest=4).tolist() == pytest.approx(expected[:3], abs=1e-12)
    assert perceived_relevance(np.zeros(2)).tolist() == [0.1, 0.1]


def test_grades_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^grades run from -1 to 2; they must lie between 0 and 2$"):
        perceived_relevance(np.array([-1, 2]))
    with pytest.raises(UsageError, match=r"^grades run from 0 to 5; they must lie between 0 and 4$"):
        perceived_relevance(np.array([0, 5]), highest=4)


def test_examination_of_the_position_based_model() -> None:
    found = PositionBased(eta=2.0).examination(RELEVANCE)[0]
    assert found[:10].tolist() == pytest.approx([one**2 for one in EYE_TRACKING], abs=1e-12)
    assert found[10:].tolist() == [found[9], found[9]]


def test_examination_of_the_browsing_model_without_relevance_is_that_without_clicks() -> None:
    found = UserBrowsing().examination(np.zeros((1, 10)))[0]
    assert found.tolist() == pytest.approx([1, 1, 0.95, 0.82, 0.69, 0.54, 0.47, 0.43, 0.41, 0.43], abs=1e-12)


def test_examination_of_the_browsing_model_by_hand() -> None:
    found = UserBrowsing().examination(np.array([[0.5, 0.4, 0.0]]))[0]
    # position 2: .5 clicked above (.98), .5 not (1.0); position 3: the last click at 1, at 2 or nowhere
    second = 0.5 * 0.98 + 0.5 * 1.0
    at_second = 0.4 * second
    at_first = 0.5 * (1 - 0.4 * 0.98)
    nowhere = 0.5 * (1 - 0.4 * 1.0)
    assert at_first + at_second + nowhere == pytest.approx(1)
    third = at_second * BROWSING[2][0] + at_first * BROWSING[2][1] + nowhere * BROWSING[2][2]
    assert found.tolist() == pytest.approx([1.0, second, third], abs=1e-12)


def test_examination_of_cascade_and_dependent_clicks_by_hand() -> None:
    relevance = np.array([[0.5, 0.4, 0.9]])
    assert Cascade().examination(relevance)[0].tolist() == pytest.approx([1, 0.5, 0.3], abs=1e-12)
    first = 1 - 0.5 * (1 - 0.61 / 0.68)
    second = first * (1 - 0.4 * (1 - 0.48 / 0.61))
    assert DependentClick().examination(relevance)[0].tolist() == pytest.approx([1, first, second], abs=1e-12)


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_a_click_is_as_likely_as_looking_times_relevance(model: ClickModel) -> None:
    sessions = 40_000
    clicks = model.draw(np.repeat(RELEVANCE, sessions, axis=0), np.random.default_rng(7))
    expected = (model.examination(RELEVANCE) * RELEVANCE)[0]
    error = np.sqrt(expected * (1 - expected) / sessions)
    assert (np.abs(clicks.mean(0) - expected) < 4 * error + 1e-12).all()


@pytest.mark.parametrize("model", [PositionBased(eta=0.0), DependentClick(eta=0.0), UserBrowsing(eta=0.0)], ids=repr)
def test_eta_zero_is_no_bias(model: ClickModel) -> None:
    assert model.examination(RELEVANCE)[0].tolist() == pytest.approx([1.0] * RELEVANCE.shape[1], abs=1e-12)


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_the_same_seed_draws_the_same_clicks_and_nothing_is_written_to(model: ClickModel) -> None:
    relevance = np.repeat(RELEVANCE, 50, axis=0)
    before = relevance.copy()
    first, second = (model.draw(relevance, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first, second)
    assert np.array_equal(relevance, before)
    assert first.any()


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_what_cannot_be_relevant_is_never_clicked(model: ClickModel) -> None:
    assert not model.draw(np.zeros((100, 5)), np.random.default_rng(0)).any()


def test_cascade_ends_with_the_first_click() -> None:
    clicks = Cascade().draw(np.full((1000, 6), 0.3), np.random.default_rng(0))
    assert set(clicks.sum(1).tolist()) == {0, 1}


def test_models_are_known_by_name() -> None:
    assert sorted(CLICK_MODELS) == ["cascade", "dcm", "pbm", "ubm"]
