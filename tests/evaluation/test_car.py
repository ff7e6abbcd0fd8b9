"""eval/car.py: a run of a few steps on tiny networks, its cells and its table."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("torch", reason="needs the extra 'dense'")

from rankpipe import Dataset

METHODS = ("original", "augment")
SCRIPT = Path(__file__).parents[2] / "eval" / "car.py"


def test_a_part_of_the_training_queries_is_there_when_its_last_file_is(
    eval_script: Callable[[str], ModuleType], garden: Path, tmp_path: Path
) -> None:
    (garden / "qrels" / "dev.tsv").rename(garden / "qrels" / "validation.tsv")  # behind train in the order of names
    part = eval_script("car")._part(str(garden), 5, tmp_path / "models")
    files = {path.name: path for path in (part / "qrels").iterdir()}
    assert files.keys() == {"test.tsv", "train.tsv", "validation.tsv"}
    made = {name: path.stat().st_mtime_ns for name, path in files.items()}
    assert made["train.tsv"] == max(made.values())
    whole, kept = Dataset.load(garden), Dataset.load(part)
    assert len(kept.queries("train")) == 5
    assert {one: kept.qrels("train")[one] for one in kept.queries("train")} == {
        one: whole.qrels("train")[one] for one in kept.queries("train")
    }
    assert kept.qrels("test") == whole.qrels("test")


@pytest.mark.slow
def test_cells_tell_what_became_of_the_training_queries(
    tmp_path: Path, tiny_encoder: Callable[..., Path], tiny_causal_lm: Callable[..., Path], garden: Path
) -> None:
    model, writer = tiny_encoder(tmp_path / "encoder", max_length=48), tiny_causal_lm(tmp_path / "writer")
    words = [
        *("--datasets", garden, "--model", model, "--writer", writer, "--max-length", "40", "--steps", "2"),
        *("--queries", "5", "--seeds", "1", "--methods", *METHODS),
        *("--models", tmp_path / "models", "--output", tmp_path / "results"),
    ]
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    cells = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "results").glob("*/*.json")}
    assert cells.keys() == {f"{method}-0" for method in METHODS}
    for method, cell in cells.items():
        assert len(cell["results"]["nDCG@10"]) == 4
        told = cell["judged"].get("rewrites")
        if method == "original-0":
            assert told is None
            assert cell["examples"] == []
        else:
            assert told["queries"] == 4  # one of 5 is held out
            assert sum(told["fates"].values()) == told["chosen"] == len(cell["examples"])
    table = (tmp_path / "results" / "table.md").read_text()
    for method in METHODS:
        mean = sum(cells[f"{method}-0"]["results"]["nDCG@10"].values()) / 4
        assert f"| {method} | 1 | {mean:.4f} | " in table
    assert "- original → augment: all nDCG@10 " in table
