"""What recipes have in common: what is trained, on what, how long. Settings as those of stages are; no torch here.

A training is a class of settings; the phases it runs one after the other are classes of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import AfterValidator, ConfigDict, Strict, model_validator
from pydantic.dataclasses import dataclass

from rankpipe.errors import told_of_a_setting
from rankpipe.evaluation.manifest import plain
from rankpipe.evaluation.measures import read_measures
from rankpipe.stage import SETTINGS, Part, Reference, Several

INNER = ConfigDict(extra="forbid", allow_inf_nan=False)
"""Of settings inside a setting: not strict as a whole, so that a map becomes them; numbers are marked as Strict."""


def _known_measure(name: str) -> str:
    with told_of_a_setting():
        read_measures(name)
    return name


Measure = Annotated[str, AfterValidator(_known_measure)]
DEVELOPMENT_DEPTH = 50
"""Candidates that development re-ranks if nothing is said: what it measures is decided by the first ones."""
HELD_OUT = 0.2
"""Share of the training queries that development holds out if nothing is said."""


@dataclass(frozen=True, kw_only=True, config=INNER)
class Subset:
    """A part of the training queries, as many times fewer steps, and a schedule as much shorter.

    kind         rs2: another part in every round, see below; fixed: one part, drawn once
    ratio        of the queries
    replacement  rs2: whether every part is drawn from all queries; without, they take turns until all were there

    RS2, repeated sampling of random subsets: Okanovic et al., ICLR 2024, arXiv 2305.18424. What any cleverer choice of
    training data has to be better than.
    """

    kind: Literal["rs2", "fixed"]
    ratio: Annotated[float, Strict(), Gt(0), Le(1)]
    replacement: Annotated[bool, Strict()] = False

    @model_validator(mode="after")
    def _fits(self) -> Subset:
        if self.replacement and self.kind == "fixed":
            raise ValueError("'replacement' is of 'kind: rs2'; a fixed part is drawn once")
        return self


@dataclass(frozen=True, kw_only=True, config=INNER)
class Development:
    """How it is judged, while training, what to keep and when to stop: the candidates of queries are re-ranked.

    split     None: "dev" where the data set has such a split; else, and where it is the split that is trained on,
              queries of the training split are held out
    held_out  share of the training queries that are then held out; they train nothing. Set where none is, it is an error
    queries   of the split at most, drawn by the seed
    depth     candidates that are re-ranked; None: those there are, at most 50
    measure   decides
    every     steps from one measurement to the next
    patience  measurements without a better one after which a phase ends; None: never
    """

    split: str | None = None
    held_out: Annotated[float, Strict(), Gt(0), Lt(1)] = HELD_OUT
    queries: Annotated[int, Strict(), Ge(1)] = 150
    depth: Annotated[int, Strict(), Ge(1)] | None = None
    measure: Measure = "nDCG@10"
    every: Annotated[int, Strict(), Ge(1)] = 200
    patience: Annotated[int, Strict(), Ge(1)] | None = 3

    @model_validator(mode="after")
    def _known(self) -> Development:
        if self.split == "test":
            raise ValueError("'split: test' is for reporting; development takes dev, or holds out training queries")
        return self


def check_depth(development: Development, candidates: int) -> None:
    """Raise ValueError where development re-ranks more than so many candidates."""
    if (development.depth or 0) > candidates:
        raise ValueError(
            f"'development' re-ranks {development.depth} candidates, and there are {candidates} ('candidates', 'depth')"
        )


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class AnyPhase:
    """Steps with one loss.

    steps          at most
    learning_rate  the highest
    """

    steps: Annotated[int, Ge(1)]
    learning_rate: Annotated[float, Gt(0)]


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Phase(AnyPhase):
    """Steps along a gradient, with one schedule. AdamW (Loshchilov and Hutter, arXiv 1711.05101).

    batch         queries of a step
    warm_up       share of the steps in which the learning rate rises from 0
    schedule      how it falls to 0 afterwards
    weight_decay  of matrices; biases and norms have none
    clip          largest norm of the gradient; a larger one is scaled down
    """

    batch: Annotated[int, Ge(1)] = 4
    warm_up: Annotated[float, Ge(0), Le(1)] = 0.1
    schedule: Literal["linear", "cosine"] = "linear"
    weight_decay: Annotated[float, Ge(0)] = 0.01
    clip: Annotated[float, Gt(0)] = 1.0


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class AnyRecipe:
    """What every training is told.

    learns_from  what the pipeline has to leave that `candidates` names

    split  of the data set, whose judgements are trained on
    seed   of all that is drawn

    description  one line for people
    """

    name: ClassVar[str]
    phase_kinds: ClassVar[Mapping[str, type[AnyPhase]]] = {}
    learns_from: ClassVar[Part] = "candidates"

    description: str | None = None
    split: str = "train"
    seed: Annotated[int, Ge(0), Le(2**31 - 1)] = 0

    @property
    def summary(self) -> str:
        """What the training does, in a few words."""
        return f"trains a {self.name}"

    def described(self) -> dict[str, Any]:
        """All settings, those at their defaults included, as JSON takes them."""
        return {"train": self.name, **plain(self)}

    @model_validator(mode="after")
    def _trains(self) -> AnyRecipe:
        if self.split == "test":
            raise ValueError("'split: test' is for reporting, not for training")
        return self


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class FromModel(AnyRecipe):
    """A training that begins with a model.

    model  folder, hub name, alias or package: its reference
    """

    model: Reference


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Recipe(AnyRecipe):
    """A training in steps.

    phases       one after the other; each goes on from the best weights of the one before
    development  how it is judged what to keep and when to stop
    subset       the part of the training queries that is used; None: all
    checkpoint   steps after which what a killed training goes on from is written, besides every measurement
    """

    phases: Annotated[Several[AnyPhase], MinLen(1)]
    development: Development = Development()
    subset: Subset | None = None
    checkpoint: Annotated[int, Ge(1)] = 100

    @property
    def summary(self) -> str:
        """What is trained, and how long at most."""
        return f"{super().summary} in {self.steps:,} steps at most"

    @property
    def planned(self) -> Sequence[Any]:
        """The phases, of the recipe's kinds, as they are run: of a subset of the queries, with as many times fewer steps."""
        if self.subset is None:
            return self.phases
        return [replace(phase, steps=math.ceil(self.subset.ratio * phase.steps)) for phase in self.phases]

    @property
    def steps(self) -> int:
        """Steps of all phases, if none ends early."""
        return sum(phase.steps for phase in self.planned)

    def described(self) -> dict[str, Any]:
        """All settings, those at their defaults included, as JSON takes them."""
        return {**super().described(), "phases": [{self.kind_of(phase): plain(phase)} for phase in self.phases]}

    @model_validator(mode="after")
    def _holds_out(self) -> Recipe:
        development = self.development
        if development.split not in (None, self.split) and development.held_out != HELD_OUT:
            raise ValueError(
                f"'development' holds out no training queries ('held_out'), for it has 'split: {development.split}'"
            )
        return self

    def kind_of(self, phase: AnyPhase) -> str:
        """The name of a phase's kind."""
        return next(name for name, kind in self.phase_kinds.items() if type(phase) is kind)
