"""Phases over groups: the documents of one query each, with a teacher's scores or with judgements. No torch here."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, MinLen
from pydantic import Strict, model_validator
from pydantic.dataclasses import dataclass

from rankpipe.stage import SETTINGS, Reference, Several
from rankpipe.training.recipe import INNER, Phase

Source = Literal["judged", "titles", "sentences"]
"""Where queries come from: those that are judged, titles of documents, sentences out of documents."""


@dataclass(frozen=True, kw_only=True, config=INNER)
class Candidates:
    """What a query's documents are drawn from.

    pipeline  file, or name of a shipped one: its ranking gives hard negatives, its scores teach
    depth     candidates of a query, the first ones, that documents are drawn from
    """

    pipeline: Reference
    depth: Annotated[int, Strict(), Ge(2)] = 100


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class GroupPhase(Phase):
    """Steps over groups.

    group   documents of a query
    random  of them, drawn from the whole corpus
    """

    group: Annotated[int, Ge(2)] = 8
    random: Annotated[int, Ge(0)] = 0


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Distil(GroupPhase):
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
        if self.temperature != 1 and self.loss != "kl":
            raise ValueError(f"'temperature' is of 'loss: kl', and 'loss' is '{self.loss}'")
        return self


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Labels(GroupPhase):
    """Learn judgements: relevant documents against candidates that are not known to be relevant.

    positives    of a group, relevant documents at most
    relevant     which relevant documents they are drawn from. candidates: those that are candidates, for a re-ranker is
                 asked about no others; all where none is. judged: always all
    loss         see rankpipe.training.losses; binary sees relevant or not, the others grades
    margin       of the loss "margin"
    temperature  scores are divided by it before softmax
    """

    positives: Annotated[int, Ge(1)] = 1
    relevant: Literal["candidates", "judged"] = "candidates"
    loss: Literal["binary", "ranknet", "margin", "softmax", "lambda", "list-mle"] = "softmax"
    margin: Annotated[float, Gt(0)] = 1.0
    temperature: Annotated[float, Gt(0)] = 1.0

    @model_validator(mode="after")
    def _fits(self) -> Labels:
        if self.group <= self.positives + self.random:
            raise ValueError("'group' must be above 'positives' and 'random' together: it needs a hard negative")
        if self.margin != 1 and self.loss != "margin":
            raise ValueError(f"'margin' is of 'loss: margin', and 'loss' is '{self.loss}'")
        if self.temperature != 1 and self.loss != "softmax":
            raise ValueError(f"'temperature' is of 'loss: softmax', and 'loss' is '{self.loss}'")
        return self
