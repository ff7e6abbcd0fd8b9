"""The pairs of a run as sequences of tokens: joined or written into a prompt, and documents that are too long taken apart.

Everything is told of pairs by the rows of their texts: a query's and a document's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rankpipe.models.pair_recipe import PairSettings
from rankpipe.models.pairs import PairReader, Tokens
from rankpipe.models.prompts import PromptReader

Rows = NDArray[np.int64]


class Texts(Protocol):
    """Tokens of P pairs."""

    def sizes(self) -> Rows:
        """(P,) tokens of every pair, uncut."""
        ...

    def query(self, pair: int) -> Tokens:
        """Tokens of a pair's query alone, without a prompt."""
        ...

    def document(self, pair: int) -> Tokens:
        """Tokens of a pair's document."""
        ...

    def room(self, pair: int) -> int:
        """Tokens of a document that fit beside the query; below 1 if there is no room."""
        ...

    def sequence(self, pair: int, part: slice | None = None) -> tuple[Tokens, Tokens]:
        """(T,) tokens of a pair and their types: with a part of the document, or with what fits of both texts."""
        ...


class JoinedTexts:
    """Pairs that are joined by the tokenizer's template; each text is tokenised once, queries with and without a prompt."""

    def __init__(
        self,
        reader: PairReader,
        queries: Sequence[str],
        documents: Sequence[str],
        pairs: Rows,
        *,
        query_prompt: str = "",
    ) -> None:
        """Tokenise texts.

        pairs         (P, 2) row of the query, row of the document
        query_prompt  stands before every query
        """
        self._reader, self._pairs = reader, pairs
        self._bare, self._documents = reader.tokens(queries), reader.tokens(documents)
        self._queries = reader.tokens([query_prompt + query for query in queries]) if query_prompt else self._bare
        self._nothing = np.array([reader.tokenizer.pad_token_id or 0], np.int64)  # for a pair without any token

    def sizes(self) -> Rows:
        """(P,) tokens of every pair, uncut."""
        queries, documents = (
            np.array([len(one) for one in texts], np.int64) for texts in (self._queries, self._documents)
        )
        sizes = queries[self._pairs[:, 0]] + documents[self._pairs[:, 1]] + self._reader.around
        return np.maximum(sizes, 1)

    def query(self, pair: int) -> Tokens:
        """Tokens of a pair's query alone, without a prompt."""
        return self._bare[self._pairs[pair, 0]]

    def document(self, pair: int) -> Tokens:
        """Tokens of a pair's document."""
        return self._documents[self._pairs[pair, 1]]

    def room(self, pair: int) -> int:
        """Tokens of a document that fit beside the query, of which half of the room is kept where it has more."""
        return self._reader.room - min(len(self._queries[self._pairs[pair, 0]]), self._half)

    def sequence(self, pair: int, part: slice | None = None) -> tuple[Tokens, Tokens]:
        """(T,) tokens of a pair and their types: with a part of the document, or with what fits of both texts."""
        query, document = self._queries[self._pairs[pair, 0]], self.document(pair)
        if part is not None:
            query, document = self._reader.cut(query, self._half), document[part]
        ids, types = self._reader.joined(query, document)
        return (ids, types) if len(ids) else (self._nothing, np.zeros(1, np.int64))

    @property
    def _half(self) -> int:
        return self._reader.room - self._reader.room // 2


