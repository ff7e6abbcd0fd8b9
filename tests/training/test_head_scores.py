"""Scores and weights of heads, worked by hand and against other computations."""

import ir_measures
import numpy as np
import pytest

from rankpipe.training.head_scores import (
    SHARES,
    Example,
    contrastive_scores,
    logistic_weights,
    ndcg,
    retrieval_scores,
)


def example(features: list[list[float]], grades: list[float], ideal: list[float] | None = None) -> Example:
    found = np.array(grades, float)
    best = np.sort(found[found > 0])[::-1] if ideal is None else np.array(ideal, float)
    return Example(np.array(features, float), found, best)


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 0.344434), (0.1, 0.440905), (0.001, 1.000000)])
def test_the_share_of_the_relevant_document(temperature: float, expected: float) -> None:
    one = example([[0.10], [0.08], [0.02]], [1, 0, 0])
    assert contrastive_scores([one], temperature) == pytest.approx([expected], abs=5e-7)


def test_a_head_that_attends_to_all_alike_has_an_equal_share() -> None:
    one = example([[0.5]] * 50, [1, *[0] * 49])
    assert contrastive_scores([one], 0.001) == pytest.approx([0.02])


def test_each_relevant_document_is_weighed_against_those_that_are_not() -> None:
    # exp(1) / (exp(1) + exp(0)) and exp(2) / (exp(2) + exp(0)), their mean; the other relevant one takes no part
    one = example([[1.0], [2.0], [0.0]], [1, 1, 0])
    assert contrastive_scores([one], 1.0) == pytest.approx([(0.7310586 + 0.8807971) / 2])


def test_ndcg_is_that_of_ir_measures() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        grades = rng.integers(0, 3, 15).astype(float)
        grades[0] = 2.0
        lost = [2.0, 1.0]  # relevant documents that are no candidates
        scores = rng.permutation(15).astype(float)
        qrels = {"q": {**{str(at): int(one) for at, one in enumerate(grades)}, "lost1": 2, "lost2": 1}}
        run = {"q": {str(at): float(one) for at, one in enumerate(scores)}}
        expected = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run)[ir_measures.nDCG @ 10]
        ideal = np.sort(np.concatenate([grades[grades > 0], lost]))[::-1]
        assert ndcg(scores[:, None], grades, ideal) == pytest.approx([expected])


def test_a_head_is_scored_by_its_ranking_alone() -> None:
    first = example([[3.0, 0.0], [2.0, 1.0], [1.0, 2.0]], [1, 0, 0])
    second = example([[0.0, 1.0], [1.0, 0.0]], [1, 0])
    # head 0 ranks 1 and 2, head 1 ranks 3 and 1
    assert retrieval_scores([first, second]) == pytest.approx([(1 + 1 / np.log2(3)) / 2, (0.5 + 1) / 2])


def planted(count: int, seed: int = 0) -> list[Example]:
    """Relevant documents are told by feature 2, and by feature 5 against them; 20 others are noise of other scales."""
    rng = np.random.default_rng(seed)
    examples = []
    for _ in range(count):
        features = rng.normal(size=(8, 22)) * np.geomspace(0.001, 100, 22)
        features[0, 2] += 3 * np.geomspace(0.001, 100, 22)[2]
        features[0, 5] -= 3 * np.geomspace(0.001, 100, 22)[5]
        examples.append(example(features.tolist(), [1, *[0] * 7]))
    return examples


def test_the_regression_finds_what_was_planted_whatever_its_scale() -> None:
    found = logistic_weights(planted(60), seed=0)
    assert found.weights[2] > 0 > found.weights[5]
    scaled = np.abs(found.weights) * np.geomspace(0.001, 100, 22)
    assert set(np.argsort(-scaled)[:2].tolist()) == {2, 5}
    assert found.by_share[found.share] == max(found.by_share.values())
    assert found.share in SHARES


def test_the_regression_is_sparse_and_of_its_seed() -> None:
    examples = planted(60)
    found = logistic_weights(examples, seed=0)
    assert 2 <= np.count_nonzero(found.weights) < 15
    again = logistic_weights(examples, seed=0)
    assert found.weights.tolist() == again.weights.tolist()


def test_the_regression_meets_the_conditions_of_its_minimum() -> None:
    from rankpipe.training.head_scores import _pairs, _path

    pairs = _pairs(planted(40))
    scale = pairs.differences.std(0)
    x = pairs.differences / scale
    penalty = 0.1 * np.abs(pairs.weights @ x).max() / 2
    weights = _path(pairs, [0.1])[0] * scale
    gradient = -(pairs.weights / (1 + np.exp(x @ weights))) @ x
    used = weights != 0
    assert used.any()
    assert gradient[used] == pytest.approx(-penalty * np.sign(weights[used]), abs=1e-6)
    assert (np.abs(gradient[~used]) <= penalty + 1e-6).all()
