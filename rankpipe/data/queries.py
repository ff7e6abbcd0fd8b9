"""Queries: what is asked, as rewriters left it, beside what the user wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rankpipe.data.text import id_problem, text_problem
from rankpipe.errors import DataError, UsageError


class NoQueriesError(DataError):
    """A data set of documents alone."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Queries:
    """Q queries with their texts, in a fixed order.

    ids       unique query ids, Q of them
    texts     what retrievers and re-rankers read; Q of them; a text may be empty, and then matches nothing
    original  what the user wrote; the same object as texts until a rewriter changes them
    fields    further texts by name, Q each (a topic's narrative, say)
    terms     weighted index terms, where a feedback model made them: a retriever of terms takes these before texts
    vectors   (Q, D) float32, where a stage made them
    parent    (Q,) int64: row of the query that this one was made from, where one query became several
    made_by   under "terms" and "vectors", settings of the stage that made them, which whoever takes them has to share;
              nothing of those that were given
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    original: tuple[str, ...] = ()
    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    terms: tuple[Mapping[str, float], ...] | None = None
    vectors: NDArray[np.float32] | None = None
    parent: NDArray[np.int64] | None = None
    made_by: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    _rows: dict[str, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.texts):
            raise UsageError(f"{len(self.ids)} query ids for {len(self.texts)} texts")
        if not self.original:
            object.__setattr__(self, "original", self.texts)
        if self.vectors is not None and (not isinstance(self.vectors, np.ndarray) or self.vectors.ndim != 2):
            shape = (
                f"an array of the shape {self.vectors.shape}"
                if isinstance(self.vectors, np.ndarray)
                else type(self.vectors).__name__
            )
            raise UsageError(f"vectors of queries are an array (queries, dimensions), not {shape}")
        parts = {"original": self.original, "terms": self.terms, "vectors": self.vectors, "parent": self.parent}
        for name, values in (*parts.items(), *self.fields.items()):
            if values is not None and len(values) != len(self.ids):
                raise UsageError(f"{len(self.ids)} query ids for {len(values)} {name}")
        if not (_all_sound(self.ids) and _all_sound(self.texts) and all(self.ids) and len(set(self.ids)) == len(self)):
            self._refuse()

    def _refuse(self) -> None:
        """Say which query is wrong."""
        seen: set[str] = set()
        for query_id, text in zip(self.ids, self.texts, strict=True):
            if problem := id_problem(query_id):
                raise UsageError(f"query id {query_id!r}: {problem}")
            if query_id in seen:
                raise UsageError(f"query id {query_id!r} occurs twice")
            if problem := text_problem(text):
                raise UsageError(f"query {query_id!r}: {problem}")
            seen.add(query_id)

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

    def __repr__(self) -> str:
        return f"Queries({len(self)} queries)"

    def __contains__(self, query_id: object) -> bool:
        return query_id in self._row_of()

    def __getitem__(self, query_id: str) -> str:
        """Text of a query; KeyError if there is no such id."""
        return self.texts[self.row(query_id)]

    def row(self, query_id: str) -> int:
        """Row of a query; KeyError if there is no such id."""
        return self._row_of()[query_id]

    def _row_of(self) -> dict[str, int]:
        if not self._rows:
            self._rows.update(zip(self.ids, range(len(self)), strict=True))
        return self._rows

    def select(self, rows: Sequence[int] | NDArray[np.integer] | slice) -> Queries:
        """The queries at these rows, in this order. `parent` refers to rows, so it survives only a selection of all."""
        if isinstance(rows, slice):
            if rows.indices(len(self)) == (0, len(self), 1):
                return self
            cut, picked = itemgetter(rows), range(len(self))[rows]
        else:
            cut, picked = None, [int(row) for row in rows]

        def pick(values: tuple) -> tuple:
            return cut(values) if cut else tuple([values[row] for row in picked])

        whole = len(picked) == len(self) and list(picked) == list(range(len(self)))
        return Queries(
            ids=pick(self.ids),
            texts=pick(self.texts),
            original=pick(self.original),
            fields={name: pick(values) for name, values in self.fields.items()},
            terms=None if self.terms is None else pick(self.terms),
            vectors=None if self.vectors is None else self.vectors[list(picked)],
            parent=self.parent if whole else None,
            made_by=self.made_by,
        )

    def rewritten(self, texts: Sequence[str]) -> Queries:
        """The same queries with new texts; what the user wrote stays in `original`; terms and vectors are dropped."""
        return replace(self, texts=tuple(texts), terms=None, vectors=None, made_by={})

    def with_terms(self, terms: Sequence[Mapping[str, float]], made_by: Mapping[str, Any]) -> Queries:
        """The same queries with weighted index terms, and the settings that whoever takes them has to share."""
        return replace(self, terms=tuple(terms), made_by={**self.made_by, "terms": made_by})

    def with_vectors(self, vectors: NDArray[np.float32], made_by: Mapping[str, Any]) -> Queries:
        """The same queries with vectors (Q, D), and the settings that whoever takes them has to share."""
        return replace(self, vectors=vectors, made_by={**self.made_by, "vectors": made_by})

    def check_taken(self, what: Literal["terms", "vectors"], by: str, settings: Mapping[str, Any]) -> None:
        """Raise UsageError where terms or vectors were made with other settings than those of the stage that takes them."""
        made_by = self.made_by.get(what, settings)
        if name := next((name for name in settings if made_by[name] != settings[name]), None):
            raise UsageError(
                f"'{by}' takes {what} that the queries were given with '{name}: {made_by[name]}', and here it is "
                f"'{name}: {settings[name]}'; give both stages the same, or put 'original' between them"
            )


def _all_sound(texts: tuple[str, ...]) -> bool:
    """Whether all are texts without a lone surrogate: what text_problem asks, of many at once."""
    return set(map(type, texts)) <= {str} and text_problem("".join(texts)) is None
