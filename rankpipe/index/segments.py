"""Vectors that the store has because another corpus has segments in common with this one.

A corpus that is extended, or loses documents, is another corpus, and has vectors of its own. Its segments are the old
ones, whose rows mean the same documents for good, so their vectors need not be encoded again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rankpipe import store
from rankpipe.index.vectors import Vectors

KIND = "vectors"
"""Of the vectors of a whole corpus, in the store."""


def shared(key: Mapping[str, Any]) -> list[Vectors]:
    """Vectors of documents in segments that other corpora have as well, at their rows in the corpus of the key.

    key  what makes the vectors of a corpus; "corpus" is its digest, and "segments" are digest and rows of each segment

    Raises StoreError for vectors that are damaged.
    """
    own = {digest for digest, _ in key["segments"]}

    def alike(other: Mapping[str, Any]) -> bool:
        segments = other.get("segments", ())
        rest = {**other, "corpus": key["corpus"], "segments": key["segments"]}
        return any(digest in own for digest, _ in segments) and store.key_digest(rest) == store.key_digest(key)

    return [
        part
        for folder, other in store.made_by(KIND, alike)
        for part in _in_common(Vectors.open(folder), other["segments"], key["segments"])
    ]


def _in_common(
    vectors: Vectors, theirs: Sequence[tuple[str, int]], ours: Sequence[tuple[str, int]]
) -> Iterator[Vectors]:
    begins = dict(_starts(theirs))
    sizes = dict(theirs)
    for digest, start in _starts(ours):
        if digest in begins:
            yield vectors.moved(begins[digest], begins[digest] + sizes[digest], start)


def _starts(segments: Sequence[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """Digest and first row of every segment."""
    start = 0
    for digest, rows in segments:
        yield digest, start
        start += rows
