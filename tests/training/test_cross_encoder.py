"""Training of a cross-encoder from end to end, on a tiny network."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'dense'")

from safetensors.torch import load_file  # noqa: E402

from rankpipe import BM25, Corpus, CrossEncoder, Dataset, Pipeline, Qrels, Queries, Runtime, evaluate  # noqa: E402
from rankpipe.data.catalogue import Card  # noqa: E402
from rankpipe.training.cross_encoder_recipe import CrossEncoderRecipe  # noqa: E402
from rankpipe.training.examples import TaughtGroups  # noqa: E402
from rankpipe.training.material import gather  # noqa: E402
from rankpipe.training.queries import judged_queries  # noqa: E402
from rankpipe.training.recipe_file import load_recipe  # noqa: E402

Command = Callable[..., Any]
Write = Callable[..., Path]

PHASES = """\
  - distil: {group: 6, random: 2, steps: 6, learning_rate: 1.0e-3}
  - labels: {group: 4, steps: 4, learning_rate: 1.0e-3}"""
DEVELOPMENT = "development: {queries: 4, depth: 5, every: 2}"


def test_training_leaves_what_plain_sentence_transformers_opens(
    garden: Path, recipe_file: Write, rankpipe: Command, tmp_path: Path
) -> None:
    from sentence_transformers import CrossEncoder

    output = tmp_path / "out"
    done = rankpipe("train", recipe_file(PHASES, more=DEVELOPMENT), "--dataset", garden, "--output", output)
    assert done.status == 0, done.err
    assert re.fullmatch(r"nDCG@10 0\.\d{4} at step \d of phase '. (distil|labels)'\n", done.out)
    assert done.err.splitlines()[-1] == f"trained: {output}"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["recipe"]["train"] == "cross-encoder"
    assert manifest["examples"]["judged"]["dropped_recurring"][0] == "train0"
    assert 50 << 20 < manifest["most_memory"] < 64 << 30  # in bytes
    curve = [json.loads(line) for line in (output / "curve.jsonl").read_text().splitlines()]
    assert curve == manifest["curve"]
    assert [(one["phase"], one["step"]) for one in curve] == [
        ("1 distil", 2),
        ("1 distil", 4),
        ("1 distil", 6),
        ("2 labels", 2),
        ("2 labels", 4),
    ]
    best = max(curve, key=lambda one: one["nDCG@10"])
    assert manifest["best"] == {
        "measure": "nDCG@10",
        "value": best["nDCG@10"],
        "phase": best["phase"],
        "step": best["step"],
    }
    opened = CrossEncoder(str(output), device="cpu")
    assert opened.num_labels == 1
    assert opened.max_seq_length == 48
    pairs = [("the apple tree", "The apple is a fruit here."), ("a sweet car", "road " * 100)]
    found = opened.predict(pairs)
    assert found == pytest.approx(plainly_scored(output, pairs), abs=1e-5)


def plainly_scored(folder: Path, pairs: list[tuple[str, str]]) -> list[float]:
    """Logits by transformers alone."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    given = tokenizer(
        *map(list, zip(*pairs, strict=True)),
        truncation="longest_first",
        max_length=48,
        padding=True,
        return_tensors="pt",
    )
    with torch.inference_mode():
        return network(**given).logits[:, 0].tolist()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # what peft asks of transformers
def test_an_adapter_is_left_beside_the_network_it_was_merged_into(
    garden: Path, recipe_file: Write, rankpipe: Command, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    output = tmp_path / "out"
    recipe = recipe_file(PHASES, more=f"{DEVELOPMENT}\nadapter: {{method: lora, r: 4}}")
    done = rankpipe("train", recipe, "--dataset", garden, "--output", output)
    assert done.status == 0, done.err
    manifest = json.loads((output / "manifest.json").read_text())
    # r 4: two layers, each with four projections of 32 by 32, one of 64 by 32, one of 32 by 64; the pooler; the head
    assert manifest["trained_parameters"] == 4 * (2 * (4 * 64 + 2 * 96) + 64) + 33
    assert manifest["drawn_weights"] == ["classifier.bias", "classifier.weight"]
    pairs = [("the apple tree", "The apple is a fruit here."), ("a sweet car", "road " * 100)]
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "encoder", num_labels=1)
    adapted = PeftModel.from_pretrained(base, output / "adapter").eval()
    given = AutoTokenizer.from_pretrained(output)(
        *map(list, zip(*pairs, strict=True)),
        truncation="longest_first",
        max_length=48,
        padding=True,
        return_tensors="pt",
    )
    with torch.inference_mode():
        found = adapted(**given).logits[:, 0].tolist()
    assert found == pytest.approx(plainly_scored(output, pairs), abs=1e-5)


