import math
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from rankpipe.data import Corpus, Queries
from rankpipe.errors import UsageError
from rankpipe.run import Run
from rankpipe.stages.interpolate import Interpolate

QUERIES = Queries.of({"q1": "one", "q2": "two"})


def interpolated(present: list[float], earlier: list[float], **settings: Any) -> dict[str, float]:
    """Scores of documents a, b, c, ... in ranked order; `present` must fall. A second query has no candidates."""
    ids = "abcdef"[: len(present)]
    run = Run.of(QUERIES, Corpus.of_ids("abcdef"), {"q1": dict(zip(ids, present, strict=True))})
    mixed = Interpolate(with_="first", **settings)(run.with_feature("first", np.array(earlier)))
    return {doc_id: round(score, 6) for doc_id, score in mixed.to_dict()["q1"].items()}


def test_both_scores_are_brought_to_zero_and_one_and_mixed_by_weight() -> None:
    # present: a 1, b .5, c 0; earlier: a 0, b .25, c 1
    assert interpolated([-1, -2, -3], [10, 12, 18], weight=0.75) == {"c": 0.75, "b": 0.3125, "a": 0.25}


def test_weight_zero_keeps_the_present_order_and_weight_one_takes_the_earlier() -> None:
    assert list(interpolated([3, 2, 1], [1, 2, 3], weight=0)) == ["a", "b", "c"]
    assert list(interpolated([3, 2, 1], [1, 2, 3], weight=1)) == ["c", "b", "a"]


def test_a_candidate_that_the_earlier_stage_did_not_score_gets_its_lowest() -> None:
    # earlier: b 1, c 0, and a, not scored, 0
    assert interpolated([3, 2, 1], [math.nan, 5, 4]) == {"b": 0.75, "a": 0.5, "c": 0}


def test_among_raw_negative_scores_the_lowest_is_below_zero() -> None:
    # a: (3 - 6) / 2; b: (2 - 5) / 2; c: (1 - 6) / 2
    assert interpolated([3, 2, 1], [math.nan, -5, -6], normalise="none") == {"b": -1.5, "a": -1.5, "c": -2.5}


def test_z_scores_are_of_the_candidates_that_were_scored() -> None:
    # present: mean 2, deviation sqrt(2/3); earlier: b 1, c -1, and a the lowest, -1
    z = 1 / math.sqrt(2 / 3)
    expected = {"b": 0.5, "a": (z - 1) / 2, "c": (-z - 1) / 2}
    assert interpolated([3, 2, 1], [math.nan, 5, 4], normalise="z-score") == {
        doc_id: round(score, 6) for doc_id, score in expected.items()
    }


def test_theoretical_minimum_of_the_earlier_and_of_the_present_stage() -> None:
    # present from -1: a 1.5 / 1.5, b .5 / 1.5, c 0; earlier from 0: a .5, b 1, c .5
    assert interpolated([0.5, -0.5, -1], [2, 4, 2], normalise="theoretical-minimum", minimum=[0, -1]) == {
        "a": 0.75,
        "b": round((1 / 3 + 1) / 2, 6),
        "c": 0.25,
    }


def test_an_earlier_stage_that_scored_none_of_them_has_no_say() -> None:
    assert interpolated([3, 2], [math.nan, math.nan]) == {"a": 0.5, "b": 0}


def test_no_candidates_stay_none() -> None:
    assert interpolated([], []) == {}


def test_a_name_that_no_stage_left_is_refused() -> None:
    run = Run.empty(QUERIES, Corpus.of_ids("a")).with_feature("lexical", np.empty(0))
    with pytest.raises(UsageError) as caught:
        Interpolate(with_="first")(run)
    assert str(caught.value) == "interpolate finds no scores under the name 'first'; names with scores: 'lexical'"


def test_the_named_stage_is_its_reference() -> None:
    assert Interpolate(with_="first").references == ("first",)


@pytest.mark.parametrize(
    "settings",
    [{"weight": 1.5}, {"weight": -0.5}, {"normalise": "theoretical-minimum"}, {"minimum": [0, 0]}, {"minimum": [0]}],
)
def test_settings_that_cannot_be_right_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Interpolate(with_="first", **settings)
