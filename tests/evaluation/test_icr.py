"""eval/icr.py: a few queries on a tiny network, its cells and its table."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'llm'")

CELLS = ("attention", "bias", "pointwise", "likelihood", "setwise", "listwise", "listwise-constrained")
SCRIPT = Path(__file__).parents[2] / "eval" / "icr.py"


def test_every_cell_runs_and_a_finished_one_is_not_run_again(
    tmp_path: Path, tiny_causal_lm: Callable[..., Path], garden: Path
) -> None:
    model = tiny_causal_lm(tmp_path / "model", positions=2048)
    words = [
        *("--datasets", garden, "--choice", garden, "--model", model, "--queries", "4"),
        *("--generated", "2", "--shuffled", "2", "--early", "0", "--output", tmp_path / "results"),
    ]
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    files = [path for path in (tmp_path / "results").glob("*/*.json") if path.parent.name != "choice"]
    cells = {path.stem: json.loads(path.read_text()) for path in files}
    assert cells.keys() == set(CELLS)
    read = cells["attention"]["by_query"]
    variants = {"raw", "calibrated", "qr", "core", "logistic", "qr-early", "logistic-early"}
    readings = {f"{order}, {normalise}" for order in ("reverse", "forward") for normalise in ("sum", "mean")}
    alone = {f"{variant}, {reading}" for variant in variants for reading in readings}
    assert read.keys() == {"first", *alone, *(f"{variant}, mixed" for variant in variants)}
    for values in (*read.values(), *(cells[kind]["by_query"][kind] for kind in CELLS[2:])):
        assert all(0 <= value <= 1 for value in values.values())
    assert len(read["first"]) == 4
    assert all(cells[kind]["by_query"]["first"].items() <= read["first"].items() for kind in CELLS[2:])
    assert [len(orders) for orders in cells["bias"]["by_order"].values()] == [4] * 7
    [choice] = (json.loads(path.read_text()) for path in (tmp_path / "results" / "choice").glob("*.json"))
    assert choice["by_weight"].keys() == alone
    for name in variants:
        tried = [max(choice["by_weight"][f"{name}, {reading}"].values()) for reading in readings]
        taken = choice["by_weight"][f"{name}, {', '.join(choice['reading'][name])}"][f"{choice['weight'][name]:g}"]
        assert taken == choice["best"][name] == max(tried)
    table = (tmp_path / "results" / "table.md").read_text()
    for name in ("raw", "calibrated"):
        tried = {f"{name}, {reading}": choice["by_weight"][f"{name}, {reading}"]["0"] for reading in readings}
        shown = {one for one in tried if f"| {one} | {sum(read[one].values()) / 4:.4f} (p" in table}
        assert len(shown) == 1
        assert tried[shown.pop()] == max(tried.values())
        with_first = f"| {name}, {', '.join(choice['reading'][name])}, mixed, weight {choice['weight'][name]:g} |"
        assert f"{with_first} {sum(read[f'{name}, mixed'].values()) / 4:.4f} (p" in table
    orders = cells["bias"]["by_order"]["raw"]
    values = [[order[query_id] for order in orders] for query_id in orders[0]]
    told = [np.mean(values), np.std(values, axis=1, ddof=1).mean()]
    told += [np.mean([read[f"raw, {order}, sum"][one] for one in orders[0]]) for order in ("reverse", "forward")]
    assert "| raw | {:.4f} ± {:.4f} ({:.4f} / {:.4f}) |".format(*told) in table
    for recipe in (tmp_path / "results" / "heads").glob("*.yaml"):  # of another data set they would be found anew
        assert recipe.read_text().startswith(f"# found on {garden}\ntrain: attention-heads\n")
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert all(f"{kind}.json: finished before" in again.stderr for kind in CELLS)
    assert "reading" not in again.stderr