@pytest.mark.parametrize(("adapter", "rate"), [("adapter: {method: lora, r: 4}", 0.03), ("", 0.3)])
def test_intruder_dimensions_are_those_of_the_folder_beside_the_model(
    adapter: str, rate: float, garden: Path, recipe_file: Write, rankpipe: Command, tmp_path: Path
) -> None:
    phases = f"  - labels: {{group: 4, steps: 8, learning_rate: {rate}}}"  # so high that there are some
    recipe = recipe_file(phases, more=f"development: {{queries: 4, depth: 5}}\n{adapter}")
    done = rankpipe("train", recipe, "--dataset", garden, "--output", tmp_path / "out")
    assert done.status == 0, done.err
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("encoder", "out"))
    expected = {}
    for name, weight in before.items():
        if name.endswith(("dense.weight", "query.weight", "key.weight", "value.weight")):
            old, new = (np.linalg.svd(one.double().numpy())[0] for one in (weight, after[f"bert.{name}"]))
            expected[f"bert.{name.removesuffix('.weight')}"] = int((np.abs(old.T @ new[:, :10]).max(0) < 0.5).sum())
    found = json.loads((tmp_path / "out" / "manifest.json").read_text())["intruder_dimensions"]
    assert found == expected
    assert len(expected) == 13
    assert max(expected.values()) > 0


def exported_ranks(adapter: Path) -> dict[str, int]:
    """Ranks of a saved LoRA by layer."""
    tensors = load_file(adapter / "adapter_model.safetensors")
    return {name: len(value) for name, value in tensors.items() if name.endswith("lora_A.weight")}


def test_eva_sees_as_many_pairs_as_it_asks_for_however_short_the_first_phase(
    garden: Path, recipe_file: Write, rankpipe: Command, tmp_path: Path
) -> None:
    # the pooler sees one vector of a pair, and n vectors have n - 1 components: the 8 pairs of the phase are too few
    phases = "  - labels: {batch: 2, group: 4, steps: 1, learning_rate: 1.0e-3}"
    adapter = "adapter: {method: eva, r: 16, targets: [pooler.dense], pairs: 64}"
    recipe = recipe_file(phases, more=f"development: {{queries: 4, depth: 5}}\n{adapter}")
    done = rankpipe("train", recipe, "--dataset", garden, "--output", tmp_path / "out")
    assert done.status == 0, done.err
    assert exported_ranks(tmp_path / "out" / "adapter") == {"base_model.model.bert.pooler.dense.lora_A.weight": 16}


def test_what_adalora_leaves_has_no_more_ranks_than_were_asked_for(
    garden: Path, recipe_file: Write, rankpipe: Command, tmp_path: Path
) -> None:
    phases = "  - labels: {group: 4, steps: 20, learning_rate: 1.0e-3}"
    recipe = recipe_file(phases, more=f"{DEVELOPMENT}\nadapter: {{method: adalora, r: 2, init_r: 5}}")
    done = rankpipe("train", recipe, "--dataset", garden, "--output", tmp_path / "out")
    assert done.status == 0, done.err
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    early = max(one["nDCG@10"] for one in manifest["curve"] if one["step"] <= 10)
    assert early >= manifest["best"]["value"]  # earlier weights, which have more ranks, are as good
    assert manifest["best"]["step"] > 10
    assert sum(exported_ranks(tmp_path / "out" / "adapter").values()) == 2 * 13


