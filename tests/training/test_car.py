"""Training with rewritten queries from end to end: a server of this test writes them, and counts what it is asked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as parquet
import pytest

pytest.importorskip("torch", reason="needs the extra 'dense'")
pytest.importorskip("sentence_transformers", reason="needs the extra 'dense'")

from rankpipe import Dataset, Pipeline, Runtime
from rankpipe.stages.rewriting import open_writer
from rankpipe.training.batches import Batches
from rankpipe.training.cross_encoder_recipe import CrossEncoderRecipe
from rankpipe.training.encoder_recipe import BiEncoderRecipe
from rankpipe.training.examples import JudgedGroups
from rankpipe.training.material import Material, gather
from rankpipe.training.recipe_file import load_recipe

PHASE = {
    "bi-encoder": "  - contrastive: {batch: 9, hard: 1, steps: 3, learning_rate: 1.0e-3}",
    "cross-encoder": "  - labels: {batch: 9, group: 4, steps: 3, learning_rate: 1.0e-3}",
}
USED = tuple(f"train{number}" for number in (1, 2, 3, 4, 5, 6, 7, 10, 11))
"""Training queries of the garden whose text is no query of another split. 3 and 11 are the same, so 8 are asked for."""
PROMPT = "--- user\n{query}\n{document}\n"
ALONE = "--- user\n{query}\n"


class Server(ThreadingHTTPServer):
    """A server of OpenAI's interface.

    says   what it answers to a query
    asked  what it was asked: query, and the document if there was any
    left   requests after which it fails; None: never
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.says: Callable[[str], str] = lambda query: f"please tell where one finds {query} now"
        self.asked: list[tuple[str, str]] = []
        self.left: int | None = None


