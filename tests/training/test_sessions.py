"""Sessions: what is shown, what is clicked, and what is known of positions from it."""

from __future__ import annotations

import numpy as np
import pytest

from rankpipe.data.svmlight import FeatureLists
from rankpipe.errors import UsageError
from rankpipe.training.click_models import Cascade, PositionBased
from rankpipe.training.sessions import Sessions, randomised_propensities, ranked, shuffled, simulate


def lists(counts: list[int], grades: list[float] | None = None) -> FeatureLists:
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    size = int(offsets[-1])
    found = np.array(grades, np.float32) if grades is not None else np.arange(size, dtype=np.float32) % 3
    ids = tuple(f"q{at}" for at in range(len(counts)))
    return FeatureLists(ids, offsets, found, np.ones((size, 1), np.float32))


def test_the_first_documents_by_score_are_shown() -> None:
    scores = np.array([1.0, 3, 2, 5, 5])
    assert ranked(lists([3, 2]), scores, 2).tolist() == [[1, 2], [3, 4]]
    assert ranked(lists([3, 2]), scores, 3).tolist() == [[1, 2, 0], [3, 4, -1]]


def test_every_order_is_as_likely_when_shuffled() -> None:
    first = shuffled(lists([3]), 3, np.random.default_rng(0), orders=3000)[:, 0]
    assert np.bincount(first).tolist() == pytest.approx([1000] * 3, abs=110)  # 4 standard deviations


@pytest.mark.parametrize("model", [PositionBased(), Cascade()], ids=repr)
def test_sums_of_sessions_fit_together(model: PositionBased) -> None:
    given = lists([4, 2, 3])
    shown = ranked(given, -np.arange(9.0), 3)
    sessions = simulate(given, shown, model, 100_000, np.random.default_rng(0))
    assert sessions.count.sum() == 100_000
    assert (sessions.clicks <= sessions.count[:, None]).all()
    assert sessions.clicks[1, 2] == 0  # there is no third document
    assert (sessions.pairs[:, range(3), range(3)] == 0).all()
    assert (sessions.pairs[1, :, 2] == 0).all()
    # clicked at i and not at j, and the other way round, differ by the difference of the clicks
    apart = sessions.pairs - sessions.pairs.transpose(0, 2, 1)
    both = sessions.clicks[:, :, None] - sessions.clicks[:, None, :]
    there = sessions.present[:, :, None] & sessions.present[:, None, :]
    assert np.array_equal(apart[there], both[there])


def test_clicks_are_as_likely_as_the_model_says() -> None:
    given = lists([2], [2, 0])
    model, count = PositionBased(), 200_000
    sessions = simulate(given, np.array([[1, 0]]), model, count, np.random.default_rng(0), noise=0.1)
    expected = np.array([0.68 * 0.1, 0.61 * 1.0])
    error = np.sqrt(expected * (1 - expected) / count)
    assert (np.abs(sessions.click_through() - expected) < 4 * error).all()


def test_the_same_seed_gives_the_same_sessions() -> None:
    given = lists([5, 5])
    shown = ranked(given, np.arange(10.0), 5)
    one, other = (simulate(given, shown, PositionBased(), 1000, np.random.default_rng(4)) for _ in range(2))
    assert np.array_equal(one.clicks, other.clicks)
    assert np.array_equal(one.pairs, other.pairs)


def test_shuffled_lists_tell_the_propensities() -> None:
    rng = np.random.default_rng(0)
    given, model = lists([4] * 100), PositionBased()
    shown = shuffled(given, 4, rng, orders=300)
    found = randomised_propensities(simulate(given, shown, model, 400_000, rng))
    assert found.tolist() == pytest.approx((model.propensities(4) / 0.68).tolist(), abs=0.02)


def test_propensities_are_compared_on_lists_that_are_long_enough() -> None:
    # short lists are relevant, long ones hardly: over all lists the last positions would look unseen
    rng, given = np.random.default_rng(0), lists([2] * 50 + [6] * 50, [2.0] * 100 + [0.0] * 300)
    shown = shuffled(given, 6, rng, orders=20)
    found = randomised_propensities(simulate(given, shown, PositionBased(eta=0.0), 300_000, rng, noise=0.3))
    assert found.tolist() == pytest.approx([1.0] * 6, abs=0.03)


def test_a_position_that_was_never_clicked_has_no_propensity() -> None:
    none = np.zeros((1, 2, 2), np.int64)
    sessions = Sessions(np.array([[0, 1]]), np.array([10]), np.array([[3, 0]]), none)
    with pytest.raises(UsageError, match=r"^position 2 was never clicked in 10 sessions; more are needed$"):
        randomised_propensities(sessions)


def test_a_list_without_documents_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^every list that is shown needs a document$"):
        simulate(lists([2]), np.array([[-1, -1]]), PositionBased(), 10, np.random.default_rng(0))


def test_click_through_of_a_position_that_was_never_filled_is_no_number() -> None:
    sessions = Sessions(np.array([[0, -1]]), np.array([10]), np.array([[3, 0]]), np.zeros((1, 2, 2), np.int64))
    assert sessions.click_through().tolist() == pytest.approx([0.3, np.nan], nan_ok=True)
