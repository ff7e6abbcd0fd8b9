import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rankpipe.data import Corpus, Queries
from rankpipe.errors import RankpipeError, UsageError
from rankpipe.evaluation import evaluate
from rankpipe.run import Rest, Run

LARGEST = float(np.finfo(np.float32).max)
SMALLEST = float(np.finfo(np.float32).smallest_subnormal)

CORPUS = Corpus.of_ids("fabdce")  # rows are not in the order of the ids
QUERIES = Queries.of({"q1": "one", "q2": "two", "q3": "three"})


def a_run(ranked: dict[str, dict[str, float]] | None = None) -> Run:
    return Run.of(QUERIES, CORPUS, ranked or {"q1": {"a": 3, "b": 2, "c": 1}, "q3": {"d": 0, "e": -1}})


# -- making one ---------------------------------------------------------------------------------------------------------


def test_a_run_is_sorted_by_falling_score_then_falling_doc_id() -> None:
    run = a_run({"q1": {"b": 1, "a": 1, "f": 0, "c": 2, "d": 1}})
    assert list(run.to_dict()["q1"]) == ["c", "d", "b", "a", "f"]
    assert CORPUS.ids(run.documents) == ["c", "d", "b", "a", "f"]


def test_minus_zero_ties_with_zero() -> None:
    assert list(a_run({"q1": {"a": 0.0, "b": -0.0, "c": 0.0}}).to_dict()["q1"]) == ["c", "b", "a"]


def test_the_smallest_and_largest_floats_are_in_order() -> None:
    scores = {"a": LARGEST, "b": 1.0, "c": SMALLEST, "d": 0.0, "e": -SMALLEST, "f": -LARGEST}
    assert list(a_run({"q1": dict(reversed(scores.items()))}).to_dict()["q1"].items()) == list(scores.items())


def test_queries_that_are_not_in_the_mapping_have_no_candidates() -> None:
    assert a_run({"q2": {"a": 1}}).to_dict() == {"q1": {}, "q2": {"a": 1}, "q3": {}}


@pytest.mark.parametrize(
    ("ranked", "message"),
    [
        ({"q9": {"a": 1.0}}, "query 'q9' of the run is not among the queries"),
        ({"": {"a": 1.0}}, "query '' of the run is not among the queries"),
        ({"q1": {"a": 1.0, "zz": 2.0}}, "document 'zz' of the run is not in the corpus"),
    ],
)
def test_unknown_queries_and_documents_are_refused(ranked: dict[str, dict[str, float]], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        a_run(ranked)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("score", "shown"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf"), (1e39, "1e+39")]
)
def test_scores_that_float32_cannot_hold_are_refused(score: float, shown: str) -> None:
    with pytest.raises(RankpipeError) as caught:
        a_run({"q1": {"a": 1}, "q3": {"c": score}})
    assert str(caught.value) == f"the score of document 'c' for query 'q3' is {shown}, not a finite float32 number"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scores": np.zeros(2)}, "a run's scores must be float32, got float64"),
        ({"offsets": np.array([0, 2])}, "offsets of 3 queries and 2 candidates do not run from 0 to 2"),
        ({"offsets": np.array([0, 1, 1, 1])}, "offsets of 3 queries and 2 candidates do not run from 0 to 2"),
        ({"offsets": np.array([0, 2, 1, 2])}, "a run's offsets must not fall"),
        ({"features": {"x": np.zeros(3, np.float32)}}, "3 x for 2 candidates"),
        ({"passages": np.zeros(1, np.int32)}, "1 passages for 2 candidates"),
    ],
)
def test_columns_that_do_not_fit_are_refused(changed: dict, message: str) -> None:
    columns = {"offsets": np.array([0, 1, 1, 2]), "documents": np.zeros(2, np.int32), "scores": np.zeros(2, np.float32)}
    with pytest.raises(UsageError) as caught:
        Run(QUERIES, CORPUS, **{**columns, **changed})
    assert str(caught.value) == message


# -- reading it ---------------------------------------------------------------------------------------------------------