def test_documents_alone_are_enough_for_distillation(
    garden: Path, recipe_file: Write, rankpipe: Command, tmp_path: Path
) -> None:
    (garden / "queries.jsonl").unlink()
    for path in (garden / "qrels").iterdir():
        path.unlink()
    recipe = recipe_file(
        "  - distil: {group: 6, random: 2, steps: 6, learning_rate: 1.0e-3}", more="development: {queries: 4, every: 3}"
    )
    done = rankpipe("train", recipe, "--dataset", garden, "--output", tmp_path / "out")
    assert done.status == 0, done.err
    assert "there are no judged queries in 'train'; documents give all of them" in done.err
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert list(manifest["examples"]["phases"][0]["sources"]) == ["titles", "sentences"]
    assert manifest["best"]["measure"] == "-loss"
    assert manifest["best"]["value"] == max(one["-loss"] for one in manifest["curve"]) < 0


def test_without_training_queries_dev_decides(
    garden: Path, recipe_file: Write, rankpipe: Command, tmp_path: Path
) -> None:
    (garden / "qrels" / "train.tsv").unlink()
    phases = "  - distil: {group: 6, random: 2, steps: 4, learning_rate: 1.0e-3}"
    done = rankpipe("train", recipe_file(phases, more=DEVELOPMENT), "--dataset", garden, "--output", tmp_path / "out")
    assert done.status == 0, done.err
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["examples"]["development"]["split"] == "dev"
    assert manifest["best"]["measure"] == "nDCG@10"


def test_texts_that_the_loss_is_measured_on_train_no_phase(garden: Path, recipe_file: Write) -> None:
    (garden / "queries.jsonl").unlink()
    for path in (garden / "qrels").iterdir():
        path.unlink()
    phases = "".join(f"  - distil: {{group: 4, steps: {steps}, learning_rate: 1.0e-3}}\n" for steps in (3, 40))
    recipe, dataset = load_recipe(recipe_file(phases, more="development: {queries: 6}")), Dataset.load(garden)
    assert isinstance(recipe, CrossEncoderRecipe)
    found = gather(recipe, dataset, Pipeline.load("bm25", corpus=dataset.corpus), notify=lambda _: None)
    held = {group.query for group in found.held}
    phases_drawn: list[Any] = list(found.groups)
    trained = {group.query for groups in phases_drawn for step in range(1, 41) for group in groups.step(step)}
    assert len(held) == 2
    assert not held & trained


def test_a_sentence_that_the_loss_is_measured_on_is_no_title_that_is_trained_on(
    recipe_file: Write, tmp_path: Path
) -> None:
    texts = [f"The apple number {number} is sweet." for number in range(30)]  # each a title, and another one's text
    documents = [{"_id": str(number), "title": text, "text": texts[number - 7]} for number, text in enumerate(texts)]
    (tmp_path / "documents.jsonl").write_text("".join(json.dumps(one) + "\n" for one in documents))
    dataset = Dataset.load(tmp_path / "documents.jsonl")
    phases = "  - distil: {group: 4, batch: 2, steps: 30, learning_rate: 1.0e-3}"
    recipe = load_recipe(recipe_file(phases, more="development: {queries: 8}"))
    assert isinstance(recipe, CrossEncoderRecipe)
    found = gather(recipe, dataset, Pipeline.load("bm25", corpus=dataset.corpus), notify=lambda _: None)
    held = {group.query for group in found.held}
    assert len(held) == len(found.held)  # each once, however many its source has
    (groups,) = found.groups
    assert isinstance(groups, TaughtGroups)
    trained = {group.query for step in range(1, 31) for group in groups.step(step)}
    assert {group.query_id.split("-")[0] for group in found.held} == {"title", "sentence"}
    assert len(held) >= 4
    assert not held & trained


