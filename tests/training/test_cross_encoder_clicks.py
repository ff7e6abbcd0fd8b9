"""Networks that read texts and learn from clicks: cross-encoders and bi-encoders, from end to end, on tiny ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'dense'")

from safetensors.torch import load_file  # noqa: E402

from rankpipe import BM25, CrossEncoder, Dataset, Pipeline, Runtime  # noqa: E402
from rankpipe.errors import PipelineError  # noqa: E402
from rankpipe.training.click_log import write_click_log  # noqa: E402
from rankpipe.training.click_models import PositionBased  # noqa: E402
from rankpipe.training.cross_encoder import train_cross_encoder  # noqa: E402
from rankpipe.training.cross_encoder_recipe import CrossEncoderRecipe  # noqa: E402
from rankpipe.training.cross_encoder_training import CrossEncoderTraining  # noqa: E402
from rankpipe.training.folder import Command as Asked  # noqa: E402
from rankpipe.training.material import gather  # noqa: E402
from rankpipe.training.means import Means  # noqa: E402
from rankpipe.training.recipe_file import load_recipe  # noqa: E402

Command = Callable[..., Any]
Write = Callable[..., Path]

KINDS = (("apple", 1, 0.9), ("road", 0, 0.5))
"""A word, the grade of documents that have it, and how often people think these relevant."""
SHOWN = 8


@pytest.fixture
def orchard(tmp_path: Path) -> Path:
    """A data set whose documents are relevant by one word of theirs; half of them are never shown to anybody."""
    folder, rng = tmp_path / "orchard", np.random.default_rng(1)
    (folder / "qrels").mkdir(parents=True)
    others = ["car", "sweet", "tree", "query"]
    documents, grades = [], {}
    for number in range(48):
        word, grade, _ = KINDS[number % 2]
        words = rng.permutation([word, "passage", *rng.choice(others, 3)]).tolist()
        documents.append({"_id": f"d{number}", "title": "", "text": " ".join(words)})
        grades[f"d{number}"] = grade
    queries = [{"_id": f"train{number}", "text": f"passage {others[number]}"} for number in range(4)]
    queries += [{"_id": split, "text": f"passage {end}"} for split, end in (("dev", "the"), ("test", "a"))]
    for name, records in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    for split in ("dev", "test"):
        lines = [f"{split}\td{number}\t{grades[f'd{number}']}" for number in range(24, 48)]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")
    return folder


def clicks_of(path: Path, model: PositionBased, lists: int, sessions: int) -> None:
    """A log of lists of the first half of the orchard's documents, shown by a system that prefers what is not relevant."""
    rng = np.random.default_rng(0)
    lines = []
    for number in range(lists):
        documents = rng.choice(24, SHOWN, replace=False)
        kinds = documents % 2
        liked = kinds + rng.normal(0, 0.5, SHOWN)
        order = np.argsort(-liked)
        relevance = np.tile(np.array([KINDS[kind][2] for kind in kinds[order]]), (sessions, 1))
        shown = [f"d{documents[at]}" for at in order]
        for clicked in model.draw(relevance, rng):
            positions = (np.flatnonzero(clicked) + 1).tolist()
            lines.append({"query": f"train{number % 4}", "shown": shown, "clicks": positions})
    write_click_log(iter(lines), path)


def write_recipe(folder: Path, network: Path, phases: str, *, train: str = "cross-encoder", more: str = "") -> Path:
    path = folder / "recipe.yaml"
    head = f"train: {train}\nmodel: {network}\nmax_length: 40\ncandidates: {{pipeline: bm25, depth: 48}}\n"
    path.write_text(f"{head}{more}\nphases:\n{phases}\n")
    return path


