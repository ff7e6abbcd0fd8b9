"""Phases that learn from a log of clicks, whatever they train. No torch here."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, MinLen
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from rankpipe.stage import SETTINGS, InputFile, Several, is_default
from rankpipe.training.recipe import AnyPhase, Phase


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class FromLog(AnyPhase):
    """Learn clicks.

    log        file of sessions, see rankpipe.training.click_log
    bad        lines of it that are wrong: "refuse" them all, told with their numbers, or "leave-out", and count them
    positions  that are learnt from; what was shown below them is left out
    """

    log: InputFile
    bad: Literal["refuse", "leave-out"] = "refuse"
    positions: Annotated[int, Ge(1)] = 10


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class ClickMethod(FromLog):
    """Learn clicks along a gradient; see rankpipe.training.click_losses.

    method           dla; regression-em; pair-debias; known: `propensities` are given; naive: clicks are taken for relevance
    propensities     of method "known", of every position from the first on
    propensity_rate  learning rate of what dla learns of positions
    limit            weight of a click, at most
    context          of method "dla": clicks above a position may change whether it is looked at; then every session is a
                     list of its own
    """

    method: Literal["dla", "regression-em", "pair-debias", "known", "naive"] = "dla"
    propensities: Annotated[Several[Annotated[float, Gt(0)]], MinLen(1)] | None = None
    propensity_rate: Annotated[float, Gt(0)] = 0.5
    limit: Annotated[float, Gt(1)] = 100.0
    context: bool = False

    @model_validator(mode="after")
    def _fits(self) -> ClickMethod:
        if self.context and self.method != "dla":
            raise ValueError("'context' is of 'method: dla'")
        takers = {"propensity_rate": ("dla",), "limit": ("dla", "known")}
        for name, methods in takers.items():
            if not is_default(self, name) and self.method not in methods:
                raise ValueError(
                    f"'{name}' is of 'method: {' and '.join(methods)}', and changes nothing of '{self.method}'"
                )
        if (self.method == "known") != (self.propensities is not None):
            raise ValueError("'propensities' and 'method: known' need each other")
        return self


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class TextClicks(Phase, ClickMethod):
    """Learn clicks with a network that reads texts: it scores all documents of every list of a step.

    batch            lists of a step
    propensity_rate  as ever; here .05 by default, for AdamW's steps are as long as the rate
    """

    propensity_rate: Annotated[float, Gt(0)] = 0.05
