import json
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import ir_measures
import pytest

from rankpipe import BM25, Corpus, Dataset, Dense, Fuse, Queries, Rescore
from rankpipe.data.catalogue import Card
from rankpipe.errors import UsageError
from rankpipe.evaluation.experiment import Experiment, evaluate_on, run_experiment
from rankpipe.evaluation.manifest import qrels_digest, queries_digest, versions
from rankpipe.evaluation.report import write_results
from rankpipe.machine import machine
from rankpipe.pipeline import Pipeline
from rankpipe.run import Run

RANKED = {"q1": {"a": 3.0, "b": 2.0}, "q2": {"q2": 9.0, "c": 1.5}, "q3": {}}
QRELS = {"q1": {"b": 2, "a": 0}, "q2": {"c": 1}, "q3": {"a": 1}}
TEXTS = {"q1": "where is | b?", "q2": "c", "q3": "nothing\nmatches"}
CARD = Card(name="own", source="made up", licence="none", self_match=True, notes=("q2 is a document",))


@pytest.fixture
def experiment() -> Experiment:
    corpus = Corpus.from_records(
        [
            {"id": "a", "title": "Title of a", "text": "x"},
            {"id": "b", "text": "y " * 80},
            {"id": "c", "text": "z"},
            {"id": "q2", "text": "c"},
        ]
    )
    dataset = Dataset.of(corpus, TEXTS, QRELS, card=CARD)
    run = Run.of(dataset.queries(), corpus, RANKED)
    return Experiment(
        pipeline=Pipeline(stages=(BM25(k=10),), corpus=corpus, description="one stage"),
        dataset=dataset,
        split="test",
        run=run,
        result=evaluate_on(run, dataset),
        seconds={"bm25": 0.0123},
        prepare_seconds=1.5,
        started=datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
        finished=datetime(2026, 1, 2, 3, 4, 7, tzinfo=timezone.utc),
    )


def test_the_folder_holds_the_five_files_of_the_contract(experiment: Experiment, tmp_path: Path):
    write_results(experiment, tmp_path / "out", command="rankpipe run x")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "manifest.json",
        "metrics.json",
        "per_query.jsonl",
        "report.md",
        "run.trec",
    ]
    # q1: b at rank 2; q2: c first once q2 itself is gone; q3: nothing
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert list(metrics) == ["nDCG@10", "R@100", "RR@10", "AP", "Judged@10"]
    assert metrics["RR@10"] == pytest.approx((0.5 + 1 + 0) / 3)
    lines = [json.loads(line) for line in (tmp_path / "out" / "per_query.jsonl").read_text().splitlines()]
    assert [(line["query_id"], line["RR@10"], line["Judged@10"]) for line in lines] == [
        ("q1", 0.5, 1),
        ("q2", 1, 1),
        ("q3", 0, 0),
    ]
    written = list(ir_measures.read_trec_run(str(tmp_path / "out" / "run.trec")))
    assert [(one.query_id, one.doc_id) for one in written] == [("q1", "a"), ("q1", "b"), ("q2", "q2"), ("q2", "c")]


def test_an_existing_folder_is_replaced_only_when_forced_and_only_if_it_holds_results(experiment, tmp_path):
    write_results(experiment, tmp_path / "out", command="first")
    with pytest.raises(UsageError) as error:
        write_results(experiment, tmp_path / "out", command="second")
    expected = f"{tmp_path / 'out'} exists already; choose another folder, or replace it with --force"
    assert str(error.value) == expected
    write_results(experiment, tmp_path / "out", command="second", force=True)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["command"] == "second"

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    with pytest.raises(UsageError):
        write_results(experiment, tmp_path / "mine", command="x", force=True)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "keep me"


def test_the_manifest_tells_settings_digests_versions_machine_and_seconds(experiment: Experiment, tmp_path: Path):
    write_results(experiment, tmp_path / "out", command="rankpipe run x")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["pipeline"]["yaml"] == "description: one stage\nstages:\n  - bm25: {k: 10}\n"
    (stage,) = manifest["pipeline"]["stages"]
    assert {key: stage["bm25"][key] for key in ("k", "k1", "b", "analyzer", "fields")} == {
        "k": 10,
        "k1": 0.9,
        "b": 0.4,
        "analyzer": "english",
        "fields": ["title", "text"],
    }
    assert manifest["digests"] == {
        "corpus": experiment.run.corpus.digest,
        "queries": queries_digest(Queries.of(TEXTS)),
        "qrels": qrels_digest(experiment.dataset.qrels()),
    }
    assert manifest["dataset"] == {
        "name": "own",
        "card": "own",
        "split": "test",
        "documents": 4,
        "queries": 3,
        "judgements": 4,
        "relevance_cut": 1,
        "self_match_removed": True,
        "quirks": ["q2 is a document"],
    }
    assert manifest["seconds"] == {"prepare": 1.5, "stages": {"bm25": 0.012}}
    assert (manifest["started"], manifest["finished"]) == ("2026-01-02T03:04:05+00:00", "2026-01-02T03:04:07+00:00")
    assert manifest["seeds"] == {}
    assert manifest["assumed"] == list(experiment.result.assumed)
    assert manifest["versions"] == versions()
    assert manifest["machine"] == machine()