def test_dla_finds_how_positions_are_looked_at_and_orders_what_nobody_saw_better_than_naive(
    orchard: Path, tiny_encoder: Write, rankpipe: Command, tmp_path: Path
) -> None:
    model = PositionBased(eta=1.0)
    clicks_of(tmp_path / "clicks.jsonl", model, 150, 25)
    network, dataset = tiny_encoder(tmp_path / "encoder"), Dataset.load(orchard)
    first = Pipeline.load("bm25", corpus=dataset.corpus).run(dataset.queries("test"))
    ordered, learnt = {}, {}
    for method in ("dla", "naive"):
        phase = (
            f"  - clicks: {{log: clicks.jsonl, method: {method}, positions: {SHOWN}, batch: 6, steps: 100, "
            "learning_rate: 3.0e-3}"
        )
        recipe = write_recipe(tmp_path, network, phase, more="development: {every: 100}")
        output = tmp_path / method
        done = rankpipe("train", recipe, "--dataset", orchard, "--output", output, "--dtype", "float32")
        assert done.status == 0, done.err
        learnt[method] = json.loads((output / "manifest.json").read_text())["positions"]
        stage = CrossEncoder(model=str(output), depth=48)
        scores = Pipeline(stages=(stage,), runtime=Runtime(dtype="float32")).rerank(first).to_dict()["test"]
        pairs = product(range(24, 48, 2), range(25, 48, 2))  # relevant ones, and others
        ordered[method] = np.mean([scores[f"d{one}"] > scores[f"d{other}"] for one, other in pairs])
    assert learnt["naive"] == [{}]
    truth = model.propensities(SHOWN) / model.propensities(1)
    assert np.abs(np.array(learnt["dla"][0]["propensities"]) - truth).max() < 0.15  # of equal ones: .85
    assert ordered["dla"] > 0.8
    assert ordered["naive"] < 0.3


def garden_log(garden: Path, path: Path) -> list[str]:
    """A log of the garden's training queries: what BM25 found; its lines."""
    dataset, rng = Dataset.load(garden), np.random.default_rng(0)
    run = Pipeline.load("bm25", corpus=dataset.corpus).run(dataset.queries("train")).top(5)
    lines = []
    for number in range(200):
        query = run.queries.ids[number % len(run)]
        shown = [one.doc_id for one in run[query]]
        clicked = (np.flatnonzero(rng.random(len(shown)) < 0.4) + 1).tolist()
        lines.append({"query": query, "shown": shown, "clicks": clicked, "time": number})
    write_click_log(iter(lines), path)
    return path.read_text().splitlines()


CLICKS = "  - clicks: {log: clicks.jsonl, positions: 6, batch: 3, steps: 4, learning_rate: 1.0e-3}"
DEVELOPMENT = "development: {queries: 4, depth: 5, every: 2, patience: null}"
KNOWN = "method: known, propensities: [1.0, 0.9, 0.7]"


@pytest.mark.parametrize(
    "method", ["method: dla, context: true", "method: regression-em", "method: pair-debias", KNOWN, "method: naive"]
)
@pytest.mark.parametrize("train", ["cross-encoder", "bi-encoder"])
def test_clicks_are_learnt_and_what_was_learnt_of_positions_is_told(
    garden: Path, tiny_encoder: Write, rankpipe: Command, tmp_path: Path, train: str, method: str
) -> None:
    garden_log(garden, tmp_path / "clicks.jsonl")
    network = tiny_encoder(tmp_path / "encoder")
    phases = f"  - distil: {{group: 4, steps: 2, learning_rate: 1.0e-3}}\n{CLICKS.replace('batch', f'{method}, batch')}"
    recipe = write_recipe(tmp_path, network, phases, train=train, more=DEVELOPMENT)
    done = rankpipe("train", recipe, "--dataset", garden, "--output", tmp_path / "out")
    assert done.status == 0, done.err
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [(one["phase"], one["step"]) for one in manifest["curve"] if one["step"]] == [
        ("1 distil", 2),
        ("2 clicks", 2),
        ("2 clicks", 4),
    ]
    told = manifest["examples"]["phases"][1]
    assert told["wrong_lines"] == {}
    assert told["sessions"] + told["sessions_of_queries_that_do_not_train"] == 200
    assert (told["lists"] > 12) == ("context" in method)  # of so many queries; every session by itself, or added up
    nothing, learnt = manifest["positions"]
    assert nothing is None
    if method == "method: naive":
        assert learnt == {}
    else:
        assert learnt["propensities"][0] == 1
        assert len(learnt["propensities"]) == (3 if method == KNOWN else 6)


