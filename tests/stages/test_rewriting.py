"""Rewriters, with a model behind a server of this test: what becomes of queries, what is refused, what is asked again."""

from __future__ import annotations

import contextlib
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from rankpipe.data import Corpus, Queries
from rankpipe.errors import RankpipeError
from rankpipe.models.endpoint import Endpoint
from rankpipe.models.language_model import Answer
from rankpipe.models.prompt import load_prompt
from rankpipe.pipeline import Pipeline
from rankpipe.run import Run
from rankpipe.stages.bm25 import BM25
from rankpipe.stages.expansion import Keywords, Original, Query2doc, items
from rankpipe.stages.multi_query import MultiQuery
from rankpipe.stages.rewriting import refusal

CORPUS = Corpus.from_texts(["a sweet apple", "the road to the apple tree", "a car", "pears and plums"])
QUERIES = Queries.of({"q1": "apple", "q2": "car", "q3": " "})
EMPTY = Run.empty(QUERIES, CORPUS)


def texts(stage: Any, run: Run = EMPTY) -> tuple[str, ...]:
    return stage(run).queries.texts


# -- query2doc, keywords, original ----------------------------------------------------------------------------------------


def test_query2doc_puts_a_passage_behind_five_times_the_query(model: Any) -> None:
    model.answer = lambda _: "It grows on trees,\nand is sweet."
    stage = Query2doc(writer="any", endpoint=model.endpoint)
    first, second, third = texts(stage)
    assert first == "apple apple apple apple apple It grows on trees, and is sweet."
    assert second == "car car car car car It grows on trees, and is sweet."
    assert third == " "
    index, analyzer = BM25().index(CORPUS)
    terms = index.queries([first], analyzer)
    assert terms.terms.tolist().count(index.queries(["apple"], analyzer).terms[0]) == 5
    assert stage(EMPTY).queries.original == QUERIES.texts
    once = Query2doc(writer="any", endpoint=model.endpoint, repeat=1, separator=" [SEP] ")
    assert texts(once)[0] == "apple [SEP] It grows on trees, and is sweet."


def test_the_prompt_is_asked_with_the_settings(model: Any) -> None:
    stage = Query2doc(writer="big", endpoint=model.endpoint, max_tokens=33, temperature=0.5, top_p=0.9, seed=4)
    stage(EMPTY)
    asked = sorted(model.asked, key=lambda one: one["messages"][0]["content"])
    assert len(asked) == 2
    assert asked[0]["messages"][0]["content"].endswith("\n\nQuery: apple")
    assert asked[0]["messages"][1] == {"role": "assistant", "content": "Passage:"}
    named = ("model", "max_tokens", "temperature", "top_p", "seed", "stop")
    assert [asked[0][name] for name in named] == ["big", 33, 0.5, 0.9, 4, ["\n\n"]]


def test_keywords_are_taken_once_and_without_the_marks_of_a_list(model: Any) -> None:
    model.answer = lambda _: "1. fruit; 2) Tree\n- an Apple, fruit, , cider\n* TREE."
    stage = Keywords(writer="any", endpoint=model.endpoint, keywords=3)
    assert texts(stage)[1] == "car car fruit Tree an Apple"
    assert texts(replace(stage, keywords=10))[1] == "car car fruit Tree an Apple cider"
    assert (
        texts(Keywords(writer="any", endpoint=model.endpoint, prompt="keywords"))[0]
        == "apple apple fruit Tree an Apple cider"
    )
    assert items("one, two;three\n 10. four \n\n") == ["one", "two", "three", "four"]


def test_keywords_that_the_query_has_are_left_out_and_none_leave_it_as_it_is(model: Any) -> None:
    model.answer = lambda _: "apple, Car"
    assert texts(Keywords(writer="any", endpoint=model.endpoint, repeat=1)) == ("apple Car", "car apple", " ")
    model.answer = lambda _: "Apple"
    stage = Keywords(writer="other", endpoint=model.endpoint)
    assert texts(stage) == ("apple", "car car Apple", " ")
    assert stage.counted(CORPUS)["unchanged"] == 1
    model.answer = lambda _: "vascular, protein, heart disease, disease and"
    run = Run.empty(Queries.of("cardiovascular disease and lipoprotein levels"), CORPUS)
    stage = Keywords(writer="parts of words", endpoint=model.endpoint, repeat=1)
    assert texts(stage, run)[0].endswith(" levels vascular protein heart disease")


