"""Finding heads: from a recipe to the file that the stage reads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'llm'")
pytest.importorskip("transformers", reason="needs the extra 'llm'")

from rankpipe import Attention, Dataset, Pipeline, Runtime, evaluate
from rankpipe.data import Queries
from rankpipe.data.catalogue import Card
from rankpipe.errors import DataError, ModelError, UsageError
from rankpipe.models.attention import AttentionScorer, AttentionSettings
from rankpipe.models.attention_scores import document_scores, read_heads
from rankpipe.store import all_found
from rankpipe.training.attention_heads import _tasks, find_heads
from rankpipe.training.attention_heads_recipe import AttentionHeadsRecipe, HeadCandidates
from rankpipe.training.candidates import candidates

RUNTIME = Runtime(dtype="float32", device="cpu")


@pytest.fixture
def model(tmp_path: Path, tiny_causal_lm: Callable[..., Path]) -> Path:
    return tiny_causal_lm(tmp_path / "model")


def recipe_of(model: Path, **settings: Any) -> AttentionHeadsRecipe:
    heads = None if settings.get("method") == "logistic" else 3
    given = {"candidates": HeadCandidates(pipeline="bm25", depth=4), "queries": 8, "heads": heads, **settings}
    return AttentionHeadsRecipe(model=str(model), **given)


def found(recipe: AttentionHeadsRecipe, garden: Path, output: Path) -> dict[str, Any]:
    said = find_heads(
        recipe, Dataset.load(str(garden)), output, RUNTIME, command="x", force=True, notify=lambda _: None
    )
    content = json.loads((output / "heads.json").read_text())
    assert said.startswith(f"{len(content['heads'])} of 12 heads")
    return content


@pytest.mark.parametrize("method", ["qr", "core"])
def test_the_best_heads_are_kept(method: str, model: Path, garden: Path, tmp_path: Path) -> None:
    content = found(recipe_of(model, method=method), garden, tmp_path / "out")
    scores = np.array(content["scores"])
    assert scores.shape == (3, 4)
    kept = [(one["layer"], one["head"]) for one in content["heads"]]
    best = np.argsort(-scores.reshape(-1), kind="stable")[:3]
    assert sorted(kept) == sorted((int(at) // 4, int(at) % 4) for at in best)
    assert {one["weight"] for one in content["heads"]} == {1.0}
    assert not set(content["data"]["chosen_on"]) & set(content["data"]["held_out"])
    assert found(recipe_of(model, method=method), garden, tmp_path / "out") == content  # again, in its place


@pytest.mark.parametrize("method", ["qr", "core", "logistic"])
def test_heads_are_taken_from_some_layers_only(method: str, model: Path, garden: Path, tmp_path: Path) -> None:
    heads = {} if method == "logistic" else {"heads": 9}
    content = found(recipe_of(model, method=method, layers=(0, 1), **heads), garden, tmp_path / "out")
    assert {one["layer"] for one in content["heads"]} <= {0, 1}
    if method != "logistic":
        assert len(content["heads"]) == 8  # there are no more
    with pytest.raises(UsageError, match=r"^layers is \[0, 3\]; the model has the layers 0 to 2$"):
        found(recipe_of(model, method=method, layers=(0, 3)), garden, tmp_path / "out")


def test_a_head_is_scored_as_the_stage_with_this_head_alone(model: Path, garden: Path, tmp_path: Path) -> None:
    content = found(recipe_of(model, held_out=0.0, order="reverse"), garden, tmp_path / "out")
    dataset = Dataset.load(str(garden))
    queries = dataset.queries("train")
    chosen: Queries = queries.select([queries.row(one) for one in content["data"]["chosen_on"]])
    first = Pipeline.load("bm25", corpus=dataset.corpus).run(chosen).top(4)
    for layer, head in ((0, 1), (2, 3)):
        stage = Attention(model=str(model), heads=[f"{layer}-{head}"])
        run = Pipeline(stages=(stage,), runtime=RUNTIME).rerank(first)
        qrels = {one: dict(dataset.qrels("train")[one]) for one in content["data"]["chosen_on"]}
        expected = evaluate(run, qrels, ["nDCG@10"])["nDCG@10"]
        assert content["scores"][layer][head] == pytest.approx(expected, abs=2e-6)


def test_the_stage_reads_the_file(model: Path, garden: Path, tmp_path: Path) -> None:
    content = found(recipe_of(model), garden, tmp_path / "out")
    named = [f"{one['layer']}-{one['head']}" for one in content["heads"]]
    dataset = Dataset.load(str(garden))
    first = Pipeline.load("bm25", corpus=dataset.corpus).run(dataset.queries("test"))
    runs = [
        Pipeline(stages=(Attention(model=str(model), heads=heads),), runtime=RUNTIME).rerank(first).to_dict()
        for heads in (str(tmp_path / "out" / "heads.json"), named)
    ]
    assert runs[0] == runs[1]


def test_a_second_method_takes_what_the_first_has_read(model: Path, garden: Path, tmp_path: Path) -> None:
    found(recipe_of(model, method="qr"), garden, tmp_path / "qr")
    [kept] = all_found("attention-heads")
    stamps = {path.name: path.stat().st_mtime_ns for path in kept.iterdir()}
    assert len(found(recipe_of(model, method="core"), garden, tmp_path / "core")["heads"]) == 3
    assert all_found("attention-heads") == [kept]
    assert {path.name: path.stat().st_mtime_ns for path in kept.iterdir()} == stamps


def test_a_file_of_another_model_is_refused(
    model: Path, garden: Path, tmp_path: Path, tiny_causal_lm: Callable[..., Path]
) -> None:
    found(recipe_of(model), garden, tmp_path / "out")
    heads = str(tmp_path / "out" / "heads.json")
    other = tiny_causal_lm(tmp_path / "other", seed=1)
    with pytest.raises(ModelError, match=r"its heads are those of another model .*; detect them anew, or list them$"):
        AttentionScorer(str(other), AttentionSettings(heads=heads), RUNTIME)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "heads.json"
    path.write_text('{"format": 1}')
    with pytest.raises(DataError, match=r"heads.json cannot be read as a file of heads: KeyError: 'heads'$"):
        read_heads(path)
    path.write_text('{"format": 99}')
    with pytest.raises(DataError, match=r"heads.json is of format 99, and format 1 is read; detect heads again$"):
        read_heads(path)


def test_a_data_set_whose_queries_say_nothing_is_refused(model: Path, garden: Path, tmp_path: Path) -> None:
    (garden / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\ntrain1\td1\t0\n")
    with pytest.raises(UsageError, match=r"0 queries of split 'train' have a relevant document and another one"):
        found(recipe_of(model), garden, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def lengthen(garden: Path, *query_ids: str, by: str) -> None:
    """Give queries of the data set more text."""
    queries = [json.loads(line) for line in (garden / "queries.jsonl").read_text(encoding="utf-8").splitlines()]
    changed = [{**one, "text": one["text"] + by} if one["_id"] in query_ids else one for one in queries]
    (garden / "queries.jsonl").write_text("".join(json.dumps(one) + "\n" for one in changed), encoding="utf-8")


def test_queries_that_are_too_long_by_themselves_are_left_out_and_counted(
    garden: Path, tmp_path: Path, tiny_causal_lm: Callable[..., Path]
) -> None:
    model = tiny_causal_lm(tmp_path / "model", positions=512)
    before = found(recipe_of(model, held_out=0.0), garden, tmp_path / "before")["data"]
    assert before["dropped_too_long"] == []
    long = before["chosen_on"][3]
    lengthen(garden, long, by=" and" * 600)  # a stop word, so that its candidates stay
    said: list[str] = []
    dataset, output = Dataset.load(str(garden)), tmp_path / "out"
    recipe = recipe_of(model, held_out=0.0)
    find_heads(recipe, dataset, output, RUNTIME, command="x", force=True, notify=said.append)
    data = json.loads((output / "heads.json").read_text())["data"]
    assert data["dropped_too_long"] == [long]
    assert long not in data["chosen_on"]
    assert data["chosen_on"][:3] == before["chosen_on"][:3]
    assert len(data["chosen_on"]) == len(before["chosen_on"])  # another one is drawn in its place
    assert said[-1].endswith("; left out, being too long for the model whatever max_words is: 1")
    assert json.loads((output / "manifest.json").read_text())["queries"] == {
        "read": 8,
        "held_out": 0,
        "dropped_recurring": len(data["dropped_recurring"]),
        "dropped_too_long": 1,
    }


def test_a_data_set_whose_queries_are_all_too_long_is_refused(model: Path, garden: Path, tmp_path: Path) -> None:
    lengthen(garden, *(f"train{number}" for number in range(12)), by=" and" * 2048)
    with pytest.raises(UsageError, match=r"^0 queries of .*; left out, .* whatever max_words is: 11$"):
        found(recipe_of(model), garden, tmp_path / "out")


def test_candidates_that_are_too_long_are_refused_before_any_is_read(
    garden: Path, tmp_path: Path, store: Path, tiny_causal_lm: Callable[..., Path]
) -> None:
    model = tiny_causal_lm(tmp_path / "model", positions=512)
    last = found(recipe_of(model), garden, tmp_path / "before")["data"]["held_out"][-1]
    documents = (garden / "corpus.jsonl").read_text(encoding="utf-8")
    long = {"_id": "long", "title": "Yes", "text": "yes the apple " * 90}
    (garden / "corpus.jsonl").write_text(documents + json.dumps(long) + "\n", encoding="utf-8")
    lengthen(garden, last, by=" yes")  # it alone finds the long document
    judged = (garden / "qrels" / "train.tsv").read_text(encoding="utf-8")
    (garden / "qrels" / "train.tsv").write_text(judged + f"{last}\tlong\t1\n", encoding="utf-8")
    read = set(store.rglob("*.npy"))
    with pytest.raises(UsageError) as caught:
        found(recipe_of(model), garden, tmp_path / "out")
    said = str(caught.value)
    assert said.startswith(f"query '{last}': 4 candidates make a prompt of ")
    assert said.endswith(" tokens, and the model reads 512; choose a smaller max_words (300) or depth")
    assert [path for path in set(store.rglob("*.npy")) - read if "attention-heads" in str(path)] == []
    assert found(recipe_of(model, max_words=20), garden, tmp_path / "out")["data"]["dropped_too_long"] == []


def test_a_text_that_is_held_out_chooses_no_heads_under_another_id_either(
    model: Path, garden: Path, tmp_path: Path
) -> None:
    queries = [json.loads(line) for line in (garden / "queries.jsonl").read_text().splitlines()]
    judged = (garden / "qrels" / "train.tsv").read_text().splitlines()
    twice = [{"_id": f"again-{one['_id']}", "text": one["text"].upper()} for one in queries if "train" in one["_id"]]
    (garden / "queries.jsonl").write_text("".join(json.dumps(one) + "\n" for one in [*queries, *twice]))
    lines = [*judged, *(f"again-{line}" for line in judged[1:])]
    (garden / "qrels" / "train.tsv").write_text("".join(f"{line}\n" for line in lines))
    data = found(recipe_of(model, queries=20, held_out=0.3), garden, tmp_path / "out")["data"]
    texts = {one["_id"]: one["text"].lower() for one in [*queries, *twice]}
    chosen_on, held = ([texts[one] for one in data[name]] for name in ("chosen_on", "held_out"))
    assert len(held) > round(0.3 * (len(chosen_on) + len(held)))  # and those that have the same text
    assert not set(chosen_on) & set(held)


@pytest.mark.parametrize("self_match", [False, True])
def test_a_query_that_is_a_document_is_not_read_among_its_candidates(
    self_match: bool, model: Path, garden: Path
) -> None:
    corpus = Dataset.load(garden).corpus
    texts = dict(zip(map(str, corpus.ids(np.arange(40))), corpus.texts(np.arange(40), "title"), strict=True))
    ids = list(texts)
    judged = {one: dict.fromkeys(ids[:20], 1) for one in ids}
    card = Card(name="own", self_match=self_match)
    dataset = Dataset.of(corpus, texts, judged, split="train", card=card)
    recipe = recipe_of(model)
    pool = candidates(Pipeline.load("bm25", corpus=corpus), dataset.queries("train"), 4)
    scorer = AttentionScorer(recipe.model, AttentionSettings(prompt=recipe.prompt, filter_sigma=None), RUNTIME)
    tasks, _ = _tasks(recipe, dataset, pool, scorer)
    assert len(tasks) == 8
    for task in tasks:
        itself = any(text.startswith(task.query) for text in task.texts)
        assert (itself, len(task.texts)) == ((False, 3) if self_match else (True, 4))


@pytest.mark.parametrize("order", ["random", "reverse"])
def test_what_is_measured_is_the_stage_without_its_filter_in_the_same_order(
    order: str, model: Path, garden: Path, tmp_path: Path
) -> None:
    content = found(recipe_of(model, held_out=0.5, order=order), garden, tmp_path / "out")
    measured = content["measured"]
    assert measured["by"] == f"calibrated sums without filter_sigma, candidates in the order '{order}'"
    if order == "random":
        return  # the stage draws orders of its own
    dataset = Dataset.load(str(garden))
    queries, held_out = dataset.queries("train"), content["data"]["held_out"]
    first = Pipeline.load("bm25", corpus=dataset.corpus).run(queries.select([queries.row(one) for one in held_out]))
    qrels = {one: dict(dataset.qrels("train")[one]) for one in held_out}
    for name, heads in (("chosen", str(tmp_path / "out" / "heads.json")), ("all", "all")):
        stage = Attention(model=str(model), heads=heads, filter_sigma=None)
        run = Pipeline(stages=(stage,), runtime=RUNTIME).rerank(first.top(4))
        assert measured[name] == pytest.approx(evaluate(run, qrels, ["nDCG@10"])["nDCG@10"], abs=2e-6)
    assert measured["candidates"] == pytest.approx(evaluate(first.top(4), qrels, ["nDCG@10"])["nDCG@10"], abs=2e-6)


def test_scores_of_heads_are_those_of_their_tokens(model: Path) -> None:
    scorer = AttentionScorer(str(model), AttentionSettings(filter_sigma=None), RUNTIME)
    listed = scorer.listed(["sweet apple", "the road"])
    raw, calibrated = scorer.attention(scorer.read(listed), "fruit")
    assert raw.shape == calibrated.shape == (3, 4, len(listed.ids))
    both = document_scores(calibrated.reshape(12, -1).astype(float), listed.begins, listed.ends, sigma=None)
    whole = scorer.scores(listed, scorer.heads.summed(calibrated))
    assert both.sum(0) == pytest.approx(whole)
