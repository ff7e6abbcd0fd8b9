"""Two processes that train together: the weights of one, and one that writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'dense'")
pytest.importorskip("accelerate", reason="needs the extra 'train'")
pytest.importorskip("sentence_transformers", reason="needs the extra 'dense'")

from safetensors.torch import load_file  # noqa: E402

from rankpipe.training.click_log import write_click_log  # noqa: E402

RECIPES = {
    "bi-encoder": "  - contrastive: {batch: 5, hard: 1, steps: 4, learning_rate: 1.0e-3}\n"
    "  - distil: {batch: 3, group: 4, steps: 2, learning_rate: 1.0e-3}\n"
    "  - clicks: {log: clicks.jsonl, positions: 3, batch: 3, steps: 2, learning_rate: 1.0e-3}",
    "query-encoder": "  - adore: {batch: 1, depth: 6, steps: 4, learning_rate: 1.0e-3}",
    "cross-encoder": "  - labels: {batch: 3, group: 4, steps: 4, learning_rate: 1.0e-3}\n"
    "  - clicks: {log: clicks.jsonl, positions: 3, batch: 3, steps: 2, learning_rate: 1.0e-3}",
}
UNSEEN = ("key.bias", "classifier.bias")
"""What a softmax does not depend on: its gradient is rounding, of which AdamW makes whole steps."""


@pytest.mark.parametrize(
    "train", [pytest.param(name, marks=[pytest.mark.slow] if name != "bi-encoder" else []) for name in RECIPES]
)
def test_two_processes_come_to_the_weights_of_one(
    train: str, garden: Path, tmp_path: Path, tiny_encoder: Callable[..., Path]
) -> None:
    model = tiny_encoder(tmp_path / "encoder")
    candidates = "" if train == "query-encoder" else "candidates: {pipeline: bm25, depth: 10}\n"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"train: {train}\nmodel: {model}\nmax_length: 40\n{candidates}development: {{queries: 4, every: 2}}\n"
        f"phases:\n{RECIPES[train]}\n",
        encoding="utf-8",
    )
    shown = [
        {"query": f"train{at}", "shown": [f"d{at}", f"d{at + 9}", "d39"], "clicks": [1 + at % 3]} for at in range(9)
    ]
    write_click_log(iter(shown), tmp_path / "clicks.jsonl")
    words = ["-m", "rankpipe", "train", str(recipe), "--dataset", str(garden), "--dtype", "float32", "--threads", "1"]
    launched = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    launched += ["--rdzv-endpoint", "localhost:0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name, start in (("one", []), ("two", launched)):
        command = [sys.executable, *start, *words, "--output", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count(f"trained: {tmp_path / name}") == 1  # one of them speaks
    one, two = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("one", "two"))
    assert ("processes" in one["runtime"], two["runtime"]["processes"]) == (False, 2)
    for left, right in zip(one["curve"], two["curve"], strict=True):
        assert left["nDCG@10"] == pytest.approx(right["nDCG@10"], abs=1e-6)
        assert left.get("loss", 0) == pytest.approx(right.get("loss", 0), rel=1e-4)
    for left, right in zip(one.get("positions", []), two.get("positions", []), strict=True):
        assert left is right is None or left["propensities"] == pytest.approx(right["propensities"], rel=1e-3)
    weights = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.safetensors"))
    assert weights
    for path in weights:
        expected, found = (load_file(tmp_path / name / path) for name in ("one", "two"))
        for name, tensor in expected.items():
            if name.endswith(UNSEEN):
                continue
            torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5)
    assert list(tmp_path.glob(".unfinished-*")) == []
