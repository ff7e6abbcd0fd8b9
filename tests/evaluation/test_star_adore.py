"""eval/star_adore.py: a run of a few steps on a tiny network, its cells and its table."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

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


def test_queries_that_ask_for_documents_of_training_queries_stand_apart(
    tmp_path: Path, eval_script: Callable[[str], ModuleType]
) -> None:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text("".join(f'{{"_id": "d{at}", "text": "word"}}\n' for at in range(4)))
    (tmp_path / "queries.jsonl").write_text("".join(f'{{"_id": "q{at}", "text": "word {at}"}}\n' for at in range(4)))
    for split, lines in (
        ("train", ["q0\td0\t1", "q0\td1\t0"]),  # d1 is not relevant
        ("test", ["q1\td0\t1", "q1\td2\t1", "q2\td1\t2", "q3\td2\t1", "q3\td0\t0"]),
    ):
        (tmp_path / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")
    name = str(tmp_path)

    def cell(*values: float) -> dict[str, Any]:
        return {"results": {name: {"nDCG@10": dict(zip(("q1", "q2", "q3"), values, strict=True))}}}

    of = {"zero-shot": [cell(0.1, 0.2, 0.4)], "star": [cell(0.5, 0.6, 0.8), cell(0.7, 0.8, 0.8)]}
    lines = list(eval_script("star_adore")._apart(of, name))
    assert lines == [
        "\nOf 2 test queries no relevant document is one of a training query, of 1 at least one is; nDCG@10 of either:\n",
        "| method | none is | one is |\n|---|---:|---:|",
        "| zero-shot | 0.3000 | 0.1000 |",
        "| star | 0.7500 ± 0.0707 | 0.6000 ± 0.1414 |",
    ]
