"""A small data set and a tiny encoder to train with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
