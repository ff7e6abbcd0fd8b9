"""Losses over a batch: the worked numbers of STAR, a hand's sum, torch's own cross-entropy."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'dense'")

from torch import Tensor  # noqa: E402

from rankpipe.training.batch_losses import info_nce, pooled, weighted  # noqa: E402

QUERIES = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
POSITIVES = torch.tensor([[1.0, 0.5], [0.2, 1.0]])
HARD = torch.tensor([[0.8, 0.1], [0.3, 0.9]])
SCORES = QUERIES @ torch.cat([POSITIVES, HARD]).T  # [[1, .2, .8, .3], [.5, 1, .1, .9]]
FIRST = torch.tensor([0, 1])


def mask(*rows: str) -> Tensor:
    return torch.tensor([[sign == "x" for sign in row] for row in rows])


def test_star_pools_all_pairs_of_a_batch() -> None:
    # log(1 + exp(s_negative - s_positive)): .371101 + .598139 + .403186, .474077 + .341154 + .644397; of 6
    assert float(pooled(SCORES, FIRST, mask(".xxx", "x.xx"))) == pytest.approx(0.472009, abs=5e-7)


def test_star_leaves_out_another_querys_negative_that_is_relevant() -> None:
    assert float(pooled(SCORES, FIRST, mask(".xx.", "x.xx"))) == pytest.approx(0.485773, abs=1e-6)


def test_star_weighs_random_pairs_by_alpha() -> None:
    # own hard negatives .621268, in-batch .422589
    hard, random = mask("..x.", "...x"), mask(".x..", "x...")
    assert float(weighted(SCORES, FIRST, hard, random, 0.0)) == pytest.approx(0.621268, abs=5e-7)
    assert float(weighted(SCORES, FIRST, hard, random, 0.1)) == pytest.approx(0.663527, abs=5e-7)


def test_the_loss_does_not_depend_on_the_order_of_the_batch() -> None:
    generator = torch.Generator().manual_seed(3)
    scores, used = torch.randn(6, 15, generator=generator), torch.rand(6, 15, generator=generator) < 0.6
    used[torch.arange(6), torch.arange(6)] = False
    rows, columns = torch.randperm(6, generator=generator), torch.randperm(15, generator=generator)
    moved = torch.empty_like(columns)
    moved[columns] = torch.arange(15)
    for loss in (pooled, info_nce):
        expected = loss(scores, torch.arange(6), used)
        found = loss(scores[rows][:, columns], moved[rows], used[rows][:, columns])
        torch.testing.assert_close(found, expected)


def test_info_nce_is_the_cross_entropy_over_what_is_left() -> None:
    # query 1 against columns 0, 1, 2; query 2 against 1, 3
    used = mask(".xx.", "...x")
    by_hand = (
        -math.log(math.exp(1) / (math.exp(1) + math.exp(0.2) + math.exp(0.8)))
        - math.log(math.exp(1) / (math.exp(1) + math.exp(0.9)))
    ) / 2
    assert float(info_nce(SCORES, FIRST, used)) == pytest.approx(by_hand, abs=1e-6)
    whole = mask(".xxx", "x.xx")
    expected = torch.nn.functional.cross_entropy(SCORES, FIRST)
    torch.testing.assert_close(info_nce(SCORES, FIRST, whole), expected)


def test_queries_without_negatives_do_not_count() -> None:
    used = mask(".xx.", "....")
    alone = info_nce(SCORES[:1], FIRST[:1], used[:1])
    torch.testing.assert_close(info_nce(SCORES, FIRST, used), alone)
    scores = SCORES.clone().requires_grad_()
    nothing = pooled(scores, FIRST, mask("....", "....")) + info_nce(scores, FIRST, mask("....", "...."))
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert scores.grad is not None
    assert scores.grad.abs().max() == 0


def test_what_is_masked_has_no_gradient() -> None:
    for loss in (pooled, info_nce):
        scores = SCORES.clone().requires_grad_()
        loss(scores, FIRST, mask(".x..", "..x.")).backward()
        assert scores.grad is not None
        assert (scores.grad != 0).tolist() == [[True, True, False, False], [False, True, True, False]]