def test_an_adapter_learns_from_clicks_and_leaves_the_network_as_it_was(
    garden: Path, tiny_encoder: Write, rankpipe: Command, tmp_path: Path
) -> None:
    garden_log(garden, tmp_path / "clicks.jsonl")
    network = tiny_encoder(tmp_path / "encoder")
    before = (network / "model.safetensors").read_bytes()
    phase = "  - clicks: {log: clicks.jsonl, batch: 4, steps: 5, learning_rate: 1.0e-2}"
    recipe = write_recipe(tmp_path, network, phase, more="adapter: {method: lora, r: 2}")
    output = tmp_path / "out"
    done = rankpipe("train", recipe, "--dataset", garden, "--output", output, "--dtype", "float32")
    assert done.status == 0, done.err
    assert (network / "model.safetensors").read_bytes() == before
    learnt = load_file(output / "adapter" / "adapter_model.safetensors")
    second = [values for name, values in learnt.items() if "lora_B" in name]
    assert second
    assert all(bool(values.any()) for values in second)  # they begin as zeros
    (positions,) = json.loads((output / "manifest.json").read_text())["positions"]
    assert len(set(positions["propensities"])) > 1  # they begin equal


@pytest.mark.parametrize("in_turn", [False, True])
def test_loss_and_gradients_of_a_step_are_those_of_plain_torch(
    garden: Path, tiny_cross_encoder: Write, tmp_path: Path, in_turn: bool
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    garden_log(garden, tmp_path / "clicks.jsonl")
    network = tiny_cross_encoder(tmp_path / "network")
    recipe, dataset = load_recipe(write_recipe(tmp_path, network, CLICKS, more=DEVELOPMENT)), Dataset.load(garden)
    assert isinstance(recipe, CrossEncoderRecipe)
    material = gather(recipe, dataset, Pipeline.load("bm25", corpus=dataset.corpus), notify=lambda _: None)
    means = Means(device=torch.device("cpu"), dtype=torch.float32, batch_tokens=100, threads=1)
    training: Any = CrossEncoderTraining(recipe, dataset, material, network, means)
    if in_turn:
        training._scores._limit = 0
    loss = training.plan().phases[0].backward(1)

    drawn: Any = material.groups[0]
    lists = drawn.step(1)
    plain = AutoModelForSequenceClassification.from_pretrained(network).eval()
    tokenizer = AutoTokenizer.from_pretrained(network)
    ranking, looking, both = torch.zeros(()), torch.zeros(()), torch.zeros(2)
    of_logits = torch.zeros(6)
    for query, documents, clicks in zip(lists.queries, lists.documents, lists.sessions.clicks, strict=True):
        texts = dataset.corpus.joined_texts(documents)
        given = tokenizer([query] * len(texts), texts, truncation="longest_first", max_length=40, padding=True)
        scores = plain(**given.convert_to_tensors("pt")).logits[:, 0]
        clicked = torch.from_numpy(clicks[: len(texts)]).float()
        # nothing is known of positions yet: each looked at as the others, weight 1; a softmax of 1 / documents
        ranking = ranking - (clicked * scores.log_softmax(0)).sum()
        weights = clicked * (scores[0] - scores).exp().clamp(max=100).detach()
        looking = looking + weights.sum() * np.log(len(texts))
        both = both + torch.stack([clicked.sum(), weights.sum()])
        of_logits[: len(texts)] += weights.sum() / len(texts) - weights
    expected = ranking / both[0] + looking / both[1]
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-4)
    found = dict(training.trained.network.named_parameters())
    for name, parameter in plain.named_parameters():
        if parameter.grad is not None and "key.bias" not in name:  # of which a softmax sees nothing: rounding
            torch.testing.assert_close(found[name].grad, parameter.grad, rtol=1e-3, atol=1e-5)
    learnt = training.trained.parameter_groups(1.0, 0.0)[-1]
    assert learnt["times"] == pytest.approx(0.05 / 1.0e-3)
    torch.testing.assert_close(learnt["params"][0].grad, of_logits / both[1], rtol=1e-3, atol=1e-5)


@pytest.mark.slow  # 20 s; the tests of single methods below stop without a kill
def test_a_killed_training_goes_on_to_the_same_weights_and_propensities(
    garden: Path, tiny_encoder: Write, tmp_path: Path, killed_and_resumed: Callable[[Path], list[Path]]
) -> None:
    garden_log(garden, tmp_path / "clicks.jsonl")
    phases = CLICKS.replace("steps: 4", "steps: 150")
    recipe = write_recipe(
        tmp_path,
        tiny_encoder(tmp_path / "encoder"),
        phases,
        more="development: {queries: 4, depth: 5, every: 50, patience: null}\ncheckpoint: 3",
    )
    assert_equal(*killed_and_resumed(recipe))


