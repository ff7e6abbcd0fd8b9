"""Recipes: what is read, and every mistake word for word."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rankpipe.data.shipped import shipped
from rankpipe.errors import PipelineError, UsageError
from rankpipe.index.ann_kinds import Hnsw
from rankpipe.models.endpoint import Endpoint
from rankpipe.training.cross_encoder_recipe import CrossEncoderRecipe
from rankpipe.training.encoder_recipe import (
    Adore,
    BiEncoderRecipe,
    Contrastive,
    Guard,
    MinedCandidates,
    QueryEncoderRecipe,
)
from rankpipe.training.group_phases import Distil, Labels
from rankpipe.training.recipe_file import is_recipe, load_recipe
from rankpipe.training.rewrite import Rewrite

WHOLE = """\
description: as small as can be
train: cross-encoder
model: minilm
candidates: {pipeline: bm25}
phases:
  - distil: {steps: 10, learning_rate: 1e-4}
  - labels: {steps: 5, learning_rate: 2e-5, loss: lambda, positives: 2}
"""

SHIPPED = sorted(file.stem for file in (shipped("pipelines") / "training").glob("*.yaml"))


@pytest.fixture
def mistakes(tmp_path: Path) -> Callable[[str], list[str]]:
    """`mistakes(text)`: what is said of a recipe's text, a line each, without the file's name."""
    path = tmp_path / "recipe.yaml"

    def said(text: str) -> list[str]:
        path.write_text(text, encoding="utf-8")
        with pytest.raises(PipelineError) as error:
            load_recipe(path)
        return [line.removeprefix(f"{path}:") for line in str(error.value).splitlines()]

    return said


def test_a_recipe_becomes_settings(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(WHOLE, encoding="utf-8")
    recipe = load_recipe(path)
    assert isinstance(recipe, CrossEncoderRecipe)
    assert (recipe.model, recipe.split, recipe.seed, recipe.steps) == ("minilm", "train", 0, 15)
    assert recipe.phases == (
        Distil(steps=10, learning_rate=1e-4),
        Labels(steps=5, learning_rate=2e-5, loss="lambda", positives=2),
    )
    described = recipe.described()
    assert described["train"] == "cross-encoder"
    assert [list(one) for one in described["phases"]] == [["distil"], ["labels"]]
    assert described["phases"][1]["labels"]["loss"] == "lambda"
    assert described["candidates"] == {"pipeline": "bm25", "depth": 100}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_have_no_mistakes(name: str, rankpipe: Callable[..., Any]) -> None:
    told = load_recipe(name).summary
    assert rankpipe("check", name).out.startswith(f"{name}: {told}: no mistakes found\n")
    assert is_recipe(name)


def test_every_mistake_is_told_at_once(mistakes: Callable[[str], list[str]]) -> None:
    assert mistakes("""\
train: cross-encoder
modle: minilm
candidates: {pipeline: bm52, depht: 100}
max_length: 2
phases:
  - distil: {querys: [judged, titels], group: 12, random: 12, loss: kk, steps: 1500, learning_rate: 5.0e-5}
    steps: 3
  - labls: {loss: softmax}
  - labels: {loss: softmax, group: 1, steps: 1e5}
  - 3