def test_the_report_reads_as_a_page(experiment: Experiment, tmp_path: Path):
    write_results(experiment, tmp_path / "out", command="rankpipe run x --dataset own")
    report = (tmp_path / "out" / "report.md").read_text()
    # nDCG@10 q1: the gain of 2 stands at rank 2: 1 / log2(3) = .6309; mean with 1 and 0: .5436
    expected_beginning = """\
# bm25 on own, test

one stage

| measure | mean |
| --- | --- |
| nDCG@10 | 0.5436 |
| R@100 | 0.6667 |
| RR@10 | 0.5000 |
| AP | 0.5000 |
| Judged@10 | 0.6667 |

```sh
rankpipe run x --dataset own
```

## What was assumed

- 1 candidate with the id of the query removed before measuring
- 1 judged query without candidates counted as 0
- relevance 1 or more taken as relevant in R@100, RR@10, AP

## Data set

- 4 documents, 3 queries, 4 judgements
- source: made up
- licence: none
- queries are documents of the corpus: the one with the query's own id is removed before measuring
- binary measures take relevance 1 or more as relevant
- q2 is a document
"""
    assert report.startswith(expected_beginning)
    assert (
        """\
## Seconds

| step | seconds |
| --- | --- |
| opening or building indexes and models | 1.50 |
| bm25 | 0.01 |

## Worst queries by nDCG@10

| query | text | nDCG@10 | relevant | first relevant at | first document |
| --- | --- | --- | --- | --- | --- |
| q3 | nothing matches | 0.0000 | 1 | not found | none |
| q1 | where is \\| b? | 0.6309 | 1 | 2 | a: Title of a |

## Best queries by nDCG@10

| query | text | nDCG@10 | relevant | first relevant at | first document |
| --- | --- | --- | --- | --- | --- |
| q2 | c | 1.0000 | 1 | 1 | c: z |
"""
        in report
    )


def test_settings_of_stages_inside_stages_and_their_names_are_in_the_manifest(tmp_path: Path):
    corpus = Corpus.from_texts(["one two", "two three"])
    dataset = Dataset.of(corpus, {"q1": "two"}, {"q1": {"d1": 1}})
    pipeline = Pipeline(stages=(Fuse(branches=(BM25(k=3), BM25(k=5, name="long")), name="both"),))
    write_results(run_experiment(pipeline, dataset), tmp_path / "out", command="x")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    (fuse,) = manifest["pipeline"]["stages"]
    assert fuse["name"] == "both"
    branches = fuse["fuse"]["branches"]
    assert [(branch["bm25"]["k"], branch.get("name")) for branch in branches] == [(3, None), (5, "long")]
    assert list(manifest["seconds"]["stages"]) == ["bm25", "long", "both"]


def test_the_report_tells_what_was_cut(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    model = str(tiny_encoder(tmp_path / "model"))  # reads 48 tokens
    corpus = Corpus.from_texts(["car", "car " * 47, "a car on the road", "tree"])
    dataset = Dataset.of(corpus, {"q1": "car", "q2": "car " * 50}, {"q1": {"d1": 1}, "q2": {"d3": 1}})
    for name, stages, lines in (
        ("plain", (BM25(),), ""),
        ("dense", (Dense(model=model),), "- dense: 25 % of the documents and 50 % of the queries\n"),
        # both queries have d1, d2 and d3 as candidates
        ("rescore", (BM25(), Rescore(model=model)), "- rescore: 33.33 % of the documents and 50 % of the queries\n"),
    ):
        write_results(run_experiment(Pipeline(stages=stages), dataset), tmp_path / name, command="x")
        report = (tmp_path / name / "report.md").read_text()
        section = f"## What was too long, and cut\n\n{lines}\n## Data set\n"
        assert (section in report) == ("too long" in report) == bool(lines)


def test_digests_do_not_depend_on_the_order_of_queries_and_judgements():
    assert queries_digest(Queries.of({"a": "x", "b": "y"})) == queries_digest(Queries.of({"b": "y", "a": "x"}))
    assert queries_digest(Queries.of({"a": "x"})) != queries_digest(Queries.of({"a": "y"}))
    rewritten = Queries.of({"a": "x"}).rewritten(["y"])
    assert queries_digest(rewritten) == queries_digest(Queries.of({"a": "x"}))