@pytest.mark.parametrize("method", ["dla, context: true", "regression-em", "pair-debias"])
def test_what_was_learnt_of_positions_in_a_phase_is_gone_on_with(
    garden: Path, tiny_encoder: Write, tmp_path: Path, method: str
) -> None:
    garden_log(garden, tmp_path / "clicks.jsonl")
    second = CLICKS.replace("steps: 4", "steps: 20").replace("positions", f"method: {method}, positions")
    network = tiny_encoder(tmp_path / "encoder")
    recipe = load_recipe(write_recipe(tmp_path, network, f"{CLICKS}\n{second}", more=DEVELOPMENT))
    assert isinstance(recipe, CrossEncoderRecipe)

    class Killed(Exception):
        """In the place of a signal."""

    def train(output: Path, last: str | None = None) -> None:
        def notify(line: str) -> None:
            if last is not None and line.startswith(last):
                raise Killed

        runtime = Runtime(device="cpu", dtype="float32", threads=1)
        dataset = Dataset.load(garden)
        train_cross_encoder(
            recipe,
            Asked(
                recipe=recipe, dataset=dataset, output=output, runtime=runtime, command="x", force=False, notify=notify
            ),
        )

    train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "killed", "2 clicks: step 12")  # before its checkpoint; step 10 has one
    train(tmp_path / "killed")
    assert_equal(tmp_path / "whole", tmp_path / "killed")


def assert_equal(whole: Path, killed: Path) -> None:
    expected, found = (load_file(folder / "model.safetensors") for folder in (whole, killed))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    told = [json.loads((folder / "manifest.json").read_text()) for folder in (whole, killed)]
    assert told[0]["positions"] == told[1]["positions"]
    assert set(told[0]["positions"][-1]["propensities"]) - {None} != {1.0}
    losses = [[one.get("loss") for one in manifest["curve"]] for manifest in told]
    assert losses[0] == losses[1]


def test_a_wrong_log_is_refused_with_its_lines_or_these_are_left_out_and_counted(
    garden: Path, tiny_encoder: Write, rankpipe: Command, tmp_path: Path
) -> None:
    path = tmp_path / "clicks.jsonl"
    lines = garden_log(garden, path)
    far = json.dumps({"query": "train1", "shown": ["d1", "nowhere"], "clicks": [1]})
    outside = json.dumps({"query": "train1", "shown": ["d1"], "clicks": [3]})
    path.write_text("\n".join([*lines, "{}", outside, far, far]) + "\n")
    network = tiny_encoder(tmp_path / "encoder")
    command = ("train", write_recipe(tmp_path, network, CLICKS, more=DEVELOPMENT), "--dataset", garden)
    done = rankpipe(*command, "--output", tmp_path / "out")
    assert done.status == 2
    assert done.err == (
        f"error: {path}: no session: 'query' must be a text, 'shown' a list of texts, 'clicks' a list of whole numbers: "
        "1 line (201)\n"
        f"{path}: a click beyond the end of the list: 1 line (202)\n"
        f"{path}: a document that the data set does not have: 2 lines (203, 204)\n"
        "4 of 204 sessions are wrong; mend the log, or leave them out with 'bad: leave-out'\n"
    )
    assert not (tmp_path / "out").exists()
    write_recipe(tmp_path, network, CLICKS.replace("positions", "bad: leave-out, positions"), more=DEVELOPMENT)
    done = rankpipe(*command, "--output", tmp_path / "out")
    assert done.status == 0, done.err
    told = json.loads((tmp_path / "out" / "manifest.json").read_text())["examples"]["phases"][0]["wrong_lines"]
    assert {kind: one["first_lines"] for kind, one in told.items()} == {
        "form": [201],
        "outside": [202],
        "document": [203, 204],
    }