development: {queries: 0, measure: ndgc@10}
seed: -1
""") == [
        "2:1: 'cross-encoder' has no setting 'modle'; did you mean 'model'?",
        "3:24: there is no pipeline file 'bm52', and rankpipe ships none of that name; it ships "
        + ", ".join(sorted(file.stem for file in shipped("pipelines").glob("*.yaml"))),
        "3:37: 'cross-encoder' setting 'candidates.depht' is 100, which is no setting there; did you mean 'depth'?",
        "4:13: 'cross-encoder' setting 'max_length' is 2, must be at least 8",
        "6:5: 'distil': 'random' must be below 'group': at least one document is a candidate",
        "6:14: 'distil' has no setting 'querys'; did you mean 'queries'?",
        "6:31: 'distil' setting 'queries[1]' is 'titels', must be 'judged', 'titles' or 'sentences'",
        "6:69: 'distil' setting 'loss' is 'kk', must be 'kl' or 'margin-mse'",
        "7:5: 'steps' stands beside 'distil'; as one of its settings it is indented further",
        "8:5: no phase is called 'labls'; did you mean 'labels'?",
        "9:5: 'labels' needs the setting 'learning_rate'",
        "9:36: 'labels' setting 'group' is 1, must be at least 2",
        "9:46: 'labels' setting 'steps' is 1e5, must be a whole number",
        "10:5: a phase is wanted (its name and settings), not 3",
        "11:24: 'cross-encoder' setting 'development.queries' is 0, must be at least 1",
        "11:36: 'cross-encoder' setting 'development.measure' is 'ndgc@10', there is no measure 'ndgc@10'; "
        "did you mean 'nDCG@10'?",
        "12:7: 'cross-encoder' setting 'seed' is -1, must be at least 0",
    ]


def test_what_a_recipe_names_has_to_be_there(mistakes: Callable[[str], list[str]], tmp_path: Path) -> None:
    assert mistakes(
        "train: ranker\ncandidates: {pipeline: bm25}\nphases:\n  - clicks: {steps: 3, log: no.jsonl, learning_rate: 1.0}\n"
    ) == [
        "2:24: pipeline 'bm25' leaves no features; put the stage 'features' into it",
        f"4:29: 'clicks' setting 'log' is 'no.jsonl', and there is no file {tmp_path / 'no.jsonl'}",
    ]
    assert mistakes(
        "train: cross-encoder\nmodel: minilm\ncandidates: {pipeline: no.yaml}\n"
        "phases: [labels: {steps: 3, learning_rate: 1.0e-5}]\nrewrite: {writer: smollm2, prompt: no-prompt}\n"
        "subset: {kind: fixed, ratio: 0.1, replacement: true}\n"
    ) == [
        "3:24: there is no pipeline file 'no.yaml' beside this one or here",
        "5:36: 'cross-encoder' setting 'rewrite.prompt' is 'no-prompt', there is no prompt file 'no-prompt', and no shipped "
        f"one of that name ({', '.join(sorted(file.stem for file in shipped('prompts').glob('*.txt')))})",
        "6:9: 'cross-encoder' setting 'subset': 'replacement' is of 'kind: rs2'; a fixed part is drawn once",
    ]


@pytest.mark.parametrize(
    ("line", "instead", "said"),
    [
        ("train: cross-encoder", "trian: cross-encoder", "2:1: a recipe has no 'trian'; did you mean 'train'?"),
        (
            "train: cross-encoder",
            "",
            "1:1: a recipe needs 'train', what is trained; there are: attention-heads, bi-encoder, cross-encoder, query-encoder",
        ),
        (
            "train: cross-encoder",
            "train: crossencoder",
            "2:8: no training is called 'crossencoder'; did you mean 'cross-encoder'?",
        ),
        ("train: cross-encoder", "train: 3", "2:8: 'train' is 3, must be text"),
        ("model: minilm\n", "", "2:1: 'cross-encoder' needs the setting 'model'"),
        ("candidates: {pipeline: bm25}\n", "", "2:1: 'cross-encoder' needs the setting 'candidates'"),
        (
            "candidates: {pipeline: bm25}",
            "candidates: {depth: 4}",
            "4:13: 'cross-encoder' setting 'candidates' is a map, must have 'pipeline'",
        ),
        ("model: minilm", "model: minilm\nsplit: test", "'split: test' is for reporting, not for training"),
        (
            "model: minilm",
            "model: minilm\ndevelopment: {depth: 101}",
            "'development' re-ranks 101 candidates, and there are 100 ('candidates', 'depth')",
        ),
        (
            "model: minilm",
            "model: minilm\ndevelopment: {split: test}",
            "'split: test' is for reporting; development takes dev, or holds out training queries",
        ),
        (
            "  - labels: {steps: 5, learning_rate: 2e-5, loss: lambda, positives: 2}",
            "rewrite: {writer: smollm2}",
            "'cross-encoder': 'rewrite' is of queries that are judged, and no phase is 'labels'",
        ),
        ("positives: 2", "positives: 8", "'group' must be above 'positives' and 'random' together"),
        (
            "model: minilm",
            "model: minilm\ndevelopment: {split: dev, held_out: 0.4}",
            "2:1: 'cross-encoder': 'development' holds out no training queries ('held_out'), for it has 'split: dev'",
        ),
        (
            "steps: 10, ",
            "steps: 10, loss: margin-mse, temperature: 4.0, ",
            "6:5: 'distil': 'temperature' is of 'loss: kl', and 'loss' is 'margin-mse'",
        ),
        (
            "loss: lambda",
            "loss: lambda, temperature: 5.0",
            "7:5: 'labels': 'temperature' is of 'loss: softmax', and 'loss' is 'lambda'",
        ),
        (
            "loss: lambda",
            "loss: margin, temperature: 5.0",
            "7:5: 'labels': 'temperature' is of 'loss: softmax', and 'loss' is 'margin'",
        ),
        (
            "loss: lambda",
            "loss: softmax, margin: 3.0",
            "7:5: 'labels': 'margin' is of 'loss: margin', and 'loss' is 'softmax'",
        ),
        (
            "loss: lambda",
            "loss: binary, margin: 2.0",
            "7:5: 'labels': 'margin' is of 'loss: margin', and 'loss' is 'binary'",
        ),
        ("steps: 10, ", "steps: 10, queries: [titles, titles], ", "'queries' names a source twice"),
        ("steps: 10, ", "steps: 10, queries: [], ", "'distil' setting 'queries' has 0 values, must have at least 1"),
    ],
)
def test_mistakes_one_by_one(mistakes: Callable[[str], list[str]], line: str, instead: str, said: str) -> None:
    assert line in WHOLE
    found = mistakes(WHOLE.replace(line, instead))
    assert len(found) == 1
    assert said in found[0]


def test_settings_of_a_loss_and_of_held_out_queries_are_taken_where_they_count(tmp_path: Path) -> None:
    text = WHOLE.replace("loss: lambda", "loss: margin, margin: 3.0").replace(
        "steps: 10, ", "steps: 10, temperature: 4.0, "
    )
    path = tmp_path / "recipe.yaml"
    for split in ("", "split: train, "):  # where it is the split that is trained on, queries of it are held out
        path.write_text(f"{text}development: {{{split}held_out: 0.4}}\n", encoding="utf-8")
        recipe = load_recipe(path)
        assert isinstance(recipe, CrossEncoderRecipe)
        assert recipe.development.held_out == 0.4
        assert recipe.phases == (
            Distil(steps=10, learning_rate=1e-4, temperature=4.0),
            Labels(steps=5, learning_rate=2e-5, loss="margin", margin=3.0, positives=2),
        )


@pytest.mark.parametrize(
    ("phases", "said"),
    [
        ("phases: []", "a recipe needs at least one phase"),
        ("phases: 3", "'phases' is 3, must be a list of phases"),
        ("", "'cross-encoder' needs the setting 'phases'"),
    ],
)
def test_a_recipe_needs_phases(mistakes: Callable[[str], list[str]], phases: str, said: str) -> None:
    found = mistakes(WHOLE.partition("phases:")[0] + phases + "\n")
    assert [one.partition(": ")[2] for one in found] == [said]


def test_mistakes_of_the_candidates_pipeline_are_told_with_its_own_places(tmp_path: Path) -> None:
    (tmp_path / "first.yaml").write_text("stages:\n  - bm25: {kk: 3}\n", encoding="utf-8")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(WHOLE.replace("bm25", "first.yaml").replace("steps: 5", "steps: 0"), encoding="utf-8")
    with pytest.raises(PipelineError) as error:
        load_recipe(recipe)
    assert sorted(str(error.value).splitlines()) == [
        f"{tmp_path / 'first.yaml'}:2:12: 'bm25' has no setting 'kk'; did you mean 'k'?",
        f"{recipe}:7:21: 'labels' setting 'steps' is 0, must be at least 1",
    ]


def test_a_recipe_that_is_not_there() -> None:
    with pytest.raises(UsageError) as error:
        load_recipe("cross-encodr")
    assert str(error.value) == (
        "there is no recipe file 'cross-encodr', and rankpipe ships none of that name; it ships " + ", ".join(SHIPPED)
    )


def test_a_pipeline_is_no_recipe(tmp_path: Path, rankpipe: Callable[..., Any]) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text("stages:\n  - bm25\n", encoding="utf-8")
    assert not is_recipe(path)
    assert not is_recipe("bm25")
    assert rankpipe("check", path).out == f"{path}: bm25: no mistakes found\n"


def test_check_of_a_recipe_brings_no_torch(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(WHOLE, encoding="utf-8")
    program = (
        "import sys\nfrom rankpipe.training.recipe_file import load_recipe\n"
        f"load_recipe({str(path)!r})\nprint(*sorted({{'torch', 'transformers', 'peft', 'numba'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


STAR = """\
train: bi-encoder
model: minilm
candidates: {depth: 50, guard: {margin: 0.1}}
phases:
  - contrastive: {hard: 2, random: 1, steps: 10, learning_rate: 2e-5}
  - distil: {steps: 5, learning_rate: 2e-5}
