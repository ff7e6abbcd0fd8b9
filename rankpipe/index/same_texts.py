"""Vectors that the store has of the same texts, whatever corpus they are of.

A file of documents that was changed is another corpus, of other segments, and most of its documents are what they were.
Beside the vectors of a corpus lie digests of what was encoded (texts.npy): 16 bytes of BLAKE2b each. Two texts of one
digest are taken for the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankpipe import npy, store
from rankpipe.data.text import text_digest
from rankpipe.errors import StoreError
from rankpipe.index.segments import KIND
from rankpipe.index.vectors import Elsewhere, Vectors

FILE = "texts.npy"
BLOCK = 1 << 13
"""Documents whose texts are in memory at once."""

Texts = Callable[[NDArray[np.int32]], Sequence[str]]
"""What an encoder reads of the documents at rows of a corpus."""


def save(folder: Path, rows: NDArray[np.int32], texts: Texts) -> None:
    """Write the digests of the documents at rows beside their vectors."""
    npy.save(folder / FILE, digests(rows, texts))


def known(key: Mapping[str, Any], rows: NDArray[np.int32], texts: Texts) -> list[Elsewhere]:
    """Vectors of documents at rising rows that have the text of one of another corpus; no text is read if there is none.

    key  what makes the vectors; "corpus" and "segments" say of which corpus

    What is damaged of another corpus is passed over, with a note: it is no fault of this one.
    """

    def alike(other: Mapping[str, Any]) -> bool:
        here = {name: key[name] for name in ("corpus", "segments")}
        return store.key_digest({**other, **here}) == store.key_digest(key)

    made = store.made_by(KIND, alike, damaged=_note) if len(rows) else []
    folders = [folder for folder, _ in made if (folder / FILE).is_file()]
    found: list[Elsewhere] = []
    if not folders:
        return found
    own = digests(rows, texts)
    for folder in folders:
        try:
            vectors, theirs = Vectors.open(folder), _read(folder)
        except StoreError as error:
            _note(error)
            continue
        at = _places(theirs, own)
        found.append(Elsewhere.of_documents(vectors, rows[at >= 0], at[at >= 0]))
        rows, own = rows[at < 0], own[at < 0]
        if not len(rows):
            break
    return found


def digests(rows: NDArray[np.int32], texts: Texts) -> NDArray[np.uint64]:
    """(n, 2) digests of the documents at rows."""
    parts = (rows[begin : begin + BLOCK] for begin in range(0, len(rows), BLOCK))
    whole = b"".join(text_digest(text) for part in parts for text in texts(part))
    return np.frombuffer(whole, "<u8").reshape(-1, 2)


def _note(error: StoreError) -> None:
    print(f"note: vectors of another collection are not taken over: {error}", file=sys.stderr)


def _read(folder: Path) -> NDArray[np.uint64]:
    try:
        return np.load(folder / FILE, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise StoreError(f"{folder / FILE} cannot be read: {error}") from None


def _places(theirs: NDArray[np.uint64], ours: NDArray[np.uint64]) -> NDArray[np.int64]:
    """(n,) where each of our digests is among theirs; -1 for none."""
    if not len(theirs):
        return np.full(len(ours), -1, np.int64)
    order = np.argsort(theirs[:, 0], kind="stable")
    at = order[np.minimum(np.searchsorted(theirs[:, 0], ours[:, 0], sorter=order), len(order) - 1)]
    return np.where((theirs[at] == ours).all(axis=1), at, -1)
