"""Lists of a click log, as a phase learns from them: which queries' they are, what was shown and clicked, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankpipe.data import Corpus, Dataset, Queries
from rankpipe.errors import UsageError
from rankpipe.store import file_digest
from rankpipe.training import queries as drawing
from rankpipe.training.click_log import ClickLog
from rankpipe.training.click_phases import ClickMethod, FromLog
from rankpipe.training.examples import Turns
from rankpipe.training.recipe import Subset
from rankpipe.training.sessions import Sessions


@dataclass(frozen=True, eq=False)
class ClickLists:
    """L lists of a log that were clicked.

    owners    (L,) rows of their queries among `queries`
    sessions  `shown` has rows of the corpus
    whole     likewise, with the lists that nobody clicked
    account   what there is and what was left out, as JSON takes it
    """

    queries: Queries
    owners: NDArray[np.int64]
    sessions: Sessions
    whole: Sessions
    account: dict[str, Any]


def click_lists(phase: FromLog, log: ClickLog, queries: Queries, corpus: Corpus) -> ClickLists:
    """Lists of a log that answer some queries, equal ones added up.

    Raises DataError for a log with wrong lines where the phase refuses them, UsageError where nothing was clicked.
    """
    if phase.bad == "refuse":
        log.refuse_problems()
    own = log.of(queries)
    apart = isinstance(phase, ClickMethod) and phase.context
    owners, whole = own.added_up(queries, corpus, phase.positions, apart=apart)
    clicked = np.flatnonzero(whole.clicks.sum(1) > 0)
    if not len(clicked):
        raise UsageError(
            f"{log.path}: nothing is left to learn: of its sessions that are whole, {int(whole.count.sum()):,} are of queries "
            f"that train, and none of these has a click in the first {phase.positions} positions"
        )
    account = {
        "lists": len(clicked),
        "sessions": int(whole.count.sum()),
        "clicks": int(whole.clicks.sum()),
        "lists_without_a_click": len(whole) - len(clicked),
        "sessions_of_queries_that_do_not_train": len(log.sessions) - len(own.sessions),
        "wrong_lines": log.problems.told(),
        "log": file_digest(log.path),
    }
    return ClickLists(queries, owners[clicked], whole.select(clicked), whole, account)


def in_words(account: dict[str, Any]) -> str:
    """The numbers of an account, as a line for people."""
    return ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in account.items() if isinstance(value, int))


def trainable(dataset: Dataset, split: str, development: Queries) -> Queries:
    """Queries, judged or not, that may be trained on: none of development or of another split, nor one with its text."""
    others = {query_id for other in dataset.splits if other != split for query_id in dataset.queries(other).ids}
    others |= set(development.ids)
    texts = drawing.other_texts(dataset, split) | {drawing.plain_text(text) for text in development.texts}
    queries = dataset.queries(None)
    kept = [
        row
        for row, (query_id, text) in enumerate(zip(queries.ids, queries.texts, strict=True))
        if query_id not in others and drawing.plain_text(text) not in texts
    ]
    return queries.select(kept)


def nothing_judged(dataset: Dataset, what: str = "judged queries to decide what to keep by") -> UsageError:
    """The error for a data set without the judgements that even clicks need, or others that a recipe needs."""
    there = f"it has {', '.join(dataset.splits)}" if dataset.splits else "it has no judgements at all"
    return UsageError(
        f"data set '{dataset.name}' has no {what}; {there}. Clicks need no judgements to learn from, but a few to be judged by: "
        "a split 'dev'"
    )


class ClickBatch(NamedTuple):
    """N lists of a step.

    documents  of every list, int32 rows of the corpus, best position first
    """

    query_ids: list[str]
    queries: list[str]
    documents: list[NDArray[np.int32]]
    sessions: Sessions


class ClickBatches:
    """What is drawn for every step: lists that were clicked, in turn."""

    def __init__(self, lists: ClickLists, batch: int, seed: Sequence[int], subset: Subset | None = None) -> None:
        self._lists = lists
        self._turns = Turns([lists.queries.ids[one] for one in lists.owners.tolist()], seed, subset)
        self._size = self._turns.batch(batch)

    @property
    def filled(self) -> NDArray[np.bool_]:
        """(n,) positions that held a document."""
        return np.asarray(self._lists.sessions.present.any(0))

    def step(self, step: int) -> ClickBatch:
        """The lists of a step; steps count from 1."""
        rows = np.array([self._turns[turn] for turn in range((step - 1) * self._size, step * self._size)], np.int64)
        owners = self._lists.owners[rows].tolist()
        sessions, queries = self._lists.sessions.select(rows), self._lists.queries
        documents = [shown[shown >= 0].astype(np.int32) for shown in sessions.shown]
        return ClickBatch(
            [queries.ids[one] for one in owners], [queries.texts[one] for one in owners], documents, sessions
        )

    def account(self) -> dict[str, Any]:
        """What there is and what was left out."""
        return self._lists.account
