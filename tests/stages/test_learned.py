"""Learned: scores are those of the network, and a folder or columns that do not fit are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'dense'")

from safetensors.numpy import load_file, save_file

from rankpipe.data import Corpus, Queries
from rankpipe.errors import ModelError, UsageError
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
        ({"columns": []}, "'columns' must be a list of at most 4,096 names"),
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
