"""Documents as numbers: lists with grades and features, read from and written to SVMlight files, as LETOR has them.

A line is a document, `grade qid:query index:value ... # comment`; indices begin at 1 and rise, and what is left out is
0. The lines of a query stand together.
"""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from rankpipe.data.lines import opened
from rankpipe.data.svmlight_lines import PROBLEMS, Parsed, parse
from rankpipe.errors import DataError, UsageError
from rankpipe.writing import replacing

BLOCK = 1 << 22
"""Bytes of a file that are parsed at once; a line may be longer."""
MOST_FEATURES = 1 << 20
"""The highest index there may be: a mistyped one must not ask for all memory."""

MOST_NUMBERS = 1 << 33
"""Documents times features, 32 GiB."""


@dataclass(frozen=True, eq=False)
class FeatureLists:
    """Documents of Q queries, H in all, as F numbers each.

    Query q owns the slice offsets[q]:offsets[q + 1].

    query_ids  Q texts
    offsets    (Q + 1,) int64, from 0 to H
    grades     (H,) float32, 0 and less: not relevant
    features   (H, F) float32, finite; column f is index f + 1 of a file
    comments   H texts that stood behind #, empty where nothing did; None where they were not read
    """

    query_ids: tuple[str, ...]
    offsets: NDArray[np.int64]
    grades: NDArray[np.float32]
    features: NDArray[np.float32]
    comments: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        size = len(self.grades)
        if len(self.offsets) != len(self.query_ids) + 1 or self.offsets[0] != 0 or self.offsets[-1] != size:
            raise UsageError(
                f"offsets of {len(self.query_ids)} queries and {size} documents do not run from 0 to {size}"
            )
        if len(self.features) != size:
            raise UsageError(f"{len(self.features)} rows of features for {size} documents")

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.query_ids)

    @property
    def counts(self) -> NDArray[np.int64]:
        """(Q,) documents of each query."""
        return np.diff(self.offsets)

    def select(self, queries: Sequence[int] | NDArray[np.integer]) -> FeatureLists:
        """Some of the queries, by their places, in the order given."""
        places = np.asarray(queries, np.int64)
        counts = self.counts[places]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[places] - offsets[:-1], counts)
        return FeatureLists(
            tuple(self.query_ids[place] for place in places.tolist()),
            offsets,
            self.grades[rows],
            self.features[rows],
            None if self.comments is None else tuple(self.comments[row] for row in rows.tolist()),
        )

    def widened(self, features: int) -> FeatureLists:
        """With so many features, those that were not there 0: files that leave out what is 0 may end early.

        Raises UsageError where there are more.
        """
        here = self.features.shape[1]
        if here > features:
            raise UsageError(f"{here} features are there, and {features} are wanted")
        wide = np.zeros((len(self.grades), features), np.float32)
        wide[:, :here] = self.features
        return FeatureLists(self.query_ids, self.offsets, self.grades, wide, self.comments)


def read_svmlight(path: Path | str, *, features: int | None = None, comments: bool = False) -> FeatureLists:
    """Lists of an SVMlight file, plain or .gz, block by block.

    features  number of them; None: up to the highest index of the file
    comments  whether what stands behind # is kept

    Raises UsageError where there is no such file; DataError, with file:line, for a line that is none, indices that do
    not rise, values that are not finite, a query in two places, a file without documents.
    """
    reading = _Reading(Path(path), features, comments)
    with _opened(reading.path) as file:
        for block in _blocks(reading.path, file):
            reading.take(block)
    return reading.lists()


def write_svmlight(lists: FeatureLists, path: Path | str) -> None:
    """Write lists, whole or not at all; what is 0 is left out. Reading the file gives the same numbers.

    Raises UsageError for a query id or a comment that a line cannot hold, one id twice, and what is no finite number.
    """
    path = Path(path)
    if len(set(lists.query_ids)) < len(lists.query_ids):
        raise UsageError("one query id stands twice, and its two lists would be read as one")
    if not (np.isfinite(lists.grades).all() and np.isfinite(lists.features).all()):
        raise UsageError("grades and features must be finite numbers to be written")
    for query_id in lists.query_ids:
        if not query_id or any(character.isspace() or character == "#" for character in query_id):
            raise UsageError(
                f"query id {query_id!r} cannot stand in an SVMlight file: it is empty, or has a blank or #"
            )
    comments = lists.comments or ("",) * len(lists.grades)
    if (wrong := next((one for one in comments if "\n" in one or "\r" in one), None)) is not None:
        raise UsageError(f"comment {wrong!r} cannot stand in an SVMlight file: it has more than one line")
    owners = np.repeat(np.arange(len(lists)), lists.counts).tolist()
    with replacing(path, "wb") as raw, _written(raw, path) as file:
        for row, owner in enumerate(owners):
            values = lists.features[row]
            there = np.flatnonzero(values)
            pairs = (f"{at + 1}:{value}" for at, value in zip(there.tolist(), values[there], strict=True))
            tail = f" # {comments[row]}" if comments[row] else ""
            line = f"{lists.grades[row]} qid:{lists.query_ids[owner]} {' '.join(pairs)}".rstrip() + tail
            file.write(f"{line}\n".encode())


class _Block(NamedTuple):
    """Entries of the documents of a block: R documents, E entries, as Parsed has them; columns in as few bytes as hold them."""

    row_ends: NDArray[np.int64]
    columns: NDArray[np.unsignedinteger]
    values: NDArray[np.float32]


