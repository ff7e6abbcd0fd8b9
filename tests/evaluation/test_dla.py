"""eval/dla.py: a short run on real lists, its cell and its table."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra 'dense'")

SCRIPT = Path(__file__).parents[2] / "eval" / "dla.py"


def test_every_method_runs_and_a_finished_cell_is_not_run_again(
    tmp_path: Path, real_file: Callable[[str], Path]
) -> None:
    real_file("ltr-lightgbm/train.txt.gz")
    words = ["--datasets", "ltr-lightgbm", "--models", "pbm-1", "--seeds", "1", "--sessions", "20000", "--steps", "20"]
    command = [sys.executable, str(SCRIPT), *words, "--output", str(tmp_path)]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    cell = json.loads((tmp_path / "ltr-lightgbm" / "pbm-1-0.json").read_text())
    assert len(cell["methods"]) == 8
    for one in (cell["logging"], *(method["test"] for method in cell["methods"].values())):
        assert len(one) == 8
        assert all(0 < value < 1 for value in one.values())
    assert cell["methods"]["oracle"]["propensities"] == pytest.approx(cell["examination"], abs=1e-5)
    assert f"| dla | {cell['methods']['dla']['test']['nDCG@1']:.4f} | " in (tmp_path / "table.md").read_text()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "pbm-1-0.json: finished before" in again.stderr