def test_a_ranking_has_rank_id_score_and_on_demand_title_and_text() -> None:
    corpus = Corpus.from_records([{"id": "a", "text": "a text", "title": "A"}, {"id": "b", "text": "b text"}])
    run = Run.of(QUERIES, corpus, {"q2": {"a": 0.5, "b": 0.75}}).with_feature("first", np.array([1.0, math.nan]))
    best, second = run["q2"]
    assert (best.rank, best.doc_id, best.score, best.title, best.text) == (1, "b", 0.75, "", "b text")
    assert (second.rank, second.doc_id, second.score, second.title, second.text) == (2, "a", 0.5, "A", "a text")
    assert best.scores == {"first": 1.0}
    assert math.isnan(second.scores["first"])


def test_an_unknown_query_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        a_run()["q9"]


def test_the_candidates_of_a_query_stand_together() -> None:
    run = a_run({"q1": {"a": 1, "b": 2}, "q3": {"c": 3}})
    assert [run.span(row) for row in range(3)] == [slice(0, 2), slice(2, 2), slice(2, 3)]
    assert run.corpus.ids(run.documents[run.span(0)]) == ["b", "a"]
    for row in (-1, 3):
        with pytest.raises(IndexError, match=f"row {row} of 3 queries"):
            run.span(row)


def test_columns_beside_the_candidates() -> None:
    run = a_run()
    assert run.counts.tolist() == [3, 0, 2]
    assert run.query_rows.tolist() == [0, 0, 0, 2, 2]
    assert run.ranks.tolist() == [1, 2, 3, 1, 2]
    assert (len(run), list(run), repr(run)) == (3, ["q1", "q2", "q3"], "Run(3 queries, 5 candidates)")


# -- new runs of it -----------------------------------------------------------------------------------------------------


def test_rescoring_does_not_write_to_the_run() -> None:
    run = a_run()
    rescored = run.rescored(np.array([1, 2, 3, 4, 5]))
    assert rescored.to_dict() == {"q1": {"c": 3, "b": 2, "a": 1}, "q2": {}, "q3": {"e": 5, "d": 4}}
    assert run.to_dict() == a_run().to_dict()


def test_features_and_passages_move_with_their_documents() -> None:
    run = a_run().with_feature("first", np.array([10, 20, 30, 40, 50]))
    run = Run(
        run.queries, run.corpus, run.offsets, run.documents, run.scores, run.features, np.arange(5, dtype=np.int32)
    )
    for moved in (run.rescored(-run.scores), run.rescored_to(2, lambda head: -head.scores), run.select([2, 0])):
        documents = moved.corpus.ids(moved.documents)
        assert dict(zip(documents, moved.features["first"].tolist(), strict=True)) == {
            "a": 10,
            "b": 20,
            "c": 30,
            "d": 40,
            "e": 50,
        }
        assert moved.passages is not None
        assert dict(zip(documents, moved.passages.tolist(), strict=True)) == {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4}


def test_a_score_too_few_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^4 scores for 5 candidates$"):
        a_run().rescored(np.zeros(4))


def test_what_lies_below_the_depth_is_shifted_under_the_lowest_new_score() -> None:
    run = a_run({"q1": {"a": 9, "b": 8, "c": 5, "d": 4}, "q2": {"e": 1}})
    # new: a -2, b -1; c just below -2, d as far below c as it was
    scores = run.rescored_to(2, lambda head: np.where(head.ranks == 1, -2, -1)).to_dict()
    below = float(np.nextafter(np.float32(-2), np.float32(-3)))
    assert list(scores["q1"].items()) == [("b", -1), ("a", -2), ("c", below), ("d", -3)]
    assert scores["q2"] == {"e": -2}


def test_what_lies_below_the_depth_may_be_dropped() -> None:
    assert a_run().rescored_to(1, lambda head: head.scores, rest="drop").to_dict() == {
        "q1": {"a": 3},
        "q2": {},
        "q3": {"d": 0},
    }


def test_a_depth_beyond_the_candidates_scores_all() -> None:
    assert a_run().rescored_to(100, lambda head: -head.scores).to_dict() == a_run().rescored(-a_run().scores).to_dict()


def test_a_depth_of_none_leaves_all_as_they_are() -> None:
    assert a_run().rescored_to(0, lambda head: head.scores).to_dict() == a_run().to_dict()


