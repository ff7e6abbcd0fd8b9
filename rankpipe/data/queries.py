"""Queries: what is asked, as rewriters left it, beside what the user wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from rankpipe.data.text import id_problem, text_problem
from rankpipe.errors import UsageError


@dataclass(frozen=True, slots=True, eq=False)
class Queries:
    """Q queries with their texts, in a fixed order.

    ids       unique query ids, Q of them
    texts     what retrievers and re-rankers read; Q of them; a text may be empty, and then matches nothing
    original  what the user wrote; the same object as texts until a rewriter changes them
    fields    further texts by name, Q each (a topic's narrative, say)
    terms     weighted index terms, where a feedback model made them: a retriever of terms takes these before texts
    vectors   (Q, D) float32, where a stage made them
    parent    (Q,) int64: row of the query that this one was made from, where one query became several
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    original: tuple[str, ...] = ()
    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    terms: tuple[Mapping[str, float], ...] | None = None
    vectors: NDArray[np.float32] | None = None
    parent: NDArray[np.int64] | None = None
    _rows: dict[str, int] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.texts):
            raise UsageError(f"{len(self.ids)} query ids for {len(self.texts)} texts")
        if not self.original:
            object.__setattr__(self, "original", self.texts)
        for row, (query_id, text) in enumerate(zip(self.ids, self.texts, strict=True)):
            if problem := id_problem(query_id):
                raise UsageError(f"query id {query_id!r}: {problem}")
            if query_id in self._rows:
                raise UsageError(f"query id {query_id!r} occurs twice")
            if problem := text_problem(text):
                raise UsageError(f"query {query_id!r}: {problem}")
            self._rows[query_id] = row

    @classmethod
    def of(cls, queries: Queries | Mapping[str, str] | Sequence[str] | str) -> Queries:
        """Queries from {query_id: text}, from texts (ids q1, q2, ...), or from one text (id q1)."""
        if isinstance(queries, Queries):
            return queries
        if isinstance(queries, str):
            queries = [queries]
        if isinstance(queries, Mapping):
            return cls(tuple(queries), tuple(queries.values()))
        texts = tuple(queries)
        return cls(tuple(f"q{number}" for number in range(1, len(texts) + 1)), texts)

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __contains__(self, query_id: object) -> bool:
        return query_id in self._rows

    def __getitem__(self, query_id: str) -> str:
        """Text of a query; KeyError if there is no such id."""
        return self.texts[self._rows[query_id]]

    def row(self, query_id: str) -> int:
        """Row of a query; KeyError if there is no such id."""
        return self._rows[query_id]

    def select(self, rows: Sequence[int] | NDArray[np.integer] | slice) -> Queries:
        """The queries at these rows, in this order. `parent` refers to rows, so it survives only a selection of all."""
        chosen = range(len(self))[rows] if isinstance(rows, slice) else [int(row) for row in rows]
        whole = list(chosen) == list(range(len(self)))

        def pick(values: tuple) -> tuple:
            return tuple(values[row] for row in chosen)

        return Queries(
            ids=pick(self.ids),
            texts=pick(self.texts),
            original=pick(self.original),
            fields={name: pick(values) for name, values in self.fields.items()},
            terms=None if self.terms is None else pick(self.terms),
            vectors=None if self.vectors is None else self.vectors[list(chosen)],
            parent=self.parent if whole else None,
        )

    def rewritten(self, texts: Sequence[str]) -> Queries:
        """The same queries with new texts; what the user wrote stays in `original`; terms and vectors are dropped."""
        return replace(self, texts=tuple(texts), terms=None, vectors=None)
