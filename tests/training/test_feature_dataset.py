"""Data sets that have features themselves: files are found, lists are read, and rankers are trained on them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rankpipe.data.svmlight import FeatureLists, read_svmlight, write_svmlight
from rankpipe.errors import DataError
from rankpipe.evaluation.list_measures import list_measures
from rankpipe.models.ranker_folder import open_ranker
from rankpipe.training.feature_dataset import feature_files, read_feature_dataset

TREES = """\
train: ranker
phases:
  - lambdamart: {steps: 20, num_leaves: 7, min_data_in_leaf: 5}
development: {every: 5, patience: null}
"""


def lists(queries: int, seed: int, first: int = 1) -> FeatureLists:
    """The grade follows the first of 3 features."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(queries * 8, 3)).astype(np.float32)
    grades = np.clip(np.round(features[:, 0] + 1), 0, 3).astype(np.float32)
    ids = tuple(str(first + at) for at in range(queries))
    return FeatureLists(ids, np.arange(0, 8 * queries + 1, 8), grades, features)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """train, vali and test, 60 queries and twice 20."""
    for name, queries, first in (("train", 60, 1), ("vali", 20, 101), ("test", 20, 201)):
        write_svmlight(lists(queries, first, first), tmp_path / f"{name}.txt")
    return tmp_path


def test_files_are_found_by_the_names_that_they_have_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "data" / "mslr" / "Fold1"
    inside.mkdir(parents=True)
    for name in ("train.txt.gz", "valid.svm", "test.dat"):
        (inside / name).touch()
    found = {"train": inside / "train.txt.gz", "dev": inside / "valid.svm", "test": inside / "test.dat"}
    assert feature_files(str(inside)) == found
    assert feature_files("mslr/Fold1") is None
    monkeypatch.setenv("RANKPIPE_DATA", str(tmp_path / "data"))
    assert feature_files("mslr/Fold1") == found
    assert feature_files(str(inside / "test.dat")) == {"train": inside / "test.dat"}
    (inside / "corpus.jsonl").touch()  # a folder of texts is one of texts
    assert feature_files(str(inside)) is None
    assert feature_files("beir/scifact") is None


def test_lists_keep_their_order_their_features_and_their_grades(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("0 qid:7 1:0.5 3:2\n2 qid:7 2:1\n-1 qid:9 1:1\n")
    with gzip.open(tmp_path / "vali.txt.gz", "wt") as file:
        file.write("1 qid:8 4:0.25\n")
    files = feature_files(str(tmp_path))
    assert files is not None
    found = read_feature_dataset("mine", files)
    assert found.dataset.splits == ("train", "dev")
    assert found.dataset.queries("train").ids == ("7", "9")
    assert dict(found.dataset.qrels("train")) == {"7": {"7:1": 0, "7:2": 2}, "9": {"9:1": -1}}
    assert dict(found.dataset.qrels("dev")) == {"8": {"8:1": 1}}
    assert [one.doc_id for one in found.run["7"]] == ["7:1", "7:2"]
    columns = np.stack([found.run.features[f"feature:{at}"] for at in range(1, 5)], axis=1)
    assert columns.tolist() == [[0.5, 0, 2, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0.25]]
    assert set(found.files) == {"train.txt", "vali.txt.gz"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 qid:7 1:1", "query '7' is in {train} as well: what is learnt and what decides must be apart"),
        ("0.5 qid:8 1:1", "a document of query '8' has the grade 0.5, which is no whole number"),
    ],
)
def test_files_that_do_not_fit_together_are_refused(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "train.txt").write_text("0 qid:7 1:0.5\n")
    (tmp_path / "vali.txt").write_text(f"{line}\n")
    with pytest.raises(DataError) as error:
        read_feature_dataset("mine", feature_files(str(tmp_path)) or {})
    assert str(error.value) == f"{tmp_path / 'vali.txt'}: " + message.format(train=tmp_path / "train.txt")


def test_trees_are_trained_on_a_folder_and_decided_on_its_development_file(
    folder: Path, rankpipe: Callable[..., Any]
) -> None:
    pytest.importorskip("lightgbm", reason="needs the extra 'ltr'")
    recipe, output = folder / "trees.yaml", folder / "ranker"
    recipe.write_text(TREES)
    done = rankpipe("train", str(recipe), "--dataset", str(folder), "--output", str(output))
    assert done.status == 0
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["examples"]["development"]["split"] == "dev"
    assert manifest["examples"]["development"]["queries"] == 20
    assert set(manifest["examples"]["features"]["files"]) == {"train.txt", "vali.txt"}
    assert [point["step"] for point in manifest["curve"]] == [5, 10, 15, 20]
    ranker, test = open_ranker(output), read_svmlight(folder / "test.txt")
    assert ranker.columns == ("1", "2", "3")
    found = list_measures(ranker.scores(test.features), test.grades, test.offsets)["nDCG@10"]
    assert np.nanmean(found) > 0.95


def test_networks_are_trained_on_a_file_and_queries_held_out_of_it_decide(
    folder: Path, rankpipe: Callable[..., Any]
) -> None:
    pytest.importorskip("torch", reason="needs the extra 'dense'")
    recipe, output = folder / "network.yaml", folder / "ranker"
    recipe.write_text("train: ranker\nphases:\n  - grades: {steps: 40, learning_rate: 0.1}\n")
    done = rankpipe("train", str(recipe), "--dataset", str(folder / "train.txt"), "--output", str(output))
    assert done.status == 0
    manifest = json.loads((output / "manifest.json").read_text())
    told = manifest["examples"]["development"]
    assert len(told.pop("features")) == 32
    assert told == {"split": "train", "queries": 12, "held_out": True}
    assert manifest["best"]["value"] > 0.9


def test_a_recipe_and_a_data_set_that_do_not_fit_are_refused(
    folder: Path, garden: Path, rankpipe: Callable[..., Any]
) -> None:
    pytest.importorskip("torch", reason="needs the extra 'dense'")
    recipe = folder / "network.yaml"
    recipe.write_text("train: ranker\nphases:\n  - grades: {steps: 40, learning_rate: 0.1}\n")
    output = str(folder / "ranker")
    done = rankpipe("train", str(recipe), "--dataset", str(garden), "--output", output)
    assert done.status == 2
    assert done.err.endswith(
        f"the recipe has no 'candidates', and data set '{garden}' has no features; name the pipeline that finds them: "
        "candidates: {pipeline: features}\n"
    )
    done = rankpipe("train", "ranker", "--dataset", str(folder), "--output", output)
    assert done.status == 2
    assert done.err.endswith(
        f"data set '{folder}' has features itself, and no texts that pipeline 'features' could search; take 'candidates' "
        "out of the recipe\n"
    )