@pytest.mark.parametrize(
    ("text", "item"),
    [
        ("- apple", "apple"),
        ("*apple", "apple"),
        ("(3) apple", "apple"),
        ("2:apple", "apple"),
        ("2.5 mg prednisone", "2.5 mg prednisone"),
        ("10:30 rule", "10:30 rule"),
        ("-80 degree storage", "-80 degree storage"),
        ("3. 2.5 mg", "2.5 mg"),
    ],
)
def test_a_number_of_the_text_is_no_mark_of_a_list(text: str, item: str) -> None:
    assert items(text) == [item]


def test_original_gives_back_what_the_user_wrote(model: Any) -> None:
    run = Query2doc(writer="any", endpoint=model.endpoint)(EMPTY)
    run = run.with_queries(replace(run.queries, terms=({}, {}, {}), vectors=np.zeros((3, 2), np.float32)))
    again = Original()(run).queries
    assert (again.texts, again.terms, again.vectors) == (QUERIES.texts, None, None)


# -- what is refused ------------------------------------------------------------------------------------------------------


def test_an_answer_is_refused_for_a_reason() -> None:
    assert refusal(Answer("An answer.", ended=False)) is None
    assert refusal(Answer(" \n.,- ", ended=True)) == "empty"
    assert refusal(Answer("half a \ufffd", ended=True)) == "unreadable"
    assert refusal(Answer("half a \ud83d", ended=True)) == "unreadable"
    assert refusal(Answer("so " * 30, ended=False)) == "runaway"
    assert refusal(Answer("so " * 29, ended=False)) is None
    words = " ".join(f"w{number}" for number in range(10))
    assert refusal(Answer(f"{words} {words} {words} {words}", ended=False)) is None  # 10 of 40 is a quarter
    assert refusal(Answer(f"{words} {words} {words} {words} w1", ended=False)) == "runaway"


def test_a_query_whose_answer_is_refused_stays_and_is_counted(model: Any) -> None:
    choices = {"apple": "", "car": "so " * 99 + "...", "road": "a \ud800", "tree": "fine"}
    body = b'{"choices": [{"index": 0, "message": {"content": "caf\xe9"}, "finish_reason": "stop"}]}'
    model.answer = lambda user: body if user.endswith("pears") else choices[user.rpartition(" ")[2]]
    queries = Queries.of({"a": "apple", "b": "car", "c": "road", "d": "pears", "e": "tree", "f": ""})
    stage = Query2doc(writer="any", endpoint=model.endpoint, repeat=1)
    result = stage(Run.empty(queries, CORPUS)).queries
    assert result.texts == ("apple", "car", "road", "pears", "tree fine", "")
    counted = stage.counted(CORPUS)
    expected = {"queries": 5, "unchanged": 4, "refused_empty": 1, "refused_runaway": 1, "refused_unreadable": 2}
    assert {name: counted[name] for name in expected} == expected
    assert (counted["asked"], counted["written"], counted["requests"], counted["retries"]) == (5, 5, 5, 0)


def test_an_answer_that_is_an_example_of_the_prompt_is_refused(model: Any) -> None:
    example = "The leaky bucket is a way to limit the rate of packets in a\nnetwork."
    model.answer = lambda user: example if user.endswith("apple") else f"{example} And so on."
    stage = Query2doc(writer="any", endpoint=model.endpoint, repeat=1)
    assert texts(stage) == ("apple", f"car {' '.join(example.split())} And so on.", " ")
    assert stage.counted(CORPUS)["refused_copied"] == 1


def test_an_answer_of_letters_that_words_of_the_prompt_have_is_none_of_it(model: Any) -> None:
    prompt = Path(load_prompt("query2doc").file).read_text(encoding="utf-8")
    assert "bee" in prompt
    assert not re.search(r"\bbee\b", prompt)
    model.answer = lambda _: "bee"
    stage = Query2doc(writer="any", endpoint=model.endpoint, repeat=1)
    assert texts(stage)[0] == "apple bee"


def test_what_was_answered_is_not_asked_again(model: Any) -> None:
    settings = {"writer": "any", "endpoint": model.endpoint}
    before = texts(Query2doc(**settings))
    assert len(model.asked) == 2
    again = Query2doc(**settings)
    assert texts(again) == texts(again) == before
    assert len(model.asked) == 2
    assert (again.counted(CORPUS)["asked"], again.counted(CORPUS)["written"]) == (4, 0)
    texts(Query2doc(**settings, seed=1))
    assert len(model.asked) == 4


def test_a_model_that_fails_ends_the_run_and_what_it_answered_is_kept(model: Any) -> None:
    model.answer = lambda user: None if user.endswith("car") else "a fruit"
    one_by_one = {"writer": "any", "endpoint": replace(model.endpoint, concurrency=1)}
    with pytest.raises(RankpipeError, match="400"):
        texts(Query2doc(**one_by_one))
    model.answer = lambda _: "now it works"
    asked = len(model.asked)
    assert texts(Query2doc(**one_by_one))[0].endswith("a fruit")
    assert [one["messages"][0]["content"][-3:] for one in model.asked[asked:]] == ["car"]


