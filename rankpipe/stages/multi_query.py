"""MultiQuery: a search with several wordings of a query, fused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Annotated, ClassVar

from annotated_types import Ge
from pydantic.dataclasses import dataclass

from rankpipe.models.language_model import Answer
from rankpipe.run import Run
from rankpipe.stage import SETTINGS, Part, Reference, Stage, apply
from rankpipe.stages.expansion import LIST_MARK
from rankpipe.stages.fuse import Fuse, Method
from rankpipe.stages.normalise import Normalisation
from rankpipe.stages.rewriting import Rewriting, one_line, refusal


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class MultiQuery(Rewriting):
    """Run a branch with a query and with other wordings of it that a language model writes, and fuse what they find.

    The model writes a wording a line; repeated ones are left out. The queries stay as they were.

    branch   what is run with every wording, a retriever and what follows it
    queries  other wordings, at most
    method, k, smoothing, normalise  as the stage fuse has them
    writer, endpoint, prompt, max_tokens, temperature, top_p, seed  see rankpipe.stages.rewriting
    """

    makes: ClassVar[frozenset[Part]] = frozenset({"candidates"})

    branch: Stage
    queries: Annotated[int, Ge(1)] = 3
    method: Method = "reciprocal-rank"
    k: Annotated[int, Ge(1)] | None = None
    smoothing: Annotated[float, Ge(0)] = 60
    normalise: Normalisation = "min-max"
    prompt: Reference = "multi-query"

    @property
    def parts(self) -> tuple[Stage, ...]:
        """The branch."""
        return (self.branch,)

    def __call__(self, run: Run) -> Run:
        """Replace the candidates by those that all wordings find."""
        wordings = [
            list(self._others(query, answers))[: self.queries]
            for query, answers in zip(run.queries.texts, self.answered(run), strict=True)
        ]
        runs = [apply(self.branch, run)]
        for place in range(self.queries):  # always as many, so that a query's scores depend on no other query
            texts = [texts[place] if place < len(texts) else "" for texts in wordings]  # an empty one finds nothing
            asked = run.with_queries(run.queries.rewritten(texts))
            runs.append(apply(self.branch, asked) if any(texts) else Run.empty(run.queries, run.corpus))
        return self._fuse.fused(run, runs)

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
            branches=[self.branch] * (self.queries + 1),
            method=self.method,
            k=self.k,
            smoothing=self.smoothing,
            normalise=self.normalise,
        )

    @property
    def _values(self) -> Mapping[str, str]:
        return {"count": str(self.queries)}
