"""The recipe that finds heads: what each method has, and which settings are refused."""

import json
from pathlib import Path

import pytest

from rankpipe.data.shipped import shipped
from rankpipe.errors import PipelineError
from rankpipe.training.attention_heads_recipe import AttentionHeadsRecipe
from rankpipe.training.recipe_file import load_recipe

MINIMAL = "train: attention-heads\nmodel: any\ncandidates: {pipeline: bm25}\n"


def loaded(path: Path, text: str) -> AttentionHeadsRecipe:
    path.write_text(text, encoding="utf-8")
    recipe = load_recipe(path)
    assert isinstance(recipe, AttentionHeadsRecipe)
    return recipe


def test_each_method_of_the_shipped_recipe_keeps_as_many_heads_as_its_paper(tmp_path: Path) -> None:
    text = (shipped("pipelines") / "training" / "attention-heads.yaml").read_text(encoding="utf-8")
    assert text.count("method: qr") == 1
    kept = {
        method: loaded(tmp_path / "recipe.yaml", text.replace("method: qr", f"method: {method}")).kept
        for method in ("qr", "core")
    }
    assert kept == {"qr": 16, "core": 8}
    assert loaded(tmp_path / "recipe.yaml", text.replace("method: qr", "method: logistic")).heads is None


@pytest.mark.parametrize("method", ["qr", "core", "logistic"])
def test_a_recipe_with_all_its_settings_is_read_again(method: str, tmp_path: Path) -> None:
    recipe = loaded(tmp_path / "recipe.yaml", f"{MINIMAL}method: {method}\n")
    described = "".join(f"{name}: {json.dumps(value)}\n" for name, value in recipe.described().items())
    assert loaded(tmp_path / "again.yaml", described) == recipe


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            "method: logistic\nheads: 8",
            "'heads' is of the methods qr and core, and 'method' is 'logistic', which decides for itself",
        ),
        ("temperature: 0.1", "'temperature' is of 'method: core', and 'method' is 'qr'"),
        ("method: logistic\ntemperature: 0.1", "'temperature' is of 'method: core', and 'method' is 'logistic'"),
        ("method: core\nfilter_sigma: 3.0", "'filter_sigma' is of 'method: qr', and 'method' is 'core'"),
        ("method: core\nfilter_sigma: null", "'filter_sigma' is of 'method: qr', and 'method' is 'core'"),
        ("method: logistic\nfilter_sigma: 0", "'filter_sigma' is of 'method: qr', and 'method' is 'logistic'"),
        ("layers: [5, 2]", "'layers' is [5, 2]: the first of the two is above the last"),
        ("queries: 4\nheld_out: 0.9", "'held_out' is 0.9, and leaves less than two of 4 queries"),
    ],
)
def test_settings_of_another_method_are_refused(settings: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(PipelineError) as caught:
        loaded(tmp_path / "recipe.yaml", f"description: some\n{MINIMAL}{settings}\n")
    assert [str(problem) for problem in caught.value.problems] == [
        f"{tmp_path / 'recipe.yaml'}:2:1: 'attention-heads': {message}"
    ]


def test_settings_of_a_method_are_taken_by_it(tmp_path: Path) -> None:
    core = loaded(tmp_path / "recipe.yaml", f"{MINIMAL}method: core\nheads: 3\ntemperature: 0.1\n")
    assert (core.kept, core.temperature) == (3, 0.1)
    assert loaded(tmp_path / "recipe.yaml", f"{MINIMAL}heads: 3\nfilter_sigma: null\n").filter_sigma is None


def test_the_recipes_of_the_committed_heads_are_right() -> None:
    files = sorted((Path(__file__).parents[2] / "eval" / "results" / "icr" / "heads").glob("*.yaml"))
    assert [file.stem for file in files if isinstance(load_recipe(file), AttentionHeadsRecipe)] == [
        file.stem for file in files
    ]
    assert {"core", "logistic", "qr"} <= {file.stem for file in files}