def kept(folder: Path) -> int:
    """Answers that are on disk."""
    with contextlib.closing(sqlite3.connect(next(folder.glob("*.sqlite")))) as connection:
        return connection.execute("SELECT COUNT(*) FROM answers").fetchone()[0]


def test_a_run_that_was_killed_goes_on_from_what_was_answered(model: Any, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from rankpipe import Corpus, Query2doc, Queries, Run\n"
        "from rankpipe.models.endpoint import Endpoint\n"
        "stage = Query2doc(writer='any', endpoint=Endpoint(url=sys.argv[1], concurrency=1))\n"
        "queries = Queries.of({'q1': 'apple', 'q2': 'car', 'q3': 'road'})\n"
        "print(stage(Run.empty(queries, Corpus.from_texts(['a']))).queries.texts)\n"
    )
    command = [sys.executable, "-c", program, model.endpoint.url]
    running: list[subprocess.Popen[bytes]] = []

    def answer(user: str) -> str:
        if user.endswith("road") and running:
            while kept(tmp_path / "home" / "answers") < 2:  # of three
                time.sleep(0.01)
            running.pop().kill()
        return f"of {user.rpartition(' ')[2]}"

    model.answer = answer
    running.append(first := subprocess.Popen(command, stdout=subprocess.PIPE))
    assert first.communicate()[0] == b""
    assert first.returncode == -signal.SIGKILL
    asked = len(model.asked)
    again = subprocess.run(command, capture_output=True, check=True, text=True)
    assert [one["messages"][0]["content"][-4:] for one in model.asked[asked:]] == ["road"]
    assert again.stdout.count("of ") == 3


@pytest.mark.parametrize(
    ("stages", "text", "message"),
    [
        ("keywords: {WRITER}, bm25", "Write.", "its section 'user' has {query} 0 times, and needs it at least once"),
        (
            "query2doc: {WRITER}, bm25",
            "{query} {document}",
            "there is no text here for {document} in its section 'user', only {query}",
        ),
        (
            "hyde: {model: m, WRITER}, dense: {model: m}",
            "{query} {count}",
            "there is no text here for {count} in its section 'user', only {query}",
        ),
        (
            "multi-query: {stages: [bm25], WRITER}",
            "{query}",
            "its section 'user' has {count} 0 times, and needs it at least once",
        ),
    ],
)
def test_a_prompt_without_its_places_is_refused_without_a_model(
    rankpipe: Callable[..., Any], tmp_path: Path, stages: str, text: str, message: str
) -> None:
    pipeline, prompt = tmp_path / "p.yaml", tmp_path / "mine.txt"
    prompt.write_text(f"--- user\n{text}\n")
    pipeline.write_text(f"stages: [{stages.replace('WRITER', 'writer: m, prompt: mine.txt')}]\n")
    done = rankpipe("check", pipeline)
    assert done.status == 2
    name = stages.partition(":")[0]
    assert f"'{name}' setting 'prompt' is 'mine.txt', prompt {prompt}: {message}\n" in done.err


