"""Formulas of pseudo-relevance feedback, by hand."""

import numpy as np
import pytest

from rankpipe.index.feedback import (
    added,
    bose_einstein,
    first_terms,
    mean_direction,
    of_unit_length,
    relevance_model,
    summing_to_one,
    with_highest_one,
)

COUNTS = np.array([[3.0, 1, 0], [0, 2, 2], [1, 0, 1]])
LENGTHS = np.array([10.0, 8, 5])


def test_a_relevance_model_is_the_mean_of_documents_weighted_by_their_scores() -> None:
    scores = np.array([2.0, 1, 0.5])
    # (2 * 3 / 10 + 0 + .5 * 1 / 5) / 3.5 = .7 / 3.5
    raw = relevance_model(COUNTS, LENGTHS, scores / scores.sum())
    assert raw == pytest.approx([0.2, 0.128571, 0.1], abs=1e-6)
    model = summing_to_one(dict(zip("abc", raw.tolist(), strict=True)))
    assert list(model.values()) == pytest.approx([0.466667, 0.3, 0.233333], abs=1e-6)
    mixed = added((0.5, {"a": 1.0}), (0.5, model))
    assert mixed == pytest.approx({"a": 0.733333, "b": 0.15, "c": 0.116667}, abs=1e-6)


def test_a_relevance_model_can_take_any_weights_of_documents() -> None:
    softmax = np.array([0.628532, 0.231224, 0.140244])
    scores = np.exp([2.0, 1, 0.5])
    assert scores / scores.sum() == pytest.approx(softmax, abs=1e-6)
    # .628532 * .3 + .140244 * .2
    assert relevance_model(COUNTS, LENGTHS, softmax)[0] == pytest.approx(0.2166084, abs=1e-6)


def test_a_document_without_terms_has_no_part_in_a_relevance_model() -> None:
    counts = np.array([[1.0, 1], [0, 0]])
    assert relevance_model(counts, np.array([2.0, 0]), np.ones(2)).tolist() == [0.5, 0.5]


def test_bo1_of_rare_and_frequent_terms() -> None:
    # f = .1: 10 log2(1.1 / .1) + log2 1.1 = 10 log2 11 + log2 1.1; f = .5: 4 log2 3 + log2 1.5
    weights = bose_einstein(np.array([10.0, 4]), np.array([100.0, 500]), 1000)
    assert weights == pytest.approx([34.731820, 6.924813], abs=1e-6)
    assert with_highest_one({"rare": weights[0], "frequent": weights[1]})["frequent"] == pytest.approx(
        0.199379, abs=1e-6
    )


def test_a_mean_direction_is_that_of_documents_of_length_one() -> None:
    # (3, 4) / 5, (0, 2) / 2, and nothing
    mean = mean_direction(np.array([[3.0, 4], [0, 2], [0, 0]]))
    assert mean == pytest.approx([0.2, 0.6])


def test_weights_of_terms_are_scaled_in_three_ways_and_nothing_stays_nothing() -> None:
    weights = {"a": 3.0, "b": 4.0}
    assert of_unit_length(weights) == pytest.approx({"a": 0.6, "b": 0.8})
    assert summing_to_one(weights) == pytest.approx({"a": 3 / 7, "b": 4 / 7})
    assert with_highest_one(weights) == {"a": 0.75, "b": 1.0}
    for scaled in (of_unit_length, summing_to_one, with_highest_one):
        assert scaled({}) == {}
        assert scaled({"a": 0.0}) == {"a": 0.0}


def test_terms_whose_sum_is_not_above_zero_are_left_out() -> None:
    assert added((1.0, {"a": 1.0, "b": 0.5}), (0.5, {"c": 1.0}), (-1.0, {"b": 0.5, "a": 0.25})) == {"a": 0.75, "c": 0.5}


def test_the_first_terms_are_the_greatest_and_of_equal_ones_those_before() -> None:
    assert first_terms(np.array([1.0, 3, 1, 0, 3, 1]), 4).tolist() == [0, 1, 2, 4]
    assert first_terms(np.array([0.0, 0, 1]), 2).tolist() == [2]
