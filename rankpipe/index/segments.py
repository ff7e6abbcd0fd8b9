"""What the store has of a corpus' documents because another corpus has segments in common with it.

A corpus that is extended, or loses documents, is another corpus, and what a network made of it has a place of its own.
Its segments are the old ones, whose rows mean the same documents for good, so they need not be encoded again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rankpipe import store
from rankpipe.index.vectors import Vectors

KIND = "vectors"
"""Of the vectors of a whole corpus, in the store."""


class Span(NamedTuple):
    """Rows begin to end - 1 of another corpus, which are the rows start, start + 1, ... of this one."""

    begin: int
    end: int
    start: int


def sharing(kind: str, key: Mapping[str, Any]) -> Iterator[tuple[Path, list[Span]]]:
    """Artefacts of corpora that have segments of the key's, and the rows they have in common.

    key  what makes the artefact of a corpus; "corpus" is its digest, and "segments" are digest and rows of each segment

    Raises StoreError for an artefact that is damaged.
    """
    own = {digest for digest, _ in key["segments"]}

    def alike(other: Mapping[str, Any]) -> bool:
        segments = other.get("segments", ())
        rest = {**other, "corpus": key["corpus"], "segments": key["segments"]}
        return any(digest in own for digest, _ in segments) and store.key_digest(rest) == store.key_digest(key)

    for folder, other in store.made_by(kind, alike):
        yield folder, list(_in_common(other["segments"], key["segments"]))


def shared(key: Mapping[str, Any]) -> list[Vectors]:
    """Vectors of documents in segments that other corpora have as well, at their rows in the corpus of the key.

    Raises StoreError for vectors that are damaged.
    """
    found = ((Vectors.open(folder), spans) for folder, spans in sharing(KIND, key))
    return [vectors.moved(*span) for vectors, spans in found for span in spans]


def _in_common(theirs: Sequence[tuple[str, int]], ours: Sequence[tuple[str, int]]) -> Iterator[Span]:
    begins, sizes = dict(_starts(theirs)), dict(theirs)
    for digest, start in _starts(ours):
        if digest in begins:
            yield Span(begins[digest], begins[digest] + sizes[digest], start)


def _starts(segments: Sequence[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """Digest and first row of every segment."""
    start = 0
    for digest, rows in segments:
        yield digest, start
        start += rows
