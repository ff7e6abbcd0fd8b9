"""A small data set and a tiny encoder to train with."""

from __future__ import annotations

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


@pytest.fixture
def recipe_file(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> Callable[..., Path]:
    """`recipe_file(phases, ...)` writes a recipe of a tiny encoder, and gives its path."""
    model = tiny_encoder(tmp_path / "encoder")

    def write(phases: str, *, more: str = "", name: str = "recipe") -> Path:
        path = tmp_path / f"{name}.yaml"
        text = f"train: cross-encoder\nmodel: {model}\nmax_length: 48\ncandidates: {{pipeline: bm25, depth: 10}}\n"
        path.write_text(f"{text}{more}\nphases:\n{phases}\n", encoding="utf-8")
        return path

    return write


@pytest.fixture
def killed_and_resumed(garden: Path, tmp_path: Path, rankpipe: Callable[..., Any]) -> Callable[[Path], list[Path]]:
    """`killed_and_resumed(recipe)` trains it whole, and again with a kill in between: the outputs, checked to go on."""

    def command(recipe: Path, output: Path) -> list[str]:
        return ["train", str(recipe), "--dataset", str(garden), "--output", str(output), "--threads", "1"]

    def train(recipe: Path) -> list[Path]:
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        assert rankpipe(*command(recipe, whole)).status == 0
        words = [sys.executable, "-m", "rankpipe", *command(recipe, killed)]
        process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        while process.poll() is None and not list(tmp_path.glob(".unfinished-killed-*/step-*")):
            time.sleep(0.01)
        time.sleep(float(np.random.default_rng().uniform(0, 0.3)))  # between two checkpoints, or while one is written
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not killed.exists()
        done = rankpipe(*command(recipe, killed))
        assert re.search(r"^going on after step \d+ of phase '", done.err, re.MULTILINE)
        assert list(tmp_path.glob(".unfinished-*")) == []
        return [whole, killed]

    return train
