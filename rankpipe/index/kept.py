"""Vectors that the store has of single documents of a corpus: of those that were asked for so far, and of others.

They lie in parts, each an artefact laid out as the vectors of a whole corpus are (rankpipe/index/vectors.py), so what
was encoded before a process was killed is there for the next one. A part of fewer than SHARD documents is joined with
what comes after it, so that there are never many. When the whole corpus is encoded, the parts are taken over, and go.
Two processes that want the same at once both encode and keep it.
"""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankpipe import store
from rankpipe.errors import StoreError
from rankpipe.index.vectors import SHARD, Block, Encode, Precision, Vectors, gathered, merged
from rankpipe.progress import counted

KIND = "candidate-vectors"


class Kept:
    """The vectors that the store has of a key, and those that are added. Threads may share it."""

    def __init__(
        self,
        key: Mapping[str, Any],
        encode: Encode,
        *,
        dimensions: int,
        precision: Precision,
        others: Sequence[Vectors] = (),
    ) -> None:
        """Open what there is. Raises StoreError for what is damaged.

        key     what makes the vectors, as that of a whole corpus
        encode  makes those that are missing
        others  that are known as well, and need not be kept here
        """
        self._key, self._encode, self._others = key, encode, others
        self._precision: Precision = precision
        self._kind = _kind(key)
        self._lock = threading.Lock()
        nothing = Block(np.empty((0, dimensions), np.float32), np.zeros(1, np.int64), np.zeros(0, bool))
        self._nothing = Vectors.of(np.empty(0, np.int32), nothing, precision)
        self._unwritten = self._nothing
        self._parts: dict[Path, Vectors] = {}
        self._parts = self._opened()

    def take(self, others: Sequence[Vectors]) -> None:
        """Know of further vectors that need not be kept here."""
        self._others = [*self._others, *others]

    def of(self, rows: NDArray[np.int32]) -> Vectors:
        """Vectors of the documents at these rows, and of no others; what is missing is encoded, shard after shard."""
        wanted = np.unique(rows)
        with self._lock:
            missing = _missing(wanted, self._all())
            if len(missing):
                self._look_again()
                missing = _missing(wanted, self._all())
            if len(missing):
                with counted(len(missing), "candidates") as advance:
                    for begin in range(0, len(missing), SHARD):
                        new = missing[begin : begin + SHARD]
                        self._add(Vectors.of(new, self._encode(new, advance), self._precision))
            return gathered(self._all(), wanted)

    def rows(self) -> NDArray[np.int32]:
        """Rows of the documents that there are vectors of, rising."""
        return np.unique(np.concatenate([part.rows for part in self._all()]))

    def block(self, rows: NDArray[np.int32], advance: Callable[[int], None]) -> Block:
        """Vectors of the documents at rising rows, for who keeps them: those that are missing are encoded, and not kept.

        advance  told how many more are encoded
        """
        parts = self._all()
        missing = _missing(rows, parts)
        if len(missing):
            parts.append(Vectors.of(missing, self._encode(missing, advance), self._precision))
        found = gathered(parts, rows)
        return Block(found.values.astype(np.float32, copy=False), found.offsets, found.truncated)

    def _all(self) -> list[Vectors]:
        return [self._unwritten, *self._parts.values(), *self._others]

    def _add(self, new: Vectors) -> None:
        """Keep vectors of documents that no part has, those of small parts with them."""
        small = {folder: part for folder, part in self._parts.items() if len(part.rows) < SHARD}
        joined = merged([self._unwritten, *small.values(), new])
        rows = hashlib.sha256(joined.rows.tobytes()).hexdigest()
        try:
            folder = store.artefact(self._kind, {**self._key, "rows": rows}, joined.save)
        except StoreError as error:  # they are encoded, and can be used
            if not len(self._unwritten.rows):
                print(f"note: encoded candidates are not kept: {error}", file=sys.stderr)
            self._unwritten = merged([self._unwritten, new])
            return
        self._unwritten = self._nothing
        self._parts = {path: part for path, part in self._parts.items() if path not in small}
        self._parts[folder] = Vectors.open(folder)
        for path in small.keys() - {folder}:
            store.remove(path)

    def _look_again(self) -> None:
        """Take in what another stage, or another process, has kept meanwhile."""
        self._parts = {**self._parts, **self._opened()}

    def _opened(self) -> dict[Path, Vectors]:
        """What the store has; what is open already stays so."""
        while True:
            folders = store.all_found(self._kind, self._parts)
            try:
                return {folder: self._parts.get(folder) or Vectors.open(folder) for folder in folders}
            except StoreError:
                if all(folder.exists() for folder in folders):  # else another process has just joined one with others
                    raise


def forget(key: Mapping[str, Any]) -> None:
    """Remove what is kept of a key, if anything is; those who have it open keep it."""
    store.remove(store.home() / _kind(key))


def _kind(key: Mapping[str, Any]) -> str:
    return f"{KIND}/{store.key_digest(key)}"


def _missing(rows: NDArray[np.int32], parts: Sequence[Vectors]) -> NDArray[np.int32]:
    """Those of the rows that no part has."""
    for part in parts:
        rows = rows[part.places(rows) < 0]
    return rows
