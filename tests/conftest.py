"""Fixtures for all tests: a store of its own for every test, and real data sets where there are any."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from rankpipe.data import Dataset

settings.register_profile("rankpipe", deadline=None)  # how long an example takes is no property of the code
settings.load_profile("rankpipe")


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
