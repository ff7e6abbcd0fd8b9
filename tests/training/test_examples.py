"""Groups: what is in them, what never is, and that they depend on the seed and the step alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from rankpipe import Corpus, Pipeline
from rankpipe.data import Qrels, Queries
from rankpipe.errors import PipelineError, UsageError
from rankpipe.pipeline.order import CANDIDATES
from rankpipe.training.candidates import Pool
from rankpipe.training.examples import JudgedGroups, Shape, TaughtGroups, Turns
from rankpipe.training.negatives import mined, scored_by

CORPUS = Corpus.from_texts([f"text {number}" for number in range(20)])
"""Document d1 stands in row 0."""


def pool(candidates: list[list[int]]) -> Pool:
    """Candidates with the scores 10, 9, 8, ..., and a lowest score of 1."""
    offsets = np.cumsum([0, *map(len, candidates)]).astype(np.int64)
    return Pool(
        queries=Queries.of([f"query {number}" for number in range(len(candidates))]),
        offsets=offsets,
        documents=np.array([row for one in candidates for row in one], np.int32),
        scores=np.concatenate([10 - np.arange(len(one), dtype=np.float32) for one in candidates]),
        floor=np.ones(len(candidates), np.float32),
        digest="",
    )


def shape(**settings: int) -> Shape:
    values = {"batch": 4, "size": 5, "random": 1, **settings}
    return Shape(batch=values["batch"], size=values["size"], random=values["random"], seed=(0, 0))


def test_every_round_has_every_row_once() -> None:
    turns = Turns(list("abcde"), (1,))
    rounds = [[turns[turn] for turn in range(start, start + 5)] for start in (0, 5, 10)]
    assert all(sorted(one) == [0, 1, 2, 3, 4] for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1
    assert [turns[turn] for turn in range(5)] == rounds[0]  # going back gives the same


def test_taught_groups_have_the_teachers_scores() -> None:
    # scores 10, 9, 8, 7: standard deviation sqrt(1.25) for both queries, which is the unit
    groups = TaughtGroups(
        {"judged": (pool([[0, 1, 2, 3], [4, 5, 6, 7]]), np.array([-1, -1], np.int32))}, CORPUS, shape()
    )
    assert groups.unit == pytest.approx(1.25**0.5)
    for step in range(1, 6):
        for group in groups.step(step):
            found = dict(zip(group.documents.tolist(), (group.targets * groups.unit).tolist(), strict=True))
            first = 0 if group.query == "query 0" else 4
            known = {first + place: 10.0 - place for place in range(4)}
            assert len(found) == 5
            assert {row: score for row, score in found.items() if row in known} == pytest.approx(
                {row: score for row, score in known.items() if row in found}
            )
            assert [score for row, score in found.items() if row not in known] == [pytest.approx(1)]
            assert sum(row in known for row in found) == 4


def test_the_document_of_a_query_is_in_none_of_its_groups() -> None:
    groups = TaughtGroups({"titles": (pool([[0, 1, 2, 3]]), np.array([2], np.int32))}, CORPUS, shape(random=2))
    seen = Counter(row for step in range(1, 30) for group in groups.step(step) for row in group.documents.tolist())
    assert 2 not in seen
    assert seen[0] == seen[1] == seen[3] == 4 * 29


def test_sources_take_turns() -> None:
    one, two = pool([[0, 1]]), pool([[4, 5]] * 3)
    groups = TaughtGroups(
        {"judged": (one, np.array([-1], np.int32)), "titles": (two, np.full(3, -1, np.int32))}, CORPUS, shape()
    )
    firsts = [0 in group.documents or 1 in group.documents for group in groups.step(1)]
    assert len(groups) == 2
    assert sum({0, 1} <= set(group.documents.tolist()) for group in groups.step(1)) >= 2
    assert firsts[0]


def test_queries_without_candidates_are_left_out_and_counted() -> None:
    groups = TaughtGroups({"titles": (pool([[], [7], [1, 2]]), np.array([1, 7, 3], np.int32))}, CORPUS, shape())
    account = groups.account()["sources"]["titles"]
    assert (account["queries"], account["dropped_without_candidates"]) == (1, 2)
    assert {group.query for group in groups.step(1)} == {"query 2"}


def test_groups_depend_on_seed_and_step_alone() -> None:
    def make() -> TaughtGroups:
        return TaughtGroups({"judged": (pool([[0, 1, 2, 3, 5, 6, 7]] * 9), np.full(9, -1, np.int32))}, CORPUS, shape())

    one, two = make(), make()
    for step in range(1, 5):
        one.step(step)
    for left, right in zip(one.step(7), two.step(7), strict=True):
        assert left.query == right.query
        assert left.documents.tolist() == right.documents.tolist()
    assert [one.documents.tolist() for one in two.step(7)] != [one.documents.tolist() for one in two.step(8)]


def test_no_judged_document_is_ever_a_negative() -> None:
    # d1 relevant, d2 of grade 1 below the cut, d3 judged and not relevant, d9 relevant and not a candidate
    judged = {"q1": {"d1": 2, "d2": 1, "d3": 0, "d9": 3}}
    found = mined(pool([[0, 1, 2, 3, 4]]), Qrels(judged), CORPUS, relevance_cut=2)
    (one,) = found.judged
    assert one.positives.tolist() == [0, 8]
    assert one.grades.tolist() == [2, 3]
    assert one.masked.tolist() == [0, 1, 8]
    assert one.negatives.tolist() == [2, 3, 4]
    assert found.counts() == {"negative": 3, "relevant": 2}
    groups = JudgedGroups(found.judged, CORPUS, shape(size=8, random=3), positives=1)
    for step in range(1, 40):
        for group in groups.step(step):
            grades = dict(zip(group.documents.tolist(), group.targets.tolist(), strict=True))
            relevant = {row: grade for row, grade in grades.items() if grade > 0}
            assert relevant in ({0: 2}, {8: 3})
            assert not {0, 1, 8} & {row for row, grade in grades.items() if grade == 0}
            assert len(grades) == 8
            assert {2, 3, 4} <= grades.keys()


def test_relevant_documents_are_drawn_from_the_candidates_where_there_are_any() -> None:
    # q1: d1 is a candidate, d9 is not; q2: neither d8 nor d9 is
    found = mined(pool([[0, 1, 2], [0, 1, 2]]), Qrels({"q1": {"d1": 2, "d9": 3}, "q2": {"d8": 1, "d9": 1}}), CORPUS)
    assert [one.found.tolist() for one in found.judged] == [[True, False], [False, False]]
    for only_found, wanted in ((True, {"q1": {0}, "q2": {7, 8}}), (False, {"q1": {0, 8}, "q2": {7, 8}})):
        groups = JudgedGroups(found.judged, CORPUS, shape(size=3), positives=1, only_found=only_found)
        drawn: dict[str, set[int]] = {"q1": set(), "q2": set()}
        for step in range(1, 40):
            for group in groups.step(step):
                drawn[group.query_id] |= set(group.documents[group.targets > 0].tolist())
        assert drawn == wanted


def test_what_is_relevant_to_the_same_text_under_another_id_is_no_negative() -> None:
    same = replace(pool([[0, 1, 2], [0, 1, 2]]), queries=Queries(("q1", "q2"), ("One  text", "one text")))
    found = mined(same, Qrels({"q1": {"d1": 1}, "q2": {"d2": 1}}), CORPUS)
    assert [one.positives.tolist() for one in found.judged] == [[0], [1]]
    assert [one.negatives.tolist() for one in found.judged] == [[2], [2]]
    assert [one.masked.tolist() for one in found.judged] == [[0, 1], [0, 1]]


def test_a_guard_that_does_not_reach_all_candidates_is_refused() -> None:
    corpus = Corpus.from_texts(["a b", "b c", "c a"])
    guard = Pipeline.from_yaml("stages: [rescore: {model: any, depth: 2}]", corpus=corpus, given=CANDIDATES)
    with pytest.raises(UsageError) as error:
        scored_by(guard, pool([[0, 1, 2]]), Qrels({"q1": {"1": 1}}), corpus, relevance_cut=1, margin=0.0)
    assert str(error.value) == (
        "the guard's stage 'rescore' scores the first 2 documents of a query, and there are up to 3 to judge; give it "
        "'depth: 3' or more, or 'candidates' a smaller 'depth'"
    )


def test_a_guard_has_no_scores_of_a_run_to_mix_with() -> None:
    with pytest.raises(PipelineError, match="'interpolate' refers to 'run', and no earlier stage has a name"):
        Pipeline.from_yaml("stages: [rescore: {model: any}, interpolate: {with: run}]", given=CANDIDATES)


def test_queries_without_a_relevant_document_are_left_out() -> None:
    found = mined(pool([[0], [1]]), Qrels({"q1": {"d1": 0}, "q2": {"nowhere": 2}}), CORPUS)
    assert found.judged == []
    assert found.unused == ["q1", "q2"]


def test_a_document_with_the_querys_id_is_no_negative_where_queries_are_documents() -> None:
    ours = pool([[0, 1, 2]])
    judged = {"q1": {"d1": 1}}
    corpus = Corpus.from_records({"id": name, "text": name} for name in ("d1", "q1", "d3"))
    assert mined(ours, Qrels(judged), corpus, self_match=True).judged[0].negatives.tolist() == [2]
    assert mined(ours, Qrels(judged), corpus).judged[0].negatives.tolist() == [1, 2]


def test_a_small_corpus_gives_smaller_groups() -> None:
    corpus = Corpus.from_texts(["a", "b", "c"])
    found = mined(pool([[0, 1]]), Qrels({"q1": {"d1": 1}}), corpus)
    (group,) = JudgedGroups(found.judged, corpus, shape(batch=1), positives=1).step(1)
    assert sorted(group.documents.tolist()) == [0, 1, 2]
