"""Bad input: each kind gets one clear message, no traceback, its exit status, and leaves the store usable."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rankpipe.data.shipped import shipped

Command = Callable[..., Any]
HEADER = "query-id\tcorpus-id\tscore\n"


@pytest.fixture
def refused(rankpipe: Command, pets: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`refused(["check", "p.yaml"], "p.yaml: ...")`: the command fails so, and good input works afterwards.

    Commands run in the folder above pets.
    """
    monkeypatch.chdir(pets.parent)

    def check(arguments: list[str], message: str, status: int = 2) -> None:
        assert rankpipe(*arguments) == (status, "", f"{message}\n")
        good = pets.parent / "good.jsonl"
        good.write_text('{"_id": "d1", "text": "a cat"}\n')
        found = rankpipe("search", "bm25", "cat", "--dataset", good)
        assert (found.status, found.out.splitlines()[1], found.err) == (0, "   a cat", "")
        assert [path.name for path in store.rglob(".building-*")] == []

    return check


# -- pipelines ----------------------------------------------------------------------------------------------------------

BM25_AND_CUT = "stages:\n  - bm25\n  - cut: {k: 5}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "stages:\n  - bm52\n", "2:5: no stage is called 'bm52'; did you mean 'bm25'?", id="an unknown stage"
        ),
        pytest.param(
            "stages:\n  - bm25: {K1: 1.2}\n",
            "2:12: 'bm25' has no setting 'K1'; did you mean 'k1'?",
            id="a misspelt setting",
        ),
        pytest.param(
            "stages:\n  - bm25: {k: ten}\n",
            "2:15: 'bm25' setting 'k' is 'ten', must be a whole number",
            id="a wrong type",
        ),
        pytest.param(
            "stages:\n  - bm25: {b: 1.5}\n", "2:15: 'bm25' setting 'b' is 1.5, must be at most 1", id="out of range"
        ),
        pytest.param("stages:\n  - bm25: {b: .nan}\n", "2:15: 'bm25' setting 'b' is not a number (nan)", id="NaN"),
        pytest.param(
            "stages:\n  - bm25: {b: .inf}\n", "2:15: 'bm25' setting 'b' is .inf, must be finite", id="infinity"
        ),
        pytest.param(
            "stages:\n  - bm25: {analyzer: englich}\n",
            "2:22: 'bm25' setting 'analyzer' is 'englich', must be 'english', 'whitespace', 'snowball:LANGUAGE' or the "
            "path of a tokenizer.json; did you mean 'english'?",
            id="an unknown analyzer",
        ),
        pytest.param(
            "stages:\n  - dense: {model: ''}\n",
            "2:20: 'dense' setting 'model' is '', must have 1 or more characters",
            id="an empty name",
        ),
        pytest.param(
            "stages:\n  - bm25: {analyzer: my/tokenizer.json}\n",
            "2:22: 'bm25' setting 'analyzer' is 'my/tokenizer.json', must be a file, and there is none",
            id="a tokenizer that is not there",
        ),
        pytest.param(
            "stages:\n  - bm25:\n      b: 0\n      b: 1\n",
            "4:7: 'b' is given twice; first on line 3",
            id="a repeated key",
        ),
        pytest.param(
            "stages:\n  - bm25: &a {b: 0}\n  - cut:\n      <<: *a\n      k: 1\n",
            "4:7: merge keys ('<<') are not read; write the entries out",
            id="a merge key",
        ),
        pytest.param(
            "stages:\n  - cut: {k: 5}\n  - bm25\n",
            "2:5: 'cut' needs candidates, and no stage before it makes any; put a retriever such as 'bm25' first",
            id="candidates needed first",
        ),
        pytest.param("stages: []\n", "1:9: a pipeline needs at least one stage", id="an empty pipeline"),
        pytest.param("{}\n", "1:1: a pipeline needs 'stages', a list of stages", id="no stages"),
        pytest.param("- bm25\n", "1:1: a map is wanted, not a list; put this list under 'stages:'", id="a list"),
        pytest.param("bm25\n", "1:1: a map is wanted, not text", id="text"),
        pytest.param("", " empty; a map is wanted", id="an empty file"),
        pytest.param(
            "stages: &all [*all]\n", "1:15: *all stands inside &all, the value it names", id="a recursive alias"
        ),
        pytest.param(
            "stages:\n  - bm25: {k: 5\n  - cut\n",
            "4:1: not YAML: expected ',' or '}', but got 'stream end' (while parsing a flow mapping begun on line 2)",
            id="no YAML",
        ),
        pytest.param("#" * 10_000_000, " larger than 1 MB, the most that is read as YAML", id="ten megabytes"),
        pytest.param("a\0b", "1:2: the character U+0000 is not allowed in YAML", id="NUL"),
    ],
)
def test_a_bad_pipeline_is_one_line_with_its_place(
    refused: Callable[..., None], tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "p.yaml").write_text(text)
    refused(["check", "p.yaml"], f"p.yaml:{message}")
    refused(["run", "p.yaml", "--dataset", "pets", "--output", "out"], f"p.yaml:{message}")
    assert not (tmp_path / "out").exists()


