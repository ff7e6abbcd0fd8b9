"""Document expansion: queries by a server of this test or a tiny network, what is left out, and searching for them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rankpipe import BM25, Corpus, Dataset
from rankpipe.cli.doc2query import told_of_card
from rankpipe.data.catalogue import Card
from rankpipe.errors import RankpipeError
from rankpipe.models.completions import answer_seed
from rankpipe.models.endpoint import Endpoint
from rankpipe.pipeline import Pipeline
from rankpipe.training.doc2query import Doc2query, Expansion, Filter, as_query, found_again

Command = Callable[..., Any]
SEEDS = [answer_seed(0, number) for number in range(3)]
"""Of the answers to a document."""


class Handler(BaseHTTPRequestHandler):
    """Answers with what its server has for a word of the question and a seed; with 401 where that is None."""

    protocol_version = "HTTP/1.1"
    told: Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
        pass

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        user, seed = question["messages"][0]["content"], question.get("seed", 0)
        self.told.asked.append((user, seed))
        word = next(word for word in self.told.answers if word in user)
        answers = self.told.answers[word]
        if answers is None:
            body, status = b"{}", 401
        else:
            text = answers[SEEDS.index(seed) % len(answers)]
            finish = "length" if text.endswith("...") else "stop"
            message = {"role": "assistant", "content": text}
            usage = {"prompt_tokens": 9, "completion_tokens": 4}
            choice = {"index": 0, "message": message, "finish_reason": finish}
            body, status = json.dumps({"choices": [choice], "usage": usage}).encode(), 200
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    """answers: by a word of the question, one for each seed."""

    def __init__(self, answers: Mapping[str, list[str] | None]) -> None:
        super().__init__(("127.0.0.1", 0), type("Told", (Handler,), {"told": self}))
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.answers = dict(answers)
        self.asked: list[tuple[str, int]] = []


PETS: dict[str, list[str] | None] = {
    "cat sat": ["where do felines rest", "1. Where do FELINES rest?", "felines and where they..."],
    "dog took": ['"who stole from the cat"', "?!", "bone \ufffd"],
    "south": ["bird bird " * 20, "", "Query: migration of birds\nsecond line"],
    "Fish": ["cat on a mat", "cat on a mat", "cat on a mat"],
}
"""To each of the four pets, three answers."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, serve: Callable[[ThreadingHTTPServer], None]) -> Server:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    told = Server(PETS)
    serve(told)
    return told


@pytest.fixture
def expand(rankpipe: Command, pets: Path, tmp_path: Path, server: Server) -> Command:
    """`expand("--limit", "2")`: three queries for each of the pets, into the folder `out`."""
    asked = ("doc2query", "-d", pets, "--output", tmp_path / "out", "--writer", "tiny", "--endpoint", server.url)
    return lambda *more: rankpipe(*asked, "--queries", "3", *more)


