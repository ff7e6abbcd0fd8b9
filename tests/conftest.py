from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every test a store of its own."""
    monkeypatch.setenv("RANKPIPE_HOME", str(tmp_path / "store"))
