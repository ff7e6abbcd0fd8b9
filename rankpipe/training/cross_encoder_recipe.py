"""The recipe of a cross-encoder. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from annotated_types import Ge, Lt, MinLen
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from rankpipe.models.adapters.registry import AdapterSettings
from rankpipe.stage import SETTINGS, Several
from rankpipe.training.click_phases import TextClicks
from rankpipe.training.group_phases import Candidates, Distil, Labels
from rankpipe.training.recipe import DEVELOPMENT_DEPTH, FromModel, Phase, Recipe, check_depth
from rankpipe.training.rewrite import Rewrite


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class CrossEncoderRecipe(Recipe, FromModel):
    """A cross-encoder: a network that reads a query and a document together.

    model       any encoder
    max_length  tokens of a query and a document together; what is longer is cut
    fields      of a document, joined by a blank, that are read
    adapter     what is trained of the network, see `rankpipe adapters`; None: all of it
    dropout     share of the activations that training drops, whatever the model's configuration says; on a CPU, to draw
                them takes half as long again as all the rest
    candidates  what hard negatives and teacher scores come from, and what development re-ranks
    rewrite     how queries are put in other words for the phases that learn from judgements; None: they are not
    """

    name: ClassVar[str] = "cross-encoder"
    phase_kinds: ClassVar[Mapping[str, type[Phase]]] = {"distil": Distil, "labels": Labels, "clicks": TextClicks}

    max_length: Annotated[int, Ge(8)] = 256
    fields: Annotated[Several[str], MinLen(1)] = ("title", "text")
    adapter: AdapterSettings | None = None
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    candidates: Candidates
    rewrite: Rewrite | None = None

    @property
    def development_depth(self) -> int:
        """Candidates of a query that development re-ranks."""
        return self.development.depth or min(DEVELOPMENT_DEPTH, self.candidates.depth)

    @model_validator(mode="after")
    def _reaches(self) -> CrossEncoderRecipe:
        check_depth(self.development, self.candidates.depth)
        if self.rewrite and not any(isinstance(phase, Labels) for phase in self.phases):
            raise ValueError("'rewrite' is of queries that are judged, and no phase is 'labels'")
        return self
