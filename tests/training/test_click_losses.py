"""Losses that learn from clicks: by hand, to the digits of worked numbers, and what they must never do."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'dense'")

from torch import Tensor  # noqa: E402

from rankpipe.training.click_losses import (  # noqa: E402
    ClickLoss,
    Dual,
    PairDebias,
    RegressionEM,
    Shown,
    Weighted,
    normalised,
    posteriors,
    ratios,
    weighted_softmax,
)
from rankpipe.training.click_models import EYE_TRACKING, PositionBased, perceived_relevance  # noqa: E402

SCORES = torch.tensor([[0.5, 1.0, -0.2]], dtype=torch.float64)
LOGITS = torch.tensor([[1.0, 0.3, -0.5]], dtype=torch.float64)
CLICKS = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
ALL = torch.ones(1, 3, dtype=torch.bool)
ONCE = Shown.once(CLICKS, ALL)
NO_LIMIT = math.inf


def doubled(loss: ClickLoss) -> ClickLoss:
    return loss.to(torch.float64)


def test_ratios_are_those_of_two_softmaxes() -> None:
    assert ratios(LOGITS, NO_LIMIT)[0].tolist() == pytest.approx([1, 2.013753, 4.481689], abs=5e-7)
    assert ratios(SCORES, NO_LIMIT)[0].tolist() == pytest.approx([1, 0.606531, 2.013753], abs=5e-7)
    shares = LOGITS.softmax(1)
    assert torch.allclose(ratios(LOGITS, NO_LIMIT), shares[:, :1] / shares, atol=1e-12)


def test_ratios_are_clipped_and_have_no_gradient() -> None:
    logits = torch.tensor([[0.0, -90.0]], requires_grad=True)
    found = ratios(logits, 20.0)
    assert found.tolist() == [[1.0, 20.0]]
    assert not found.requires_grad


def test_both_losses_of_dla_to_the_digits() -> None:
    ranking, looking = CLICKS * ratios(LOGITS, NO_LIMIT), CLICKS * ratios(SCORES, NO_LIMIT)
    of_ranker, of_looking = weighted_softmax(SCORES, ranking, ALL), weighted_softmax(LOGITS, looking, ALL)
    assert of_ranker.item() == pytest.approx(9.418712, abs=5e-7)
    assert of_looking.item() == pytest.approx(4.654562, abs=5e-7)
    assert normalised(of_ranker, ranking).item() == pytest.approx(1.718213, abs=5e-7)
    assert normalised(of_looking, looking).item() == pytest.approx(1.544441, abs=5e-7)


def test_gradients_of_dla_to_the_digits() -> None:
    scores = SCORES.clone().requires_grad_()
    weights = CLICKS * ratios(LOGITS, NO_LIMIT)
    weighted_softmax(scores, weights, ALL).sum().backward()
    assert scores.grad is not None
    assert scores.grad[0].tolist() == pytest.approx([0.742816, 2.873417, -3.616233], abs=5e-7)
    dual = doubled(Dual(3, limit=NO_LIMIT))
    assert isinstance(dual, Dual)
    dual.logits.data = LOGITS[0].clone()
    scores.grad = None
    total = dual(scores, ONCE)
    total.backward()
    assert total.item() == pytest.approx(3.262654, abs=5e-7)
    assert dual.logits.grad is not None
    assert scores.grad is not None
    assert scores.grad[0].tolist() == pytest.approx([0.135509, 0.524185, -0.659693], abs=1e-6)
    assert dual.logits.grad.tolist() == pytest.approx([0.249679, 0.288760, -0.538439], abs=1e-6)
    assert scores.grad.sum().item() == pytest.approx(0, abs=1e-12)


def test_naive_loss_to_the_digits() -> None:
    assert Weighted()(SCORES, ONCE).item() == pytest.approx(1.495911, abs=5e-7)


@pytest.mark.parametrize(
    ("eta", "expected"),
    [
        (1.0, [1, 1.114754, 1.416667, 2, 2.428571, 3.4, 6.181818, 6.8, 8.5, 11.333333]),
        (0.0, [1.0] * 10),
    ],
)
def test_weights_of_known_propensities(eta: float, expected: list[float]) -> None:
    known = PositionBased(eta=eta).propensities(10)
    assert (known[0] / known).tolist() == pytest.approx(expected, abs=5e-7)


def test_last_weight_of_a_mild_and_a_severe_bias() -> None:
    mild, severe = PositionBased(eta=0.5).propensities(10), PositionBased(eta=2.0).propensities(10)
    assert mild[0] / mild[-1] == pytest.approx(3.366502, abs=5e-7)
    assert severe[0] / severe[-1] == pytest.approx(128.44, abs=0.005)


def test_known_propensities_weigh_clicks_and_are_clipped() -> None:
    loss = Weighted(torch.tensor([0.5, 0.25, 0.001], dtype=torch.float64), limit=4.0)
    log_shares = SCORES.log_softmax(1)[0]
    expected = -(1 * log_shares[0] + 4 * log_shares[2]) / 5  # .5/.001 = 500 is cut to 4
    assert loss(SCORES, ONCE).item() == pytest.approx(expected.item(), abs=1e-12)


def test_posteriors_of_regression_em_to_the_digits() -> None:
    examined = torch.tensor([[0.9, 0.6, 0.3]], dtype=torch.float64)
    looked, relevant = posteriors(examined, SCORES.sigmoid())
    assert looked[0].tolist() == pytest.approx([0.772617, 0.287451, 0.190705], abs=5e-7)
    assert relevant[0].tolist() == pytest.approx([0.141537, 0.520915, 0.364317], abs=5e-7)


def test_regression_em_moves_propensities_by_its_rate() -> None:
    loss = doubled(RegressionEM(3))
    assert isinstance(loss, RegressionEM)
    loss.examined.copy_(torch.tensor([0.9, 0.6, 0.3]))
    loss(SCORES, ONCE)
    # clicked: looked at for sure; position 2: 0.287451
    expected = [0.9 + 0.05 * 0.1, 0.6 + 0.05 * (0.287451 - 0.6), 0.3 + 0.05 * 0.7]
    assert loss.examined.tolist() == pytest.approx(expected, abs=1e-6)


def test_first_step_of_pair_debias_to_the_digits() -> None:
    loss = doubled(PairDebias(3))
    assert isinstance(loss, PairDebias)
    # pairs (1, 2) and (3, 2): log(1 + e^.5) = .974077, log(1 + e^1.2) = 1.463282
    assert loss(SCORES, ONCE).item() == pytest.approx(2.437359, abs=5e-7)
    expected = [1.0, 0.95, 1 + 0.05 * (1.225653 - 1)]  # position 2 has no click: its target is 0
    assert loss.clicked.tolist() == pytest.approx(expected, abs=1e-6)


def test_the_bias_of_unclicked_positions_moves_too() -> None:
    loss = doubled(PairDebias(3))
    assert isinstance(loss, PairDebias)
    clicks = torch.tensor([[0.0, 1, 0]], dtype=torch.float64)
    loss(SCORES, Shown.once(clicks, ALL))
    # pairs (2, 1) and (2, 3): log(1 + e^-.5) = .474077, log(1 + e^-1.2) = .263282; position 2 was never left
    third = 0.95 + 0.05 * math.sqrt(math.log1p(math.exp(-1.2)) / math.log1p(math.exp(-0.5)))
    assert loss.unclicked.tolist() == pytest.approx([1, 0.95, third], abs=1e-9)
    assert third == pytest.approx(0.987261, abs=5e-7)


def test_a_position_that_is_never_clicked_keeps_a_ratio_above_zero() -> None:
    loss = PairDebias(3, lowest=0.01)
    for _ in range(400):
        loss(SCORES.float(), Shown.once(CLICKS.float(), ALL))
    assert loss.clicked[1].item() == pytest.approx(0.01)
    assert math.isfinite(loss(SCORES.float(), Shown.once(CLICKS.float(), ALL)).item())


LOSSES = {
    "naive": lambda: Weighted(),
    "known": lambda: Weighted(torch.tensor([1.0, 0.5, 0.25])),
    "dla": lambda: Dual(3),
    "dla, context": lambda: Dual(3, context=True),
    "regression-em": lambda: RegressionEM(3),
    "pair-debias": lambda: PairDebias(3),
}


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_not_there_changes_nothing(name: str) -> None:
    scores, clicks = torch.randn(4, 3), torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1]])
    there = torch.ones(4, 3, dtype=torch.bool)
    wider = torch.cat([there, torch.zeros(4, 2, dtype=torch.bool)], dim=1)

    def value(scores: Tensor, clicks: Tensor, present: Tensor) -> float:
        torch.manual_seed(1)
        return LOSSES[name]()(scores, Shown.once(clicks, present)).item()

    padded = value(
        torch.cat([scores, torch.full((4, 2), 9.0)], dim=1), torch.cat([clicks, torch.zeros(4, 2)], dim=1), wider
    )
    assert padded == pytest.approx(value(scores, clicks, there), abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_sessions_without_clicks_give_a_finite_loss(name: str) -> None:
    scores = torch.randn(2, 3, requires_grad=True)
    value = LOSSES[name]()(scores, Shown.once(torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)))
    value.backward()
    assert math.isfinite(value.item())
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("name", ["naive", "known", "dla", "regression-em", "pair-debias"])
def test_sessions_of_one_list_may_be_added_up(name: str) -> None:
    scores = torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
    clicks = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=torch.float64)
    apart = Shown.once(clicks, torch.ones(4, 3, dtype=torch.bool))
    together = Shown(
        clicks.sum(0)[None], torch.tensor([4.0]), apart.pairs.sum(0)[None], torch.ones(1, 3, dtype=torch.bool)
    )
    one, other = doubled(LOSSES[name]()), doubled(LOSSES[name]())
    first, second = one(scores.expand(4, 3), apart), other(scores, together)
    assert first.item() == pytest.approx(second.item(), abs=1e-12)
    gradients = [torch.autograd.grad(value, scores)[0] for value in (first, second)]
    assert torch.allclose(*gradients, atol=1e-12)
    learnt = [loss.propensities() for loss in (one, other)]
    assert (learnt[0] is None and learnt[1] is None) or torch.allclose(*learnt, atol=1e-12)  # type: ignore[arg-type]


def test_context_sees_clicks_above_only() -> None:
    dual = Dual(4, context=True)
    assert dual._network is not None
    torch.nn.init.normal_(dual._network[2].weight)
    clicks = torch.tensor([[0.0, 1, 0, 0]])
    other = torch.tensor([[0.0, 1, 0, 1]])
    before, after = dual.looked(clicks)[0], dual.looked(other)[0]
    assert torch.equal(before, after)  # the last click is above nothing
    moved = dual.looked(torch.zeros(1, 4))[0] != before
    assert moved.tolist() == [False, False, True, True]


# -- the recovery experiment --------------------------------------------------------------------------------------------


def simulated(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Features (Q, 10, 10) and relevance (Q, 10) of what was shown: 4,000 queries of 30 documents, 10 features.

    The logging ranker sees the four strongest features at a tenth. Grades are spread so that the logarithm of relevance
    is nearly a line in the features: what a linear ranker cannot say, DLA takes for position.
    """
    weights, features = rng.normal(size=10), rng.normal(size=(4000, 30, 10))
    grades = np.searchsorted([-1.5, -0.3, 0.9, 2.1], features @ weights / np.linalg.norm(weights))
    blind = np.where(np.argsort(np.argsort(-np.abs(weights))) < 4, 0.1 * weights, weights)
    shown = np.argsort(-(features @ blind), axis=1)[:, :10]
    relevance = perceived_relevance(np.take_along_axis(grades, shown, 1), highest=4)
    return np.take_along_axis(features, shown[:, :, None], 1), relevance


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_dla_finds_the_propensities_that_clicks_were_drawn_with(eta: float) -> None:
    rng = np.random.default_rng(1)
    features, relevance = simulated(rng)
    model = PositionBased(eta=eta)
    torch.manual_seed(1)
    ranker, dual = torch.nn.Linear(10, 1), Dual(10)
    optimizer = torch.optim.Adagrad(
        [{"params": ranker.parameters(), "lr": 0.05}, {"params": dual.parameters(), "lr": 0.5}]
    )
    inputs, present = torch.from_numpy(features).float(), torch.ones(256, 10, dtype=torch.bool)
    for _ in range(3000):
        rows = rng.integers(len(features), size=256)
        clicks = torch.from_numpy(model.draw(relevance[rows], rng)).float()
        loss = dual(ranker(inputs[rows])[:, :, 0], Shown.once(clicks, present))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    expected = (np.array(EYE_TRACKING) / EYE_TRACKING[0]) ** eta
    assert np.abs(dual.propensities().numpy() - expected).max() < 0.1
