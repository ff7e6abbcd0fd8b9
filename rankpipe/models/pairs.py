"""Pairs of a query and a document as one sequence of tokens, as a cross-encoder reads them.

Both are tokenised apart, each text once, and joined by the tokenizer's own template. What is too long is cut as
`tokenizer(query, document, truncation=True)` of transformers does it (longest_first), which is what CrossEncoder of
sentence-transformers calls: the longer of the two is shortened first, then both alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rankpipe.errors import ModelError, UsageError
from rankpipe.models.tokens import open_tokenizer, refuse_unknown

Tokens = NDArray[np.int64]


class PairReader:
    """A model's tokenizer, and its template of a pair.

    tokenizer  as transformers opens it
    typed   whether the tokenizer tells query and document apart by token types; if not, all types are 0, and a network
            that takes no types must not be given any
    around  tokens of a pair that belong to neither text
    """

    def __init__(self, folder: Path, *, max_length: int, lower_case: bool = False, known: object = None) -> None:
        """Open the tokenizer of a folder.

        max_length  tokens of a pair that are read, those around the texts included
        known       vocab_size of its network's config.json: for how many tokens the network has embeddings

        Raises ModelError for a tokenizer that has no template of a pair, UsageError for a max_length without room.
        """
        self.tokenizer = opened = open_tokenizer(folder)
        self._tokenizer = opened.backend_tokenizer
        self._from_left = opened.truncation_side == "left"
        self._lower_case = lower_case
        self._folder, self._known = folder, known
        self.typed = "token_type_ids" in opened.model_input_names
        self._pieces, self._types = self._template(folder)
        self.around = sum(map(len, self._pieces))
        self.max_length = max_length
        self.room = max_length - self.around
        if self.room < 2:
            raise UsageError(
                f"max_length is {max_length}; {self.around} tokens stand around the texts of a pair, so it must be at "
                f"least {self.around + 2}"
            )

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokens of texts, without special ones. Raises ModelError for tokens that the network does not know."""
        given = [text.lower() for text in texts] if self._lower_case else list(texts)
        encoded = self._tokenizer.encode_batch_fast(given, add_special_tokens=False)
        tokens = [np.array(one.ids, np.int64) for one in encoded]
        refuse_unknown(self._folder, [*tokens, *self._pieces], self._known)
        return tokens

    def joined(self, query: Tokens, document: Tokens) -> tuple[Tokens, Tokens]:
        """(T,) tokens of a pair, and their types; at most max_length of them."""
        lengths = shares(len(query), len(document), self.room)
        query, document = (self.cut(text, size) for text, size in zip((query, document), lengths, strict=True))
        before, between, after = self._pieces
        ids = np.concatenate([before, query, between, document, after])
        sizes = (len(before), len(query), len(between), len(document), len(after))
        return ids, np.repeat(self._types, sizes)

    def cut(self, text: Tokens, size: int) -> Tokens:
        """The tokens of a text that are kept where it has more than `size`."""
        if len(text) <= size:
            return text
        return text[len(text) - size :] if self._from_left else text[:size]

    def _template(self, folder: Path) -> tuple[tuple[Tokens, Tokens, Tokens], Tokens]:
        """Tokens before, between and behind the two texts; the token types of these five parts."""
        probe = self._tokenizer.encode("a", "a")
        owners = np.array([-1 if owner is None else owner for owner in probe.sequence_ids], np.int64)
        ids, types = np.array(probe.ids, np.int64), np.array(probe.type_ids, np.int64)
        query, document = np.flatnonzero(owners == 0), np.flatnonzero(owners == 1)
        bounds = [0, *query[:1], *query[-1:] + 1, *document[:1], *document[-1:] + 1, len(ids)]
        if len(bounds) != 6 or bounds != sorted(bounds):
            raise ModelError(f"model folder {folder}: its tokenizer does not join a query and a document to a pair")
        parts = [slice(begin, end) for begin, end in pairwise(bounds)]
        before, _, between, _, after = (ids[part] for part in parts)
        kinds = [int(types[part][0]) if self.typed and len(types[part]) else 0 for part in parts]
        return (before, between, after), np.array(kinds, np.int64)


def shares(query: int, document: int, room: int) -> tuple[int, int]:
    """How many tokens stay of a query and of a document that share a room: the longer one is cut first."""
    if query + document <= room:
        return query, document
    shorter = min(query, document)
    if 2 * shorter <= room:
        return (query, room - query) if query <= document else (room - document, document)
    half = room // 2  # of an odd room, the longer text has one more; of equal ones, the document
    return (half, room - half) if query <= document else (room - half, half)
