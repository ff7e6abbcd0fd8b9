"""MultiQuery: a search with several wordings of a query, fused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Le, MinLen
from pydantic import ValidationError, model_validator
from pydantic.dataclasses import dataclass

from rankpipe.models.language_model import Answer
from rankpipe.run import Run
from rankpipe.stage import SETTINGS, Chain, Part, Several, Stage, apply
from rankpipe.stages.expansion import LIST_MARK
from rankpipe.stages.fuse import Fuse, Method
from rankpipe.stages.normalise import Normalisation
from rankpipe.stages.prompt_file import PromptFile
from rankpipe.stages.rewriting import Rewriting, one_line, refusal


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class MultiQuery(Rewriting):
    """Run stages with a query and with other wordings of it that a language model writes, and fuse what they find.

    The model writes a wording a line; repeated ones are left out. The queries stay as they were.

    stages   what is run with every wording, one after the other: a retriever and what follows it
    queries  other wordings, at most
    method, k, smoothing, normalise  as the stage fuse has them
    writer, endpoint, prompt, max_tokens, temperature, top_p, seed  see rankpipe.stages.rewriting
    """

    makes: ClassVar[frozenset[Part]] = frozenset({"candidates"})
    in_turn: ClassVar[bool] = True
    keeps_queries: ClassVar[bool] = True
    places: ClassVar = ("query", "count")

    stages: Annotated[Several[Stage], MinLen(1)]
    queries: Annotated[int, Ge(1), Le(100)] = 3
    method: Method = "reciprocal-rank"
    k: Annotated[int, Ge(1)] | None = None
    smoothing: Annotated[float, Ge(0)] = 60
    normalise: Normalisation = "min-max"
    prompt: PromptFile = "multi-query"

    @model_validator(mode="after")
    def _fuses(self) -> MultiQuery:
        if self.normalise == "theoretical-minimum" and Chain(stages=tuple(self.stages)).lowest_score is None:
            raise ValueError(
                "'normalise: theoretical-minimum' needs stages whose lowest score is known, and theirs is not"
            )
        try:
            _ = self._fuse
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
        return self

    @property
    def parts(self) -> tuple[Stage, ...]:
        """The stages."""
        return tuple(self.stages)

    def __call__(self, run: Run) -> Run:
        """Replace the candidates by those that all wordings find."""
        wordings = [
            list(self._others(query, answers))[: self.queries]
            for query, answers in zip(run.queries.texts, self.answered(run), strict=True)
        ]
        self._count_unchanged(run, list(map(bool, wordings)))
        runs = [self._found(run)]
        for place in range(self.queries):  # always as many, so that a query's scores depend on no other query
            texts = [texts[place] if place < len(texts) else "" for texts in wordings]
            if not any(texts):
                runs.append(Run.empty(run.queries, run.corpus))
                continue
            found = self._found(run.with_queries(run.queries.rewritten(texts)))
            runs.append(found.keep(np.array(list(map(bool, texts)))[found.query_rows]))
        return self._fuse.fused(run, runs)

    def _found(self, run: Run) -> Run:
        for stage in self.stages:
            run = apply(stage, run)
        return run

    @staticmethod
    def _others(query: str, answers: Sequence[str]) -> Iterator[str]:
        """Wordings that are not the query, nor one that was there before."""
        seen = {query.lower()}
        for line in (line for answer in answers for line in answer.splitlines()):
            text = one_line(LIST_MARK.sub("", line)).strip("\"' ")
            if text and text.lower() not in seen and refusal(Answer(text, ended=True)) is None:
                seen.add(text.lower())
                yield text

    @cached_property
    def _fuse(self) -> Fuse:
        return Fuse(
            branches=[Chain(stages=tuple(self.stages))] * (self.queries + 1),
            method=self.method,
            k=self.k,
            smoothing=self.smoothing,
            normalise=self.normalise,
        )

    @property
    def _values(self) -> Mapping[str, str]:
        return {"count": str(self.queries)}