def documents(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


# -- what is written ----------------------------------------------------------------------------------------------------


def test_documents_get_a_field_and_nothing_else_changes(expand: Command, pets: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (pets / "corpus.jsonl").read_text().splitlines()]
    lines[0]["metadata"] = {"url": "a.b"}
    (pets / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = expand()
    assert (done.status, done.out) == (
        0,
        "4 queries for 4 of 4 documents\n"
        "left out of 12 answers: 3 repeated, 1 too long, 2 empty, 1 in circles, 1 unreadable\n",
    )
    assert done.err == f"written: {tmp_path / 'out'}\n"
    queries = ["where do felines rest", "who stole from the cat", "migration of birds", "cat on a mat"]
    lines[0]["metadata"] = '{"url":"a.b"}'  # as rankpipe reads it
    assert documents(tmp_path / "out") == [{**line, "queries": one} for line, one in zip(lines, queries, strict=True)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "pets", "store"]
    before, after = Dataset.load(pets), Dataset.load(tmp_path / "out")
    assert (after.splits, dict(after.qrels())) == (before.splits, dict(before.qrels()))
    assert (after.queries(None).ids, after.queries(None).texts) == (
        before.queries(None).ids,
        before.queries(None).texts,
    )


def test_the_manifest_says_what_made_the_queries_and_what_was_left_out(
    expand: Command, server: Server, pets: Path, tmp_path: Path
) -> None:
    assert expand("--max-words", "5", "--limit", "3").status == 0
    told = manifest(tmp_path / "out")
    assert told["writer"] == {"model": "tiny", "url": server.url}
    assert told["dataset"]["digest"] == Dataset.load(pets).corpus.digest
    assert (told["field"], told["limit"], told["filter"], len(told["prompt"])) == ("queries", 3, None, 32)
    assert told["settings"]["endpoint"]["url"] == server.url
    assert {**told["settings"], "endpoint": None} == {
        "writer": "tiny",
        "endpoint": None,
        "prompt": "doc2query",
        "queries": 3,
        "max_words": 5,
        "max_tokens": 64,
        "temperature": 1.0,
        "top_p": 0.95,
        "seed": 0,
    }
    assert told["counts"]["cut"] == 2  # the third has just five words
    assert told["counts"]["documents"] == 3
    assert told["answers"]["requests"] == told["counts"]["answers"] == 9
    assert (told["answers"]["prompt_tokens"], told["answers"]["tokens"]) == (81, 36)


def test_a_document_is_found_by_a_word_that_only_its_query_has(
    expand: Command, rankpipe: Command, tmp_path: Path
) -> None:
    assert expand().status == 0
    (tmp_path / "expanded.yaml").write_text("stages: [bm25: {fields: [title, text, queries]}]")
    assert rankpipe("search", "bm25", "feline", "-d", tmp_path / "out").out == "nothing found\n"
    found = rankpipe("search", tmp_path / "expanded.yaml", "feline", "-d", tmp_path / "out")
    assert found.out.startswith("1. d1  ")
    done = rankpipe("run", tmp_path / "expanded.yaml", "-d", tmp_path / "out", "-m", "RR")
    # q1 finds the fish first, whose query it is, and then d1; q2 finds d3; q3 has stop words only: (1/2 + 1 + 0) / 3
    assert (done.status, done.out) == (0, "RR  0.5000\n")


def test_only_so_many_documents_are_expanded_as_asked(expand: Command, server: Server, tmp_path: Path) -> None:
    assert expand("--limit", "1").status == 0
    assert [document.get("queries") for document in documents(tmp_path / "out")] == [
        "where do felines rest",
        None,
        None,
        None,
    ]
    assert len(server.asked) == 3
    assert manifest(tmp_path / "out")["counts"]["documents"] == 1


def test_a_file_of_documents_alone_is_expanded_too(
    rankpipe: Command, server: Server, pets: Path, tmp_path: Path
) -> None:
    where = ("--output", tmp_path / "out", "--writer", "tiny", "--endpoint", server.url, "--queries", "1")
    assert rankpipe("doc2query", "-d", pets / "corpus.jsonl", *where).status == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["corpus.jsonl", "manifest.json"]


def test_deleted_documents_are_left_out_and_empty_ones_not_asked_about(server: Server) -> None:
    corpus = Corpus.from_records(
        [{"id": "a", "text": "cat sat"}, {"id": "b", "text": " "}, {"id": "c", "text": "dog took"}]
    )
    settings = Doc2query(writer="tiny", endpoint=Endpoint(url=server.url), queries=1)
    expansion = Expansion(corpus.without(["c"]), settings)
    assert list(expansion.records()) == [
        {"id": "a", "text": "cat sat", "queries": "where do felines rest"},
        {"id": "b", "text": " "},
    ]
    assert (expansion.counts["without_text"], expansion.counts["unchanged"], len(server.asked)) == (1, 1, 1)


@pytest.mark.parametrize(
    ("answer", "query"),
    [
        ("how do bees fly\nBecause they", "how do bees fly"),
        ("\n \n  how  do\tbees fly ", "how do bees fly"),
        ("- how do bees fly", "how do bees fly"),
        ("2) Query: how do bees fly?", "how do bees fly?"),
        ('Search query: "how do bees fly"', "how do bees fly"),
        ("Question 1: how do bees fly", "how do bees fly"),
        ("**how do bees fly**", "how do bees fly"),
        ("query languages: a survey", "query languages: a survey"),
        ("3d printing", "3d printing"),
        ("", ""),
    ],
)
def test_the_first_line_of_an_answer_is_the_query(answer: str, query: str) -> None:
    assert as_query(answer) == query


def test_that_a_card_does_not_come_along_is_said_where_it_matters() -> None:
    arguana = Card(name="beir/arguana", self_match=True)
    said = (
        "note: 'beir/arguana' has a card that says how to measure on it, and a folder has that card under its name only: "
        "--output out/mine/arguana"
    )
    assert told_of_card(arguana, Path("out/mine")) == [said]
    assert told_of_card(arguana, Path("out/arguana")) == []
    assert told_of_card(Card(name="beir/scifact"), Path("out/mine")) == []


# -- the filter ---------------------------------------------------------------------------------------------------------


def test_a_query_is_kept_if_its_document_is_among_the_first() -> None:
    corpus = Corpus.from_texts(["red apple", "red apple pie", "green pear"])
    rows = np.array([1, 2], np.int32)
    groups = [["apple", "pie", "apple pie", "pear"], ["pear", "plum"]]
    # "apple" finds row 0, which is shorter, and then row 1; "pear" finds row 2 alone; "plum" nothing
    pipeline = BM25().on(corpus)
    assert found_again(Filter(pipeline, 1), rows, groups) == [["pie", "apple pie"], ["pear"]]
    assert found_again(Filter(pipeline, 2), rows, groups) == [["apple", "pie", "apple pie"], ["pear"]]
    assert found_again(Filter(pipeline, 1), rows, [[], []]) == [[], []]


def test_what_does_not_find_its_document_is_left_out_and_counted(expand: Command, tmp_path: Path) -> None:
    done = expand("--keep", "bm25", "--depth", "2")
    # no document has felines; "who stole from the cat" finds d1 and d2; "migration of birds" finds d3 by the birds;
    # "cat on a mat", for the fish, finds d1 and d2
    assert done.out == (
        "2 queries for 2 of 4 documents\n"
        "left out of 12 answers: 3 repeated, 1 too long, 2 empty, 1 in circles, 1 unreadable, 2 not finding their document\n"
    )
    assert [document.get("queries") for document in documents(tmp_path / "out")] == [
        None,
        "who stole from the cat",
        "migration of birds",
        None,
    ]
    told = manifest(tmp_path / "out")
    assert told["filter"]["depth"] == 2
    assert "bm25" in told["filter"]["pipeline"]
    assert told["counts"]["not_found"] == told["counts"]["unchanged"] == 2


# -- going on -----------------------------------------------------------------------------------------------------------


def test_what_was_answered_before_a_failure_is_not_asked_again(server: Server, pets: Path) -> None:
    corpus = Dataset.load(pets).corpus
    settings = Doc2query(writer="tiny", endpoint=Endpoint(url=server.url, concurrency=1), queries=3)
    server.answers["south"] = None
    with pytest.raises(RankpipeError, match="answers 401"):
        list(Expansion(corpus, settings).records())
    server.answers["south"] = PETS["south"]
    assert len(list(Expansion(corpus, settings).records())) == 4
    times = Counter(server.asked)
    assert {user for (user, seed), count in times.items() if count > 1} == {
        user for user, _ in times if "south" in user
    }
    assert sum(times.values()) == 13  # three answers to each of four documents, and the one that failed


def test_a_failure_leaves_no_folder(expand: Command, server: Server, tmp_path: Path) -> None:
    server.answers["Fish"] = None
    done = expand()
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(f"error: {server.url}/chat/completions answers 401 Unauthorized")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pets", "store"]


def test_a_network_in_this_process_writes_the_same_again_and_is_not_asked_again(
    rankpipe: Command, tiny_causal_lm: Callable[..., Path], pets: Path, tmp_path: Path
) -> None:
    model = tiny_causal_lm(tmp_path / "model")
    command = ("doc2query", "-d", pets, "--writer", model, "--max-tokens", "12", "--dtype", "float32")
    assert rankpipe(*command, "--output", tmp_path / "one").status == 0
    assert rankpipe(*command, "--output", tmp_path / "two").status == 0
    first, second = manifest(tmp_path / "one"), manifest(tmp_path / "two")
    assert documents(tmp_path / "one") == documents(tmp_path / "two")
    assert first["counts"] == second["counts"]
    assert (first["answers"]["written"], second["answers"]["written"], second["answers"]["asked"]) == (4, 0, 4)
    shutil.rmtree(tmp_path / "store")
    assert rankpipe(*command, "--output", tmp_path / "one", "--force").status == 0
    assert documents(tmp_path / "one") == documents(tmp_path / "two")


def test_an_endpoint_may_have_all_its_settings(expand: Command, server: Server, tmp_path: Path) -> None:
    more = f"{{url: '{server.url}', length_field: max_completion_tokens, fields: {{top_k: 5}}}}"
    assert expand("--endpoint", more).status == 0
    assert manifest(tmp_path / "out")["writer"] == {
        "model": "tiny",
        "url": server.url,
        "length_field": "max_completion_tokens",
        "fields": {"top_k": 5},
    }


# -- errors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--depth", "3"], "--depth is of the filter; name its pipeline with --keep, for example --keep bm25"),
        (
            ["--temperature", "0"],
            "at temperature 0 the 3 queries of a document are all the same; choose a higher one, or one query",
        ),
        (["--top-p", "0"], "--top-p is 0.0: input should be greater than 0"),
        (["--prompt", "hyde"], "{hyde}: its section 'user' has {document} 0 times, and needs it once"),
        (
            ["--endpoint", "ftp://x"],
            "--endpoint is 'ftp://x': not the address of a server, such as http://localhost:8000/v1",
        ),
        (["--endpoint", "{url: ["], "--endpoint is '{url: [': neither an address nor settings of one in YAML"),
        (
            ["--endpoint", "{url: 'http://a/v1', concurrency: 0}"],
            "--endpoint concurrency is 0: input should be greater than or equal to 1",
        ),
    ],
)
def test_what_is_wrong_is_one_line(expand: Command, tmp_path: Path, more: list[str], message: str) -> None:
    from rankpipe.models.prompt import load_prompt

    message = message.replace("{hyde}", f"prompt {load_prompt('hyde').file}")
    assert expand(*more) == (2, "", f"error: {message}\n")
    assert not (tmp_path / "out").exists()