class Handler(BaseHTTPRequestHandler):
    """One connection to the server."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
        pass

    def do_POST(self) -> None:
        server = cast("Server", self.server)
        told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert (told["temperature"], told["max_tokens"]) == (0, 48)
        query, _, document = told["messages"][-1]["content"].partition("\n")
        if server.left is not None:
            if not server.left:
                self.send_error(400, "no more today")
                return
            server.left -= 1
        server.asked.append((query, document))
        message = {"role": "assistant", "content": server.says(query)}
        body = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server(serve: Callable[[ThreadingHTTPServer], None]) -> Server:
    told = Server()
    serve(told)
    return told


@pytest.fixture
def write(tmp_path: Path, tiny_encoder: Callable[..., Path], server: Server) -> Callable[..., Path]:
    """`write(train, rewrite)` writes a recipe whose queries the server rewrites, and gives its path."""
    model = tiny_encoder(tmp_path / "encoder")
    for name, text in (("own", PROMPT), ("alone", ALONE)):
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")

    def written(train: str, rewrite: str = "prompt: own.txt", name: str = "recipe") -> Path:
        path = tmp_path / f"{name}.yaml"
        endpoint = f"endpoint: {{url: '{server.url}', retries: 0, concurrency: 1}}"
        path.write_text(
            f"train: {train}\nmodel: {model}\nmax_length: 40\ncandidates: {{pipeline: bm25, depth: 10}}\n"
            f"rewrite: {{writer: any, {endpoint}, {rewrite}}}\n"
            f"phases:\n{PHASE[train]}\ndevelopment: {{queries: 4, depth: 5, every: 3}}\n",
            encoding="utf-8",
        )
        return path

    return written


def gathered(path: Path, folder: Path) -> Material:
    recipe, dataset = load_recipe(path), Dataset.load(folder)
    assert isinstance(recipe, BiEncoderRecipe | CrossEncoderRecipe)
    pipeline = Pipeline.load("bm25", corpus=dataset.corpus)
    with Runtime(threads=1).active():
        return gather(recipe, dataset, pipeline, notify=lambda _: None)


def trained_on(material: Material) -> list[tuple[str, str, tuple[int, ...]]]:
    """Query, text and relevant documents of all queries that are there: a whole round, in steps of 9."""
    drawn, found = material.groups[0], []
    for step in range(1, drawn.account()["queries"] // 9 + 1):
        if isinstance(drawn, Batches):
            batch = drawn.step(step)
            rows = batch.documents[batch.columns[batch.positive]].tolist()
            found += zip(batch.query_ids, batch.queries, [(row,) for row in rows], strict=True)
        else:
            groups = cast("JudgedGroups", drawn).step(step)
            found += [(one.query_id, one.query, tuple(one.documents[one.targets > 0].tolist())) for one in groups]
    return found


@pytest.mark.parametrize("train", list(PHASE))
@pytest.mark.parametrize("mode", ["replace", "augment"])
def test_examples_carry_the_query_and_its_judgements_and_the_new_text(
    train: str, mode: str, garden: Path, write: Callable[..., Path], server: Server
) -> None:
    material = gathered(write(train, f"prompt: own.txt, mode: {mode}"), garden)
    dataset = Dataset.load(garden)
    queries, qrels = dataset.queries("train"), dataset.qrels("train")
    texts: dict[str, set[str]] = {}
    for query_id, text, rows in trained_on(material):
        texts.setdefault(query_id, set()).add(text)
        assert set(dataset.corpus.ids(rows)) <= set(qrels[query_id])
    new = {query_id: server.says(queries[query_id]) for query_id in USED}
    old = queries if mode == "augment" else new
    assert texts == {query_id: {new[query_id], old[query_id]} for query_id in USED}
    assert material.account["phases"][0]["queries"] == (9 if mode == "replace" else 18)
    # candidates, and with them negatives, are those of the queries as they were
    assert material.mined is not None
    assert [one.text for one in material.mined.judged] == [queries[query_id] for query_id in USED]


def test_only_training_queries_are_asked_for_each_with_the_document_of_the_highest_grade(
    garden: Path, write: Callable[..., Path], server: Server
) -> None:
    gathered(write("bi-encoder", "prompt: own.txt, window: 5"), garden)
    dataset = Dataset.load(garden)
    queries, qrels = dataset.queries("train"), dataset.qrels("train")
    assert sorted(query for query, _ in server.asked) == sorted({queries[query_id] for query_id in USED})
    for query, document in server.asked:
        query_id = queries.ids[queries.texts.index(query)]
        best = next(doc_id for doc_id, grade in qrels[query_id].items() if grade == 2)
        [text] = dataset.corpus.joined_texts(dataset.corpus.rows([best]))
        assert document in text
        assert len(document.split()) == 5


def test_controls_show_another_document_or_none(garden: Path, write: Callable[..., Path], server: Server) -> None:
    material = gathered(write("bi-encoder", "prompt: own.txt, context: random"), garden)
    dataset = Dataset.load(garden)
    queries, qrels = dataset.queries("train"), dataset.qrels("train")
    assert material.rewrites is not None
    drawn = {one.query_id: one for one in material.rewrites.all}
    for query_id, one in drawn.items():
        assert one.row is not None
        [doc_id] = dataset.corpus.ids([one.row])
        assert doc_id not in qrels[query_id]
        assert (queries[query_id], dataset.corpus.joined_texts([one.row])[0]) in server.asked
    assert len({one.row for one in drawn.values()}) > 5
    server.asked.clear()
    material = gathered(write("bi-encoder", "prompt: alone.txt, context: none"), garden)
    assert {document for _, document in server.asked} == {""}
    assert len(server.asked) == 8
    assert material.rewrites is not None
    assert material.rewrites.account()["fates"] == {"kept": 9}


def test_what_is_refused_stays_and_is_counted_and_told(
    garden: Path, write: Callable[..., Path], server: Server, rankpipe: Callable[..., Any], tmp_path: Path
) -> None:
    dataset = Dataset.load(garden)
    queries = dataset.queries("train")
    said = {
        queries["train1"]: "",
        queries["train2"]: "bees and " * 30,
        queries["train4"]: "why " + " ".join(f"w{number}" for number in range(40)),
        queries["train5"]: queries["train5"].upper(),
        queries["train6"]: dataset.queries("dev").texts[1],
        queries["train7"]: f"{queries['train7']} here",  # a word of its document's text, besides its own
        queries["train10"]: "bees that dance in some hive",
    }
    fates = [
        "empty",
        "runaway",
        "kept",
        "too long",
        "the same",
        "query of another split",
        "copied",
        "rank fell",
        "kept",
    ]
    server.says = lambda query: said.get(query, f"please tell where one finds {query} now")
    output = tmp_path / "out"
    done = rankpipe("train", write("bi-encoder"), "--dataset", garden, "--output", output)
    assert done.status == 0, done.err
    assert (
        "rewrite: 9 of 9 queries chosen, 2 rewritten; left as they were: 1 empty, 1 runaway, 1 too long, 1 the same, "
        "1 query of another split, 1 copied, 1 rank fell\n"
    ) in done.err
    told = json.loads((output / "manifest.json").read_text())
    rewrites = told["examples"]["judged"]["rewrites"]
    assert rewrites["fates"] == dict(Counter(sorted(fates)))
    assert (rewrites["queries"], rewrites["chosen"], rewrites["chosen_by"]) == (9, 9, {"short": 9})
    assert (told["rewriting"]["asked"], told["rewriting"]["written"]) == (9, 8)
    table = parquet.read_table(output / "rewrites.parquet").to_pylist()
    assert list(table[0]) == ["query_id", "original", "rewritten", "doc_id", "chosen_by", "fate"]
    assert [one["query_id"] for one in table] == list(USED)
    assert [one["original"] for one in table] == [queries[query_id] for query_id in USED]
    assert [one["fate"] for one in table] == fates
    assert {one["chosen_by"] for one in table} == {"short"}
    assert table[0]["rewritten"] == ""
    assert table[-1]["rewritten"] == f"please tell where one finds {queries['train11']} now"
    assert all(dataset.qrels("train")[one["query_id"]][one["doc_id"]] == 2 for one in table)
    kept = {one["query_id"]: one["rewritten" if one["fate"] == "kept" else "original"] for one in table}
    assert {query_id: text for query_id, text, _ in trained_on(gathered(write("bi-encoder"), garden))} == kept


def test_a_query_that_no_rule_finds_is_left_alone_unless_all_are_wanted(
    garden: Path, write: Callable[..., Path], server: Server
) -> None:
    path = garden / "queries.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        if line["_id"] in ("train1", "train2", "train3"):
            line["text"] = f"{line['text']} and much more that no document of this garden tells"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for select, asked, chosen in (
        ("ambiguous", 6, {"short": 6}),
        ("all", 9, {"no rule": 3, "short": 6}),
    ):
        server.asked.clear()
        material = gathered(write("bi-encoder", f"prompt: own.txt, select: {select}, max_tokens: 48"), garden)
        assert material.rewrites is not None
        assert (material.rewrites.account()["chosen"], material.rewrites.account()["chosen_by"]) == (asked, chosen)


@pytest.mark.parametrize("train", list(PHASE))
def test_a_second_training_asks_nothing_nor_does_a_pipeline_with_what_was_trained(
    train: str,
    garden: Path,
    write: Callable[..., Path],
    server: Server,
    rankpipe: Callable[..., Any],
    tmp_path: Path,
) -> None:
    recipe, output = write(train), tmp_path / "out"
    for number in range(2):
        done = rankpipe("train", recipe, "--dataset", garden, "--output", output, "--force")
        assert done.status == 0, done.err
        assert len(server.asked) == 8
        told = json.loads((output / "manifest.json").read_text())["rewriting"]
        assert (told["asked"], told["written"]) == (9, 0 if number else 8)
    stage = f"dense: {{model: {output}, k: 9}}"
    if train == "cross-encoder":
        stage = f"bm25: {{k: 9}}\n  - cross-encoder: {{model: {output}}}"
    (tmp_path / "trained.yaml").write_text(f"stages:\n  - {stage}\n", encoding="utf-8")
    server.shutdown()
    done = rankpipe("run", tmp_path / "trained.yaml", "--dataset", garden, "--output", tmp_path / "run")
    assert done.status == 0, done.err
    assert len((tmp_path / "run" / "run.trec").read_text().splitlines()) > 10
    assert len(server.asked) == 8


def test_a_training_that_ended_among_the_rewrites_asks_for_the_rest(
    garden: Path, write: Callable[..., Path], server: Server, rankpipe: Callable[..., Any], tmp_path: Path
) -> None:
    command = ("train", write("bi-encoder"), "--dataset", garden, "--output", tmp_path / "out")
    server.left = 4
    done = rankpipe(*command)
    assert done.status == 1
    assert not (tmp_path / "out").exists()
    assert len(server.asked) == 4
    server.left = None
    done = rankpipe(*command)
    assert done.status == 0, done.err
    assert len(server.asked) == len(set(server.asked)) == 8


def test_a_model_in_this_process_writes_as_well(
    garden: Path, write: Callable[..., Path], tiny_causal_lm: Callable[..., Path], tmp_path: Path
) -> None:
    model = tiny_causal_lm(tmp_path / "lm")
    recipe = write("bi-encoder")
    text = recipe.read_text(encoding="utf-8")
    begin, end = text.index("rewrite:"), text.index("phases:")
    recipe.write_text(f"{text[:begin]}rewrite: {{writer: lm, prompt: own.txt, max_tokens: 8}}\n{text[end:]}", "utf-8")
    material = gathered(recipe, garden)
    assert material.rewrites is not None
    with Runtime(threads=1).active():
        writer = open_writer(str(model), None, "this test")
    assert material.rewrites.made_by["writer"] == writer.key()
    assert material.rewrites.counts["written"] == 8
    assert sum(material.rewrites.account()["fates"].values()) == 9