def test_of_a_file_that_is_no_prompt_the_line_is_said(model: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("--- user\n{query}\n--- what\n")
    with pytest.raises(ValidationError, match=re.escape(f"{file}:3: no section 'what'")):
        Keywords(writer="any", endpoint=model.endpoint, prompt=str(file))


def test_an_example_of_the_system_prompt_is_one_of_the_prompt(model: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("--- system\nSuch as: a fruit that is sweet\n--- user\n{query}")
    model.answer = lambda _: "a fruit that is sweet"
    stage = Query2doc(writer="any", endpoint=model.endpoint, prompt=str(file))
    assert texts(stage) == QUERIES.texts
    assert (stage.counted(CORPUS)["refused_copied"], stage.counted(CORPUS)["unchanged"]) == (2, 2)


def test_a_query_that_the_model_cannot_read_stays_and_the_others_are_answered(
    tmp_path: Path, tiny_causal_lm: Callable[..., Path]
) -> None:
    pytest.importorskip("torch", reason="needs the extra 'llm'")
    file = tmp_path / "mine.txt"
    file.write_text("--- user\n{query}")
    writer = str(tiny_causal_lm(tmp_path / "model", positions=64))
    stage = Query2doc(writer=writer, prompt=str(file), max_tokens=20, temperature=2.0)
    run = Run.empty(Queries.of({"long": "apple " * 60, "short": "apple"}), CORPUS)
    assert texts(stage, run) == run.queries.texts
    counted = stage.counted(CORPUS)
    assert (counted["queries"], counted["refused_prompt_too_long"], counted["unchanged"]) == (2, 1, 2)
    assert (counted["refused_unreadable"], counted["tokens"]) == (1, 20)  # a network of random weights writes bytes


# -- multi-query ----------------------------------------------------------------------------------------------------------


def test_wordings_are_searched_and_fused_by_their_ranks(model: Any) -> None:
    model.answer = lambda user: (
        "1. pears\n2. Apple\n3. 'sweet apple'\n4. pears\n5. road" if user.endswith("apple") else ""
    )
    stage = MultiQuery(writer="any", endpoint=model.endpoint, stages=(BM25(k=4),), queries=2)
    result = stage(EMPTY)
    assert result.queries is QUERIES
    branch = BM25(k=4)
    ranked = [branch(Run.empty(Queries.of({"q1": text}), CORPUS))["q1"] for text in ("apple", "pears", "sweet apple")]
    expected: dict[str, float] = {}
    for ranking in ranked:
        for candidate in ranking:
            expected[candidate.doc_id] = expected.get(candidate.doc_id, 0) + 1 / (60 + candidate.rank)
    assert result.to_dict()["q1"] == pytest.approx(expected)
    assert list(result.to_dict()["q2"]) == [one.doc_id for one in branch(EMPTY)["q2"]]
    assert result.to_dict()["q3"] == {}
    assert stage.counted(CORPUS)["refused_empty"] == 1


def test_an_answer_without_another_wording_leaves_the_query_alone(model: Any) -> None:
    model.answer = lambda user: "1. Apple\n2. apple" if user.endswith("apple") else "road"
    stage = MultiQuery(writer="any", endpoint=model.endpoint, stages=(BM25(k=4),))
    stage(EMPTY)
    assert (stage.counted(CORPUS)["queries"], stage.counted(CORPUS)["unchanged"]) == (2, 1)


def test_the_scores_of_a_query_depend_on_no_other_query(model: Any) -> None:
    model.answer = lambda user: "pears\nroads\ntrees" if user.endswith("apple") else "a road"
    stage = MultiQuery(writer="any", endpoint=model.endpoint, stages=(BM25(k=4),), method="convex")
    assert stage(EMPTY.select([1])).to_dict()["q2"] == stage(EMPTY).to_dict()["q2"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("method: convex, smoothing: 10", "'smoothing' is of 'method: reciprocal-rank', and 'method' is 'convex'"),
        (
            "normalise: theoretical-minimum",
            "'normalise: theoretical-minimum' is of the methods that go by scores (convex, comb-sum, comb-mnz), and 'method' is "
            "'reciprocal-rank'",
        ),
        (
            "method: convex, normalise: theoretical-minimum",
            "'normalise: theoretical-minimum' needs stages whose lowest score is known, and theirs is not",
        ),
    ],
)
def test_settings_that_cannot_fuse_are_refused_when_the_pipeline_is_read(settings: str, said: str) -> None:
    stages = "stages: [dense: {model: minilm}]" if "known" in said else "stages: [bm25]"
    with pytest.raises(RankpipeError) as caught:
        Pipeline.from_yaml(f"stages:\n  - multi-query: {{writer: any, {stages}, {settings}}}\n")
    assert str(caught.value).endswith(said)
    assert Pipeline.from_yaml(
        "stages:\n  - multi-query: {writer: any, stages: [bm25], method: convex, normalise: theoretical-minimum}\n"
    ).stages


def test_a_pipeline_with_rewriters_is_read_and_written(model: Any) -> None:
    text = (
        "stages:\n"
        "  - multi-query:\n"
        "      writer: any\n"
        f"      endpoint: {{url: '{model.endpoint.url}', concurrency: 2}}\n"
        "      stages:\n"
        "        - keywords: {writer: smollm2}\n"
        "        - bm25: {k: 5}\n"
    )
    pipeline = Pipeline.from_yaml(text)
    assert Pipeline.from_yaml(pipeline.to_yaml()).stages == pipeline.stages
    stage = pipeline.stages[0]
    assert isinstance(stage, MultiQuery)
    assert stage.endpoint == Endpoint(url=model.endpoint.url, concurrency=2)
    with pytest.raises(RankpipeError) as caught:
        Pipeline.from_yaml("stages:\n  - bm25\n  - keywords: {writer: a, endpoint: {url: 'localhost:80'}}\n")
    assert "3:43" in str(caught.value)
    assert "not the address of a server" in str(caught.value)
