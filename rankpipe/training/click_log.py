"""Click logs: what was shown to whom and what was clicked, one session a line, read and checked.

JSON lines (.jsonl, .jsonl.gz) or Parquet (.parquet), with the columns

    query    id of the query
    shown    ids of the documents, best position first
    clicks   positions that were clicked, from 1; empty where nothing was
    time     when, in seconds or as an ISO 8601 text, UTC where it names no zone; may be left out
    session  id of the session; may be left out, and then an equal line at an equal time counts as the same

Nothing is dropped in silence: whatever is wrong is told with its lines.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rankpipe.data import Corpus, Queries
from rankpipe.data.lines import Lines
from rankpipe.errors import DataError, UsageError
from rankpipe.training.sessions import Sessions
from rankpipe.writing import replacing

SHOWN_LINES = 5
"""Lines that a problem's message names."""
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
BLOCK = 4096
"""Rows of a Parquet file that are read at once."""
KINDS = {
    "form": "no session: 'query' must be a text, 'shown' a list of texts, 'clicks' a list of whole numbers",
    "empty": "nothing was shown",
    "position": "a clicked position below 1",
    "outside": "a click beyond the end of the list",
    "twice": "a document that was shown twice, or a position that was clicked twice",
    "repeated": "a session that was there before",
    "backwards": "a time before that of the line above, or none that can be read",
    "query": "a query that the data set does not have",
    "document": "a document that the data set does not have",
}
"""What may be wrong with a line, in the order in which it is looked for; a line counts under the first."""


class Session(NamedTuple):
    """One line.

    clicks  positions, from 1
    """

    line: int
    query: str
    shown: tuple[str, ...]
    clicks: tuple[int, ...]


@dataclass
class Problems:
    """Lines of a log that are wrong, by what is.

    lines  kind -> the lines' numbers, all of them
    """

    path: Path
    sessions: int = 0
    lines: dict[str, list[int]] = field(default_factory=dict)

    def note(self, kind: str, line: int) -> None:
        """A line is wrong."""
        self.lines.setdefault(kind, []).append(line)

    @property
    def count(self) -> int:
        """Lines that are wrong."""
        return sum(map(len, self.lines.values()))

    def told(self) -> dict[str, Any]:
        """As a manifest says it."""
        return {kind: {"count": len(lines), "first_lines": lines[:SHOWN_LINES]} for kind, lines in self.lines.items()}

    def __str__(self) -> str:
        """A line for every kind."""
        said = []
        for kind in KINDS:
            if lines := self.lines.get(kind):
                shown = ", ".join(map(str, lines[:SHOWN_LINES]))
                more = f" and {len(lines) - SHOWN_LINES:,} more" if len(lines) > SHOWN_LINES else ""
                plural = "s" * (len(lines) > 1)
                said.append(f"{self.path}: {KINDS[kind]}: {len(lines):,} line{plural} ({shown}{more})")
        return "\n".join(said)


@dataclass(frozen=True, eq=False)
class ClickLog:
    """A log that was read: its good sessions, and what was wrong with the others."""

    path: Path
    sessions: tuple[Session, ...]
    problems: Problems

    def refuse_problems(self) -> None:
        """Raise DataError with all that is wrong, if anything is."""
        if self.problems.count:
            whole = self.problems.count + len(self.sessions)
            raise DataError(
                f"{self.problems}\n{self.problems.count:,} of {whole:,} sessions are wrong; mend the log, or leave them out "
                "with 'bad: leave-out'"
            )

    def of(self, queries: Queries) -> ClickLog:
        """The sessions of some queries."""
        return replace(self, sessions=tuple(one for one in self.sessions if one.query in queries))

    def added_up(self, queries: Queries, corpus: Corpus, positions: int, *, apart: bool = False) -> ShownLists:
        """The sessions of every different list together; what was shown below the last position is left out.

        apart  every session is a list of its own
        """
        numbers: dict[tuple[str, tuple[str, ...], int], int] = {}
        owners = np.empty(len(self.sessions), np.int64)
        for at, one in enumerate(self.sessions):
            owners[at] = numbers.setdefault((one.query, one.shown[:positions], at if apart else 0), len(numbers))
        shown = np.full((len(numbers), positions), -1, np.int64)
        for (_, ids, _), number in numbers.items():
            shown[number, : len(ids)] = corpus.rows(ids)
        count = np.bincount(owners, minlength=len(numbers))
        clicks = np.zeros((len(numbers), positions), np.int64)
        pairs = np.zeros((len(numbers), positions, positions), np.int64)
        for at, one in enumerate(self.sessions):
            clicked = np.zeros(positions, bool)
            clicked[[position - 1 for position in one.clicks if position <= positions]] = True
            clicks[owners[at]] += clicked
            pairs[owners[at]] += clicked[:, None] & (~clicked & (shown[owners[at]] >= 0))
        rows = np.array([queries.row(query) for query, _, _ in numbers], np.int64)
        return ShownLists(rows, Sessions(shown, count, clicks, pairs))


class ShownLists(NamedTuple):
    """Lists of a log.

    queries   (L,) rows of the queries that they answer
    sessions  of the lists; `shown` has rows of the corpus
    """

    queries: np.ndarray
    sessions: Sessions


