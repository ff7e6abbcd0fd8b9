"""eval/trained.py: trainings run by command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from rankpipe.errors import RankpipeError


def test_a_training_that_takes_too_long_is_to_be_gone_on_with(
    eval_script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, output = eval_script("trained"), tmp_path / "out"
    monkeypatch.setattr(script, "LIMIT", 0)
    with pytest.raises(RankpipeError) as caught:
        script.train(tmp_path / "recipe.yaml", "garden", output, lambda *_, **__: None)
    assert str(caught.value) == f"{output}: stopped after 0 minutes; run the command again, it goes on where it was"
    said: list[str] = []
    arguments = (lambda: script.train(tmp_path / "recipe.yaml", "garden", output, lambda *_, **__: None), "a cell")
    assert not script.cell_done(*arguments, lambda text, **_: said.append(text))
    assert said == [f"a cell: failed: {caught.value}"]