def test_gaps_that_float32_cannot_hold_stay_in_order() -> None:
    # Near 1e8, neighbouring float32 numbers are 8 apart; b and c tie and must go on tying.
    run = a_run({"q1": {"a": 5, "b": 3, "c": 3, "d": 2.5, "e": 2.25}})
    kept = run.rescored_to(1, lambda head: np.full(len(head.documents), 1e8)).to_dict()["q1"]
    assert list(kept.items()) == [("a", 1e8), ("c", 1e8 - 8), ("b", 1e8 - 8), ("d", 1e8 - 16), ("e", 1e8 - 24)]


def test_scores_at_the_lower_end_of_float32_leave_no_room_for_the_rest() -> None:
    with pytest.raises(RankpipeError) as caught:
        a_run().rescored_to(1, lambda head: np.full(len(head.documents), -LARGEST))
    assert str(caught.value) == (
        "query 'q1': too few float32 numbers lie below the lowest new score for the candidates that stay below it; "
        "drop them (rest: drop), or score in another unit"
    )


def test_scores_wider_apart_than_float32_stay_in_order() -> None:
    run = a_run({"q1": {"a": LARGEST, "b": LARGEST, "c": 0, "d": -LARGEST}})
    assert list(run.rescored_to(1, lambda head: np.zeros(len(head.documents))).to_dict()["q1"]) == ["b", "a", "c", "d"]


def test_top_keeps_the_first_of_every_query() -> None:
    assert a_run().top(1).to_dict() == {"q1": {"a": 3}, "q2": {}, "q3": {"d": 0}}
    assert a_run().top(0).to_dict() == {"q1": {}, "q2": {}, "q3": {}}


def test_keep_takes_a_mask() -> None:
    mask = np.array([False, True, True, False, False])
    assert a_run().keep(mask).to_dict() == {"q1": {"b": 2, "c": 1}, "q2": {}, "q3": {}}


def test_selected_queries_bring_their_candidates() -> None:
    assert a_run().select([2, 0]).to_dict() == {"q3": {"d": 0, "e": -1}, "q1": {"a": 3, "b": 2, "c": 1}}
    assert a_run().select(np.array([1])).to_dict() == {"q2": {}}


def test_no_query_selected_is_an_empty_run() -> None:
    run = a_run().select([])
    assert (len(run), len(run.documents)) == (0, 0)


def test_passages_are_minus_one_for_a_part_that_has_none() -> None:
    first, last = a_run().select([0]), a_run().select([2])  # of three candidates and of two
    named = replace(first, passages=np.array([4, 0, 2], np.int32))
    assert _passages(named, last) == [4, 0, 2, -1, -1]
    assert _passages(last, named) == [-1, -1, 4, 0, 2]
    assert _passages(first, last) is None


def _passages(*parts: Run) -> list[int] | None:
    passages = Run.concatenate(parts).passages
    return None if passages is None else passages.tolist()


def test_parts_concatenated_are_the_whole() -> None:
    run = a_run().with_feature("first", np.arange(5.0))
    again = Run.concatenate([run.select([0]), run.select([1]), run.select([2])])
    assert again.to_dict() == run.to_dict()
    assert again.queries.ids == run.queries.ids
    assert again.features["first"].tolist() == [0, 1, 2, 3, 4]


def test_a_run_survives_pickling() -> None:
    assert pickle.loads(pickle.dumps(a_run())).to_dict() == a_run().to_dict()


@pytest.mark.parametrize("queries", [QUERIES, Queries.of({})], ids=["no candidates", "no queries"])
def test_an_empty_run_stays_empty(queries: Queries) -> None:
    run = Run.empty(queries, CORPUS)
    results = (
        run.rescored(np.empty(0)),
        run.rescored_to(3, lambda head: head.scores),
        run.top(3),
        run.keep(np.empty(0, bool)),
        run.select(range(len(run))),
        Run.concatenate([run.select([]), run]),
        Run.of(queries, CORPUS, {}),
    )
    for result in results:
        assert result.to_dict() == {query_id: {} for query_id in queries}


# -- whatever the scores ------------------------------------------------------------------------------------------------