def read_click_log(path: Path | str, queries: Queries, corpus: Corpus) -> ClickLog:
    """Read a log of a data set's queries and documents, to its end, whatever is wrong with it.

    Raises UsageError where there is no such file, or it ends in neither .jsonl, .jsonl.gz nor .parquet; DataError where
    it cannot be read at all, or holds no sessions.
    """
    path = Path(path)
    problems, kept = Problems(path), []
    checks = _Checks(queries, corpus, problems)
    for line, record in _records(path):
        problems.sessions += 1
        if (session := checks.session(line, record)) is not None:
            kept.append(session)
    if not problems.sessions:
        raise DataError(f"{path}: holds no sessions")
    return ClickLog(path, tuple(kept), problems)


class _Checks:
    """What is known of the lines before."""

    def __init__(self, queries: Queries, corpus: Corpus, problems: Problems) -> None:
        self._queries, self._corpus, self._problems = queries, corpus, problems
        self._seen: set[Any] = set()
        self._known: dict[str, bool] = {}
        self._last = -np.inf

    def session(self, line: int, record: Mapping[str, Any] | None) -> Session | None:
        """A line's session; None, and a note, where something is wrong with it."""
        formed = None if record is None else _formed(line, record)
        if record is None or formed is None:
            return self._wrong("form", line)
        time = _seconds(record.get("time"))
        repeated = self._repeated(record, formed, time)
        early = np.isnan(time) or time < self._last
        if not np.isnan(time):
            self._last = time
        checks = (
            ("empty", not formed.shown),
            ("position", any(position < 1 for position in formed.clicks)),
            ("outside", any(position > len(formed.shown) for position in formed.clicks)),
            ("twice", _has_double(formed.shown) or _has_double(formed.clicks)),
            ("repeated", repeated),
            ("backwards", record.get("time") is not None and early),
            ("query", formed.query not in self._queries),
            ("document", not all(map(self._has, formed.shown))),
        )
        wrong = next((kind for kind, found in checks if found), None)
        return formed if wrong is None else self._wrong(wrong, line)

    def _wrong(self, kind: str, line: int) -> None:
        self._problems.note(kind, line)

    def _repeated(self, record: Mapping[str, Any], formed: Session, time: float) -> bool:
        """Whether this session was there before; without an id or a time, nobody can know."""
        if isinstance(record.get("session"), str | int):
            key: Any = record["session"]
        elif not np.isnan(time):
            key = (formed.query, formed.shown, formed.clicks, time)
        else:
            return False
        if key in self._seen:
            return True
        self._seen.add(key)
        return False

    def _has(self, doc_id: str) -> bool:
        if doc_id not in self._known:
            self._known[doc_id] = bool(self._corpus.rows([doc_id])[0] >= 0)
        return self._known[doc_id]


def _records(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
    """Line, from 1, and its record; None for what is none."""
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        lines = Lines(path)
        for text in lines:
            try:
                record = json.loads(text)
            except (ValueError, RecursionError):
                record = None
            yield lines.number, record if isinstance(record, dict) else None
    elif path.suffix == ".parquet":
        yield from _parquet(path)
    else:
        raise UsageError(f"{path}: a click log ends in .jsonl, .jsonl.gz or .parquet")


def _parquet(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    if not path.exists():
        raise UsageError(f"there is no file {path}")
    try:
        line = 0
        with ParquetFile(path) as file:
            for batch in file.iter_batches(BLOCK):
                for record in _coarse(batch).to_pylist():
                    line += 1
                    yield line, record
    except (ArrowException, OSError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


def _coarse(batch: Any) -> Any:
    """Times to the microsecond: Python has no finer ones."""
    import pyarrow as pa

    at = batch.schema.get_field_index("time")
    if at < 0 or not pa.types.is_timestamp(batch.schema.field(at).type):
        return batch
    cast = batch.column(at).cast(pa.timestamp("us", batch.schema.field(at).type.tz), safe=False)
    return batch.set_column(at, "time", cast)


def _formed(line: int, record: Mapping[str, Any]) -> Session | None:
    query, shown, clicks = record.get("query"), record.get("shown"), record.get("clicks")
    texts = isinstance(shown, list) and all(isinstance(one, str) for one in shown)
    numbers = isinstance(clicks, list) and all(type(one) is int for one in clicks)
    if not isinstance(query, str) or not texts or not numbers:
        return None
    return Session(line, query, tuple(shown), tuple(clicks))  # type: ignore[arg-type]


def _has_double(values: Sequence[Any]) -> bool:
    return len(set(values)) < len(values)


def _seconds(time: Any) -> float:
    """Seconds of a time; NaN for what is none."""
    if isinstance(time, datetime):
        return _since_1970(time)
    if isinstance(time, str):
        try:
            return _since_1970(datetime.fromisoformat(time.replace("Z", "+00:00")))
        except ValueError:
            return float("nan")
    if isinstance(time, int | float) and not isinstance(time, bool):
        try:
            seconds = float(time)
        except OverflowError:  # a whole number beyond all clocks
            return float("nan")
        return seconds if math.isfinite(seconds) else float("nan")
    return float("nan")


def _since_1970(time: datetime) -> float:
    """Seconds; a time without a zone is taken for UTC, whatever the machine's."""
    return ((time if time.tzinfo else time.replace(tzinfo=timezone.utc)) - EPOCH).total_seconds()


def write_click_log(sessions: Iterator[Mapping[str, Any]], path: Path | str) -> None:
    """Write sessions, maps with the keys of a line, as JSON lines, whole or not at all. Raises UsageError for other names."""
    if Path(path).suffix != ".jsonl":
        raise UsageError(f"{path}: a log is written to a file whose name ends in .jsonl")
    with replacing(Path(path)) as file:
        for one in sessions:
            file.write(json.dumps(one, ensure_ascii=False) + "\n")
