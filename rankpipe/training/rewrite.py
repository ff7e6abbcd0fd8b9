"""The setting `rewrite` of a recipe: training queries in a language model's words. No torch here."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le
from pydantic import Strict
from pydantic.dataclasses import dataclass

from rankpipe.models.endpoint import Endpoint
from rankpipe.stage import Reference
from rankpipe.stages.prompt_file import PromptFile
from rankpipe.training.recipe import INNER

PROMPT, PROMPT_ALONE = "car", "car-query"
"""Shipped prompts: with a document, and of the query alone. The rewrite goes on from the beginning of their answer."""
WHOLE, WHOLE_ALONE = "car-whole", "car-query-whole"
"""The same for a server, which may begin an answer anew: the rewrite is the whole answer."""


@dataclass(frozen=True, kw_only=True, config=INNER)
class Rewrite:
    """Rewrite training queries that say little, with a document that they are meant for in view.

    CAR, context-aware query rewriting: Anand, V, Setty and Anand, arXiv 2308.16753. Queries that are searched with, of
    development too, stay as they are: what is trained needs no language model.

    writer      folder, GGUF file, hub name, alias or package: reference of the model; with `endpoint`, its name there
    endpoint    server of OpenAI's interface that has the model; None: it runs in this process
    prompt      file of the prompt, or name of a shipped one; None: car, and where there is no context car-query; with
                `endpoint` car-whole and car-query-whole
    mode        replace: a rewrite takes the place of its query; augment: it stands beside it
    context     what the model sees. relevant: the document with the highest grade, the first one in the corpus of equal
                ones; random: one that is not relevant to the query, drawn by `seed`; none: nothing but the query
    select      ambiguous: queries that rankpipe.training.ambiguity says little of what is meant; all
    window      words of the context: those in a row that are the best for the query by BM25
    max_tokens  of an answer; it is cut there
    seed        of random documents; it does not depend on that of the training, so that all seeds share answers
    """

    writer: Reference
    endpoint: Endpoint | None = None
    prompt: PromptFile | None = None
    mode: Literal["replace", "augment"] = "replace"
    context: Literal["relevant", "random", "none"] = "relevant"
    select: Literal["ambiguous", "all"] = "ambiguous"
    window: Annotated[int, Strict(), Ge(1)] = 128
    max_tokens: Annotated[int, Strict(), Gt(0)] = 48
    seed: Annotated[int, Strict(), Ge(0), Le(2**31 - 1)] = 0

    @property
    def prompt_file(self) -> str:
        """File or name of the prompt."""
        with_document, alone = (PROMPT, PROMPT_ALONE) if self.endpoint is None else (WHOLE, WHOLE_ALONE)
        return self.prompt or (alone if self.context == "none" else with_document)
