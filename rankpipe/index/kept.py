"""Vectors of those documents of a corpus that were asked for so far, kept in the store.

They lie in parts, each an artefact laid out as the vectors of a whole corpus are (rankpipe/index/vectors.py), so what
was encoded before a process was killed is there for the next one. A part of fewer than SHARD documents is joined with
what comes after it, so that there are never many. Two processes that want the same at once both encode and keep it.
"""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Mapping
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

    def __init__(self, key: Mapping[str, Any], encode: Encode, *, dimensions: int, precision: Precision) -> None:
        """Open what there is. Raises StoreError for what is damaged.

        key     what makes the vectors, as that of a whole corpus
        encode  makes those that are missing
        """
        self._key, self._encode = key, encode
        self._precision: Precision = precision
        self._kind = f"{KIND}/{store.key_digest(key)}"
        self._lock = threading.Lock()
        nothing = Block(np.empty((0, dimensions), np.float32), np.zeros(1, np.int64), np.zeros(0, bool))
        self._nothing = Vectors.of(np.empty(0, np.int32), nothing, precision)
        self._unwritten = self._nothing
        self._parts = self._opened()

    def of(self, rows: NDArray[np.int32]) -> Vectors:
        """Vectors of the documents at these rows, and of no others; what is missing is encoded, shard after shard."""
        wanted = np.unique(rows)
        with self._lock:
            missing = wanted
            for part in self._all():
                missing = missing[part.places(missing) < 0]
            if len(missing):
                with counted(len(missing), "candidates") as advance:
                    for begin in range(0, len(missing), SHARD):
                        new = missing[begin : begin + SHARD]
                        self._add(Vectors.of(new, self._encode(new, advance), self._precision))
            return gathered(self._all(), wanted)

    def _all(self) -> list[Vectors]:
        return [self._unwritten, *self._parts.values()]

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

    def _opened(self) -> dict[Path, Vectors]:
        while True:
            folders = store.all_found(self._kind)
            try:
                return {folder: Vectors.open(folder) for folder in folders}
            except StoreError:
                if all(folder.exists() for folder in folders):  # else another process has just joined one with others
                    raise
