"""Losses: by hand, against sentence-transformers and torch, and what all of them keep."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'dense'")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from rankpipe.training import losses  # noqa: E402

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]

LOSSES: dict[str, Loss] = {
    "binary": losses.binary,
    "ranknet": losses.ranknet,
    "margin": losses.margin,
    "softmax": losses.softmax,
    "lambda": losses.lambda_ndcg,
    "list-mle": losses.list_mle,
    "list-net": losses.list_net,
    "approx-ndcg": losses.approx_ndcg,
    "kl": losses.kl,
    "margin-mse": losses.margin_mse,
}

SCORES = torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64)
GRADES = torch.tensor([[0.0, 2.0, 1.0]], dtype=torch.float64)
ALL = torch.ones(1, 3, dtype=torch.bool)


def drawn(seed: int, groups: int = 5, size: int = 7) -> tuple[Tensor, Tensor]:
    """Scores and grades 0 to 3, at least one above 0 in each group."""
    generator = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(groups, size, generator=generator, dtype=torch.float64)
    grades = torch.randint(0, 4, (groups, size), generator=generator).double()
    grades[:, 0] = 2
    return scores, grades


# -- by hand ------------------------------------------------------------------------------------------------------------


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


def test_binary_by_hand() -> None:
    # not relevant with 2, relevant with 1 and 0
    expected = (softplus(2) + softplus(-1) + softplus(0)) / 3
    assert losses.binary(SCORES, GRADES, ALL).item() == pytest.approx(expected, abs=1e-12)


def test_list_net_by_hand() -> None:
    wanted = [math.exp(grade) / (1 + math.exp(2) + math.exp(1)) for grade in (0, 2, 1)]
    whole = math.log(math.exp(2) + math.exp(1) + 1)
    expected = sum(share * (whole - score) for share, score in zip(wanted, (2, 1, 0), strict=True))
    assert losses.list_net(SCORES, GRADES, ALL).item() == pytest.approx(expected, abs=1e-12)


def test_approx_ndcg_by_hand() -> None:
    def sigmoid(value: float) -> float:
        return 1 / (1 + math.exp(-value))

    second = 1 + sigmoid((2 - 1) / 0.5) + sigmoid((0 - 1) / 0.5)  # grade 2
    third = 1 + sigmoid((2 - 0) / 0.5) + sigmoid((1 - 0) / 0.5)  # grade 1
    ideal = 3 / math.log2(2) + 1 / math.log2(3)
    expected = 1 - (3 / math.log2(1 + second) + 1 / math.log2(1 + third)) / ideal
    assert losses.approx_ndcg(SCORES, GRADES, ALL, 0.5).item() == pytest.approx(expected, abs=1e-12)


def test_approx_ndcg_of_far_apart_scores_is_ndcg() -> None:
    # ranks 1, 2, 3 of grades 0, 2, 1
    ideal = 3 / math.log2(2) + 1 / math.log2(3)
    expected = 1 - (3 / math.log2(3) + 1 / math.log2(4)) / ideal
    assert losses.approx_ndcg(100 * SCORES, GRADES, ALL).item() == pytest.approx(expected, abs=1e-9)


def test_ranknet_by_hand() -> None:
    # pairs (higher, lower): (1, 0), (0, 2), (1, 2) by the places 1 > 0, 2 > 0, 1 > 2
    expected = (softplus(2 - 1) + softplus(2 - 0) + softplus(0 - 1)) / 3
    assert losses.ranknet(SCORES, GRADES, ALL).item() == pytest.approx(expected, abs=1e-12)


def test_margin_by_hand() -> None:
    # width 1.5; score differences of the three pairs are -1, -2 and 1
    expected = (2.5 + 3.5 + 0.5) / 3
    assert losses.margin(SCORES, GRADES, ALL, 1.5).item() == pytest.approx(expected, abs=1e-12)


def test_softmax_by_hand() -> None:
    # shares 0, 2/3, 1/3 of the grades; scores over the temperature 2: 1, .5, 0
    total = math.log(math.e + math.exp(0.5) + 1)
    expected = 2 / 3 * (total - 0.5) + 1 / 3 * total
    assert losses.softmax(SCORES, GRADES, ALL, 2.0).item() == pytest.approx(expected, abs=1e-12)


def test_lambda_by_hand() -> None:
    # by score the grades are 0, 2, 1, so gains 0, 3, 1; ideal DCG 3 + 1 / log2(3)
    ideal = 3 + 1 / math.log2(3)
    one, two, three = 1.0, 1 / math.log2(3), 1 / math.log2(4)  # reciprocal discounts of the ranks
    near, far = abs(one - two), abs(two - three)  # of distances 1 and 2
    pairs = [
        (abs(two - one) + 10 * near, 3, softplus(2 - 1)),  # second over first
        (abs(three - one) + 10 * far, 1, softplus(2 - 0)),  # third over first
        (abs(two - three) + 10 * near, 2, softplus(0 - 1)),  # second over third
    ]
    expected = sum(weight * gain / ideal * loss / math.log(2) for weight, gain, loss in pairs)
    assert losses.lambda_ndcg(SCORES, GRADES, ALL).item() == pytest.approx(expected, abs=1e-12)


def test_list_mle_by_hand() -> None:
    # the ideal order is second, third, first, with scores 1, 0, 2
    total = math.log(math.e + 1 + math.exp(2))
    expected = (total - 1) + (math.log(1 + math.exp(2)) - 0) + 0
    assert losses.list_mle(SCORES, GRADES, ALL).item() == pytest.approx(expected, abs=1e-12)


def test_list_mle_of_equal_grades_by_hand() -> None:
    # two of grade 1, with scores 0 and 2, are each before those of grade 0, with scores 1 and -1
    scores = torch.tensor([[0.0, 2.0, 1.0, -1.0]], dtype=torch.float64)
    grades = torch.tensor([[1.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    expected = sum(math.log(math.exp(score) + math.exp(1) + math.exp(-1)) - score for score in (0, 2))
    assert losses.list_mle(scores, grades, scores == scores).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("grades", [[1.0, 0.0, 0.0, 0.0, 0.0], [2.0, 2.0, 2.0, 2.0, 2.0], [1.0, 1.0, 0.0, 0.0, 0.0]])
def test_list_mle_asks_for_no_order_among_equal_grades(grades: list[float]) -> None:
    relevant = torch.tensor([grades], dtype=torch.float64)
    scores = torch.tensor([[0.3, 0.1, 0.2, 0.0, -0.1]], dtype=torch.float64) + 1000 * relevant
    scores.requires_grad_()
    losses.list_mle(scores, relevant, scores == scores).sum().backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [[0.0] * 5]  # relevant ones stand so far above that nothing is left to ask for


def test_kl_by_hand() -> None:
    # a teacher with scores log 4 and 0 at temperature 2 has the odds 2 : 1; the student even odds
    teacher = torch.tensor([[math.log(4), 0.0]], dtype=torch.float64)
    expected = 2 / 3 * math.log(2 / 3 / 0.5) + 1 / 3 * math.log(1 / 3 / 0.5)
    found = losses.kl(torch.zeros(1, 2, dtype=torch.float64), teacher, torch.ones(1, 2, dtype=torch.bool), 2.0)
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_margin_mse_by_hand() -> None:
    # differences 1, 2, 1 of the scores, -2, -1, 1 of the teacher
    expected = (3**2 + 3**2 + 0**2) / 3
    assert losses.margin_mse(SCORES, GRADES, ALL).item() == pytest.approx(expected, abs=1e-12)


# -- against references -------------------------------------------------------------------------------------------------


class Given(nn.Module):
    """Stands for a CrossEncoder in the losses of sentence-transformers: its scores are those it is given."""

    num_labels = 1
    device = torch.device("cpu")

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self._scores = scores.flatten().float()

    def preprocess(self, pairs: list[tuple[str, int]], **_: object) -> dict[str, Tensor]:
        return {"at": torch.tensor([at for _, at in pairs])}

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"scores": self._scores[features["at"]]}


def reference(name: str, scores: Tensor, grades: Tensor, **options: object) -> float:
    """A loss of sentence-transformers for one group."""
    from sentence_transformers.cross_encoder import losses as theirs

    loss = getattr(theirs, name)(Given(scores), **options)
    return float(loss([["q"], [list(range(scores.shape[1]))]], [grades.flatten().float()]))


@pytest.mark.parametrize("seed", range(5))
def test_ranknet_is_that_of_sentence_transformers(seed: int) -> None:
    scores, grades = drawn(seed, groups=1)
    expected = reference("RankNetLoss", scores, grades, reduction_log="natural")
    assert losses.ranknet(scores, grades, scores == scores).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_lambda_is_that_of_sentence_transformers(seed: int) -> None:
    # theirs is the mean over the pairs of different grades, ours, as in the paper, the sum
    scores, grades = drawn(seed, groups=1)
    pairs = (grades[0][:, None] > grades[0]).sum().item()
    expected = reference("LambdaLoss", scores, grades) * pairs
    assert losses.lambda_ndcg(scores, grades, scores == scores).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_list_mle_is_that_of_sentence_transformers(seed: int) -> None:
    # grades that all differ: theirs takes equal ones in the order given
    scores, _ = drawn(seed, groups=1)
    grades = torch.randperm(7, generator=torch.Generator().manual_seed(seed)).double()[None]
    expected = reference("ListMLELoss", scores, grades, respect_input_order=False)
    assert losses.list_mle(scores, grades, scores == scores).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_others_are_those_of_torch(seed: int) -> None:
    scores, grades = drawn(seed)
    there = torch.ones_like(scores, dtype=torch.bool)
    close = {"rtol": 1e-12, "atol": 1e-12}
    expected = functional.binary_cross_entropy_with_logits(scores, (grades > 0).double(), reduction="none").mean(1)
    torch.testing.assert_close(losses.binary(scores, grades, there), expected, **close)
    one = torch.zeros_like(grades)
    one[:, 3] = 1  # one relevant document: InfoNCE
    expected = functional.cross_entropy(scores / 0.5, torch.full((len(scores),), 3), reduction="none")
    torch.testing.assert_close(losses.softmax(scores, one, there, 0.5), expected, **close)
    expected = functional.cross_entropy(scores, grades / grades.sum(1, keepdim=True), reduction="none")
    torch.testing.assert_close(losses.softmax(scores, grades, there), expected, **close)
    expected = functional.kl_div(scores.log_softmax(1), (grades / 2).softmax(1), reduction="none").sum(1)
    torch.testing.assert_close(losses.kl(scores, grades, there, 2.0), expected, **close)
    left, right = torch.triu_indices(7, 7, 1)
    for row, found in enumerate(losses.margin_mse(scores, grades, there)):
        a, b = scores[row], grades[row]
        expected = functional.mse_loss(a[left] - a[right], b[left] - b[right])
        torch.testing.assert_close(found, expected, **close)
    for row, found in enumerate(losses.margin(scores, grades, there, 0.7)):
        higher, lower = torch.nonzero(grades[row][:, None] > grades[row], as_tuple=True)
        sign = torch.ones(len(higher), dtype=torch.float64)
        expected = functional.margin_ranking_loss(scores[row][higher], scores[row][lower], sign, margin=0.7)
        torch.testing.assert_close(found, expected, **close)


# -- what all of them keep ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_documents_that_are_not_there_change_neither_loss_nor_gradients(name: str) -> None:
    scores, grades = drawn(1)
    scores.requires_grad_(True)
    there = torch.ones_like(scores, dtype=torch.bool)
    alone = LOSSES[name](scores, grades, there)
    (expected,) = torch.autograd.grad(alone.sum(), scores)
    longer = torch.cat([scores, torch.full((5, 2), 9.0, dtype=torch.float64)], 1).detach().requires_grad_(True)
    more = torch.cat([grades, torch.full((5, 2), 3.0, dtype=torch.float64)], 1)
    some = torch.cat([there, torch.zeros(5, 2, dtype=torch.bool)], 1)
    found = LOSSES[name](longer, more, some)
    (gradient,) = torch.autograd.grad(found.sum(), longer)
    torch.testing.assert_close(found, alone, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient[:, :7], expected, rtol=1e-12, atol=1e-12)
    assert (gradient[:, 7:] == 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_the_order_of_documents_does_not_count(name: str) -> None:
    scores, grades = drawn(2)
    there = torch.ones_like(scores, dtype=torch.bool)
    turned = LOSSES[name](scores.flip(1), grades.flip(1), there)
    torch.testing.assert_close(turned, LOSSES[name](scores, grades, there), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_small_differences(name: str) -> None:
    scores, grades = drawn(3, groups=2, size=4)
    there = torch.tensor([[True] * 4, [True] * 3 + [False]])
    assert torch.autograd.gradcheck(lambda given: LOSSES[name](given, grades, there), scores.requires_grad_(True))


@pytest.mark.parametrize("name", ["ranknet", "margin", "softmax", "lambda", "list-mle"])
def test_a_group_without_a_relevant_document_gives_nothing(name: str) -> None:
    scores = torch.randn(2, 4, requires_grad=True)
    found = LOSSES[name](scores, torch.zeros(2, 4), torch.ones(2, 4, dtype=torch.bool))
    found.sum().backward()
    assert found.tolist() == [0, 0]
    assert scores.grad is not None
    assert (scores.grad == 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_large_scores_give_finite_losses(name: str) -> None:
    scores = torch.tensor([[-1e4, 1e4, 0.0]], requires_grad=True)
    found = LOSSES[name](scores, torch.tensor([[2.0, 0.0, 1.0]]), torch.ones(1, 3, dtype=torch.bool))
    found.sum().backward()
    assert found.isfinite().all()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


def test_a_higher_grade_that_is_ranked_low_costs_more() -> None:
    wrong, there = torch.tensor([[0.0, 1.0]]), torch.ones(1, 2, dtype=torch.bool)
    low, high = (losses.lambda_ndcg(wrong, torch.tensor([[grade, 1.0]]), there).item() for grade in (2.0, 3.0))
    assert low < high


RANKED = torch.tensor([[2.0, 1.5, 1.0, 0.5]])
FOUR = torch.ones(1, 4, dtype=torch.bool)


def test_adore_weighs_pairs_by_what_swapping_them_changes_of_mrr() -> None:
    # relevant at rank 3; weights to ranks 1, 2, 4: 2/3, 1/6, 1/12
    scores = RANKED.clone().requires_grad_()
    loss = losses.delta_ranknet(scores, torch.tensor([[0, 0, 1, 0]]), FOUR, cutoff=4)
    loss.sum().backward()
    assert float(loss.detach()) == pytest.approx(0.359120, abs=5e-7)
    assert scores.grad is not None
    assert scores.grad[0].tolist() == pytest.approx([0.162457, 0.034581, -0.207526, 0.010487], abs=5e-7)
    cut = losses.delta_ranknet(RANKED, torch.tensor([[0, 0, 1, 0]]), FOUR, cutoff=2)  # weights 1, 1/2, 0
    assert float(cut) == pytest.approx(0.600100, abs=5e-7)
    plain = losses.delta_ranknet(RANKED, torch.tensor([[0, 0, 1, 0]]), FOUR, gain=None)
    assert float(plain) == pytest.approx(0.920472, abs=5e-7)
    assert float(losses.ranknet(RANKED, torch.tensor([[0, 0, 1, 0]]), FOUR)) == pytest.approx(0.920472, abs=5e-7)


def test_adore_puts_a_relevant_document_that_was_not_found_behind() -> None:
    scores, grades = torch.tensor([[2, 1.5, 1, 0.5, 0.2]]), torch.tensor([[0, 0, 0, 0, 1]])
    there = torch.ones(1, 5, dtype=torch.bool)
    assert float(losses.delta_ranknet(scores, grades, there, cutoff=200)) == pytest.approx(0.555887, abs=5e-7)
    assert float(losses.delta_ranknet(scores, grades, there, cutoff=4)) == pytest.approx(0.831859, abs=5e-7)


def test_adore_asks_nothing_of_two_documents_beyond_the_cutoff() -> None:
    scores = RANKED.clone().requires_grad_()
    losses.delta_ranknet(scores, torch.tensor([[0, 0, 1, 0]]), FOUR, cutoff=1).sum().backward()
    assert scores.grad is not None
    assert (scores.grad[0] != 0).tolist() == [True, False, True, False]


def test_adore_weighs_pairs_by_what_swapping_them_changes_of_ndcg() -> None:
    # grades 0, 1, 2 at ranks 1, 2, 3 with scores 2, 1, 0: gains 0, 1, 3; discounts 1, 1/log2(3), 1/2
    scores, grades = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[0, 1, 2]])
    discounts = [1, 1 / math.log2(3), 1 / 2]
    ideal = 3 * discounts[0] + 1 * discounts[1]

    def pair(higher: int, lower: int) -> float:
        gain = abs((0, 1, 3)[higher] - (0, 1, 3)[lower]) / ideal
        step = float(scores[0, lower] - scores[0, higher])
        return gain * abs(discounts[higher] - discounts[lower]) * math.log(1 + math.exp(step))

    expected = (pair(1, 0) + pair(2, 0) + pair(2, 1)) / 3
    found = losses.delta_ranknet(scores, grades, torch.ones(1, 3, dtype=torch.bool), gain="ndcg")
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_documents_that_do_not_count_keep_their_rank_and_nothing_else() -> None:
    there = torch.tensor([[True, False, True, True]])
    found = losses.delta_ranknet(RANKED, torch.tensor([[0, 0, 1, 0]]), there, cutoff=4)
    by_hand = (2 / 3 * math.log(1 + math.exp(1)) + 1 / 12 * math.log(1 + math.exp(-0.5))) / 2
    assert float(found) == pytest.approx(by_hand, abs=1e-6)


def test_gradients_of_many_pairs_are_the_same_to_the_last_bit_with_several_threads() -> None:
    generator = torch.Generator().manual_seed(1)
    drawn_scores = torch.randn(32, 200, generator=generator)
    grades = (torch.rand(32, 200, generator=generator) < 0.15).int() * 2
    there = torch.ones(32, 200, dtype=torch.bool)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for gain in ("mrr", "ndcg"):
            found = []
            for _ in range(15):
                scores = drawn_scores.clone().requires_grad_()
                losses.delta_ranknet(scores, grades, there, gain=gain).mean().backward()
                assert scores.grad is not None
                found.append(scores.grad)
            assert all(torch.equal(one, found[0]) for one in found)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("gain", ["mrr", "ndcg", None])
def test_delta_ranknet_is_the_sum_over_all_pairs(gain: Any) -> None:
    scores, grades = drawn(4, groups=3, size=9)
    there = torch.ones(3, 9, dtype=torch.bool)
    there[1, 5:] = False
    found = losses.delta_ranknet(scores, grades, there, gain=gain, cutoff=6)
    levels = (grades if gain == "ndcg" else (grades > 0).double()) * there
    for group in range(3):
        ideal = sum(
            (2.0**grade - 1) / math.log2(2 + rank)
            for rank, grade in enumerate(sorted((levels[group]).tolist(), reverse=True)[:6])
        )
        total, pairs = 0.0, 0
        for high in range(9):
            for low in range(9):
                if not (there[group, high] and there[group, low] and levels[group, high] > levels[group, low]):
                    continue
                weight = 1.0
                if gain == "mrr":
                    first, second = (1 / (rank + 1) if rank < 6 else 0.0 for rank in (high, low))
                    weight = abs(first - second)
                elif gain == "ndcg":
                    first, second = (1 / math.log2(2 + rank) if rank < 6 else 0.0 for rank in (high, low))
                    weight = abs(first - second) * float(2.0 ** levels[group, high] - 2.0 ** levels[group, low]) / ideal
                total += weight * math.log1p(math.exp(float(scores[group, low] - scores[group, high])))
                pairs += 1
        assert float(found[group]) == pytest.approx(total / pairs, abs=1e-9)
