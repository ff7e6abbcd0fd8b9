"""query2doc and keywords: rewriters that add to a query what a language model writes about it; original: its way back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, ClassVar

from annotated_types import Ge
from pydantic.dataclasses import dataclass

from rankpipe.run import Run
from rankpipe.stage import SETTINGS, QueryPart, Stage
from rankpipe.stages.prompt_file import PromptFile
from rankpipe.stages.rewriting import WORD, Rewriting, one_line

LIST_MARK = re.compile(r"^\s*(?:[-*•](?![\d.])|\(?\d{1,2}[.):](?!\d))\s*")
"""What stands before an item of a list: a dash, a number. That of "2.5 mg" or "-80 degrees" is none."""


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Expansion(Rewriting):
    """A rewriter that puts an answer behind the query.

    repeat     times that the query stands before the answer, so that its terms outweigh those of the answer
    separator  between them
    """

    drops: ClassVar[frozenset[QueryPart]] = frozenset({"terms", "vectors"})
    keeps_scores: ClassVar[bool] = True

    repeat: Annotated[int, Ge(1)] = 5
    separator: str = " "

    def __call__(self, run: Run) -> Run:
        """The run, its queries with what the model added. Candidates stay."""
        asked = run.queries.texts
        added = [self._added(query, group) for query, group in zip(asked, self.answered(run), strict=True)]
        self._count_unchanged(run, list(map(bool, added)))
        texts = [
            self.separator.join([*[query] * self.repeat, more]) if more else query
            for query, more in zip(asked, added, strict=True)
        ]
        return run.with_queries(run.queries.rewritten(texts))

    def _added(self, query: str, answers: Sequence[str]) -> str:
        return " ".join(map(one_line, answers))


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Query2doc(Expansion):
    """Put a passage that a language model writes about the query behind it.

    Wang, Yang and Wei, EMNLP 2023, arXiv 2303.07678: five times the query before a bm25; once, with the separator
    " [SEP] ", before a dense. The prompt shows four examples.

    repeat, separator  see rankpipe.stages.expansion
    writer, endpoint, prompt, max_tokens, temperature, top_p, seed  see rankpipe.stages.rewriting
    """

    prompt: PromptFile = "query2doc"

    @property
    def _stop(self) -> tuple[str, ...]:
        return ("\n\n",)


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Keywords(Expansion):
    """Put keywords that a language model names for the query behind it, each once, those that it has itself left out.

    keywords  at most
    repeat, separator  see rankpipe.stages.expansion
    writer, endpoint, prompt, max_tokens, temperature, top_p, seed  see rankpipe.stages.rewriting
    """

    prompt: PromptFile = "keywords"
    max_tokens: Annotated[int, Ge(1)] = 64
    repeat: Annotated[int, Ge(1)] = 2
    keywords: Annotated[int, Ge(1)] = 10

    def _added(self, query: str, answers: Sequence[str]) -> str:
        taken: dict[str, str] = {}
        own = _words(query)
        for answer in answers:
            for item in items(answer):
                if _words(item) not in own:
                    taken.setdefault(item.lower(), item)
        return " ".join(list(taken.values())[: self.keywords])


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Original(Stage):
    """Give queries the texts back that the user wrote, for re-rankers behind a rewriter; weighted terms and vectors go."""

    drops: ClassVar[frozenset[QueryPart]] = frozenset({"terms", "vectors"})
    keeps_scores: ClassVar[bool] = True

    def __call__(self, run: Run) -> Run:
        """The run with the queries' original texts."""
        return run.with_queries(run.queries.rewritten(run.queries.original))


def _words(text: str) -> str:
    """Its words in small letters, each between two blanks."""
    return f" {' '.join(WORD.findall(text.lower()))} "


def items(text: str) -> list[str]:
    """The items of a list in words, parted by commas, semicolons or lines, without the marks before them."""
    parts = (LIST_MARK.sub("", part).strip(" .\"'") for part in re.split(r"[,;\n]", text))
    return [part for part in parts if WORD.search(part)]
