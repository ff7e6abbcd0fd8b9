"""Document expansion: queries that a language model writes for a document become a field of it, for a retriever to search.

Nogueira, Yang, Lin and Cho, "Document Expansion by Query Prediction", 2019, arXiv 1904.08375. There, a model was trained to
write queries; here, one is asked for them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from rankpipe.data import Corpus, Queries
from rankpipe.data.corpus import Record
from rankpipe.errors import UsageError
from rankpipe.evaluation.manifest import facts
from rankpipe.models.answers import Answers
from rankpipe.models.endpoint import Endpoint
from rankpipe.models.language_model import Answer, Chat, Writing
from rankpipe.models.prompt import filled, load_prompt
from rankpipe.pipeline import Pipeline
from rankpipe.stage import SETTINGS, Reference
from rankpipe.stages.expansion import LIST_MARK
from rankpipe.stages.generative import cut_to
from rankpipe.stages.prompt_file import PromptFile
from rankpipe.stages.rewriting import WORD, one_line, open_writer, refusal

FIELD = "queries"
"""Name of the new field; its text has a line for each query."""
BLOCK = 256
"""Documents that are asked about and filtered together."""
LABEL = re.compile(r"^\s*(?:search )?(?:query|question)\s*\d*\s*[:.]\s*", re.IGNORECASE)
"""What models write before a query, though it is not part of it."""


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Doc2query:
    """How queries are written for documents.

    writer       folder, GGUF file, hub name, alias or package: reference of the model; with `endpoint`, its name there
    endpoint     server of OpenAI's interface that has the model; by default it runs in this process
    prompt       file of the prompt, with the place {document}, or name of one that comes with rankpipe
    queries      answers to each document; the first line of one is a query
    max_words    words of a document's title and text that the model reads, parted by white space
    max_tokens   of a query; one that is cut there is left out
    temperature  the higher, the more evenly tokens are drawn; 0, for one query only: the most probable token each time
    top_p        tokens are drawn from the most probable ones that together have this share
    seed         of what is drawn
    """

    writer: Reference = "smollm2"
    endpoint: Endpoint | None = None
    prompt: PromptFile = "doc2query"
    queries: Annotated[int, Ge(1)] = 5
    max_words: Annotated[int, Gt(0)] = 200
    max_tokens: Annotated[int, Gt(0)] = 64
    temperature: Annotated[float, Ge(0)] = 1.0
    top_p: Annotated[float, Gt(0), Le(1)] = 0.95
    seed: Annotated[int, Ge(0), Le(2**31 - 1)] = 0

    @model_validator(mode="after")
    def _fits(self) -> Doc2query:
        if self.temperature == 0 and self.queries > 1:
            raise ValueError(
                f"at temperature 0 the {self.queries} queries of a document are all the same; "
                "choose a higher one, or one query"
            )
        return self

    def writing(self) -> Writing:
        """How the model is to write."""
        return Writing(
            longest=self.max_tokens,
            count=self.queries,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            stop=("\n",),
        )


class Filter(NamedTuple):
    """Keep a query only if a search for it finds its document among the first ones.

    Dai and others, "Promptagator", 2022, arXiv 2209.11755, section 3.2: round-trip consistency.

    pipeline  that searches the documents as they were, without queries
    depth     candidates among which the document has to be
    """

    pipeline: Pipeline
    depth: int


class Expansion:
    """The documents of a corpus with the queries that a model writes for them.

    counts  what became of documents and queries so far; see docs/doc2query.md
    """

    def __init__(self, corpus: Corpus, settings: Doc2query, keep: Filter | None = None) -> None:
        """Read the prompt, open the model and what the filter needs; the runtime is the current one.

        Raises UsageError for a corpus that has the field already, and whatever opening these raises.
        """
        if FIELD in corpus.fields:
            raise UsageError(f"the documents have a field '{FIELD}' already; expand those that they were made of")
        self._corpus, self._settings = corpus, settings
        self._prompt = load_prompt(settings.prompt)
        self._prompt.need(("document",))
        self._prompt.have_only("document")
        self._keep = keep and Filter(keep.pipeline.on(corpus), keep.depth)
        if self._keep:
            self._keep.pipeline.check()
        self._writer = open_writer(settings.writer, settings.endpoint, "rankpipe doc2query")
        if self._keep:
            self._keep.pipeline.prepare()
        self._answers = Answers(self._writer, settings.writing())
        names = ["documents", "expanded", "unchanged", "without_text", "cut", "answers", "queries", "repeated"]
        names += ["too_long", "refused_prompt_too_long", "refused_empty", "refused_runaway", "refused_unreadable"]
        self.counts = Counter(dict.fromkeys([*names, "not_found"] if keep else names, 0))

    def records(self, limit: int | None = None, advance: Callable[[int], None] = lambda _: None) -> Iterator[Record]:
        """The documents that are not deleted, in their order; what was answered is kept as it comes.

        limit    documents that are expanded; those behind them stay as they are
        advance  is told how many documents are answered, now and then
        """
        left = self._corpus.size if limit is None else limit
        for rows in self._corpus.blocks(BLOCK):
            groups = self._queries(rows[:left], advance) if left else []
            for place, record in enumerate(self._corpus.records(rows)):
                queries = groups[place] if place < len(groups) else []
                yield {**record, FIELD: "\n".join(queries)} if queries else record
            left = max(left - len(rows), 0)

    def told(self) -> dict[str, Any]:
        """What a manifest says of it: what made the queries, what was counted."""
        keep = self._keep
        return {
            "writer": dict(self._writer.key()),
            "prompt": self._prompt.digest(),
            "filter": keep
            and {
                "depth": keep.depth,
                "pipeline": keep.pipeline.to_yaml(),
                "opened": facts(keep.pipeline, counted=False),
            },
            "counts": dict(self.counts),
            "answers": {**self._writer.counts(), **self._answers.counts},
        }

    def _queries(self, rows: NDArray[np.int32], advance: Callable[[int], None]) -> list[list[str]]:
        """The queries of documents that are kept, for each of them those that it has."""
        read = [cut_to(text, self._settings.max_words) for text in self._corpus.joined_texts(rows)]
        said = [place for place, (text, _) in enumerate(read) if text]
        answers = self._answers.of([self._chat(read[place][0]) for place in said], advance)
        advance(len(rows) - len(said))
        groups: list[list[str]] = [[] for _ in rows]
        for place, group in zip(said, answers, strict=True):
            groups[place] = self._of_use(group)
        if self._keep:
            written = sum(map(len, groups))
            groups = found_again(self._keep, rows, groups)
            self.counts["not_found"] += written - sum(map(len, groups))
        expanded = sum(map(bool, groups))
        self.counts.update(
            documents=len(rows),
            expanded=expanded,
            unchanged=len(rows) - expanded,
            without_text=len(rows) - len(said),
            cut=sum(was_cut for _, was_cut in read),
            queries=sum(map(len, groups)),
        )
        return groups

    def _chat(self, document: str) -> Chat:
        return Chat(filled(self._prompt.user, {"document": document}), self._prompt.system, self._prompt.answer)

    def _of_use(self, answers: Sequence[Answer]) -> list[str]:
        """The queries in answers to one document, each once."""
        kept: dict[tuple[str, ...], str] = {}
        for answer in answers:
            query = as_query(answer.text)
            words = tuple(WORD.findall(query.lower()))
            if problem := refusal(answer._replace(text=query)):
                self.counts[f"refused_{problem.replace(' ', '_')}"] += 1
            elif not answer.ended:
                self.counts["too_long"] += 1
            elif words in kept:
                self.counts["repeated"] += 1
            else:
                kept[words] = query
        self.counts["answers"] += len(answers)
        return list(kept.values())


def as_query(answer: str) -> str:
    """The first line of an answer that is not blank, without marks of a list, labels and quotes around it."""
    line = next((one_line(line) for line in answer.splitlines() if line.strip()), "")
    return LABEL.sub("", LIST_MARK.sub("", line)).strip(" \"'`*“”")


def found_again(keep: Filter, rows: NDArray[np.int32], groups: Sequence[Sequence[str]]) -> list[list[str]]:
    """Of the queries of each row, those whose search finds the row among the first candidates."""
    owners = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    found = np.zeros(len(owners), bool)
    if len(owners):
        texts = [query for group in groups for query in group]
        run = keep.pipeline.run(Queries.of(texts), progress=False)
        own = (run.documents == rows[owners][run.query_rows]) & (run.ranks <= keep.depth)
        found[run.query_rows[own]] = True
    answers = iter(found.tolist())
    return [[query for query in group if next(answers)] for group in groups]
