"""Builds in shards, so that one that was killed goes on where it stopped.

While it is being built, a folder holds for every finished shard its arrays, shard-NNNNN-NAME.npy, and, written last,
shard-NNNNN.json, which describes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankpipe import npy
from rankpipe.errors import StoreError
from rankpipe.progress import counted
from rankpipe.writing import replacing

NONE = np.empty(0, np.int32)
"""No rows."""


class Shard(NamedTuple):
    """What is written of a range of documents: arrays by name, and a description that JSON takes."""

    arrays: Mapping[str, NDArray]
    described: Mapping[str, Any]


Advance = Callable[[int], None]
"""Is to be told how many more documents are done."""


def complete(
    folder: Path,
    rows: NDArray[np.int32],
    make: Callable[[NDArray[np.int32], Advance], Shard],
    size: int,
    known: NDArray[np.int32] = NONE,
) -> int:
    """Make and write the shards of `size` rows that the folder does not have; give the number of all shards.

    known  rows of documents that take `make` no time, and are not told of: they count as done before
    """
    parts = [rows[begin : begin + size] for begin in range(0, len(rows), size)]
    missing = [number for number in range(len(parts)) if not _json(folder, number).is_file()]
    left = sum(int(np.isin(parts[number], known, invert=True).sum()) for number in missing)
    with counted(len(rows), "documents", done=len(rows) - left) as advance:
        for number in missing:
            write(folder, number, make(parts[number], advance))
    return len(parts)


def write(folder: Path, number: int, shard: Shard) -> None:
    """Write a shard; its description last, which says that it is finished."""
    for name, values in shard.arrays.items():
        with replacing(_array(folder, number, name), "wb") as file:
            npy.write(file, values)
    with replacing(_json(folder, number)) as file:
        json.dump(shard.described, file)


def finished(folder: Path) -> list[int]:
    """Numbers of the shards that are finished."""
    return sorted(int(path.stem.removeprefix("shard-")) for path in folder.glob("shard-*.json"))


def described(folder: Path, number: int) -> dict[str, Any]:
    """The description of a finished shard. Raises StoreError for a damaged one, which is then made anew next time."""
    with _whole(folder, number):
        return dict(json.loads(_json(folder, number).read_text(encoding="utf-8")))


def array(folder: Path, number: int, name: str) -> NDArray:
    """An array of a finished shard, memory-mapped. Raises StoreError as `described`."""
    with _whole(folder, number):
        return np.load(_array(folder, number, name), mmap_mode="r", allow_pickle=False)


@contextmanager
def _whole(folder: Path, number: int) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, TypeError, EOFError) as error:
        _json(folder, number).unlink(missing_ok=True)  # now it is not finished any more
        raise StoreError(
            f"{_json(folder, number)}, or what it describes, is damaged; the next run makes it anew"
        ) from error


def remove(folder: Path) -> None:
    """Remove all shards, and what was being written when a build was killed."""
    for pattern in ("shard-*", ".*"):
        for path in folder.glob(pattern):
            path.unlink()


def _array(folder: Path, number: int, name: str) -> Path:
    return folder / f"shard-{number:05d}-{name}.npy"


def _json(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.json"
