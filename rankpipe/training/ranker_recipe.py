"""The recipe of a ranker of features, which learns from grades or from clicks. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le
from pydantic import Strict, model_validator
from pydantic.dataclasses import dataclass

from rankpipe.stage import SETTINGS, Part, Reference, Several, is_default
from rankpipe.training.click_phases import ClickMethod, FromLog
from rankpipe.training.recipe import INNER, AnyPhase, Phase, Recipe, check_depth

Share = Annotated[float, Gt(0), Le(1)]


@dataclass(frozen=True, kw_only=True, config=INNER)
class FeatureCandidates:
    """What is ranked.

    pipeline  file, or name of a shipped one, that ends with the stage `features`: its candidates and their columns
    depth     candidates of a query, the first ones
    without   columns that the ranker is not to see: what is as good as the position that a log was shown in, such as
              reciprocal-rank, cannot be told from it
    """

    pipeline: Reference
    depth: Annotated[int, Strict(), Ge(2)] = 100
    without: Several[str] = ()


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
    warm_up: Annotated[float, Ge(0), Le(1)] = 0.0
    clip: Annotated[float, Gt(0)] = 5.0


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Grades(RankerPhase):
    """Learn judgements.

    loss  see rankpipe.training.losses
    """

    loss: Literal["softmax", "list-net", "ranknet", "lambda", "list-mle", "approx-ndcg"] = "softmax"


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Clicks(RankerPhase, ClickMethod):
    """Learn clicks with a ranker of features."""


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Trees(AnyPhase):
    """Trees by LightGBM, a tree a step. Names and defaults are LightGBM's own, and its documentation says what they do.

    sigmoid  slope of the pairs' loss
    """

    learning_rate: Annotated[float, Gt(0)] = 0.1
    num_leaves: Annotated[int, Ge(2), Le(131072)] = 31
    max_depth: Annotated[int, Ge(1)] | None = None
    min_data_in_leaf: Annotated[int, Ge(0)] = 20
    min_sum_hessian_in_leaf: Annotated[float, Ge(0)] = 1e-3
    min_gain_to_split: Annotated[float, Ge(0)] = 0.0
    feature_fraction: Share = 1.0
    bagging_fraction: Share = 1.0
    bagging_freq: Annotated[int, Ge(0)] = 0
    lambda_l1: Annotated[float, Ge(0)] = 0.0
    lambda_l2: Annotated[float, Ge(0)] = 0.0
    max_bin: Annotated[int, Ge(2)] = 255
    sigmoid: Annotated[float, Gt(0)] = 1.0

    @model_validator(mode="after")
    def _bags(self) -> Trees:
        if (self.bagging_fraction < 1) != (self.bagging_freq > 0):
            raise ValueError("'bagging_fraction' below 1 and 'bagging_freq' above 0 need each other")
        return self


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class LambdaMart(Trees):
    """Learn judgements: LightGBM's objective lambdarank. Burges, Microsoft Research MSR-TR-2010-82.

    lambdarank_truncation_level  ranks that pairs are made with
    lambdarank_norm              whether every query's lambdas are brought to one scale
    """

    lambdarank_truncation_level: Annotated[int, Ge(1)] = 30
    lambdarank_norm: bool = True


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class LambdaMartClicks(Trees, FromLog):
    """Learn clicks; see rankpipe.training.lambda_clicks.

    method  pair-debias: Unbiased LambdaMART (Hu et al., WWW 2019); naive: clicks are taken for relevance
    norm    p of the paper's regulariser: the higher, the weaker the correction
    """

    method: Literal["pair-debias", "naive"] = "pair-debias"
    norm: Annotated[float, Ge(0)] = 1.0

    @model_validator(mode="after")
    def _corrects(self) -> LambdaMartClicks:
        if self.method == "naive" and not is_default(self, "norm"):
            raise ValueError("'norm' is of 'method: pair-debias', and changes nothing of 'naive'")
        return self


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class RankerRecipe(Recipe):
    """A ranker of features for the stage `learned`: a network, or trees.

    hidden      units of each layer of the network; none: a linear ranker
    candidates  what is ranked, and its features; None: the lists of a data set that has features itself
    """

    name: ClassVar[str] = "ranker"
    phase_kinds: ClassVar[Mapping[str, type[AnyPhase]]] = {
        "grades": Grades,
        "clicks": Clicks,
        "lambdamart": LambdaMart,
        "lambdamart-clicks": LambdaMartClicks,
    }
    learns_from: ClassVar[Part] = "features"

    hidden: Several[Annotated[int, Ge(1), Le(4096)]] = ()
    candidates: FeatureCandidates | None = None

    @property
    def trees(self) -> Trees | None:
        """The one phase that grows trees, if there is one."""
        return next((phase for phase in self.phases if isinstance(phase, Trees)), None)

    @property
    def depth(self) -> int | None:
        """Candidates of a query, the first ones; None: all of them."""
        return None if self.candidates is None else self.candidates.depth

    @model_validator(mode="after")
    def _within(self) -> RankerRecipe:
        if self.candidates is not None:
            check_depth(self.development, self.candidates.depth)
        if self.trees is None:
            return self
        kind = self.kind_of(self.trees)
        if len(self.phases) > 1:
            raise ValueError(f"trees are grown in one phase: '{kind}' stands alone")
        if self.hidden:
            raise ValueError(f"'hidden' is of networks, and '{kind}' grows trees")
        if self.subset is not None:
            raise ValueError(f"'subset' is of networks; '{kind}' has bagging_fraction and bagging_freq")
        return self
