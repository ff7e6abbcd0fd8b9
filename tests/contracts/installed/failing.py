"""A stage with a fault."""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from rankpipe.run import Run
from rankpipe.stage import SETTINGS, Part, Stage


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Fail(Stage):
    """Fails, in two lines."""

    needs: ClassVar[frozenset[Part]] = frozenset({"candidates"})

    def __call__(self, run: Run) -> Run:
        """Raise what nobody expects."""
        raise ValueError("one thing\nand another")