class WrittenTexts:
    """Pairs that are written into a prompt; each pair is tokenised, each query too.

    Of a pair that is too long, a query keeps half of the room at least, and all that the document leaves.
    """

    def __init__(self, reader: PromptReader, queries: Sequence[str], documents: Sequence[str], pairs: Rows) -> None:
        """Tokenise pairs (P, 2): row of the query, row of the document."""
        self._reader, self._pairs = reader, pairs
        self._queries = [reader.tokens(query) for query in queries]
        rows: list[tuple[int, int]] = [(int(query), int(document)) for query, document in pairs]
        self._written = list(reader.read([(queries[query], documents[document]) for query, document in rows]))
        self._sizes = np.array([len(one.ids) for one in self._written], np.int64)
        half = reader.room - reader.room // 2
        for pair in map(int, np.flatnonzero(self._sizes > reader.max_length)):
            asked, shown = rows[pair]
            kept = max(half, reader.room - len(self.document(pair)))
            if len(self._queries[asked]) > kept:
                [self._written[pair]] = reader.read([(reader.cut(queries[asked], kept), documents[shown])])

    def sizes(self) -> Rows:
        """(P,) tokens of every pair, uncut."""
        return self._sizes

    def query(self, pair: int) -> Tokens:
        """Tokens of a pair's query alone, without a prompt."""
        return self._queries[self._pairs[pair, 0]]

    def document(self, pair: int) -> Tokens:
        """Tokens of a pair's document."""
        ids, begin, end = self._written[pair]
        return ids[begin:end]

    def room(self, pair: int) -> int:
        """Tokens of a document that fit beside all the rest; below 1 if there is no room."""
        ids, begin, end = self._written[pair]
        return self._reader.max_length - (len(ids) - (end - begin))

    def sequence(self, pair: int, part: slice | None = None) -> tuple[Tokens, Tokens]:
        """(T,) tokens of a pair and their types: with a part of the document, or with what fits of it.

        What stands behind the document is always kept: there a language model begins to answer.
        """
        ids, begin, end = self._written[pair]
        kept = ids[begin:end][part or slice(max(self.room(pair), 0))]
        before = np.concatenate([ids[:begin], kept])[: max(self._reader.max_length - (len(ids) - end), 0)]
        whole = np.concatenate([before, ids[end:]])[-self._reader.max_length :]
        return whole, np.zeros(len(whole), np.int64)


class Pieces(NamedTuple):
    """The S sequences of P pairs that are scored.

    pairs      (S,) row of the pair, rising
    windows    (S,) number of the window of the document, from 0
    begins, ends  (S,) where in the document it stands; -1 for a document that was not taken apart
    sizes      (S,) tokens of the sequence
    truncated  (P,) whether tokens of the pair are left out
    """

    pairs: Rows
    windows: Rows
    begins: Rows
    ends: Rows
    sizes: Rows
    truncated: NDArray[np.bool_]


def taken_apart(texts: Texts, max_length: int, settings: PairSettings) -> Pieces:
    """What is scored of pairs: those that fit, as they are; of the others one cut sequence, or windows."""
    sizes = texts.sizes()
    longer = sizes > max_length
    if settings.windows == "first" or not longer.any():
        rows, whole = np.arange(len(sizes)), np.full(len(sizes), -1)
        return Pieces(rows, np.zeros(len(sizes), np.int64), whole, whole, np.minimum(sizes, max_length), longer)
    rows, truncated = [], longer.copy()
    for pair in range(len(sizes)):
        room = texts.room(pair)
        if not longer[pair] or room < 1:
            rows.append((pair, 0, -1, -1, min(sizes[pair], max_length)))
            continue
        document, beside = texts.document(pair), max_length - room
        parts = windows(len(document), room, min(settings.stride or max(room // 2, 1), room))
        numbers: Sequence[int] = range(len(parts))
        if settings.windows == "best":
            numbers = [most_terms(texts.query(pair), [document[part] for part in parts])]
        else:
            truncated[pair] = sizes[pair] - len(document) > beside  # only of the query something may be left out
        for number in numbers:
            begin, end = parts[number].start, parts[number].stop
            rows.append((pair, number, begin, end, beside + end - begin))
    columns = np.array(rows, np.int64).T
    return Pieces(columns[0], columns[1], columns[2], columns[3], columns[4], truncated)


def windows(length: int, room: int, stride: int) -> list[slice]:
    """Windows of `room` tokens over a document, their beginnings `stride` apart; the last one ends with it."""
    count = 1 + max(-(-(length - room) // stride), 0)
    return [slice(begin, min(begin + room, length)) for begin in range(0, count * stride, stride)]


def most_terms(query: Tokens, parts: Sequence[Tokens]) -> int:
    """Which of W parts of a document holds most of the query; the first of equal ones.

    A token of the query that stands in w parts counts log(1 + W / w) where it stands, as terms do in an index.
    """
    there = np.array([np.isin(np.unique(query), part) for part in parts], np.float64)
    weights = np.log1p(len(parts) / np.maximum(there.sum(axis=0), 1))
    return int(np.argmax((there * weights).sum(axis=1)))
