"""Recipes: what is trained, on what, how long. Settings as those of stages are; no torch here.

A training is a class of settings that RECIPES names; the phases it runs one after the other are classes of their own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import AfterValidator, ConfigDict, Strict, model_validator
from pydantic.dataclasses import dataclass

from rankpipe.errors import RankpipeError
from rankpipe.evaluation.manifest import plain
from rankpipe.evaluation.measures import read_measures
from rankpipe.models.adapters.registry import AdapterSettings
from rankpipe.stage import SETTINGS, Reference, Several

INNER = ConfigDict(extra="forbid", allow_inf_nan=False)
"""Of settings inside a setting: not strict as a whole, so that a map becomes them; numbers are marked as Strict."""


def _known_measure(name: str) -> str:
    try:
        read_measures(name)
    except RankpipeError as error:
        raise ValueError(str(error)) from None
    return name


Measure = Annotated[str, AfterValidator(_known_measure)]
Source = Literal["judged", "titles", "sentences"]
"""Where queries come from: those that are judged, titles of documents, sentences out of documents."""


DEVELOPMENT_DEPTH = 50
"""Candidates that development re-ranks if nothing is said: what it measures is decided by the first ones."""


@dataclass(frozen=True, kw_only=True, config=INNER)
class Candidates:
    """What a query's documents are drawn from.

    pipeline  file, or name of a shipped one: its ranking gives hard negatives, its scores teach
    depth     candidates of a query, the first ones, that documents are drawn from
    """

    pipeline: Reference
    depth: Annotated[int, Strict(), Ge(2)] = 100


@dataclass(frozen=True, kw_only=True, config=INNER)
class Development:
    """How it is judged, while training, what to keep and when to stop: the candidates of queries are re-ranked.

    split     None: "dev" where the data set has such a split; else, and where it is the split that is trained on,
              queries of the training split are held out
    held_out  share of the training queries that are then held out; they train nothing
    queries   of the split at most, drawn by the seed
    depth     candidates that are re-ranked; None: those there are, at most 50
    measure   decides
    every     steps from one measurement to the next
    patience  measurements without a better one after which a phase ends; None: never
    """

    split: str | None = None
    held_out: Annotated[float, Strict(), Gt(0), Lt(1)] = 0.2
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


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Phase:
    """Steps with one loss and one schedule. AdamW (Loshchilov and Hutter, arXiv 1711.05101).

    steps          at most
    batch          queries of a step
    group          documents of a query
    random         of them, drawn from the whole corpus
    learning_rate  the highest
    warm_up        share of the steps in which the learning rate rises from 0
    schedule       how it falls to 0 afterwards
    weight_decay   of matrices; biases and norms have none
    clip           largest norm of the gradient; a larger one is scaled down
    """

    steps: Annotated[int, Ge(1)]
    batch: Annotated[int, Ge(1)] = 4
    group: Annotated[int, Ge(2)] = 8
    random: Annotated[int, Ge(0)] = 0
    learning_rate: Annotated[float, Gt(0)]
    warm_up: Annotated[float, Ge(0), Le(1)] = 0.1
    schedule: Literal["linear", "cosine"] = "linear"
    weight_decay: Annotated[float, Ge(0)] = 0.01
    clip: Annotated[float, Gt(0)] = 1.0


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Distil(Phase):
    """Learn the scores that the candidates' pipeline gives; needs no judgements.

    queries      each source has the same share of the steps
    loss         kl (listwise) or margin-mse (pairwise), see rankpipe.training.losses
    temperature  teacher scores are divided by it before kl's softmax; their unit is one standard deviation of a query's
                 candidates, so that it means the same for every pipeline
    """

    queries: Annotated[Several[Source], MinLen(1)] = ("judged", "titles", "sentences")
    loss: Literal["kl", "margin-mse"] = "kl"
    temperature: Annotated[float, Gt(0)] = 1.0

    @model_validator(mode="after")
    def _fits(self) -> Distil:
        if self.group - self.random < 1:
            raise ValueError("'random' must be below 'group': at least one document is a candidate")
        if len(set(self.queries)) < len(self.queries):
            raise ValueError("'queries' names a source twice")
        return self


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Labels(Phase):
    """Learn judgements: relevant documents against candidates that are not known to be relevant.

    positives    of a group, relevant documents at most
    loss         see rankpipe.training.losses; binary sees relevant or not, the others grades
    margin       of the loss "margin"
    temperature  scores are divided by it before softmax
    """

    positives: Annotated[int, Ge(1)] = 1
    loss: Literal["binary", "ranknet", "margin", "softmax", "lambda", "list-mle"] = "softmax"
    margin: Annotated[float, Gt(0)] = 1.0
    temperature: Annotated[float, Gt(0)] = 1.0

    @model_validator(mode="after")
    def _fits(self) -> Labels:
        if self.group <= self.positives + self.random:
            raise ValueError("'group' must be above 'positives' and 'random' together: it needs a hard negative")
        return self


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Recipe(ABC):
    """What every training is told.

    split        of the data set, whose judgements are trained on
    development  how it is judged what to keep and when to stop
    checkpoint   steps after which what a killed training goes on from is written, besides every measurement
    seed         of all that is drawn

    description  one line for people
    """

    name: ClassVar[str]
    phase_kinds: ClassVar[Mapping[str, type[Phase]]]

    description: str | None = None
    split: str = "train"
    development: Development = Development()
    checkpoint: Annotated[int, Ge(1)] = 100
    seed: Annotated[int, Ge(0), Le(2**31 - 1)] = 0

    @property
    @abstractmethod
    def steps(self) -> int:
        """Steps of all phases, if none ends early."""

    def described(self) -> dict[str, Any]:
        """All settings, those at their defaults included, as JSON takes them."""
        return {"train": self.name, **plain(self)}

    def kind_of(self, phase: Phase) -> str:
        """The name of a phase's kind."""
        return next(name for name, kind in self.phase_kinds.items() if type(phase) is kind)

    @model_validator(mode="after")
    def _trains(self) -> Recipe:
        if self.split == "test":
            raise ValueError("'split: test' is for reporting, not for training")
        return self


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class CrossEncoderRecipe(Recipe):
    """A cross-encoder: a network that reads a query and a document together.

    model       folder, hub name, alias or package: reference of the network it begins with; any encoder
    max_length  tokens of a query and a document together; what is longer is cut
    fields      of a document, joined by a blank, that are read
    adapter     what is trained of the network, see `rankpipe adapters`; None: all of it
    dropout     share of the activations that training drops, whatever the model's configuration says; on a CPU, to draw
                them takes half as long again as all the rest
    candidates  what hard negatives and teacher scores come from
    phases      one after the other; each goes on from the best weights of the one before
    """

    name: ClassVar[str] = "cross-encoder"
    phase_kinds: ClassVar[Mapping[str, type[Phase]]] = {"distil": Distil, "labels": Labels}

    model: Reference
    max_length: Annotated[int, Ge(8)] = 256
    fields: Annotated[Several[str], MinLen(1)] = ("title", "text")
    adapter: AdapterSettings | None = None
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    candidates: Candidates
    phases: Annotated[Several[Phase], MinLen(1)]

    @property
    def reranked(self) -> int:
        """Candidates of a query that development re-ranks."""
        return self.development.depth or min(DEVELOPMENT_DEPTH, self.candidates.depth)

    @property
    def steps(self) -> int:
        """Steps of all phases, if none ends early."""
        return sum(phase.steps for phase in self.phases)

    def described(self) -> dict[str, Any]:
        """All settings, those at their defaults included, as JSON takes them."""
        return {**super().described(), "phases": [{self.kind_of(phase): plain(phase)} for phase in self.phases]}

    @model_validator(mode="after")
    def _reaches(self) -> CrossEncoderRecipe:
        if (self.development.depth or 0) > self.candidates.depth:
            raise ValueError(
                f"'development' re-ranks {self.development.depth} candidates, and there are {self.candidates.depth} "
                "('candidates', 'depth')"
            )
        return self


RECIPES: Mapping[str, type[Recipe]] = {recipe.name: recipe for recipe in (CrossEncoderRecipe,)}
