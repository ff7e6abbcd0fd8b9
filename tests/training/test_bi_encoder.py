"""Training of bi-encoders and query encoders from end to end, on tiny networks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'dense'")
pytest.importorskip("sentence_transformers", reason="needs the extra 'dense'")

from safetensors.torch import load_file  # noqa: E402

from rankpipe import Dataset, Dense, Pipeline, Runtime  # noqa: E402

Command = Callable[..., Any]
Write = Callable[..., Path]

STAR = "  - contrastive: {batch: 4, hard: 1, steps: 6, learning_rate: 1.0e-3}"
ADORE = "  - adore: {batch: 4, depth: 6, steps: 6, learning_rate: 1.0e-3}"
DEVELOPMENT = "development: {queries: 4, every: 2}"


@pytest.fixture
def write(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> Write:
    """`write(train, phases, ...)` writes a recipe of a tiny encoder, and gives its path."""
    model = tiny_encoder(tmp_path / "encoder")

    def written(train: str, phases: str, *, more: str = DEVELOPMENT, name: str = "recipe") -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(
            f"train: {train}\nmodel: {model}\nmax_length: 40\n{more}\nphases:\n{phases}\n", encoding="utf-8"
        )
        return path

    return written


def searched(model: Path, dataset: Dataset) -> dict[str, dict[str, float]]:
    pipeline = Pipeline(stages=(Dense(model=str(model), k=5),), corpus=dataset.corpus, runtime=Runtime(dtype="float32"))
    return pipeline.run(dataset.queries("test")).to_dict()


def test_star_leaves_what_the_stage_and_sentence_transformers_open(
    garden: Path, write: Write, rankpipe: Command, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    output = tmp_path / "out"
    done = rankpipe("train", write("bi-encoder", STAR), "--dataset", garden, "--output", output, "--dtype", "float32")
    assert done.status == 0, done.err
    assert re.fullmatch(r"nDCG@10 [01]\.\d{4} at step \d of phase '1 contrastive'\n", done.out)
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["recipe"]["train"] == "bi-encoder"
    assert manifest["recipe"]["candidates"] == {"pipeline": None, "depth": 200, "guard": None}
    assert manifest["temperature"] == 0.05
    assert [one["step"] for one in manifest["curve"]] == [0, 2, 4, 6]
    theirs = SentenceTransformer(str(output), device="cpu")
    dataset = Dataset.load(garden)
    queries = theirs.encode_query(list(dataset.queries("test").texts))
    documents = theirs.encode_document(dataset.corpus.joined_texts(dataset.corpus.live_rows()))
    for number, (query_id, scores) in enumerate(searched(output, dataset).items()):
        rows = dataset.corpus.rows(list(scores))
        assert list(scores.values()) == pytest.approx((documents[rows] @ queries[number]).tolist(), abs=1e-6), query_id
    assert load_file(output / "model.safetensors").keys() == load_file(tmp_path / "encoder/model.safetensors").keys()


def test_the_table_tells_what_became_of_every_candidate(
    garden: Path, write: Write, rankpipe: Command, tmp_path: Path
) -> None:
    recipe = write("bi-encoder", STAR, more=f"candidates: {{pipeline: bm25, depth: 6}}\n{DEVELOPMENT}")
    done = rankpipe("train", recipe, "--dataset", garden, "--output", tmp_path / "out")
    assert done.status == 0, done.err
    table = parquet.read_table(tmp_path / "out" / "negatives.parquet").to_pylist()
    dataset = Dataset.load(garden)
    qrels, queries = dataset.qrels("train"), dataset.queries("train")
    used = [query_id for query_id in queries.ids if any(one["query_id"] == query_id for one in table)]
    run = Pipeline.load("bm25", corpus=dataset.corpus).run({query_id: queries[query_id] for query_id in used}).top(6)
    expected = [
        {
            "query_id": query_id,
            "doc_id": doc_id,
            "rank": rank,
            "score": pytest.approx(score),
            "fate": "relevant" if doc_id in qrels[query_id] else "negative",
        }
        for query_id, scores in run.to_dict().items()
        for rank, (doc_id, score) in enumerate(scores.items(), 1)
    ]
    assert table == expected
    told = json.loads((tmp_path / "out" / "manifest.json").read_text())["examples"]["judged"]["candidates_by_fate"]
    fates = [one["fate"] for one in table]
    assert told == {name: fates.count(name) for name in ("negative", "relevant")}
    assert min(told.values()) > 0


def test_a_guard_leaves_out_what_scores_above_the_relevant_documents(
    garden: Path, write: Write, rankpipe: Command, tmp_path: Path
) -> None:
    margins = {"own": -2.3, "model": 0.0}
    by_model = tmp_path / "rescore.yaml"
    by_model.write_text(f"stages:\n  - rescore: {{model: {tmp_path / 'encoder'}, depth: 50}}\n", encoding="utf-8")
    for name, scored in (("own", ""), ("model", f"pipeline: {by_model}, ")):
        guarded = f"candidates: {{pipeline: bm25, depth: 12, guard: {{{scored}margin: {margins[name]}}}}}"
        recipe = write("bi-encoder", STAR, more=f"{guarded}\n{DEVELOPMENT}")
        done = rankpipe("train", recipe, "--dataset", garden, "--output", tmp_path / name, "--dtype", "float32")
        assert done.status == 0, done.err
    dataset = Dataset.load(garden)
    qrels = dataset.qrels("train")
    with Runtime(dtype="float32").active():
        of_documents, of_queries = Dense(model=str(tmp_path / "encoder")).encoders()
    documents = of_documents.documents(dataset.corpus.joined_texts(dataset.corpus.live_rows())).vectors
    for name, margin in margins.items():
        table = parquet.read_table(tmp_path / name / "negatives.parquet").to_pylist()
        seen = set()
        for query_id in dict.fromkeys(one["query_id"] for one in table):
            rows = [one for one in table if one["query_id"] == query_id]
            if name == "model":
                vector = of_queries.queries([dataset.queries("train")[query_id]]).vectors[0]
                cosines = documents @ vector
                best = max(cosines[dataset.corpus.rows([doc_id])[0]] for doc_id in qrels[query_id])
                for one in rows:
                    assert one["guard_score"] == pytest.approx(
                        cosines[dataset.corpus.rows([one["doc_id"]])[0]], abs=1e-5
                    )
            else:
                relevant = [one["score"] for one in rows if one["fate"] == "relevant"]
                best = max(relevant, default=np.inf)
            for one in rows:
                if one["fate"] != "relevant":
                    assert (one["fate"] == "too good") == (one["guard_score"] > best + margin), (name, one)
                seen.add(one["fate"])
        assert seen == {"negative", "relevant", "too good"}, name


def test_adore_leaves_two_encoders_of_which_that_of_documents_is_the_old_one(
    garden: Path, write: Write, rankpipe: Command, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    output = tmp_path / "out"
    recipe = write("query-encoder", ADORE, more="development: {queries: 4, every: 2, measure: RR@10}")
    done = rankpipe("train", recipe, "--dataset", garden, "--output", output, "--dtype", "float32")
    assert done.status == 0, done.err
    assert re.fullmatch(r"RR@10 [01]\.\d{4} at step \d of phase '1 adore'\n", done.out)
    old = load_file(tmp_path / "encoder" / "model.safetensors")
    kept = load_file(output / "document_0_Transformer" / "model.safetensors")
    assert all(torch.equal(old[name], kept[name]) for name in old)
    before, after = (SentenceTransformer(str(folder), device="cpu") for folder in (tmp_path / "encoder", output))
    texts = list(Dataset.load(garden).queries("test").texts)
    assert np.array_equal(before.encode_document(texts), after.encode_document(texts))
    if json.loads((output / "manifest.json").read_text())["best"]["step"]:
        assert np.abs(before.encode_query(texts) - after.encode_query(texts)).max() > 1e-4


def test_an_approximate_index_is_trained_with_and_development_searches_exactly(
    garden: Path, write: Write, rankpipe: Command, tmp_path: Path
) -> None:
    pytest.importorskip("faiss", reason="needs faiss-cpu")
    curves = []
    for name, index in (("flat", "{kind: flat}"), ("sq8", "{kind: sq8}")):
        recipe = write("query-encoder", ADORE.replace("steps", f"index: {index}, steps"), name=name)
        done = rankpipe("train", recipe, "--dataset", garden, "--output", tmp_path / name, "--dtype", "float32")
        assert done.status == 0, done.err
        curves.append(json.loads((tmp_path / name / "manifest.json").read_text())["curve"])
    assert curves[0][0]["nDCG@10"] == curves[1][0]["nDCG@10"]  # before the first step


@pytest.mark.parametrize(
    ("train", "phase"),
    [
        ("bi-encoder", "  - contrastive: {batch: 4, random: 1, steps: 150, learning_rate: 1.0e-3}"),
        ("bi-encoder", "  - contrastive: {batch: 4, steps: 70, learning_rate: 1.0e-3}\n"
         "  - distil: {group: 6, random: 2, steps: 70, learning_rate: 1.0e-3}"),
        ("query-encoder", "  - adore: {batch: 4, depth: 6, steps: 150, learning_rate: 1.0e-3}"),
    ],
)  # fmt: skip
def test_a_killed_training_goes_on_to_the_same_weights(
    train: str, phase: str, write: Write, killed_and_resumed: Callable[[Path], list[Path]]
) -> None:
    recipe = write(train, phase, more="development: {queries: 4, every: 30}\ncheckpoint: 3\ndropout: 0.1")

    whole, killed = killed_and_resumed(recipe)
    weights = sorted(path.relative_to(whole) for path in whole.rglob("*.safetensors"))
    for path in weights:
        expected, found = (load_file(folder / path) for folder in (whole, killed))
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_loss_that_is_no_number_tells_step_and_queries(
    garden: Path, write: Write, rankpipe: Command, tmp_path: Path
) -> None:
    recipe = write(
        "bi-encoder",
        "  - contrastive: {batch: 4, steps: 60, learning_rate: 1.0e+30, warm_up: 0.0}",
        more=f"{DEVELOPMENT}\ncheckpoint: 1",
    )
    done = rankpipe("train", recipe, "--dataset", garden, "--output", tmp_path / "out")
    assert done.status == 1
    said = done.err.splitlines()[-1]
    assert re.match(
        r"error: phase '1 contrastive', step \d+ of 60: the loss is .*, on the queries (train\d+, ){3}train\d+;", said
    )
    assert "the last checkpoint is kept in" in said
    assert list(tmp_path.glob(".unfinished-out-*/step-*"))


def test_a_part_of_the_queries_takes_as_many_times_fewer_steps(
    garden: Path, write: Write, rankpipe: Command, tmp_path: Path
) -> None:
    recipe = write("bi-encoder", STAR, more=f"subset: {{kind: rs2, ratio: 0.5}}\n{DEVELOPMENT}")
    done = rankpipe("train", recipe, "--dataset", garden, "--output", tmp_path / "out")
    assert done.status == 0, done.err
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["curve"][-1]["step"] == 3
    assert manifest["recipe"]["subset"] == {"kind": "rs2", "ratio": 0.5, "replacement": False}


def test_another_model_can_be_given_on_the_command_line(
    garden: Path, write: Write, rankpipe: Command, tmp_path: Path, tiny_encoder: Callable[..., Path]
) -> None:
    other = tiny_encoder(tmp_path / "other", seed=3)
    recipe = write("bi-encoder", STAR)
    done = rankpipe("train", recipe, "--dataset", garden, "--output", tmp_path / "out", "--model", other)
    assert done.status == 0, done.err
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["recipe"]["model"] == str(other)


def test_documents_alone_are_enough_for_distillation(
    garden: Path, write: Write, rankpipe: Command, tmp_path: Path
) -> None:
    (garden / "queries.jsonl").unlink()
    for path in (garden / "qrels").iterdir():
        path.unlink()
    recipe = write(
        "bi-encoder",
        "  - distil: {group: 6, random: 2, steps: 6, learning_rate: 1.0e-3}",
        more="candidates: {pipeline: bm25}\ndevelopment: {queries: 4, every: 3}",
    )
    done = rankpipe("train", recipe, "--dataset", garden, "--output", tmp_path / "out")
    assert done.status == 0, done.err
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["best"]["measure"] == "-loss"


@pytest.mark.parametrize("train", ["bi-encoder", "query-encoder"])
def test_judgements_have_to_be_there(train: str, garden: Path, write: Write, rankpipe: Command, tmp_path: Path) -> None:
    phase = STAR if train == "bi-encoder" else ADORE
    recipe = write(train, phase, more="split: more")
    done = rankpipe("train", recipe, "--dataset", garden, "--output", tmp_path / "out")
    assert done.status == 2
    assert done.err.splitlines()[-1].startswith(
        f"error: data set '{garden}' has no split 'more' that a phase could learn judgements from; it has dev, test, train."
    )
