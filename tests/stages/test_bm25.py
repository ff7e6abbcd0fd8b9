"""The stage bm25: what its settings do. The index under it is tested in tests/index/, the contract in tests/contracts/."""

from __future__ import annotations

from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest

from rankpipe import BM25, Corpus, Queries, Run
from rankpipe.errors import UsageError

CORPUS = Corpus.from_records(
    [
        {"id": "a", "title": "cats", "text": "dog dog dog"},
        {"id": "b", "title": "dogs", "text": "cat"},
        {"id": "c", "title": "birds", "text": ""},
    ]
)


def ranked(stage: BM25, queries: Queries | str, corpus: Corpus = CORPUS) -> dict[str, dict[str, float]]:
    return stage(Run.empty(Queries.of(queries), corpus)).to_dict()


def test_a_score_by_hand() -> None:
    # dog: N 3, df 2, idf = ln(1 + 1.5 / 2.5); a: tf 3, length 4; b: tf 1, length 2; average length 7 / 3
    idf = log(1 + 1.5 / 2.5)
    expected = {
        "a": idf * 3 / (3 + 1.2 * (1 - 0.75 + 0.75 * 4 / (7 / 3))),
        "b": idf * 1 / (1 + 1.2 * (1 - 0.75 + 0.75 * 2 / (7 / 3))),
    }
    assert ranked(BM25(k1=1.2, b=0.75), "dog")["q1"] == pytest.approx(expected, rel=1e-6)


def test_k1_and_b_belong_to_the_search_and_build_no_second_index(store: Path) -> None:
    first, second, third = (ranked(BM25(k1=k1, b=b), "dog")["q1"]["a"] for k1, b in ((0.9, 0.4), (2, 0.4), (0.9, 1)))
    assert len({first, second, third}) == 3
    assert len(list((store / "inverted").iterdir())) == 1


def test_fields_and_analyzers_have_an_index_each(store: Path) -> None:
    assert list(ranked(BM25(fields=("title",)), "dog")["q1"]) == ["b"]
    assert list(ranked(BM25(fields=("text",)), "dog")["q1"]) == ["a"]
    assert list(ranked(BM25(fields=("text", "title")), "dog")["q1"]) == ["a", "b"]
    assert list(ranked(BM25(analyzer="whitespace"), "dog")["q1"]) == ["a"]
    assert list(ranked(BM25(analyzer="snowball:german"), "dogs")["q1"]) == ["a", "b"]
    assert len(list((store / "inverted").iterdir())) == 5


def test_weighted_terms_are_taken_before_the_text() -> None:
    queries = replace(Queries.of("bird"), terms=({"dog": 2.0, "cat": 0.0},))
    once, twice = ranked(BM25(), "dog")["q1"], ranked(BM25(), queries)["q1"]
    assert twice == pytest.approx({doc_id: 2 * score for doc_id, score in once.items()})


def test_the_other_engine_refuses_weighted_terms() -> None:
    pytest.importorskip("rank_bm25")
    queries = replace(Queries.of("bird"), terms=({"dog": 1.0},))
    with pytest.raises(UsageError, match=r"^engine 'rank-bm25' takes no weighted terms; engine 'rankpipe' does$"):
        ranked(BM25(engine="rank-bm25"), queries)


def test_candidates_that_are_there_are_replaced_with_their_columns() -> None:
    before = Run.of(Queries.of("dog"), CORPUS, {"q1": {"c": 9.0}}).with_feature("first", np.ones(1))
    after = BM25()(before)
    assert list(after.to_dict()["q1"]) == ["a", "b"]
    assert dict(after.features) == {}