EIGHT_MISTAKES = """\
description: [one, two]
stages:
  - bm25: {k: 0, k1: .nan}
    name: first
  - bm52
  - cut: {depth: 5}
  - fuse:
      branches: [bm25, cut: {k: 3}]
      method: convx
  - interpolate: {with: frist}
  - cut: {k: 3}
    name: first
    name: second
"""


def test_eight_mistakes_and_more_are_reported_in_one_go(refused: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(EIGHT_MISTAKES)
    refused(
        ["check", "p.yaml"],
        """\
p.yaml:1:14: the description is a list, must be text
p.yaml:3:15: 'bm25' setting 'k' is 0, must be above 0
p.yaml:3:22: 'bm25' setting 'k1' is not a number (nan)
p.yaml:5:5: no stage is called 'bm52'; did you mean 'bm25'?
p.yaml:6:5: 'cut' needs the setting 'k'
p.yaml:6:11: 'cut' has no setting 'depth'; there are: k
p.yaml:9:15: 'fuse' setting 'method' is 'convx', must be 'reciprocal-rank', 'inverse-square-rank', 'borda', 'convex', \
'comb-sum' or 'comb-mnz'
p.yaml:10:25: 'interpolate' refers to 'frist', a name that no earlier stage has; did you mean 'first'?
p.yaml:11:5: the name 'first' is taken by 'bm25' on line 3; names are given once
p.yaml:13:5: 'name' is given twice; first on line 12""",
    )


def test_a_pipeline_that_is_not_there_is_said(refused: Callable[..., None], tmp_path: Path) -> None:
    ships = ", ".join(sorted(file.stem for file in shipped("pipelines").glob("*.yaml")))
    refused(["check", "nothing.yaml"], "nothing.yaml: no such file")
    message = f"error: there is no pipeline file 'pets', and rankpipe ships none of that name; it ships {ships}"
    refused(["check", "pets"], message)
    (tmp_path / "p.yaml").write_bytes(b"stages:\n  - bm\xff25\n")
    refused(["check", "p.yaml"], "p.yaml:2:7: not UTF-8 text (byte 0xff)")


# -- data sets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("judgements", "message"),
    [
        ("q1\td1\tyes\n", "2: relevance 'yes' is not a whole number such as 0, 1 or 2"),
        ("q1\td1\t1\nq1\td2\n", "3: 2 columns, not the three of 'query-id<TAB>corpus-id<TAB>score'"),
        (
            "q1\td1\t1\nq2\td3\t1\nq1\td1\t2\n",
            "4: query 'q1' and document 'd1' are judged twice: 1 in line 2, 2 here; keep one",
        ),
        ("q1\td1\t1\nq9\td1\t1\n", "3: query 'q9' has no text: it is not in pets/queries.jsonl"),
        ("", " holds no judgements"),
    ],
)
def test_a_bad_line_of_judgements_is_named(
    refused: Callable[..., None], pets: Path, judgements: str, message: str
) -> None:
    (pets / "qrels" / "test.tsv").write_text(HEADER + judgements)
    refused(["run", "bm25", "-d", "pets", "--output", "out"], f"error: pets/qrels/test.tsv:{message}")


