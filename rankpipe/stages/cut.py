"""Cut: fewer candidates."""

from __future__ import annotations

from typing import Annotated, ClassVar

from annotated_types import Ge
from pydantic.dataclasses import dataclass

from rankpipe.run import Run
from rankpipe.stage import SETTINGS, Part, Stage


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Cut(Stage):
    """Keep the first k candidates of every query, their scores unchanged.

    k  candidates kept per query
    """

    needs: ClassVar[frozenset[Part]] = frozenset({"candidates"})
    keeps_scores: ClassVar[bool] = True

    k: Annotated[int, Ge(1)]

    def __call__(self, run: Run) -> Run:
        """Give the first k candidates of every query."""
        return run.top(self.k)
