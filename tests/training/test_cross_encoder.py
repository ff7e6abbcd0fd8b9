"""Training of a cross-encoder from end to end, on a tiny network."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'dense'")

from safetensors.torch import load_file  # noqa: E402

Command = Callable[..., Any]
Write = Callable[..., Path]

PHASES = """\
  - distil: {group: 6, random: 2, steps: 6, learning_rate: 1.0e-3}
  - labels: {group: 4, steps: 4, learning_rate: 1.0e-3}"""
DEVELOPMENT = "development: {queries: 4, depth: 5, every: 2}"


def test_training_leaves_what_plain_sentence_transformers_opens(
    garden: Path, recipe_file: Write, rankpipe: Command, tmp_path: Path
) -> None:
    from sentence_transformers import CrossEncoder

    output = tmp_path / "out"
    done = rankpipe("train", recipe_file(PHASES, more=DEVELOPMENT), "--dataset", garden, "--output", output)
    assert done.status == 0, done.err
    assert re.fullmatch(r"nDCG@10 0\.\d{4} at step \d of phase '. (distil|labels)'\n", done.out)
    assert done.err.splitlines()[-1] == f"trained: {output}"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["recipe"]["train"] == "cross-encoder"
    assert manifest["examples"]["judged"]["dropped_recurring"][0] == "train0"
    curve = [json.loads(line) for line in (output / "curve.jsonl").read_text().splitlines()]
    assert curve == manifest["curve"]
    assert [(one["phase"], one["step"]) for one in curve] == [
        ("1 distil", 2),
        ("1 distil", 4),
        ("1 distil", 6),
        ("2 labels", 2),
        ("2 labels", 4),
    ]
    best = max(curve, key=lambda one: one["nDCG@10"])
    assert manifest["best"] == {
        "measure": "nDCG@10",
        "value": best["nDCG@10"],
        "phase": best["phase"],
        "step": best["step"],
    }
    opened = CrossEncoder(str(output), device="cpu")
    assert opened.num_labels == 1
    assert opened.max_seq_length == 48
    pairs = [("the apple tree", "The apple is a fruit here."), ("a sweet car", "road " * 100)]
    found = opened.predict(pairs)
    assert found == pytest.approx(plainly_scored(output, pairs), abs=1e-5)


def plainly_scored(folder: Path, pairs: list[tuple[str, str]]) -> list[float]:
    """Logits by transformers alone."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    given = tokenizer(
        *map(list, zip(*pairs, strict=True)),
        truncation="longest_first",
        max_length=48,
        padding=True,
        return_tensors="pt",
    )
    with torch.inference_mode():
        return network(**given).logits[:, 0].tolist()


def test_a_killed_training_goes_on_to_the_same_weights(
    garden: Path, recipe_file: Write, rankpipe: Command, tmp_path: Path
) -> None:
    phases = """\
  - distil: {group: 6, random: 2, steps: 120, learning_rate: 1.0e-3}
  - labels: {group: 4, steps: 60, learning_rate: 1.0e-3}"""
    recipe = recipe_file(phases, more="development: {queries: 4, depth: 5, every: 30}\ncheckpoint: 3")

    def command(output: str) -> list[str]:
        return ["train", str(recipe), "--dataset", str(garden), "--output", str(tmp_path / output), "--threads", "1"]

    assert rankpipe(*command("whole")).status == 0
    process = subprocess.Popen([sys.executable, "-m", "rankpipe", *command("killed")], stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(tmp_path.glob(".unfinished-killed-*/step-*")):
        time.sleep(0.01)
    time.sleep(float(np.random.default_rng().uniform(0, 0.5)))  # between two checkpoints, or while one is written
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed").exists()
    done = rankpipe(*command("killed"))
    assert re.search(r"^going on after step \d+ of phase '", done.err, re.MULTILINE)
    expected, found = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert list(tmp_path.glob(".unfinished-*")) == []