def test_a_query_that_is_a_document_is_not_taught_to_find_itself(recipe_file: Write) -> None:
    texts = {f"d{number}": f"The apple number {number} is sweet" for number in range(12)}
    corpus = Corpus.from_records({"id": one, "title": "", "text": text} for one, text in texts.items())
    judged = {one: {f"d{(number + 1) % 12}": 1} for number, one in enumerate(texts)}
    phases = "  - distil: {queries: [judged], group: 12, random: 6, steps: 12, learning_rate: 1.0e-3}"
    recipe = load_recipe(recipe_file(phases, more="development: {held_out: 0.2}"))
    assert isinstance(recipe, CrossEncoderRecipe)
    for self_match in (False, True):
        card = Card(name="own", self_match=self_match)
        dataset = Dataset.of(corpus, Queries.of(texts), judged, split="train", card=card)
        found = gather(recipe, dataset, Pipeline.load("bm25", corpus=corpus), notify=lambda _: None)
        (groups,) = found.groups
        assert isinstance(groups, TaughtGroups)
        drawn = [group for step in range(1, 13) for group in groups.step(step)]
        assert any(one.query_id in corpus.ids(one.documents) for one in drawn) is not self_match


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ("dev", "has a split 'dev', on which development is then measured; leave it out"),
        (None, "has no split 'train' of which they could be held out; leave it out"),
    ],
)
def test_without_training_judgements_no_share_of_them_is_held_out(
    garden: Path, recipe_file: Write, kept: str | None, said: str, rankpipe: Command, tmp_path: Path
) -> None:
    for file in (garden / "qrels").iterdir():
        if file.stem != kept:
            file.unlink()
    phases = "  - distil: {group: 6, random: 2, steps: 4, learning_rate: 1.0e-3}"
    recipe = recipe_file(phases, more="development: {held_out: 0.4}")
    done = rankpipe("train", recipe, "--dataset", garden, "--output", tmp_path / "out")
    assert done.status == 2
    told = f"error: 'development' holds out no training queries ('held_out'), for data set '{garden}' {said}"
    assert done.err.splitlines()[-1] == told
    assert not (tmp_path / "out").exists()


def test_without_a_dev_split_training_queries_are_held_out(
    garden: Path, recipe_file: Write, rankpipe: Command, tmp_path: Path
) -> None:
    (garden / "qrels" / "dev.tsv").unlink()
    recipe = recipe_file("  - labels: {group: 4, steps: 2, learning_rate: 1.0e-3}", more="development: {depth: 5}")
    assert rankpipe("train", recipe, "--dataset", garden, "--output", tmp_path / "out").status == 0
    told = json.loads((tmp_path / "out" / "manifest.json").read_text())["examples"]
    # of 12 training queries one has the text of a test query, and a fifth of 11 is held out
    assert re.fullmatch("[0-9a-f]{32}", told["development"].pop("candidates"))
    assert told["development"] == {"split": "train", "queries": 2, "held_out": True, "depth": 5}
    assert told["judged"]["queries"] + len(told["judged"]["dropped_recurring"]) == 10


@pytest.mark.parametrize(
    ("more", "phases", "said"),
    [
        (
            "split: more",
            "  - labels: {steps: 2, learning_rate: 1.0e-3}",
            "data set '{garden}' has no split 'more' that a phase could learn judgements from; it has dev, test, train. "
            "What needs none are phases 'distil': see the recipe cross-encoder-distilled",
        ),
        (
            "development: {split: more}",
            "  - labels: {steps: 2, learning_rate: 1.0e-3}",
            "data set '{garden}' has no split 'more'; it has dev, test, train",
        ),
        (
            "development: {held_out: 0.4}",
            "  - labels: {steps: 2, learning_rate: 1.0e-3}",
            "'development' holds out no training queries ('held_out'), for data set '{garden}' has a split 'dev', on which "
            "development is then measured; to hold some out nevertheless, give it 'split: train'",
        ),
        (
            "adapter: {method: lora, targets: [querry]}",
            "  - labels: {steps: 2, learning_rate: 1.0e-3}",
            "adapter target 'querry' names no linear layer of a BertForSequenceClassification outside of its head; "
            "did you mean 'query'?",
        ),
    ],
)
def test_what_cannot_be_trained_is_told(
    more: str, phases: str, said: str, garden: Path, recipe_file: Write, rankpipe: Command, tmp_path: Path
) -> None:
    done = rankpipe("train", recipe_file(phases, more=more), "--dataset", garden, "--output", tmp_path / "out")
    assert done.status == 2
    assert done.err.splitlines()[-1] == "error: " + said.replace("{garden}", str(garden))
    assert not (tmp_path / "out").exists()


