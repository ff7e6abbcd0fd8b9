"""Interpolate: the present scores mixed with those of an earlier stage."""

from __future__ import annotations

from typing import Annotated, ClassVar

from annotated_types import Ge, Le, Len
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from rankpipe.run import Run
from rankpipe.stage import SETTINGS, Part, Several, Stage, StageName
from rankpipe.stages.normalise import Normalisation, normalised, of_earlier


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Interpolate(Stage):
    """Score the candidates by weight · earlier + (1 - weight) · present, both normalised query by query.

    A candidate that the earlier stage did not score gets from it 0, or the lowest value that it gave the query's
    candidates if that is less.

    with_      `name` of the earlier stage; in YAML the setting is called `with`
    weight     of the earlier stage's scores, from 0 to 1
    normalise  see rankpipe.stages.normalise
    minimum    for normalise: theoretical-minimum: the lowest scores that the earlier stage and the present one can give
    """

    needs: ClassVar[frozenset[Part]] = frozenset({"candidates"})

    with_: StageName
    weight: Annotated[float, Ge(0), Le(1)] = 0.5
    normalise: Normalisation = "min-max"
    minimum: Annotated[Several[float], Len(2, 2)] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Interpolate:
        if (self.normalise == "theoretical-minimum") != (self.minimum is not None):
            raise ValueError("'minimum' and 'normalise: theoretical-minimum' need each other")
        return self

    @property
    def references(self) -> tuple[str, ...]:
        """The earlier stage's name."""
        return (self.with_,)

    def __call__(self, run: Run) -> Run:
        """Mix the scores. Raises UsageError if no stage left scores under the name `with_`."""
        first, second = self.minimum or (None, None)
        earlier = of_earlier(run, self.with_, self.type_name(), self.normalise, first)
        present = normalised(run.scores, run.offsets, self.normalise, second)
        return run.rescored(self.weight * earlier + (1 - self.weight) * present)
