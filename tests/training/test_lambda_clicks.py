"""LambdaMART's objective on clicks: worked values, derivatives, LightGBM's own lambdas, what it learns of positions."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rankpipe.training.lambda_clicks import LOWEST, ClickLambdas, ratios, swaps
from rankpipe.training.sessions import Sessions


def once(shown: NDArray[np.int64], clicks: NDArray[np.int64]) -> Sessions:
    """Lists that were shown once."""
    pairs = clicks[:, :, None] * ((1 - clicks) * (shown >= 0))[:, None, :]
    return Sessions(shown, np.ones(len(shown), np.int64), clicks, pairs)


@pytest.fixture
def sessions() -> Sessions:
    """40 lists of 3 to 5 documents."""
    rng = np.random.default_rng(0)
    counts = rng.integers(3, 6, size=40)
    there = np.arange(5) < counts[:, None]
    shown = np.where(there, np.cumsum(there).reshape(there.shape) - 1, -1)
    return once(shown, ((rng.random(there.shape) < 0.4) * there).astype(np.int64))


def test_a_swap_changes_dcg_by_the_difference_of_its_discounts() -> None:
    # ranks by score: 2, 1, 3; discounts 1 / log2(3), 1 / log2(2), 1 / log2(4): .63093, 1, .5
    changed = swaps(np.array([[0.5, 1.0, -0.2, -np.inf]]))[0]
    assert changed[0, 1] == pytest.approx(0.36907, abs=1e-5)
    assert changed[1, 2] == pytest.approx(0.5)
    assert changed[2, 0] == pytest.approx(0.13093, abs=1e-5)


def test_ratios_are_those_worked_by_hand() -> None:
    # f = (.5, 1, -.2), clicks (1, 0, 1): l(1, 2) = log(1 + e^.5) = .974077, l(3, 2) = log(1 + e^1.2) = 1.463282
    clicked = ratios(np.array([0.974077, 0.0, 1.463282]), norm=1.0)
    assert clicked.tolist() == pytest.approx([1, LOWEST, 1.225653], abs=1e-6)
    assert ratios(np.array([2.0, 8.0]), norm=0.0).tolist() == [1, 4]
    assert ratios(np.array([0.0, 8.0]), norm=1.0).tolist() == [1, 1]


def test_what_is_learnt_of_positions_is_worked_by_hand() -> None:
    # one list, clicks (1, 0, 1), scores 0: every pair's loss is log 2 times the change of DCG of ranks 1, 2 and 3, 2
    lambdas = ClickLambdas(sessions=once(np.array([[0, 1, 2]]), np.array([[1, 0, 1]])))
    lambdas.gradients(np.zeros(3))
    assert lambdas.clicked.tolist() == pytest.approx([1, LOWEST, np.sqrt(0.13093 / 0.36907)], abs=1e-4)
    assert lambdas.unclicked.tolist() == [1, 1, 1]  # the first was always clicked: nothing to compare with


@pytest.mark.parametrize("sigmoid", [1.0, 2.0])
def test_gradients_are_the_derivatives_of_the_pairs_losses(sessions: Sessions, sigmoid: float) -> None:
    scores = np.random.default_rng(1).normal(size=int(sessions.present.sum()))
    lambdas = ClickLambdas(sessions=sessions, sigmoid=sigmoid)
    lambdas.gradients(scores)  # the ratios are now other than 1
    clicked, unclicked = lambdas.clicked, lambdas.unclicked
    table = np.full(sessions.shown.shape, -np.inf)
    table[sessions.present] = scores
    weights = sessions.pairs * swaps(table) / (clicked[:, None] * unclicked)

    def loss(moved: NDArray[np.float64]) -> float:
        placed = np.zeros(sessions.shown.shape)
        placed[sessions.present] = moved
        apart = placed[:, :, None] - placed[:, None, :]
        return float((weights * np.log1p(np.exp(-sigmoid * apart))).sum())

    first, second = lambdas.gradients(scores)
    for at in (0, 7, 50):
        step = np.zeros(len(scores))
        step[at] = 1e-4
        assert first[at] == pytest.approx((loss(scores + step) - loss(scores - step)) / 2e-4, abs=1e-6)
        curved = (loss(scores + step) - 2 * loss(scores) + loss(scores - step)) / 1e-8
        assert second[at] == pytest.approx(curved, abs=1e-4)


def test_sessions_of_one_list_count_as_one_by_one() -> None:
    shown = np.array([[0, 1, 2], [0, 1, 2], [3, 4, 5]])
    clicks = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 1]])
    one_by_one = once(shown, clicks)
    pairs = np.stack([one_by_one.pairs[:2].sum(0), one_by_one.pairs[2]])
    together = Sessions(shown[1:], np.array([2, 1]), np.array([[1, 1, 1], [0, 0, 1]]), pairs)
    scores = np.array([0.3, -0.1, 0.4, 0.0, 1.0, 0.2])
    apart, added = (ClickLambdas(sessions=one) for one in (one_by_one, together))
    for _ in range(3):
        first, _ = apart.gradients(np.concatenate([scores[:3], scores]))
        both, _ = added.gradients(scores)
        summed = np.concatenate([first[:3] + first[3:6], first[6:]])
        assert (1.5 * both).tolist() == pytest.approx(summed.tolist())  # a list counts 1 on average
        assert added.clicked.tolist() == pytest.approx(apart.clicked.tolist())
        assert added.unclicked.tolist() == pytest.approx(apart.unclicked.tolist())


def test_without_a_norm_nothing_is_learnt_of_positions(sessions: Sessions) -> None:
    lambdas = ClickLambdas(sessions=sessions, norm=None)
    lambdas.gradients(np.zeros(int(sessions.present.sum())))
    assert lambdas.propensities() is None
    assert lambdas.clicked.tolist() == [1] * 5


def test_a_position_that_is_clicked_less_has_a_smaller_ratio() -> None:
    # relevance is the same everywhere; position n is looked at with probability 1 / n
    rng = np.random.default_rng(2)
    shown = np.arange(4 * 20_000).reshape(-1, 4)
    clicks = (rng.random(shown.shape) < 0.4 / np.arange(1, 5)).astype(np.int64)
    lambdas = ClickLambdas(sessions=once(shown, clicks), norm=0.0)
    for _ in range(20):
        lambdas.gradients(np.zeros(shown.size))
    told = lambdas.propensities()
    assert told is not None
    assert (np.diff(told) < 0).all()
    assert told[0] == 1