def test_judged_documents_that_are_not_there_are_counted_and_said(rankpipe: Command, pets: Path) -> None:
    (pets / "qrels" / "test.tsv").write_text(HEADER + "q1\td1\t1\nq1\td77\t1\nq1\td78\t1\n")
    done = rankpipe("run", "bm25", "-d", pets, "-m", "R@10")
    assert (done.status, done.out) == (0, "R@10  0.3333\n")
    assert "note: 2 judged documents not in the corpus counted as not found\n" in done.err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"_id": "d1", "text": "again"}', "document id 'd1' occurs twice; the first time in line 1"),
        ('{"_id": "", "text": "x"}', "id of document 5 is empty"),
        ('{"_id": "d5"}', "no 'text'; the keys are '_id'"),
        ('{"text": "x"}', "no '_id'; the keys are 'text'"),
        ("[]", 'a list, not an object such as {"_id": "7", "text": "..."}'),
        ('{"_id": "d5", "text": "x"', "not JSON: Expecting ',' delimiter, at character 26"),
        (
            '{"_id": "d5", "text": "x\\ud800"}',
            "document 'd5', field 'text': lone surrogate U+D800 at character 2, which no Unicode text holds",
        ),
    ],
)
def test_a_bad_document_is_named(refused: Callable[..., None], pets: Path, line: str, message: str) -> None:
    with (pets / "corpus.jsonl").open("a") as file:
        file.write(line)
    refused(["search", "bm25", "cat", "-d", "pets"], f"error: pets/corpus.jsonl:5: {message}")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"_id": "q1", "text": "again"}', "query id 'q1' occurs twice; the first time in line 1"),
        (
            '{"_id": "q4", "text": "\\udfff"}',
            "query 'q4', field 'text': lone surrogate U+DFFF at character 1, which no Unicode text holds",
        ),
    ],
)
def test_a_bad_query_is_named(refused: Callable[..., None], pets: Path, line: str, message: str) -> None:
    with (pets / "queries.jsonl").open("a") as file:
        file.write(line)
    refused(["run", "bm25", "-d", "pets"], f"error: pets/queries.jsonl:4: {message}")


def test_bytes_that_are_no_text_are_named(refused: Callable[..., None], pets: Path) -> None:
    (pets / "corpus.jsonl").write_bytes(b'{"_id": "d1", "text": "caf\xe9"}')
    message = "error: pets/corpus.jsonl:1: not UTF-8: invalid continuation byte at byte 27 of the line"
    refused(["search", "bm25", "cat", "-d", "pets"], message)
    (pets / "corpus.jsonl").write_bytes(
        b'{"_id": "d1", "text": "\xed\xa0\x80"}'
    )  # a surrogate, in the bytes themselves
    message = "error: pets/corpus.jsonl:1: not UTF-8: invalid continuation byte at byte 24 of the line"
    refused(["search", "bm25", "cat", "-d", "pets"], message)


