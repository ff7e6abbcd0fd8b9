"""Training queries, rewritten by a language model: which, what the model is shown, what became of its answers.

What the model answered is kept in the store: a training that is done again, or was killed, does not ask for it again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from numpy.typing import NDArray

from rankpipe.data import Corpus, Queries
from rankpipe.errors import UsageError
from rankpipe.models.answers import Answers
from rankpipe.models.language_model import Answer, Chat, Writing
from rankpipe.models.prompt import Prompt, filled, load_prompt
from rankpipe.progress import counted
from rankpipe.run import Run
from rankpipe.stages.bm25 import BM25
from rankpipe.stages.rewriting import open_writer
from rankpipe.store import key_digest
from rankpipe.training.ambiguity import clarities, clarity_limit, why_ambiguous
from rankpipe.training.negatives import Judged
from rankpipe.training.rewrite import Rewrite
from rankpipe.training.rewrite_context import random_row, relevant_row, window_of
from rankpipe.training.rewrite_guards import REASONS, read_answer

TABLE = "rewrites.parquet"
DEPTH = 1000
"""Ranks that are told apart: a document that is not among so many has the rank behind them."""
SENTENCE = (". ",)
"""What ends an answer: a query is one sentence."""
BATCH = 1024
"""Queries whose whole rankings are in memory at once."""


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    """A query that was chosen, and what became of it.

    chosen   the rule that found it ambiguous; None where none did
    row      of the document that the model saw; None: of none
    context  what it saw of it
    text     what became of its answer; "" where that is no text
    fate     "kept", or why the query stays as it is
    """

    query_id: str
    query: str
    chosen: str | None
    row: int | None
    context: str | None
    text: str = ""
    fate: str = "kept"


@dataclass(frozen=True, kw_only=True)
class Rewrites:
    """What became of training queries.

    queries  that there were
    limit    the clarity below which a query is unclear
    made_by  the model and the digest of the prompt
    counts   what was asked and written in this process, which makes no training another one
    """

    setting: Rewrite
    queries: int
    all: Sequence[Rewritten]
    limit: float
    made_by: Mapping[str, Any]
    counts: Mapping[str, int] = field(default_factory=dict)

    def of(self, judged: Sequence[Judged]) -> list[Judged]:
        """Queries to train with: rewrites have the ids, judgements and negatives of their queries."""
        texts = {one.query_id: one.text for one in self.all if one.fate == "kept"}
        if self.setting.mode == "replace":
            return [replace(one, text=texts.get(one.query_id, one.text)) for one in judged]
        beside = [replace(one, text=texts[one.query_id]) for one in judged if one.query_id in texts]
        return [*judged, *beside]

    def account(self) -> dict[str, Any]:
        """How many were chosen and why, what became of them, and what made them, as JSON takes it."""
        fates = Counter(one.fate for one in self.all)
        chosen = Counter(one.chosen or "no rule" for one in self.all)
        return {
            "queries": self.queries,
            "chosen": len(self.all),
            "chosen_by": dict(sorted(chosen.items())),
            "clarity_limit": round(self.limit, 6),
            "fates": {fate: fates[fate] for fate in ("kept", "no context", *REASONS) if fates[fate]},
            **self.made_by,
            "digest": key_digest({one.query_id: [one.text, one.fate] for one in self.all}),
        }

    def told(self) -> str:
        """What became of them, in a line."""
        fates = self.account()["fates"]
        kept = fates.pop("kept", 0)
        stay = "; left as they were: " + ", ".join(f"{count:,} {why}" for why, count in fates.items()) if fates else ""
        return f"rewrite: {len(self.all):,} of {self.queries:,} queries chosen, {kept:,} rewritten{stay}"

    def write_table(self, path: Path, corpus: Corpus) -> None:
        """Write every query that was chosen, what the model wrote, and what became of it."""
        names = ("query_id", "original", "rewritten", "doc_id", "chosen_by", "fate")
        ids = dict(
            zip(rows := sorted({one.row for one in self.all if one.row is not None}), corpus.ids(rows), strict=True)
        )
        records = [
            (one.query_id, one.query, one.text, None if one.row is None else ids[one.row], one.chosen, one.fate)
            for one in self.all
        ]
        columns = zip(*records, strict=True) if records else [[] for _ in names]
        table = {name: pa.array(list(values), pa.string()) for name, values in zip(names, columns, strict=True)}
        parquet.write_table(pa.table(table), path)


def check_prompt(setting: Rewrite) -> Prompt:
    """The prompt. Raises UsageError where it lacks a place, or has one for a document and is shown none; DataError."""
    prompt = load_prompt(setting.prompt_file)
    if setting.context == "none":
        prompt.need(("query",))
        if "{document}" in prompt.user:
            raise UsageError(f"prompt {prompt.file}: 'context: none' shows no document, and it has {{document}}")
    else:
        prompt.need(("query", "document"))
    return prompt


def rewrite_queries(
    setting: Rewrite,
    judged: Sequence[Judged],
    corpus: Corpus,
    *,
    fields: Sequence[str],
    queries: Sequence[str],
    elsewhere: Collection[str],
) -> Rewrites:
    """Have a language model rewrite training queries.

    fields     of a document, that are shown
    queries    texts that a query's clarity is compared with: all of the split
    elsewhere  queries of other splits, as plain_text has them, which no rewrite may be

    Raises UsageError and DataError for the prompt, MissingExtraError, ModelError, and what the writer raises.
    """
    prompt = check_prompt(setting)
    step = _Rewriting(setting, corpus, BM25(k=DEPTH, fields=tuple(fields)))
    chosen, limit = step.chosen(judged, queries)
    shown = [one for one in chosen if one.fate == "kept"]
    writer = open_writer(setting.writer, setting.endpoint, "the setting 'rewrite'")
    answers = Answers(writer, Writing(longest=setting.max_tokens, stop=SENTENCE))
    with counted(len(shown), "rewrites") as advance:
        written = answers.of([_chat(prompt, one) for one in shown], advance)
    answered = [
        _answered(one, answer, _opening(prompt, one.query), elsewhere)
        for one, (answer,) in zip(shown, written, strict=True)
    ]
    after = iter(step.without_fallen(answered))
    return Rewrites(
        setting=setting,
        queries=len(judged),
        all=[next(after) if one.fate == "kept" else one for one in chosen],
        limit=limit,
        made_by={"writer": dict(writer.key()), "prompt": prompt.digest()},
        counts={**writer.counts(), **answers.counts},
    )


@dataclass(frozen=True)
class _Rewriting:
    """What is looked up in the documents. bm25 reads the fields that the model is shown."""

    setting: Rewrite
    corpus: Corpus
    bm25: BM25

    def chosen(self, judged: Sequence[Judged], queries: Sequence[str]) -> tuple[list[Rewritten], float]:
        """Queries that are rewritten, each with its context, and the clarity that decided."""
        index, analyzer = self.bm25.index(self.corpus)
        limit = clarity_limit(clarities(index, analyzer, queries))
        own = clarities(index, analyzer, [one.text for one in judged])
        rules = [why_ambiguous(one.text, float(value), limit) for one, value in zip(judged, own, strict=True)]
        taken = [(one, rule) for one, rule in zip(judged, rules, strict=True) if rule or self.setting.select == "all"]
        live = self.corpus.live_rows() if self.setting.context == "random" else np.empty(0, np.int32)
        return [self._with_context(one, rule, live) for one, rule in taken], limit

    def _with_context(self, judged: Judged, rule: str | None, live: NDArray[np.int32]) -> Rewritten:
        one = Rewritten(query_id=judged.query_id, query=judged.text, chosen=rule, row=None, context=None)
        if self.setting.context == "none":
            return one
        relevant = self.setting.context == "relevant"
        row = relevant_row(judged) if relevant else random_row(judged, live, self.setting.seed)
        text = "" if row is None else self.corpus.joined_texts([row], self.bm25.fields)[0]
        context = window_of(text, judged.text, self.setting.window, *self.bm25.index(self.corpus))
        return replace(one, row=row, context=context, fate="kept" if context else "no context")

    def without_fallen(self, answered: Sequence[Rewritten]) -> list[Rewritten]:
        """The same, without rewrites by which BM25 finds the context's document further down than by the query."""
        places = [at for at, one in enumerate(answered) if one.fate == "kept" and one.row is not None]
        before = self._ranks([answered[at].query for at in places], [answered[at].row for at in places])
        after = self._ranks([answered[at].text for at in places], [answered[at].row for at in places])
        fallen = {at for at, old, new in zip(places, before, after, strict=True) if new > old}
        return [replace(one, fate="rank fell") if at in fallen else one for at, one in enumerate(answered)]

    def _ranks(self, texts: Sequence[str], rows: Sequence[int | None]) -> list[int]:
        """Rank, from 1, of each query's document; DEPTH + 1 of one that is further down or not found."""
        ranks: list[int] = []
        for start in range(0, len(texts), BATCH):
            run = self.bm25(Run.empty(Queries.of(list(texts[start : start + BATCH])), self.corpus))
            for number, row in enumerate(rows[start : start + BATCH]):
                found = run.documents[run.span(number)]
                at = np.flatnonzero(found == row)
                ranks.append(int(at[0]) + 1 if len(at) else DEPTH + 1)
        return ranks


def _chat(prompt: Prompt, one: Rewritten) -> Chat:
    values = {"query": one.query} if one.context is None else {"query": one.query, "document": one.context}
    return Chat(filled(prompt.user, values), prompt.system, filled(prompt.answer, values))


def _opening(prompt: Prompt, query: str) -> str:
    """How a rewrite begins: with the query and what stands behind it where the beginning of the answer has the query."""
    _, place, behind = prompt.answer.partition("{query}")
    return f"{query}{filled(behind, {'query': query})}" if place else ""


def _answered(one: Rewritten, answer: Answer, opening: str, elsewhere: Collection[str]) -> Rewritten:
    text, problem = read_answer(answer, opening, one.query, one.context, elsewhere)
    return replace(one, text=text, fate=problem or "kept")
