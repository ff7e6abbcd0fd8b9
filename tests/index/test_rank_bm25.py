"""The engine rank-bm25: by hand, against the package itself, what counts as a match, its extra."""

import math
import sys

import numpy as np
import pytest

from rankpipe.errors import MissingExtraError, UsageError
from rankpipe.index.analysis import open_analyzer
from rankpipe.index.inverted import Ranking
from rankpipe.index.rank_bm25 import RankBM25

WORDS = open_analyzer("whitespace")


def found(ranking: Ranking) -> list[list[tuple[int, float]]]:
    pairs = list(zip(ranking.documents.tolist(), ranking.scores.tolist(), strict=True))
    return [pairs[a:b] for a, b in zip(ranking.offsets[:-1], ranking.offsets[1:], strict=True)]


def order(size: int) -> np.ndarray:
    return np.arange(size, dtype=np.int32)


def test_four_documents_by_hand() -> None:
    pytest.importorskip("rank_bm25")
    engine = RankBM25(["cat dog", "cat cat cow", "cow", "hen hen"], WORDS)
    # idf(dog) = ln(3.5 / 1.5) = .847298; length 2 of average 2: 1 * 1.9 / (1 + .9) = 1
    # idf(cat) = ln(2.5 / 2.5) = 0: both documents match, with score 0, the smaller tie first
    dog, cat = found(engine.search(["dog", "cat"], 9, np.array([1, 0, 2, 3], np.int32)))
    assert dog == [(0, pytest.approx(math.log(3.5 / 1.5), abs=1e-6))]
    assert cat == [(1, 0.0), (0, 0.0)]


def test_scores_are_those_of_the_package() -> None:
    package = pytest.importorskip("rank_bm25")
    generator = np.random.default_rng(1)
    texts = [" ".join(map(str, generator.zipf(1.5, 12))) for _ in range(200)]
    reference = package.BM25Okapi([text.split() for text in texts], k1=1.2, b=0.75).get_scores(["1", "3", "3"])
    [answer] = found(RankBM25(texts, WORDS, k1=1.2, b=0.75).search(["1 3 3"], 500, order(200)))
    assert {row for row, _ in answer} == {row for row, text in enumerate(texts) if {"1", "3"} & set(text.split())}
    assert dict(answer) == pytest.approx({row: reference[row] for row, _ in answer}, rel=1e-6)
    assert [score for _, score in answer] == sorted((score for _, score in answer), reverse=True)


def test_a_query_that_matches_nothing_is_an_empty_list() -> None:
    pytest.importorskip("rank_bm25")
    assert found(RankBM25(["cat"], WORDS).search(["dog", ""], 5, order(1))) == [[], []]
    assert found(RankBM25([], WORDS).search(["dog"], 5, order(0))) == [[]]
    assert found(RankBM25(["", ""], WORDS).search(["dog"], 5, order(2))) == [[]]


def test_rows_and_the_cut() -> None:
    pytest.importorskip("rank_bm25")
    engine = RankBM25(["cat", "hen", "cat", "cow", "cow"], WORDS, rows=np.array([1, 3, 4, 8, 9]))
    [answer] = found(engine.search(["cat"], 1, order(10)[::-1]))
    assert [row for row, _ in answer] == [4]


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rank_bm25", None)
    with pytest.raises(MissingExtraError) as missing:
        RankBM25(["cat"], WORDS)
    assert str(missing.value) == (
        "engine rank-bm25 needs rank-bm25: install rankpipe with its extra 'rank-bm25', "
        "for example pip install '.[rank-bm25]'"
    )


def test_k_below_1_is_refused() -> None:
    pytest.importorskip("rank_bm25")
    with pytest.raises(UsageError) as refused:
        RankBM25(["cat"], WORDS).search(["cat"], 0, order(1))
    assert str(refused.value) == "k is 0; it must be 1 or more"


def test_scores_that_are_no_numbers_are_refused() -> None:
    pytest.importorskip("rank_bm25")
    engine = RankBM25(["cat dog", "cow", "hen"], WORDS, k1=0)
    # where a document lacks a term, it divides a frequency of 0 by 0 + k1 * ...
    message = r"^engine rank-bm25 gives scores that are no finite numbers for k1 0 and b 0\.4$"
    with pytest.raises(UsageError, match=message):
        engine.search(["dog hen"], 9, order(3))
