"""A small data set and a tiny encoder to train with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

WORDS = ("apple", "fruit", "road", "car", "sweet", "tree", "query", "passage")


@pytest.fixture
def garden(tmp_path: Path) -> Path:
    """A folder in BEIR layout: 40 documents of few words, 12 training queries, 4 dev, 4 test; two texts in common."""
    folder = tmp_path / "garden"
    (folder / "qrels").mkdir(parents=True)
    rng = np.random.default_rng(5)
    documents = []
    for number in range(40):
        first, second = rng.choice(WORDS, 2, replace=False)
        words = " ".join(rng.choice(WORDS, 6))
        documents.append(
            {
                "_id": f"d{number}",
                "title": f"The {first} {second} {number}",
                "text": f"The {first} is a {second} here. {words.capitalize()} and {words} {number}.",
            }
        )
    queries, lines = [], {"train": [], "dev": [], "test": []}
    for split, count in (("train", 12), ("dev", 4), ("test", 4)):
        for number in range(count):
            row = int(rng.integers(40))
            text = documents[row]["title"].lower() if number else "the apple tree"  # one text is in every split
            queries.append({"_id": f"{split}{number}", "text": text})
            lines[split].append(f"{split}{number}\td{row}\t2")
            lines[split].append(f"{split}{number}\td{(row + 1) % 40}\t1")
    for name, records in (("corpus", documents), ("queries", queries)):
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    for split, judged in lines.items():
        text = "\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n"
        (folder / "qrels" / f"{split}.tsv").write_text(text, encoding="utf-8")
    return folder


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