@pytest.mark.parametrize(
    ("file", "kind", "wrong", "fault"),
    [
        ("corpus", "document id", "d 5", "has white space in it"),
        ("corpus", "document id", "d5\n", "has white space in it"),
        ("queries", "query id", "q\u30004", "has white space in it"),
    ],
)
def test_an_id_that_no_run_file_holds_is_refused_before_the_work(
    rankpipe: Command, pets: Path, store: Path, file: str, kind: str, wrong: str, fault: str
) -> None:
    with (pets / f"{file}.jsonl").open("a") as lines:
        lines.write(json.dumps({"_id": wrong, "text": "a cat"}))
    with (pets / "qrels" / "test.tsv").open("a") as lines:
        lines.write(f"{wrong}\td1\t1\n" if file == "queries" else "")
    message = f"error: {kind} {wrong!r} {fault}, which a TREC run file cannot hold\n"
    run = ("run", "bm25", "--dataset", pets)
    assert rankpipe(*run, "--output", pets.parent / "out") == (2, "", message)
    assert not (store / "inverted").exists()
    assert rankpipe(*run).status == 0  # without a file there is nothing against it


def test_a_data_set_a_split_or_a_measure_that_is_not_there_is_said(
    refused: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANKPIPE_DATA", "")
    nowhere = "the folders of RANKPIPE_DATA (not set), the catalogue and ir_datasets do not have it"
    refused(["run", "bm25", "-d", "petz"], f"error: there is no data set 'petz'; {nowhere}")
    refused(
        ["run", "bm25", "-d", "beir/scifacts"],
        f"error: there is no data set 'beir/scifacts'; did you mean 'beir/scifact'? {nowhere}",
    )
    refused(["run", "bm25", "-d", "pets", "--split", "dev"], "error: data set 'pets' has no split 'dev'; it has test")
    refused(
        ["run", "bm25", "-d", "pets", "-m", "nDGC@10"], "error: there is no measure 'nDGC@10'; did you mean 'nDCG@10'?"
    )


def test_a_folder_of_results_that_cannot_be_made_is_said(refused: Callable[..., None], pets: Path) -> None:
    corpus = pets / "corpus.jsonl"
    run = ["run", "bm25", "-d", "pets", "--output"]
    refused([*run, "pets/corpus.jsonl/out"], f"error: pets/corpus.jsonl/out cannot be a folder: {corpus} is a file")
    exists = "exists already; choose another folder, or replace it with --force"
    refused([*run, "pets/corpus.jsonl"], f"error: pets/corpus.jsonl {exists}")
    refused([*run, "pets"], f"error: pets {exists}")
    no_results = "holds no results of rankpipe (no manifest.json of its own), so it is not replaced"
    refused([*run, "pets", "--force"], f"error: pets {no_results}")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q1 Q0 d2 2 0.5", "5 columns, not the 6 of 'query_id Q0 doc_id rank score tag'"),
        ("q1 Q0 d2 2 high x", "the score 'high' is not a finite number"),
        ("q1 Q0 d2 2 nan x", "the score 'nan' is not a finite number"),
        ("q1 Q0 d1 2 0.5 x", "document 'd1' stands twice in the ranking of query 'q1'"),
    ],
)
def test_a_bad_line_of_a_run_is_named(refused: Callable[..., None], tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "bad.trec").write_text(f"q1 Q0 d1 1 1.0 x\n{line}\n")
    (tmp_path / "good.trec").write_text("q1 Q0 d1 1 1.0 x\n")
    refused(["evaluate", "bad.trec", "-d", "pets"], f"error: bad.trec:2: {message}")
    refused(["compare", "good.trec", "bad.trec", "-d", "pets"], f"error: bad.trec:2: {message}")


def test_judgements_of_other_queries_are_refused(refused: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "other.trec").write_text("x1 Q0 d1 1 1.0 x\n")
    message = "error: the run and the judgements share no query: the run's begin with 'x1', the judgements' with 'q1'"
    refused(["evaluate", "other.trec", "--dataset", "pets"], message)


def test_a_surrogate_of_the_command_line_is_refused(refused: Callable[..., None]) -> None:
    message = "error: query 'q1': lone surrogate U+DCFF at character 4, which no Unicode text holds"
    refused(["search", "bm25", "cat\udcff", "--dataset", "pets"], message)
