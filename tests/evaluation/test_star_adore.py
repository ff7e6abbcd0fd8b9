"""eval/star_adore.py: a run of a few steps on a tiny network, its cells and its table."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra 'dense'")

METHODS = ("zero-shot", "random", "star", "adore-star")
SCRIPT = Path(__file__).parents[2] / "eval" / "star_adore.py"


def test_every_method_runs_and_a_finished_cell_is_not_run_again(
    tmp_path: Path, tiny_encoder: Callable[..., Path], garden: Path
) -> None:
    model = tiny_encoder(tmp_path / "encoder", max_length=48)
    words = [
        *("--datasets", garden, "--model", model, "--max-length", "40", "--steps", "2", "--seeds", "1"),
        *("--methods", *METHODS, "--models", tmp_path / "models", "--output", tmp_path / "results"),
    ]
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    cells = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "results").glob("*/*.json")}
    assert cells.keys() == {f"{method}-0" for method in METHODS}
    name = str(garden)
    for cell in cells.values():
        for measure in ("nDCG@10", "R@100"):
            values = cell["results"][name][measure]
            assert len(values) == 4
            assert all(0 <= value <= 1 for value in values.values())
    assert all(str(tmp_path / "models") not in cell["recipe"] for cell in cells.values())
    table = (tmp_path / "results" / "table.md").read_text()
    for method in METHODS:
        mean = sum(cells[f"{method}-0"]["results"][name]["nDCG@10"].values()) / 4
        assert f"| {method} | 1 | {mean:.4f} | " in table
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert all(f"{method}-0.json: finished before" in again.stderr for method in METHODS)
    assert "training" not in again.stderr