def test_what_clicks_cannot_be_learnt_from_is_told(
    garden: Path, tiny_encoder: Write, rankpipe: Command, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, tiny_encoder(tmp_path / "encoder"), CLICKS, more=DEVELOPMENT)
    command = ("train", recipe, "--dataset", garden, "--output", tmp_path / "out")
    path = tmp_path / "clicks.jsonl"
    write_click_log(iter([{"query": "train1", "shown": ["d1"], "clicks": []}]), path)
    done = rankpipe(*command)
    assert done.err.splitlines()[-1] == (
        f"error: {path}: nothing is left to learn: of its sessions that are whole, 1 are of queries that train, and none of "
        "these has a click in the first 6 positions"
    )
    for split in (garden / "qrels").iterdir():
        split.unlink()
    done = rankpipe(*command)
    assert (done.status, done.err) == (
        2,
        f"error: data set '{garden}' has no judged queries to decide what to keep by; it has no judgements at all. Clicks "
        "need no judgements to learn from, but a few to be judged by: a split 'dev'\n",
    )


@pytest.mark.parametrize("train", ["cross-encoder", "bi-encoder"])
def test_settings_that_do_not_fit_are_refused_with_their_place(tmp_path: Path, train: str) -> None:
    phases = """\
  - clicks: {log: x.jsonl, method: known, steps: 3, learning_rate: 0.1}
  - clicks: {log: x.jsonl, method: naive, context: true, steps: 3, learning_rate: 0.1}
  - clicks: {log: x.jsonl, limt: 5, positions: 0, steps: 3, learning_rate: 0.1}
  - clicks: {steps: 3, learning_rate: 0.1}
  - clicks: {log: x.jsonl, method: naive, limit: 5, steps: 3, learning_rate: 0.1}
  - clicks: {log: x.jsonl, method: known, propensities: [1], propensity_rate: 0.1, steps: 3, learning_rate: 0.1}"""
    path = write_recipe(tmp_path, tmp_path, phases, train=train)
    (path.parent / "x.jsonl").touch()
    with pytest.raises(PipelineError) as error:
        load_recipe(path)
    assert [line.removeprefix(f"{path}:") for line in str(error.value).splitlines()] == [
        "7:5: 'clicks': 'propensities' and 'method: known' need each other",
        "8:5: 'clicks': 'context' is of 'method: dla'",
        "9:28: 'clicks' has no setting 'limt'; did you mean 'limit'?",
        "9:48: 'clicks' setting 'positions' is 0, must be at least 1",
        "10:5: 'clicks' needs the setting 'log'",
        "11:5: 'clicks': 'limit' is of 'method: dla and known', and changes nothing of 'naive'",
        "12:5: 'clicks': 'propensity_rate' is of 'method: dla', and changes nothing of 'known'",
    ]


def test_a_loss_that_explodes_ends_the_training(
    garden: Path, tiny_encoder: Write, rankpipe: Command, tmp_path: Path
) -> None:
    garden_log(garden, tmp_path / "clicks.jsonl")
    phase = CLICKS.replace("steps: 4", "method: naive, steps: 60").replace("1.0e-3", "1.0e+30")
    recipe = write_recipe(tmp_path, tiny_encoder(tmp_path / "encoder"), phase, more=DEVELOPMENT)
    done = rankpipe("train", recipe, "--dataset", garden, "--output", tmp_path / "out")
    assert done.status == 1
    assert done.err.splitlines()[-1].startswith(
        "error: phase '1 clicks', step 2 of 60: the loss is nan at learning rate "
    )
    assert ", on the queries train" in done.err.splitlines()[-1]


def test_what_development_is_measured_on_is_part_of_what_a_killed_training_goes_on_from(
    garden: Path, tiny_cross_encoder: Write, tmp_path: Path
) -> None:
    garden_log(garden, tmp_path / "clicks.jsonl")
    network = tiny_cross_encoder(tmp_path / "network")
    recipe, dataset = load_recipe(write_recipe(tmp_path, network, CLICKS, more=DEVELOPMENT)), Dataset.load(garden)
    assert isinstance(recipe, CrossEncoderRecipe)
    told = []
    for k in (10, 10, 2):
        pipeline = Pipeline(stages=(BM25(k=k),), corpus=dataset.corpus)
        told.append(gather(recipe, dataset, pipeline, notify=lambda _: None).account["development"]["candidates"])
    assert told[0] == told[1] != told[2]