class _Reading:
    """What has been read of a file so far."""

    def __init__(self, path: Path, features: int | None, comments: bool) -> None:
        self.path, self._features = path, features
        self._limit = MOST_FEATURES if features is None else features
        self._grades: list[NDArray[np.float32]] = []
        self._blocks: deque[_Block] = deque()
        self._highest = -1
        self._begins: dict[str, tuple[int, int]] = {}  # query id -> first row, line
        self._comments: list[str] | None = [] if comments else None
        self._rows = self._lines = 0
        self._current: bytes | None = None

    def take(self, block: bytes) -> None:
        """Take whole lines."""
        found = parse(block, self._limit)
        if found.problem is not None:
            raise self._error(block, found)
        values = found.values
        for at, begin, end in found.inexact.tolist():
            if at >= 0:
                values[at] = float(block[begin:end])
            else:
                found.grades[-1 - at] = float(block[begin:end])
        if not np.isfinite(narrowed := _narrowed(values)).all():
            at = int(np.argmin(np.isfinite(narrowed)))
            row = int(np.searchsorted(found.row_ends, at, side="right"))
            raise DataError.at(
                self.path,
                self._lines + int(found.row_lines[row]),
                f"feature {found.columns[at] + 1} is {values[at]:g}, too large for 32 bits",
            )
        if not np.isfinite(grades := _narrowed(found.grades)).all():
            row = int(np.argmin(np.isfinite(grades)))
            raise DataError.at(
                self.path,
                self._lines + int(found.row_lines[row]),
                f"the grade is {found.grades[row]:g}, too large for 32 bits",
            )
        self._take_queries(block, found)
        if self._comments is not None:
            self._comments += [
                block[begin:end].decode("utf-8", "replace").strip() for begin, end in found.comments.tolist()
            ]
        self._grades.append(grades)
        highest = int(found.columns.max(initial=-1))
        self._blocks.append(_Block(found.row_ends, found.columns.astype(np.min_scalar_type(max(highest, 0))), narrowed))
        self._highest = max(self._highest, highest)
        self._rows += len(found.grades)
        self._lines += found.lines

    def lists(self) -> FeatureLists:
        """All of it."""
        if not self._rows:
            raise DataError(f"{self.path}: holds no documents")
        width = self._features if self._features is not None else self._highest + 1
        if self._rows * width > MOST_NUMBERS:
            raise DataError(
                f"{self.path}: {self._rows:,} documents with {width:,} features are {self._rows * width:,} numbers, and "
                f"{MOST_NUMBERS:,} are read at most"
            )
        features = np.zeros((self._rows, width), np.float32)
        first = 0
        while self._blocks:  # each goes as soon as it is copied: together they are larger than what comes of them
            ends, columns, values = self._blocks.popleft()
            features[first + np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0)), columns] = values
            first += len(ends)
        grades = np.concatenate(self._grades)
        offsets = np.array([*(row for row, _ in self._begins.values()), self._rows], np.int64)
        comments = None if self._comments is None else tuple(self._comments)
        return FeatureLists(tuple(self._begins), offsets, grades, features, comments)

    def _take_queries(self, block: bytes, found: Parsed) -> None:
        for row, begin, end in found.queries.tolist():
            name = block[begin:end]
            if name == self._current:  # goes on from the last block
                continue
            line = self._lines + int(found.row_lines[row])
            try:
                query_id = name.decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError.at(self.path, line, f"the query id is not UTF-8: {error.reason}") from None
            if query_id in self._begins:
                raise DataError.at(
                    self.path,
                    line,
                    f"query {query_id!r} stood in line {self._begins[query_id][1]} already, and another query between; "
                    "the lines of a query stand together",
                )
            self._begins[query_id] = self._rows + row, line
            self._current = name

    def _error(self, block: bytes, found: Parsed) -> DataError:
        assert found.problem is not None
        code, begin, end = found.problem
        word = block[begin:end].decode("utf-8", "replace")
        shown = word if len(word) <= 40 else f"{word[:40]}..."
        limit = (
            f"there are {self._limit} features"
            if self._features is not None
            else f"more than {MOST_FEATURES:,} features are not read"
        )
        return DataError.at(self.path, self._lines + found.lines, PROBLEMS[code].format(word=shown, limit=limit))


def _narrowed(values: NDArray[np.float64]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
        return values.astype(np.float32)


def _opened(path: Path) -> IO[bytes]:
    if not path.exists():
        raise UsageError(f"there is no file {path}")
    if path.is_dir():
        raise DataError(f"{path}: is a folder, not an SVMlight file")
    return opened(path)


@contextmanager
def _written(raw: IO[bytes], path: Path) -> Iterator[IO[bytes]]:
    if path.suffix != ".gz":
        yield raw
        return
    with gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as file:  # no time: equal lists make equal files
        yield cast(IO[bytes], file)


def _blocks(path: Path, file: IO[bytes]) -> Iterator[bytes]:
    """The file in blocks of whole lines, the last one ended by a line feed."""
    left, begun = b"", False
    while True:
        try:
            more = file.read(BLOCK)
        except (EOFError, zlib.error, OSError) as error:
            raise DataError(f"{path}: cannot be read: {error}") from None
        if not more:
            break
        if not begun:
            more, begun = more.removeprefix(codecs.BOM_UTF8), True
        end = more.rfind(b"\n") + 1
        if end:
            yield left + more[:end]
            left = more[end:]
        else:
            left += more
    if left:
        yield left + b"\n"
