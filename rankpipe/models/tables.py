"""Tables on disk (SQLite) of what a model has given, which several processes may read and write at once."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rankpipe.errors import StoreError

PATIENCE = 120.0
"""Seconds to wait for another process that is writing to the same file."""
AT_ONCE = 500
"""Keys that are looked for in one query."""

K = TypeVar("K", str, bytes)
T = TypeVar("T")


@contextmanager
def opened(file: Path, what: str, columns: str) -> Iterator[sqlite3.Connection]:
    """The file with one table, `what`, made where it is not there. Raises StoreError where it cannot be read or written.

    what     is kept: "answers"
    columns  of the table, as SQL declares them
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(file, timeout=PATIENCE)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{file}: {what} cannot be kept there: {error}") from None
    try:
        connection.execute(f"CREATE TABLE IF NOT EXISTS {what} ({columns})")
        yield connection
    except sqlite3.Error as error:
        raise StoreError(f"{file}: {what} cannot be kept there, or are damaged: {error}; remove the file") from None
    finally:
        connection.close()


def found(
    connection: sqlite3.Connection, select: str, keys: Sequence[K], read: Callable[[Sequence[Any]], T]
) -> dict[K, T]:
    """What the table has of keys.

    select  "SELECT key, ... FROM ... WHERE key IN"
    read    a row without its key
    """
    there: dict[K, T] = {}
    for begin in range(0, len(keys), AT_ONCE):
        part = keys[begin : begin + AT_ONCE]
        rows = connection.execute(f"{select} ({', '.join('?' * len(part))})", part)
        there.update({key: read(row) for key, *row in rows})
    return there