subset: {kind: rs2, ratio: 0.25}
"""
ADORE = """\
train: query-encoder
model: minilm
phases:
  - adore: {depth: 100, gain: ndcg, index: {kind: hnsw}, steps: 10, learning_rate: 5e-6}
"""


CAR = """\
train: bi-encoder
model: minilm
rewrite: {writer: smollm2, endpoint: {url: "http://localhost:8000/v1/"}, mode: augment}
phases:
  - contrastive: {steps: 10, learning_rate: 2e-5}
"""


def test_queries_are_rewritten_where_the_recipe_says_so(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(CAR, encoding="utf-8")
    recipe = load_recipe(path)
    assert isinstance(recipe, BiEncoderRecipe)
    endpoint = Endpoint(url="http://localhost:8000/v1")
    assert recipe.rewrite == Rewrite(writer="smollm2", endpoint=endpoint, mode="augment")
    assert recipe.rewrite is not None
    assert recipe.rewrite.prompt_file == "car-whole"
    assert recipe.described()["rewrite"] == {
        "writer": "smollm2",
        "endpoint": recipe.described()["rewrite"]["endpoint"],
        "prompt": None,
        "mode": "augment",
        "context": "relevant",
        "select": "ambiguous",
        "window": 128,
        "max_tokens": 48,
        "seed": 0,
    }
    (tmp_path / "own.txt").write_text("--- user\n{query}\n", encoding="utf-8")
    path.write_text(CAR.replace("mode: augment", "context: none, prompt: own.txt"), encoding="utf-8")
    recipe = load_recipe(path)
    assert isinstance(recipe, BiEncoderRecipe)
    assert recipe.rewrite is not None
    assert recipe.rewrite.prompt_file == str(tmp_path / "own.txt")  # beside the recipe
    assert Rewrite(writer="smollm2").prompt_file == "car"
    assert Rewrite(writer="smollm2", context="none").prompt_file == "car-query"
    assert Rewrite(writer="any", context="none", endpoint=endpoint).prompt_file == "car-query-whole"


def test_recipes_of_encoders_become_settings(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(STAR, encoding="utf-8")
    star = load_recipe(path)
    assert isinstance(star, BiEncoderRecipe)
    assert star.candidates == MinedCandidates(depth=50, guard=Guard(margin=0.1))
    assert star.phases == (
        Contrastive(hard=2, random=1, steps=10, learning_rate=2e-5),
        Distil(steps=5, learning_rate=2e-5),
    )
    assert ([phase.steps for phase in star.planned], star.steps) == ([3, 2], 5)  # a quarter, rounded up
    assert star.described()["phases"][0]["contrastive"]["steps"] == 10
    path.write_text(ADORE, encoding="utf-8")
    adore = load_recipe(path)
    assert isinstance(adore, QueryEncoderRecipe)
    assert adore.adore == (Adore(depth=100, gain="ndcg", index=Hnsw(), steps=10, learning_rate=5e-6),)
    assert adore.dense(k=7, index=adore.adore[0].index).index == Hnsw()


@pytest.mark.parametrize(
    ("whole", "line", "instead", "said"),
    [
        (STAR, "margin: 0.1", "margin: high", "3:41: 'bi-encoder' setting 'candidates.guard.margin' is 'high', must be a number"),
        (STAR, "margin: 0.1", "pipeline: bm25", "'bm25' replaces the candidates"),
        (STAR, "margin: 0.1", "pipeline: nowhere", "there is no pipeline file 'nowhere'"),
        (STAR, "hard: 2, random: 1", "hard: 0, in_batch: false", "no document is a negative"),
        (STAR, "hard: 2, random: 1", "hard: 0, weighting: alpha", "'weighting: alpha' is of 'loss: ranknet' with 'hard' above 0"),
        (STAR, "hard: 2, random: 1", "loss: softmax, weighting: alpha", "'weighting: alpha' is of 'loss: ranknet' with 'hard' above 0"),
        (STAR, "kind: rs2, ratio: 0.25", "kind: fixed, ratio: 0.25, replacement: true", "'replacement' is of 'kind: rs2'"),
        (STAR, "ratio: 0.25", "ratio: 1.5", "'bi-encoder' setting 'subset.ratio' is 1.5, must be at most 1"),
        (STAR, "  - distil: {", "  - labels: {", "6:5: no phase is called 'labels'; there are: clicks, contrastive, distil"),
        (STAR, "phases:", "development: {depth: 60}\nphases:", "'development' takes 60 candidates of a query, and there are 50"),
        (STAR, "hard: 2, random: 1", "alpha: 0.2", "'alpha' is of 'weighting: alpha'"),
        (STAR, "hard: 2, random: 1", "hard: 0", "'guard' is of hard negatives, and no phase draws any"),
        (CAR, "writer: smollm2, ", "", "3:10: 'bi-encoder' setting 'rewrite' is a map, must have 'writer'"),
        (CAR, "mode: augment", "moed: augment", "3:80: 'bi-encoder' setting 'rewrite.moed' is 'augment', which is no setting there; did you mean 'mode'?"),
        (CAR, "mode: augment", "mode: beside", "3:80: 'bi-encoder' setting 'rewrite.mode' is 'beside', must be 'replace' or 'augment'"),
        (CAR, "mode: augment", "context: null", "'rewrite.context' is nothing, must be 'relevant', 'random' or 'none'"),
        (CAR, "mode: augment", "select: some", "'rewrite.select' is 'some', must be 'ambiguous' or 'all'"),
        (CAR, "mode: augment", "window: 0", "'bi-encoder' setting 'rewrite.window' is 0, must be at least 1"),
        (CAR, "mode: augment", "max_tokens: few", "'bi-encoder' setting 'rewrite.max_tokens' is 'few', must be a whole number"),
        (CAR, "http://localhost:8000/v1/", "localhost", "'rewrite.endpoint.url' is 'localhost', not the address of a server, such as http://localhost:8000/v1"),
        (CAR, "contrastive: {", "distil: {", "1:1: 'bi-encoder': 'rewrite' is of queries that are judged, and no phase is 'contrastive'"),
        (ADORE, "gain: ndcg", "gain: null, cutoff: 10", "'cutoff' is of a 'gain'; without one, every pair weighs the same"),
        (ADORE, "model: minilm", "model: minilm\ndevelopment: {depth: 60}", "'development' has no 'depth' here"),
        (ADORE, "kind: hnsw", "kind: hnws", "'adore' setting 'index' is a map, whose 'kind' is 'hnws'"),
        (ADORE, "gain: ndcg", "gain: map", "'adore' setting 'gain' is 'map', must be 'mrr' or 'ndcg'"),
    ],
)  # fmt: skip
def test_mistakes_in_recipes_of_encoders(
    mistakes: Callable[[str], list[str]], whole: str, line: str, instead: str, said: str
) -> None:
    assert line in whole
    found = mistakes(whole.replace(line, instead))
    assert len(found) == 1
    assert said in found[0]
