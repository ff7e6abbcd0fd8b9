"""Pairs of queries and documents as tokens, each text tokenised once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankpipe.data import Corpus
from rankpipe.models.pairs import PairReader

KEPT_TOKENS = 50_000_000
"""Tokens of texts that are kept in memory, 4 bytes each; beyond, all are forgotten and read again as they are needed."""

Pair = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Tokens and token types of a query and a document together."""


class KeptTokens:
    """Texts as tokens, by keys that tell them apart, kept once they have been read."""

    def __init__(self, read: Callable[[Sequence[str]], Sequence[NDArray[np.integer]]]) -> None:
        self._read = read
        self._kept: dict[Any, NDArray[np.int32]] = {}
        self._total = 0

    def of(self, keys: Sequence[Any], texts: Callable[[list[Any]], Sequence[str]]) -> list[NDArray[np.int64]]:
        """Tokens by keys; `texts` gives those of keys that are new."""
        if self._total > KEPT_TOKENS:
            self._kept, self._total = {}, 0
        new = [key for key in dict.fromkeys(keys) if key not in self._kept]
        read = self._read(texts(new))
        self._kept.update({key: one.astype(np.int32) for key, one in zip(new, read, strict=True)})
        self._total += sum(map(len, read))
        return [self._kept[key].astype(np.int64) for key in keys]


class PairTexts:
    """Pairs as tokens. Texts are kept as tokens once they have been read."""

    def __init__(self, reader: PairReader, corpus: Corpus, fields: Sequence[str]) -> None:
        """Take what reads pairs, and what is read of documents."""
        self._reader, self._corpus, self._fields = reader, corpus, tuple(fields)
        self._kept = KeptTokens(reader.tokens)  # a query's key is its text, a document's its row

    def pairs(self, queries: Sequence[str], documents: Sequence[NDArray[np.int32]]) -> list[Pair]:
        """Every query with each of its documents, in order."""
        rows = np.unique(np.concatenate([np.empty(0, np.int32), *documents])).tolist()
        read = self._kept.of(rows, lambda new: self._corpus.joined_texts(new, self._fields))
        of_rows = dict(zip(rows, read, strict=True))
        of_queries = self._kept.of(queries, list)
        return [
            self._reader.joined(query, of_rows[row])
            for query, found in zip(of_queries, documents, strict=True)
            for row in found.tolist()
        ]
