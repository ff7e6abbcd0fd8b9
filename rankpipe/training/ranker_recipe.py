"""The recipe of a ranker of features, which learns from grades or from clicks. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import Strict, model_validator
from pydantic.dataclasses import dataclass

from rankpipe.stage import SETTINGS, Reference, Several
from rankpipe.training.recipe import INNER, Phase, Recipe, check_depth


@dataclass(frozen=True, kw_only=True, config=INNER)
class FeatureCandidates:
    """What is ranked.

    pipeline  file, or name of a shipped one, that ends with the stage `features`: its candidates and their columns
    depth     candidates of a query, the first ones
    """

    pipeline: Reference
    depth: Annotated[int, Strict(), Ge(2)] = 100


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class RankerPhase(Phase):
    """Steps over lists of candidates.

    batch      lists of a step
    optimizer  adagrad: Duchi, Hazan and Singer, JMLR 2011, which the papers on clicks take; adamw
    warm_up    as in every phase; here 0 by default
    clip       likewise 5
    """

    batch: Annotated[int, Ge(1)] = 128
    optimizer: Literal["adagrad", "adamw"] = "adagrad"
    warm_up: Annotated[float, Ge(0)] = 0.0
    clip: Annotated[float, Gt(0)] = 5.0


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Grades(RankerPhase):
    """Learn judgements.

    loss  see rankpipe.training.losses
    """

    loss: Literal["softmax", "list-net", "ranknet", "lambda", "list-mle", "approx-ndcg"] = "softmax"


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Clicks(RankerPhase):
    """Learn clicks; see rankpipe.training.click_losses.

    log              file of sessions, see rankpipe.training.click_log
    bad              lines of it that are wrong: "refuse" them all, told with their numbers, or "leave-out", and count them
    method           dla; regression-em; pair-debias; known: `propensities` are given; naive: clicks are taken for relevance
    propensities     of method "known", of every position from the first on
    positions        that are learnt from; what was shown below them is left out
    propensity_rate  learning rate of what dla learns of positions
    limit            weight of a click, at most
    """

    log: Annotated[Path, Strict(False)]
    bad: Literal["refuse", "leave-out"] = "refuse"
    method: Literal["dla", "regression-em", "pair-debias", "known", "naive"] = "dla"
    propensities: Annotated[Several[Annotated[float, Gt(0)]], MinLen(1)] | None = None
    positions: Annotated[int, Ge(1)] = 10
    propensity_rate: Annotated[float, Gt(0)] = 0.5
    limit: Annotated[float, Gt(1)] = 100.0

    @model_validator(mode="after")
    def _fits(self) -> Clicks:
        if (self.method == "known") != (self.propensities is not None):
            raise ValueError("'propensities' and 'method: known' need each other")
        return self


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class RankerRecipe(Recipe):
    """A ranker of features for the stage `learned`.

    hidden      units of each layer of the network; none: a linear ranker
    candidates  what is ranked, and its features
    """

    name: ClassVar[str] = "ranker"
    phase_kinds: ClassVar[Mapping[str, type[Phase]]] = {"grades": Grades, "clicks": Clicks}

    hidden: Several[Annotated[int, Ge(1), Le(4096)]] = ()
    candidates: FeatureCandidates

    @model_validator(mode="after")
    def _within(self) -> RankerRecipe:
        check_depth(self.development, self.candidates.depth)
        return self
