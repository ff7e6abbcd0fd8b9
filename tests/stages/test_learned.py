"""Learned: scores are those of the network, and a folder or columns that do not fit are refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'dense'")

from safetensors.numpy import load_file, save_file

from rankpipe.data import Corpus, Queries
from rankpipe.errors import MissingExtraError, ModelError, UsageError
from rankpipe.run import Run
from rankpipe.stages.learned import Learned


@pytest.fixture
def run() -> Run:
    corpus = Corpus.from_texts(["one", "two", "three"])
    ids = corpus.ids(corpus.live_rows())
    made = Run.of(Queries.of({"q": "a"}), corpus, {"q": dict(zip(ids, (3.0, 2.0, 1.0), strict=True))})
    return made.with_feature("feature:a", np.array([0.1, 0.7, -0.4])).with_feature(
        "feature:b", np.array([2.0, -1.0, 0.5])
    )


def test_scores_are_those_of_the_network(run: Run, tmp_path: Path, tiny_ranker: Callable[..., Path]) -> None:
    folder = tiny_ranker(tmp_path / "ranker", ("b", "a"), (4,))
    weights = load_file(folder / "model.safetensors")
    features = np.stack([run.features["feature:b"], run.features["feature:a"]], axis=1)
    layer = features @ weights["layers.0.weight"].T + weights["layers.0.bias"]
    layer = np.where(layer > 0, layer, np.expm1(layer))  # ELU
    expected = (layer @ weights["layers.2.weight"].T + weights["layers.2.bias"])[:, 0]
    ranked = Learned(model=str(folder))(run)
    given = dict(zip(run.documents.tolist(), expected.tolist(), strict=True))
    assert ranked.scores.tolist() == pytest.approx(sorted(given.values(), reverse=True), abs=1e-6)
    assert ranked.documents.tolist() == sorted(given, key=lambda row: -given[row])


def test_a_column_that_is_missing_is_named(run: Run, tmp_path: Path, tiny_ranker: Callable[..., Path]) -> None:
    folder = tiny_ranker(tmp_path / "ranker", ("a", "title.bm25"))
    with pytest.raises(UsageError) as error:
        Learned(model=str(folder))(run)
    assert str(error.value) == (
        f"the ranker {folder} was trained on the feature 'title.bm25', which the stage 'features' did not leave; it left: "
        "a, b. Give that stage the settings it had in training"
    )


def test_a_folder_that_is_not_there_or_holds_no_ranker_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^there is no folder 'nowhere' of a ranker$"):
        Learned(model="nowhere")(run)
    with pytest.raises(ModelError) as error:
        Learned(model=str(tmp_path))(run)
    assert str(error.value) == (
        f"{tmp_path} holds no ranker: there is no ranker.json; `rankpipe train` leaves such a folder"
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": 99}, "not a ranker of this version of rankpipe (format 1, kind 'network' or 'trees')"),
        ({"hidden": [10**9]}, "'hidden' must be a list of numbers from 1 to 4,096"),
        ({"columns": []}, "'columns' must be a list of at most 1,048,576 names"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    run: Run, tmp_path: Path, tiny_ranker: Callable[..., Path], changed: dict[str, object], message: str
) -> None:
    path = tiny_ranker(tmp_path / "ranker", ("a",)) / "ranker.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    with pytest.raises(ModelError) as error:
        Learned(model=str(path.parent))(run)
    assert str(error.value) == f"{path}: {message}"


def test_weights_that_do_not_fit_are_refused(run: Run, tmp_path: Path, tiny_ranker: Callable[..., Path]) -> None:
    folder = tiny_ranker(tmp_path / "ranker", ("a",))
    weights = load_file(folder / "model.safetensors")
    del weights["mean"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"model\.safetensors: not the weights of .*ranker\.json: "):
        Learned(model=str(folder))(run)


def test_a_ranker_that_is_trained_again_is_another_one(
    run: Run, tmp_path: Path, tiny_ranker: Callable[..., Path]
) -> None:
    folder = tiny_ranker(tmp_path / "ranker", ("a",))
    first = Learned(model=str(folder)).facts(run.corpus)
    weights = load_file(folder / "model.safetensors")
    save_file({name: 2 * value for name, value in weights.items()}, folder / "model.safetensors")
    assert Learned(model=str(folder)).facts(run.corpus) != first


@pytest.fixture
def trees(tmp_path: Path) -> Path:
    """A folder of 5 trees over the columns b and a."""
    lightgbm = pytest.importorskip("lightgbm", reason="needs the extra 'ltr'")
    from rankpipe.models.ranker_folder import write_trees
    from rankpipe.models.tree_ranker import TreeRanker

    features = np.random.default_rng(0).normal(size=(200, 2))
    told = {"objective": "regression", "min_data_in_leaf": 5, "verbosity": -1, "num_threads": 1}
    booster = lightgbm.train(told, lightgbm.Dataset(features, label=features[:, 0] - features[:, 1]), 5)
    folder = tmp_path / "trees"
    folder.mkdir()
    write_trees(TreeRanker(booster.model_to_string()), ("b", "a"), folder)
    return folder


def test_scores_are_those_of_the_trees(run: Run, trees: Path) -> None:
    import lightgbm

    features = np.stack([run.features["feature:b"], run.features["feature:a"]], axis=1)
    expected = np.asarray(lightgbm.Booster(model_file=trees / "model.txt").predict(features))
    ranked = Learned(model=str(trees))(run)
    given = dict(zip(run.documents.tolist(), expected.tolist(), strict=True))
    found = dict(zip(ranked.documents.tolist(), ranked.scores.tolist(), strict=True))
    assert found == pytest.approx(given, abs=1e-6)
    assert ranked.documents.tolist() == sorted(given, key=lambda row: (-given[row], -row))
    assert len(set(expected.tolist())) > 1


def test_trees_that_were_cut_off_or_are_of_other_columns_are_refused(run: Run, trees: Path) -> None:
    path = trees / "ranker.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "columns": ["b"]}))
    with pytest.raises(ModelError) as error:
        Learned(model=str(trees))(run)
    assert str(error.value) == f"{trees / 'model.txt'}: has 2 features, and {path} 1"
    path.write_text(json.dumps(told))
    text = (trees / "model.txt").read_text()
    (trees / "model.txt").write_text(text[: len(text) // 2])
    with pytest.raises(ModelError) as error:
        Learned(model=str(trees))(run)
    assert str(error.value) == (
        f"{trees / 'model.txt'}: not the trees that {path} was written with; it was changed or is damaged"
    )
    (trees / "model.txt").unlink()
    with pytest.raises(ModelError, match=r"holds no trees: there is no model\.txt$"):
        Learned(model=str(trees))(run)


def test_trees_without_lightgbm_say_what_to_install(run: Run, trees: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(MissingExtraError) as error:
        Learned(model=str(trees))(run)
    assert str(error.value) == (
        "stage 'learned' needs lightgbm: install rankpipe with its extra 'ltr', for example pip install '.[ltr]'"
    )
