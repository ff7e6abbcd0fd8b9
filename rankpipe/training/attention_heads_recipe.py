"""The recipe that finds which heads of a language model attend to what is relevant. No torch here."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Len, Lt, MinLen
from pydantic import Strict, model_validator
from pydantic.dataclasses import dataclass

from rankpipe.stage import SETTINGS, Reference, Several
from rankpipe.stages.prompt_file import AttentionPromptFile
from rankpipe.training.recipe import INNER, FromModel

KEPT = {"qr": 16, "core": 8}
"""Heads, by the method that finds them."""
TEMPERATURE = 0.001
"""Of core."""
SIGMA = 2.0
"""Standard deviations, of qr."""


@dataclass(frozen=True, kw_only=True, config=INNER)
class HeadCandidates:
    """What a prompt's documents are.

    pipeline  file, or name of a shipped one, whose ranking they are
    depth     of a query, the first ones
    """

    pipeline: Reference
    depth: Annotated[int, Strict(), Ge(2)] = 20


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class AttentionHeadsRecipe(FromModel):
    """Heads of a causal language model for the stage `attention`.

    model        reference of the language model, which stays as it is
    candidates   of a query; queries none of whose relevant documents is among them, or none of whose others, say nothing
    queries      that are read, at most, drawn by the seed
    held_out     share of them that the heads are not chosen on, but measured
    method       qr: a head's score is the nDCG@10 of the ranking by that head alone (Zhang et al., EMNLP 2025, arXiv
                 2506.09944); core: the share of the relevant document in a softmax over the attention to it and to the
                 others (Tran et al., arXiv 2510.02219); logistic: weights of a sparse logistic regression on pairs of a
                 relevant and another document, some of them negative
    heads        that are kept, the best ones; None: 16 by qr and 8 by core, as the papers have it; logistic decides for
                 itself
    layers       first and last layer, from 0, that heads are taken from; None: all. Layers above the highest head are
                 not computed when the heads are used
    temperature  core: of the softmax; the authors take .001 for some models and .1 for others
    filter_sigma qr: as the stage has it, for each head by itself
    prompt, max_words, fields   as the stage has them
    order        of the candidates in the prompt: "random", so that no head is chosen for where it looks; "reverse", as
                 the stage has them
    """

    name: ClassVar[str] = "attention-heads"

    candidates: HeadCandidates
    queries: Annotated[int, Ge(4)] = 128
    held_out: Annotated[float, Ge(0), Lt(1)] = 0.25
    method: Literal["qr", "core", "logistic"] = "qr"
    heads: Annotated[int, Ge(1)] | None = None
    layers: Annotated[Several[Annotated[int, Ge(0)]], Len(2, 2)] | None = None
    temperature: Annotated[float, Gt(0)] = TEMPERATURE
    prompt: AttentionPromptFile = "attention-find"
    max_words: Annotated[int, Gt(0)] = 300
    fields: Annotated[Several[str], MinLen(1)] = ("title", "text")
    filter_sigma: Annotated[float, Ge(0)] | None = SIGMA
    order: Literal["random", "reverse"] = "random"

    @property
    def kept(self) -> int:
        """Heads that are kept, where the method does not decide for itself."""
        return self.heads or KEPT[self.method]

    @property
    def summary(self) -> str:
        """What is found, and on how many queries at most."""
        return f"finds {self.name} on {self.queries:,} queries at most"

    @model_validator(mode="after")
    def _leaves_some(self) -> AttentionHeadsRecipe:
        if self.queries - round(self.queries * self.held_out) < 2:
            raise ValueError(f"'held_out' is {self.held_out:g}, and leaves less than two of {self.queries} queries")
        if self.layers is not None and self.layers[0] > self.layers[1]:
            raise ValueError(f"'layers' is {list(self.layers)}: the first of the two is above the last")
        if self.heads is not None and self.method == "logistic":
            raise ValueError(
                "'heads' is of the methods qr and core, and 'method' is 'logistic', which decides for itself"
            )
        if self.temperature != TEMPERATURE and self.method != "core":
            raise ValueError(f"'temperature' is of 'method: core', and 'method' is '{self.method}'")
        if self.filter_sigma != SIGMA and self.method != "qr":
            raise ValueError(f"'filter_sigma' is of 'method: qr', and 'method' is '{self.method}'")
        return self
