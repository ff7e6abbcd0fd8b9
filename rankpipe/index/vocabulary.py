"""A term dictionary that is read where it lies on disk: all terms in one array of bytes, sorted."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def pack(terms: Iterable[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The bytes of all terms one after another, and where each begins: (B,) and (V + 1,). Terms must come sorted."""
    terms = list(terms)
    ends = np.cumsum([0, *map(len, terms)], dtype=np.int64)
    return np.frombuffer(b"".join(terms), np.uint8), ends


def encode(term: str) -> bytes:
    """UTF-8, whose byte order is that of code points; lone surrogates are kept rather than refused."""
    return term.encode("utf-8", "surrogatepass")


class Vocabulary:
    """Terms numbered in their order; found by halving.

    letters  (B,) uint8, UTF-8
    starts   (V + 1,) int64, from 0 to B
    """

    def __init__(self, letters: NDArray[np.uint8], starts: NDArray[np.int64]) -> None:
        self._letters = letters.data
        self._starts = starts.data

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, number: int) -> bytes:
        return bytes(self._letters[self._starts[number] : self._starts[number + 1]])

    def find(self, term: str) -> int:
        """The term's number, -1 if it is not there."""
        wanted = encode(term)
        number = bisect_left(self, wanted)
        return number if number < len(self) and self[number] == wanted else -1

    def term(self, number: int) -> str:
        """The term of a number."""
        return self[number].decode("utf-8", "surrogatepass")
