"""Pairs of queries and documents as tokens, each text tokenised once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rankpipe.data import Corpus
from rankpipe.models.pairs import PairReader

KEPT_TOKENS = 50_000_000
"""Tokens of texts that are kept in memory, 4 bytes each; beyond, all are forgotten and read again as they are needed."""

Pair = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Tokens and token types of a query and a document together."""


class PairTexts:
    """Pairs as tokens. Texts are kept as tokens once they have been read."""

    def __init__(self, reader: PairReader, corpus: Corpus, fields: Sequence[str]) -> None:
        self._reader, self._corpus, self._fields = reader, corpus, tuple(fields)
        self._queries: dict[str, NDArray[np.int32]] = {}
        self._documents: dict[int, NDArray[np.int32]] = {}
        self._kept = 0

    def pairs(self, queries: Sequence[str], documents: Sequence[NDArray[np.int32]]) -> list[Pair]:
        """Every query with each of its documents, in order."""
        self._read(queries, np.unique(np.concatenate([np.empty(0, np.int32), *documents])))
        return [
            self._reader.joined(self._queries[query].astype(np.int64), self._documents[row].astype(np.int64))
            for query, rows in zip(queries, documents, strict=True)
            for row in rows.tolist()
        ]

    def _read(self, queries: Sequence[str], rows: NDArray[np.int32]) -> None:
        if self._kept > KEPT_TOKENS:
            self._queries, self._documents, self._kept = {}, {}, 0
        new = [query for query in dict.fromkeys(queries) if query not in self._queries]
        unread = [row for row in rows.tolist() if row not in self._documents]
        texts = self._corpus.joined_texts(unread, self._fields)
        self._queries.update(zip(new, self._tokens(new), strict=True))
        self._documents.update(zip(unread, self._tokens(texts), strict=True))

    def _tokens(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        found = [tokens.astype(np.int32) for tokens in self._reader.tokens(texts)]
        self._kept += sum(map(len, found))
        return found
