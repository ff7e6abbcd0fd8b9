"""Odd input that is no mistake is answered; what is one is an error of ours through Python too.

What every retriever makes of odd queries and documents: test_odd_retrieval.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rankpipe import BM25, Corpus, Dataset, Pipeline, Run, evaluate
from rankpipe.errors import DataError, RankpipeError, UsageError

Command = Callable[..., Any]
HEADER = "query-id\tcorpus-id\tscore\n"


def test_an_empty_document_is_never_found_and_counts_in_the_corpus() -> None:
    corpus = Corpus.from_texts(["", "a cat", " "])
    assert (corpus.size, [hit.doc_id for hit in BM25().on(corpus).search("cat")]) == (3, ["d2"])


def test_a_query_of_a_hundred_thousand_words_is_answered(rankpipe: Command, pets: Path, tmp_path: Path) -> None:
    words = " ".join(f"word{number}" for number in range(99_999))
    (pets / "queries.jsonl").write_text(json.dumps({"_id": "q1", "text": f"{words} cat"}))
    (pets / "qrels" / "test.tsv").write_text(HEADER + "q1\td1\t1\n")
    assert rankpipe("run", "bm25", "-d", pets, "-m", "R@10", "--output", tmp_path / "out").out == "R@10  1.0000\n"


TEXTS = {
    "ünï¢ødé": "ünï¢ødé",
    "日本語の文書": "日本語",
    "😀 emoji": "emoji",
    "before\0after": "after",
    "e\u0301clair": "e\u0301clair",
    "\u202eright to left": "right",
}


@pytest.mark.parametrize(("text", "query"), TEXTS.items())
def test_any_unicode_is_indexed_and_found(rankpipe: Command, pets: Path, tmp_path: Path, text: str, query: str) -> None:
    (pets / "corpus.jsonl").write_text(json.dumps({"_id": "d1", "text": text}))
    (pets / "queries.jsonl").write_text(json.dumps({"_id": "q1", "text": query}))
    (pets / "qrels" / "test.tsv").write_text(HEADER + "q1\td1\t1\n")
    done = rankpipe("run", "bm25", "-d", pets, "-m", "RR", "--output", tmp_path / "out")
    assert (done.status, done.out) == (0, "RR  1.0000\n")


def test_surrogates_are_refused_through_python_too() -> None:
    corpus = Corpus.from_texts(["a cat"])
    message = "lone surrogate U\\+D800 at character 3, which no Unicode text holds"
    with pytest.raises(UsageError, match=f"^query 'q1': {message}$"):
        BM25().on(corpus).search("ab\ud800")
    with pytest.raises(DataError, match=f"^document 'd1', field 'text': {message}$"):
        Corpus.from_texts(["ab\ud800"])


def test_names_of_files_that_are_no_text_are_kept(rankpipe: Command, pets: Path, tmp_path: Path) -> None:
    folder = pets.rename(tmp_path / "pets\udcff")
    done = rankpipe("run", "bm25", "--dataset", folder, "--output", tmp_path / "out\udcff", "-m", "RR")
    assert (done.status, done.out) == (0, "RR  0.6667\n")
    assert json.loads((tmp_path / "out\udcff" / "manifest.json").read_text())["dataset"]["name"] == str(folder)


# -- through Python: the same errors, all from one root -----------------------------------------------------------------


def test_every_error_of_ours_has_one_root(pets: Path, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("stages: [bm52]")
    (tmp_path / "bad.trec").write_text("q1\n")
    corpus = Corpus.from_texts(["a cat"])
    run = BM25().on(corpus).run("cat")
    calls: list[Callable[[], Any]] = [
        lambda: Pipeline.load(tmp_path / "p.yaml"),
        lambda: Pipeline.load("nothing"),
        lambda: BM25().on(corpus).run(["\ud800"]),
        lambda: BM25(fields=("body",)).on(corpus).run("cat"),
        lambda: Dataset.load("nothing"),
        lambda: Dataset.load(pets).queries("dev"),
        lambda: Run.read_trec(tmp_path / "bad.trec"),
        lambda: run.write_trec(tmp_path / "bad.trec" / "run.trec"),
        lambda: evaluate(run, {"q9": {"d1": 1}}),
        lambda: evaluate(run, {"q1": {"d1": 1}}, ["nothing"]),
    ]
    for call in calls:
        with pytest.raises(RankpipeError):
            call()


def test_a_fault_that_nobody_expected_is_one_line_too(
    rankpipe: Command, pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent / "installed")
    (tmp_path / "p.yaml").write_text("stages:\n  - bm25\n  - fail\n")
    message = (
        "error: a fault of rankpipe itself, please report it: ValueError: one thing and another (--debug shows where)\n"
    )
    search = ("search", tmp_path / "p.yaml", "cat", "--dataset", pets)
    assert rankpipe(*search) == (1, "", message)
    debugged = rankpipe(*search, "--debug")
    assert (debugged.status, debugged.out) == (1, "")
    assert debugged.err.startswith("Traceback (most recent call last):\n")
    assert "failing.py" in debugged.err
    assert debugged.err.endswith(message)