def test_a_filter_that_finds_nothing_is_refused(expand: Command, server: Server, tmp_path: Path) -> None:
    (tmp_path / "keep.yaml").write_text("stages: [keywords: {writer: smollm2}]\n")
    message = f"error: {tmp_path / 'keep.yaml'}: no stage makes candidates; put a retriever such as 'bm25' behind the last one\n"
    assert expand("--keep", tmp_path / "keep.yaml") == (2, "", message)
    assert (server.asked, (tmp_path / "out").exists()) == ([], False)


def test_an_existing_folder_is_refused_and_replaced_by_force(expand: Command, server: Server, tmp_path: Path) -> None:
    assert expand().status == 0
    count = len(server.asked)
    refused = f"error: {tmp_path / 'out'} exists already; choose another folder, or replace it with --force\n"
    assert expand() == (2, "", refused)
    assert expand("--limit", "1", "--force").status == 0
    assert len(documents(tmp_path / "out")) == 4
    assert len(server.asked) == count


def test_what_is_expanded_already_is_not_expanded_again(expand: Command, tmp_path: Path) -> None:
    assert expand().status == 0
    message = "error: the documents have a field 'queries' already; expand those that they were made of\n"
    assert expand("-d", tmp_path / "out", "--output", tmp_path / "more") == (2, "", message)


def test_the_filter_is_opened_before_anything_is_asked(server: Server, pets: Path) -> None:
    settings = Doc2query(writer="tiny", endpoint=Endpoint(url=server.url))
    with pytest.raises(RankpipeError, match="no field 'body'"):
        Expansion(Dataset.load(pets).corpus, settings, Filter(Pipeline(stages=(BM25(fields=("body",)),)), 10))
    assert server.asked == []