def test_a_wrong_target_is_told_before_candidates_are_searched(
    garden: Path, recipe_file: Write, rankpipe: Command, tmp_path: Path
) -> None:
    recipe = recipe_file(
        "  - labels: {steps: 2, learning_rate: 1.0e-3}", more="adapter: {method: lora, targets: [querry]}"
    )
    done = rankpipe("train", recipe, "--dataset", garden, "--output", tmp_path / "out")
    (line,) = done.err.splitlines()  # what was found to learn from would stand before it
    assert line.startswith("error: adapter target 'querry' names no linear layer")


def test_an_output_that_is_there_is_replaced_only_by_force(
    garden: Path, recipe_file: Write, rankpipe: Command, tmp_path: Path
) -> None:
    recipe = recipe_file("  - labels: {group: 4, steps: 2, learning_rate: 1.0e-3}")
    command = ("train", recipe, "--dataset", garden, "--output", tmp_path / "out")
    assert rankpipe(*command).status == 0
    done = rankpipe(*command)
    assert (done.status, done.err) == (
        2,
        f"error: {tmp_path / 'out'} exists already; choose another folder, or replace it with --force\n",
    )
    assert rankpipe(*command, "--force").status == 0


def test_a_killed_training_goes_on_to_the_same_weights(
    recipe_file: Write, killed_and_resumed: Callable[[Path], list[Path]]
) -> None:
    phases = """\
  - distil: {group: 6, random: 2, steps: 120, learning_rate: 1.0e-3}
  - labels: {group: 4, steps: 60, learning_rate: 1.0e-3}"""
    recipe = recipe_file(phases, more="development: {queries: 4, depth: 5, every: 30}\ncheckpoint: 3")

    whole, killed = killed_and_resumed(recipe)
    expected, found = (load_file(folder / "model.safetensors") for folder in (whole, killed))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


FULL_DISK = """
import resource, signal, sys
from rankpipe.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing on fails as it does on a full disk
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.argv[0] = "rankpipe"
main()
"""


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_a_full_disk_is_told_and_the_same_command_goes_on(
    garden: Path, recipe_file: Write, rankpipe: Command, tmp_path: Path
) -> None:
    recipe = recipe_file("  - labels: {group: 4, steps: 2, learning_rate: 1.0e-3}")
    command = ["train", str(recipe), "--dataset", str(garden), "--output", str(tmp_path / "out")]
    full = subprocess.run([sys.executable, "-c", FULL_DISK, "100000", *command], capture_output=True, text=True)
    (folder,) = tmp_path.glob(".unfinished-out-*")
    assert full.returncode == 1
    assert full.stderr.splitlines()[-1].startswith(f"error: cannot write a checkpoint into {folder}: File too large")
    assert rankpipe(*command).status == 0
    assert not folder.exists()


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_a_disk_that_is_full_at_the_end_is_told_and_the_same_command_goes_on(
    garden: Path, recipe_file: Write, rankpipe: Command, tmp_path: Path
) -> None:
    # a checkpoint holds the adapter alone, the folder that is left the whole network
    more = "adapter: {method: lora, r: 1, targets: [query]}"
    recipe = recipe_file("  - labels: {group: 4, steps: 2, learning_rate: 1.0e-3}", more=more)
    command = ["train", str(recipe), "--dataset", str(garden), "--output", str(tmp_path / "out")]
    full = subprocess.run([sys.executable, "-c", FULL_DISK, "80000", *command], capture_output=True, text=True)
    assert full.returncode == 1
    assert full.stderr.splitlines()[-1].startswith("error: "), full.stderr
    assert "File too large" in full.stderr.splitlines()[-1]
    (folder,) = tmp_path.glob(".unfinished-out-*")
    assert not (tmp_path / "out").exists()
    done = rankpipe(*command)
    assert (done.status, folder.exists()) == (0, False)
    assert "going on after step 2 of phase '1 labels'" in done.err


