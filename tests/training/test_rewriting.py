"""Rewriting of training queries: which are chosen, what the model is shown, what is refused; by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from rankpipe import BM25, Corpus
from rankpipe.models.language_model import Answer
from rankpipe.training.ambiguity import (
    asks_what_it_is,
    clarities,
    clarity,
    clarity_limit,
    has_acronym,
    is_short,
    why_ambiguous,
)
from rankpipe.training.negatives import Judged
from rankpipe.training.rewrite_context import best_window, random_row, relevant_row, window_of
from rankpipe.training.rewrite_guards import (
    content_words,
    copied_share,
    longest_common_subsequence,
    read_answer,
    tidied,
    too_long,
)

NONE = np.empty(0, np.int32)


def judged(rows: list[int], grades: list[float], *, query_id: str = "q1") -> Judged:
    positives = np.array(rows, np.int32)
    found = np.zeros(len(rows), bool)
    return Judged(query_id, "bees", positives, np.array(grades, np.float32), found, np.sort(positives), NONE)


def answer(text: str) -> Answer:
    return Answer(text, ended=True)


@pytest.mark.parametrize(
    ("query", "short", "acronym", "definition"),
    [
        ("how do bees find", True, False, False),
        ("how do bees find home", False, False, False),
        ("the history of SRI in California", False, True, False),
        ("are NSAIDs safe for the old", False, True, False),
        ("what B2B shops sell most of", False, True, False),
        ("HOW DO BEES FIND HOME", False, False, False),  # of a query that is all capitals they say nothing
        ("does Vitamin D help the Old", False, False, False),  # one capital makes no acronym
        ("ABCDEFGH is a long word here", False, False, False),
        ("what is the use of bees", False, False, True),
        ("What's the use of bees here", False, False, True),
        ("define a hive of wild bees", False, False, True),
        ("the meaning of a dance of bees", False, False, True),
        ("what does the dance of bees mean", False, False, True),
        ("what does the dance of bees meander like", False, False, False),
        ("defined areas of a hive of bees", False, False, False),
        ("tell me what is in a hive", False, False, False),
    ],
)
def test_rules_on_the_words_of_a_query(query: str, short: bool, acronym: bool, definition: bool) -> None:
    assert (is_short(query), has_acronym(query), asks_what_it_is(query)) == (short, acronym, definition)


def test_the_first_rule_that_holds_is_told() -> None:
    assert why_ambiguous("what is SRI", 9.0, 1.0) == "short"
    assert why_ambiguous("what is SRI in California today", 9.0, 1.0) == "acronym"
    assert why_ambiguous("what is the dance of bees", 0.0, 1.0) == "definition"
    assert why_ambiguous("how do bees find their way", 0.9, 1.0) == "unclear"
    assert why_ambiguous("how do bees find their way", 1.0, 1.0) is None


def test_clarity_by_hand() -> None:
    # a word that stands 9 times among 79 tokens of 20 terms: (9 + 1) / (79 + 20 + 1) = .1, and log2(1 / .1)
    assert clarity([1], [9], 79, 20) == pytest.approx(math.log2(10))
    # .5 log2(.5 / .1) + .5 log2(.5 / .01)
    assert clarity([1, 1], [9, 0], 79, 20) == pytest.approx(3.982892, abs=1e-6)
    # the same word twice is the same model as once
    assert clarity([2], [9], 79, 20) == clarity([1], [9], 79, 20)
    assert clarity([], [], 79, 20) == 0


def test_clarity_against_an_index() -> None:
    corpus = Corpus.from_texts(["bees bees dance", "bees hive"])
    index, analyzer = BM25().index(corpus)
    # 5 tokens of 3 terms; bee 3 times, (3 + 1) / 9; a word that is not there 1 / 9; stop words are no words of a query
    expected = [math.log2(9 / 4), math.log2(9), 0.5 * math.log2(4.5 / 4) + 0.5 * math.log2(4.5), 0.0]
    assert clarities(index, analyzer, ["the bees", "wasp", "bees wasp", "to be or not to be"]) == pytest.approx(
        expected
    )
    # two words that are not there are two: each has half of the query, and 1 / 9 of what is smoothed
    assert clarities(index, analyzer, ["wasp ant"]) == pytest.approx([math.log2(4.5)])


def test_the_limit_is_the_thirtieth_percentile() -> None:
    assert clarity_limit(np.arange(11.0)) == 3
    assert clarity_limit(np.empty(0)) == 0


def test_the_context_is_the_relevant_document_of_the_highest_grade() -> None:
    assert relevant_row(judged([7, 4, 9, 5], [1, 2, 1, 2])) == 4  # of the two with grade 2 the first in the corpus
    assert relevant_row(judged([7], [1])) == 7


def test_a_random_document_is_drawn_by_seed_and_query_and_is_not_relevant() -> None:
    live = np.arange(6, dtype=np.int32)
    one = judged([0, 2], [1, 1])
    drawn = [random_row(one, live, seed) for seed in range(40)]
    assert drawn == [random_row(one, live, seed) for seed in range(40)]
    assert set(drawn) == {1, 3, 4, 5}
    assert {random_row(judged([0], [1], query_id=f"q{number}"), live, 0) for number in range(40)} == {1, 2, 3, 4, 5}
    assert random_row(judged([0, 1], [1, 1]), live[:2], 0) is None


def test_the_best_window_by_hand() -> None:
    once = np.array([[0], [1], [0], [0], [1], [1]])
    assert best_window(once, np.ones(1), 2) == 4  # 1/1.9, 1/1.9, 0, 1/1.9, 2/2.9
    two = np.array([[1, 0], [1, 0], [0, 0], [1, 0], [0, 1]])
    assert best_window(two, np.ones(2), 2) == 3  # 2/2.9 = .69 of one term, 1/1.9 + 1/1.9 = 1.05 of two
    assert best_window(two, np.array([1.0, 0.1]), 2) == 0  # .69 against .53 + .05
    assert best_window(np.zeros((5, 1), np.int64), np.ones(1), 2) == 0
    assert best_window(once, np.ones(1), 6) == best_window(once, np.ones(1), 60) == 0


def test_a_window_of_a_text() -> None:
    corpus = Corpus.from_texts(["bees dance", "wasps sting", "bees sting"])
    index, analyzer = BM25().index(corpus)
    text = "Many insects sting.  The dance of the Bees\nshows where nectar is."
    assert window_of(text, "bee dancing", 4, index, analyzer) == "dance of the Bees"
    assert window_of(text, "bee dancing", 3, index, analyzer) == "sting. The dance"  # of the two the rarer term
    assert window_of(text, "insect", 3, index, analyzer) == "Many insects sting."
    assert window_of(text, "the", 3, index, analyzer) == "Many insects sting."
    assert window_of(text, "bee", 99, index, analyzer) == (
        "Many insects sting. The dance of the Bees shows where nectar is."
    )


def test_what_is_copied_by_hand() -> None:
    assert longest_common_subsequence("abcd", "badc") == 2
    assert longest_common_subsequence("", "abc") == longest_common_subsequence("abc", "") == 0
    assert longest_common_subsequence(["bees", "dance"], ["the", "bees", "often", "dance"]) == 2
    assert content_words("What does the Dance of bees mean?") == ["dance", "bees", "mean"]
    document = "Bees dance to show the hive where flowers are."
    assert copied_share("do bees dance to show nectar sources", document) == 3 / 5
    assert copied_share("show dance bees", document) == 1 / 3  # in another order they are not copied
    assert copied_share("what is it", document) == 0
    assert copied_share("do bees dance to show nectar sources", document, "Why do bees dance?") == 1 / 3


def test_a_rewrite_has_three_times_the_words_and_sixteen_more_at_most() -> None:
    assert not too_long("x " * 22, "two words")
    assert too_long("x " * 23, "two words")


@pytest.mark.parametrize(
    ("said", "tidy"),
    [
        ("how do bees find home?", "how do bees find home?"),
        (' "How do bees  find home?" ', "How do bees find home?"),
        ("the way that bees find home. It is long.", "the way that bees find home"),
        ("Rewritten query: bees and their way home", "bees and their way home"),
        ("Question: how do bees find home?\nAnswer: they look", "how do bees find home?"),
        ("Here is the question:\n\n**how do bees find home?**", "how do bees find home?"),
        ("bees: how they find home", "bees: how they find home"),
        ("...\n", ""),
        ("", ""),
    ],
)
def test_an_answer_is_tidied(said: str, tidy: str) -> None:
    assert tidied(said) == tidy


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("why do bees dance before others", None),
        ("do bees dance to show nectar sources", None),  # of three words that are its own, one
        ("do bees dance to show hive sources", "copied"),
        ("\ufffd bees", "unreadable"),
        (" ... ", "empty"),
        ("Here you are:", "empty"),
        ("bees and " * 20, "runaway"),
        ("why " + " ".join(f"w{number}" for number in range(22)), "too long"),
        ("Bees  Dance.", "the same"),
        ("Wasps that sting", "query of another split"),
    ],
)
def test_why_an_answer_is_refused(said: str, why: str | None) -> None:
    document = "Bees dance to show the hive where flowers are."
    assert read_answer(answer(said), "", "bees dance", document, {"wasps that sting"})[1] == why


def test_without_a_document_nothing_is_copied() -> None:
    assert read_answer(answer("bees dance show hive"), "", "bees", None, ()) == ("bees dance show hive", None)


def test_a_rewrite_may_begin_with_the_query() -> None:
    assert read_answer(answer(" their dance. And more."), "bees and", "bees", None, ()) == (
        "bees and their dance",
        None,
    )
    assert read_answer(answer("  "), "bees and", "bees", None, ()) == ("", "empty")
    cut, ended = Answer(" their dance in front of", ended=False), Answer(" their dance. And in front of", ended=False)
    assert read_answer(cut, "bees and", "bees", None, ()) == ("bees and their dance in front of", "cut")
    assert read_answer(ended, "bees and", "bees", None, ()) == ("bees and their dance", None)
    line = Answer(" their dance in front\nof the hive and", ended=False)
    assert read_answer(line, "bees and", "bees", None, ()) == ("bees and their dance in front", None)
    unread = Answer("", ended=False, read=False)
    assert read_answer(unread, "bees and", "bees", None, ()) == ("", "prompt too long")
    assert read_answer(answer("\ufffd"), "bees and", "bees", None, ()) == ("", "unreadable")


def test_files_of_prompts_have_their_places(tmp_path: Path) -> None:
    from rankpipe.errors import UsageError
    from rankpipe.training.rewrite import Rewrite
    from rankpipe.training.rewriting import check_prompt

    for context in ("relevant", "random", "none"):
        assert check_prompt(Rewrite(writer="any", context=context)).user
    path = tmp_path / "own.txt"
    path.write_text("--- user\n{document} {query}\n", encoding="utf-8")
    with pytest.raises(UsageError) as error:
        check_prompt(Rewrite(writer="any", prompt=str(path), context="none"))
    assert str(error.value) == f"prompt {path}: 'context: none' shows no document, and it has {{document}}"
    path.write_text("--- user\n{query}\n", encoding="utf-8")
    with pytest.raises(UsageError) as error:
        check_prompt(Rewrite(writer="any", prompt=str(path)))
    assert str(error.value) == f"prompt {path}: its section 'user' has {{document}} 0 times, and needs it once"