# Few values and many ties, or anything that float32 holds with some room below.
scores = st.one_of(st.integers(-2, 2).map(float), st.floats(-(2.0**127), 2.0**127, width=32))
ranked_runs = st.dictionaries(
    st.sampled_from(QUERIES.ids), st.dictionaries(st.sampled_from("abcdef"), scores, max_size=6)
).map(lambda ranked: Run.of(QUERIES, CORPUS, ranked))


def check(run: Run) -> None:
    """What holds of every run."""
    assert run.offsets.shape == (len(run.queries) + 1,)
    assert (run.offsets[0], run.offsets[-1]) == (0, len(run.documents))
    assert np.isfinite(run.scores).all()
    for query_id in run:
        keys = [(one.score, one.doc_id) for one in run[query_id]]
        assert keys == sorted(keys, reverse=True)
        assert len({doc_id for _, doc_id in keys}) == len(keys)
        assert [one.rank for one in run[query_id]] == list(range(1, len(keys) + 1))


def pairs(run: Run) -> set[tuple[str, str]]:
    return {(query_id, doc_id) for query_id, ranking in run.to_dict().items() for doc_id in ranking}


@given(ranked_runs, st.data())
def test_rescored_candidates_are_the_same_in_a_new_order(run: Run, data: st.DataObject) -> None:
    new = np.array(data.draw(st.lists(scores, min_size=len(run.documents), max_size=len(run.documents))))
    rescored = run.rescored(new)
    check(rescored)
    assert pairs(rescored) == pairs(run)


@given(ranked_runs, st.integers(0, 7), st.sampled_from(["keep", "drop"]), st.data())
def test_rescored_heads_stand_above_an_unchanged_rest(run: Run, depth: int, rest: Rest, data: st.DataObject) -> None:
    def drawn(head: Run) -> NDArray[np.floating]:
        return np.array(data.draw(st.lists(scores, min_size=len(head.documents), max_size=len(head.documents))))

    rescored = run.rescored_to(depth, drawn, rest=rest)
    check(rescored)
    for query_id in run:
        before, after = list(run.to_dict()[query_id]), list(rescored.to_dict()[query_id])
        assert sorted(before[:depth]) == sorted(after[:depth])
        assert after[depth:] == (before[depth:] if rest == "keep" else [])


@given(ranked_runs, st.integers(1, 6))
def test_the_rest_keeps_its_ties_and_its_gaps_and_makes_no_new_ties(run: Run, depth: int) -> None:
    kept = run.rescored_to(depth, lambda head: np.zeros(len(head.documents)))
    for query_id in run:
        before = list(run.to_dict()[query_id].values())[depth:]
        after = list(kept.to_dict()[query_id].values())[depth:]
        assert all(score < 0 for score in after)
        assert [a > b for a, b in pairwise(before)] == [a > b for a, b in pairwise(after)]


cuts: dict[str, Callable[[Run, int], Run]] = {
    "top": lambda run, number: run.top(number),
    "keep": lambda run, number: run.keep(run.documents % 3 != number % 3),
    "select": lambda run, number: run.select([row for row in range(len(run)) if row != number]),
}


@given(ranked_runs, st.integers(0, 6), st.sampled_from(sorted(cuts)))
def test_what_is_cut_keeps_order_and_scores(run: Run, number: int, cut: str) -> None:
    less = cuts[cut](run, number)
    check(less)
    for query_id in less:
        whole, left = run.to_dict()[query_id], less.to_dict()[query_id]
        assert list(left.items()) == [item for item in whole.items() if item[0] in left]


# -- what somebody else's program may put into a run ------------------------------------------------------------------


def odd_run(documents: list[int], scores: list[float]) -> Run:
    corpus = Corpus.from_texts(["one", "two", "three"])
    given = np.array(documents, np.int32), np.array(scores, np.float32)
    return Run(Queries.of({"q0": "x", "q1": "y"}), corpus, np.array([0, 0, len(documents)], np.int64), *given)