def test_no_more_queries_are_run_than_the_steps_can_take(
    garden: Path, recipe_file: Write, rankpipe: Command, tmp_path: Path
) -> None:
    phases = "  - labels: {batch: 2, group: 4, steps: 3, learning_rate: 1.0e-3}"
    recipe = recipe_file(phases, more="development: {queries: 2, depth: 5}")
    assert rankpipe("train", recipe, "--dataset", garden, "--output", tmp_path / "out").status == 0
    told = json.loads((tmp_path / "out" / "manifest.json").read_text())["examples"]
    # three of twelve have the text of a query of another split; 3 steps take 6 of the other nine
    assert (told["judged"]["queries"], told["judged"]["left_over"]) == (9, 3)
    assert told["phases"][0]["queries"] == 6


def test_few_queries_that_are_trained_on_often_are_told(garden: Path, recipe_file: Write) -> None:
    said: list[str] = []
    dataset = Dataset.load(garden)
    for steps in (45, 46):  # of 4 queries each, over the 9 that are left of 12
        phases = f"  - labels: {{group: 4, steps: {steps}, learning_rate: 1.0e-3}}"
        recipe = load_recipe(recipe_file(phases, more=DEVELOPMENT))
        assert isinstance(recipe, CrossEncoderRecipe)
        gather(recipe, dataset, Pipeline.load("bm25", corpus=dataset.corpus), notify=said.append)
    assert [line for line in said if "times" in line] == [
        "labels: every query is trained on 20 times; so few are learnt by heart: judge more, or choose fewer steps"
    ]


def test_the_stage_opens_folder_and_adapter_and_gives_the_scores_of_sentence_transformers(
    garden: Path, recipe_file: Write, rankpipe: Command, tmp_path: Path
) -> None:
    from sentence_transformers import CrossEncoder as Theirs

    output = tmp_path / "out"
    recipe = recipe_file(PHASES, more=f"{DEVELOPMENT}\nadapter: {{method: lora, r: 4}}")
    # a bi-encoder's prompt, which the pairs of a cross-encoder are trained without
    told = {"prompts": {"query": "the sweet road "}, "default_prompt_name": "query"}
    (tmp_path / "encoder" / "config_sentence_transformers.json").write_text(json.dumps(told))
    done = rankpipe("train", recipe, "--dataset", garden, "--output", output, "--dtype", "float32")
    assert done.status == 0, done.err
    dataset = Dataset.load(garden)
    first = BM25(k=8).on(dataset.corpus).run(dataset.queries("test"))
    texts = dataset.corpus.joined_texts(first.documents)
    queries = [first.queries.texts[row] for row in first.query_rows]
    expected = Theirs(str(output), device="cpu").predict(list(zip(queries, texts, strict=True)))
    wanted = first.rescored(expected).to_dict()
    stages = (
        CrossEncoder(model=str(output)),
        CrossEncoder(model=str(tmp_path / "encoder"), adapter=str(output / "adapter")),
    )
    for stage in stages:
        found = Pipeline(stages=(stage,), runtime=Runtime(dtype="float32")).rerank(first).to_dict()
        for query_id, scores in wanted.items():
            assert found[query_id] == pytest.approx(scores, abs=1e-5)
    # development was measured with these scores, too
    manifest = json.loads((output / "manifest.json").read_text())
    judged, dropped = judged_queries(dataset, "dev", beside="train")
    assert dropped == manifest["examples"]["development"]["dropped_recurring"] == ["dev0"]  # it is a test query's text
    candidates = BM25().on(dataset.corpus).run(judged).top(5)
    again = Pipeline(stages=(stages[0],), runtime=Runtime(dtype="float32")).rerank(candidates)
    qrels = Qrels({query_id: dataset.qrels("dev")[query_id] for query_id in judged.ids})
    assert evaluate(again, qrels, ["nDCG@10"])["nDCG@10"] == pytest.approx(manifest["best"]["value"])
