"""A package of stages as somebody else would write one; the tests put its folder on sys.path."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import Strict
from pydantic.dataclasses import dataclass

from rankpipe.run import Run
from rankpipe.stage import SETTINGS, Part, Reference, Stage


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Seek(Stage):
    """A retriever."""

    needs: ClassVar[frozenset[Part]] = frozenset()
    makes: ClassVar[frozenset[Part]] = frozenset({"candidates"})

    k: Annotated[int, Gt(0)] = 1000
    k1: Annotated[float, Ge(0)] = 0.9
    b: Annotated[float, Ge(0), Le(1)] = 0.4
    titles: bool = True
    analyzer: str = "english"
    words: Reference | None = None
    boost: dict[str, float] | None = None

    def __call__(self, run: Run) -> Run:
        return run


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class CrossRead(Stage):
    """A re-ranker with a setting that has no default, paths and a reserved word."""

    needs: ClassVar[frozenset[Part]] = frozenset({"candidates"})
    makes: ClassVar[frozenset[Part]] = frozenset({"candidates"})

    model: str
    adapter: Annotated[Path, Strict(False)] | None = None
    folders: tuple[Annotated[Path, Strict(False)], ...] = ()
    depth: Annotated[int, Gt(0)] | Literal["all"] = 100
    rest: Literal["keep", "drop"] = "keep"
    from_: str | None = None

    def __call__(self, run: Run) -> Run:
        return run


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Join(Stage):
    """A fusion: branches, and a check of settings taken together."""

    makes: ClassVar[frozenset[Part]] = frozenset({"candidates"})

    branches: Annotated[tuple[Stage, ...], MinLen(2)]
    weights: tuple[float, ...] | None = None
    bounds: tuple[float, float] | float = 0.0

    def __post_init__(self) -> None:
        if self.weights is not None and len(self.weights) != len(self.branches):
            raise ValueError(f"{len(self.weights)} weights for {len(self.branches)} branches")

    @property
    def parts(self) -> tuple[Stage, ...]:
        return self.branches

    def __call__(self, run: Run) -> Run:
        return run


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Blend(Stage):
    """Refers to earlier stages by their names."""

    needs: ClassVar[frozenset[Part]] = frozenset({"candidates"})
    makes: ClassVar[frozenset[Part]] = frozenset({"candidates"})

    with_: tuple[str, ...]
    weight: float = 0.5

    @property
    def references(self) -> tuple[str, ...]:
        return self.with_

    def __call__(self, run: Run) -> Run:
        return run


class Unfinished(Stage):
    """A stage that cannot be called."""


class NotAStage:
    """Registered by mistake."""
