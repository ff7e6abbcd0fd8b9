"""Measures of graded lists: by hand, to the digits of worked numbers, and against ir-measures."""

from __future__ import annotations

import ir_measures
import numpy as np
import pytest

from rankpipe.errors import UsageError
from rankpipe.evaluation.list_measures import list_measures

ONE = np.array([0, 3])


def test_worked_numbers_of_three_grades() -> None:
    found = list_measures(np.array([3.0, 2, 1]), np.array([2.0, 0, 4]), ONE, highest=4)
    assert found["ERR@3"][0] == pytest.approx(0.441406, abs=5e-7)
    assert found["nDCG@3"][0] == pytest.approx(0.621567, abs=5e-7)


def test_err_by_hand() -> None:
    # gains 1, 3, 0 of at most 3: stop with 1/4, 3/4, 0
    found = list_measures(np.array([3.0, 2, 1]), np.array([1.0, 2, 0]), ONE)
    assert found["ERR@1"][0] == pytest.approx(1 / 4)
    assert found["ERR@3"][0] == pytest.approx(1 / 4 + 3 / 4 * 3 / 4 / 2)


def test_equal_scores_stand_in_their_order() -> None:
    found = list_measures(np.zeros(3), np.array([0.0, 1, 0]), ONE)
    assert found["nDCG@1"][0] == 0
    assert found["nDCG@3"][0] == pytest.approx(1 / np.log2(3))


def test_lists_without_a_relevant_document_have_no_value() -> None:
    found = list_measures(np.arange(4.0), np.array([0.0, 0, 1, 0]), np.array([0, 2, 4, 4]))
    assert np.isnan(found["nDCG@3"]).tolist() == [True, False, True]
    assert np.isnan(found["ERR@3"]).tolist() == [True, False, True]


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^score 1 is not finite$"):
        list_measures(np.array([0.0, np.nan, 1]), np.zeros(3), ONE)


def test_ndcg_is_that_of_ir_measures() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 30, size=40)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    grades = rng.integers(0, 4, size=offsets[-1])
    grades[offsets[:-1]] = 1
    scores = rng.permutation(offsets[-1]).astype(float)  # no ties: each library breaks them its own way
    names = [f"{row:05d}" for row in range(offsets[-1])]
    qrels, run = {}, {}
    for query in range(len(counts)):
        span = range(offsets[query], offsets[query + 1])
        qrels[str(query)] = {names[row]: int(grades[row]) for row in span}
        run[str(query)] = {names[row]: scores[row] for row in span}
    found = list_measures(scores, grades.astype(float), offsets)
    gains = {grade: 2**grade - 1 for grade in range(4)}
    for cutoff in (1, 3, 5, 10):
        measure = ir_measures.nDCG(gains=gains) @ cutoff
        expected = {one.query_id: one.value for one in ir_measures.iter_calc([measure], qrels, run)}
        for query, value in enumerate(found[f"nDCG@{cutoff}"]):
            assert value == pytest.approx(expected[str(query)], abs=1e-6)
