"""Fixtures for all tests: a store of its own for every test, and real data sets where there are any."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings

from rankpipe.cli import main
from rankpipe.data import Dataset

settings.register_profile("rankpipe", deadline=None)  # how long an example takes is no property of the code
settings.load_profile("rankpipe")


class Called(NamedTuple):
    """What a command left: its exit status, and what it wrote to standard output and standard error."""

    status: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test gets an empty store in its own folder: RANKPIPE_HOME."""
    home = tmp_path / "store"
    monkeypatch.setenv("RANKPIPE_HOME", str(home))
    return home


@pytest.fixture
def real_dataset() -> Callable[[str], Dataset]:
    """`real_dataset("scifact")`: that folder of RANKPIPE_DATA as a Dataset; the test is skipped where there is none."""

    def find(name: str) -> Dataset:
        roots = [Path(root) for root in os.environ.get("RANKPIPE_DATA", "").split(os.pathsep) if root]
        for root in roots:
            if (root / name).is_dir():
                return Dataset.load(root / name)
        pytest.skip(f"needs the data set {name}: RANKPIPE_DATA names no folder that holds it")

    return find


@pytest.fixture
def rankpipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Called]:
    """`rankpipe("run", "bm25")`: the command line, called in this process."""

    def call(*arguments: str | Path) -> Called:
        monkeypatch.setattr(sys, "argv", ["rankpipe", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        assert isinstance(end.value.code, int)
        captured = capsys.readouterr()
        return Called(end.value.code, captured.out, captured.err)

    return call


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A folder in BEIR layout: four documents, one of them without text, three queries, one of stop words only."""
    folder = tmp_path / "pets"
    (folder / "qrels").mkdir(parents=True)
    documents = [
        {"_id": "d1", "title": "Cats", "text": "The cat sat on the mat."},
        {"_id": "d2", "title": "Dogs", "text": "A dog took the bone of the cat."},
        {"_id": "d3", "title": "", "text": "Birds fly south in winter."},
        {"_id": "d4", "title": "Fish", "text": ""},
    ]
    queries = [
        {"_id": "q1", "text": "cat on a mat"},
        {"_id": "q2", "text": "winter birds"},
        {"_id": "q3", "text": "to be or not to be"},
    ]
    for name, records in (("corpus", documents), ("queries", queries)):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    judged = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t1\nq2\td3\t1\nq3\td4\t1\n"
    (folder / "qrels" / "test.tsv").write_text(judged, encoding="utf-8")
    return folder
