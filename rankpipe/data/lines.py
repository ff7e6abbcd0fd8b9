"""Lines of a text file, read one by one, with the place of the current one for error messages."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from rankpipe.errors import DataError, UsageError

BUFFER = 1 << 20
"""Bytes read at a time."""


class Lines:
    """The lines of a UTF-8 file, plain or .gz, without their ends; blank ones are left out.

    path    the file
    number  the line read last, from 1; 0 before the first

    Iterating again starts from the beginning. Raises UsageError where there is no such file, DataError (with file:line
    where a line is to blame) for what cannot be read: no UTF-8, a damaged or truncated gzip file, a folder.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        self.number = 0
        if not os.path.exists(self.path):
            raise UsageError(f"there is no file {self.path}")
        try:
            with opened(self.path) as file:
                for self.number, line in enumerate(file, start=1):
                    text = self._decoded(line)
                    if text and not text.isspace():
                        yield text
        except EOFError:
            raise DataError(
                f"{self.path}: the gzip file ends after line {self.number}, in the middle: fetch it again"
            ) from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{self.path}: no whole gzip file, from line {self.number + 1} on: {error}") from None
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror or error}") from error

    def text(self) -> str:
        """The whole file, every line where it was."""
        parts: list[str] = []
        for line in self:
            parts += [""] * (self.number - 1 - len(parts))
            parts.append(line)
        return "\n".join(parts)

    def error(self, message: str) -> DataError:
        """A DataError that names the current line."""
        return DataError.at(self.path, self.number, message)

    def _decoded(self, line: bytes) -> str:
        if self.number == 1:
            if line.startswith(b"\x1f\x8b"):
                raise DataError(f"{self.path}: is compressed with gzip; its name should end in .gz")
            line = line.removeprefix(b"\xef\xbb\xbf")  # a byte order mark
        try:
            return line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise self.error(f"not UTF-8: {error.reason} at byte {error.start + 1} of the line") from None


def opened(path: Path) -> IO[bytes]:
    """A file open for reading, plain or .gz. Raises OSError."""
    if path.suffix == ".gz":
        return io.BufferedReader(cast(io.RawIOBase, gzip.open(path, "rb")), BUFFER)
    return open(path, "rb", buffering=BUFFER)
