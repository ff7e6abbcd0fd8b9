"""eval/rewriting.py: a run on tiny networks, its cells and its table."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra 'dense'")

METHODS = ("bm25", "query2doc", "dense", "hyde")
SCRIPT = Path(__file__).parents[2] / "eval" / "rewriting.py"


def test_cells_tell_what_was_asked_and_what_it_brought(
    tmp_path: Path, tiny_encoder: Callable[..., Path], tiny_causal_lm: Callable[..., Path], garden: Path
) -> None:
    model, writer = tiny_encoder(tmp_path / "encoder"), tiny_causal_lm(tmp_path / "writer")
    words = [
        *("--datasets", garden, "--model", model, "--writer", writer, "--queries", "3", "--passages", "2"),
        *("--methods", *METHODS, "--output", tmp_path / "results"),
    ]
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    cells = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "results").glob("*/*.json")}
    assert cells.keys() == set(METHODS)
    table = (tmp_path / "results" / "table.md").read_text()
    for method, cell in cells.items():
        values = cell["per_query"]["nDCG@10"]
        assert len(values) == 3
        assert cell["measures"]["nDCG@10"] == pytest.approx(sum(values.values()) / 3)
        assert f"| {method} | {cell['measures']['nDCG@10']:.4f}" in table
        if method in ("query2doc", "hyde"):
            assert cell["counted"]["queries"] == 3
            assert len(cell["examples"]) == 3
            assert f"{cell['counted']['unchanged']} of 3 |" in table
        else:
            assert cell["counted"] == {}