@pytest.mark.parametrize(
    ("documents", "scores", "fault"),
    [
        ([0, 1], [1, 2], "has the score 2.0, and the one above it 1.0; give scores by run.rescored(scores)"),
        ([0, 1], [2, float("nan")], "has the score nan, no finite number"),
        ([0, 1], [float("inf"), 2], "has the score inf, no finite number"),
    ],
)
def test_scores_that_are_in_no_order_are_said(documents: list[int], scores: list[float], fault: str) -> None:
    run = odd_run(documents, scores)
    wrong = run.corpus.ids([0 if scores[0] == float("inf") else 1])[0]
    for use in (run.check, lambda: evaluate(run, {"q1": {wrong: 1}}), lambda: run.write_trec("never.trec")):
        with pytest.raises(RankpipeError) as raised:
            use()
        assert str(raised.value) == f"document {wrong!r} in the ranking of query 'q1' {fault}"
    assert not Path("never.trec").exists()


def test_documents_that_stand_twice_or_nowhere_are_said() -> None:
    with pytest.raises(RankpipeError) as raised:
        odd_run([1, 0, 1], [3, 2, 1]).check()
    twice = odd_run([1], [1]).corpus.ids([1])[0]
    assert str(raised.value) == f"document {twice!r} stands twice in the ranking of query 'q1'"
    for row in (-1, 3):
        with pytest.raises(RankpipeError) as raised:
            odd_run([0, row], [2, 1]).check()
        assert str(raised.value) == f"the ranking of query 'q1' has row {row} of the corpus, where no document is"
    run = odd_run([0, 2], [2, 1])
    shorter = run.corpus.without(run.corpus.ids([2]))
    with pytest.raises(RankpipeError, match="has row 2 of the corpus, where no document is"):
        replace(run, corpus=shorter).check()
    Run.empty(Queries.of({}), run.corpus).check()


def test_a_run_of_ids_alone_is_measured() -> None:
    ranked = {"q1": {"d1": 1.0, "d2": 2}, "q2": {}}
    run = Run.from_dict(ranked)
    assert run.to_dict() == {"q1": {"d2": 2.0, "d1": 1.0}, "q2": {}}
    assert evaluate(ranked, {"q1": {"d1": 1}}, ["RR@10"])["RR@10"] == 0.5
    assert Run.from_dict({}).to_dict() == {}


def test_equal_scores_in_another_order_than_everywhere_are_said() -> None:
    run = odd_run([0, 1], [1, 1])  # d1, d2: the larger id comes first
    with pytest.raises(RankpipeError) as raised:
        run.check()
    assert str(raised.value) == (
        "document 'd2' in the ranking of query 'q1' stands below a smaller id with the same score; give scores by "
        "run.rescored(scores), which puts them in order"
    )
    odd_run([1, 0], [1, 1]).check()


@pytest.mark.parametrize("number", [True, 2**64, Fraction(3, 2), Decimal("1.5"), np.float64(2)], ids=str)
def test_a_score_is_whatever_says_that_it_is_a_number(number: Any) -> None:
    assert Run.from_dict({"q": {"d": number}}).scores.tolist() == [float(np.float32(float(number)))]


@pytest.mark.parametrize("wrong", ["1", b"1", None, [1], 1j, "x"], ids=str)
def test_a_score_that_is_none_is_said(wrong: Any) -> None:
    with pytest.raises(UsageError) as raised:
        Run.from_dict({"q": {"d": wrong}})
    assert str(raised.value) == f"the score {wrong!r} of the run is no number"


def test_a_ranking_that_is_none_is_said() -> None:
    with pytest.raises(UsageError) as raised:
        evaluate({"q1": None}, {"q1": {"d1": 1}})  # type: ignore[dict-item]
    assert str(raised.value) == "the ranking of query 'q1' must be {doc_id: score}, got None"
    with pytest.raises(UsageError) as raised:
        Run.from_dict({"q1": {"d1": "3"}})  # type: ignore[dict-item]
    assert str(raised.value) == "the score '3' of the run is no number"
    with pytest.raises(UsageError) as raised:
        Run.of(Queries.of({"q1": ""}), Corpus.of_ids(["d1"]), {"q1": ["d1"]})  # type: ignore[dict-item]
    assert str(raised.value) == "the ranking of query 'q1' must be {doc_id: score}, got ['d1']"
