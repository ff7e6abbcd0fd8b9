"""Corpus: the documents, as rows of immutable columns.

Stages see little of it: size, digest, segments, ids(rows), rows(ids), texts(rows, field) and tie_order. On disk it is a folder:

    corpus.json          format, segments in order, tombstones, digest
    segment-N-M.arrow    Arrow IPC files of text columns: id, title, text and whatever further fields the source had
    deleted.npy          (D,) int32 rows that are deleted (tombstones)
    tie_order.npy        (rows,) int32: position of each row when doc_ids fall, the largest first
    lookup_keys.npy      (rows,) uint64, rising: 64-bit hashes of the doc_ids; lookup_rows.npy: the rows they belong to

Segments are memory-mapped and never change; a row number is never reused. Opening reads no text.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rankpipe import npy
from rankpipe.data.records import is_plain, record_of
from rankpipe.data.text import id_problem, text_problem
from rankpipe.errors import DataError, StoreError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
BATCH = 16_384
"""Documents in one Arrow record batch: what a segment being written holds in memory."""
FILES = ("deleted", "tie_order", "lookup_keys", "lookup_rows")

Record = Mapping[str, str]
"""A document: `id`, `text`, and perhaps `title` and further fields, all text."""


class RepeatedIdError(DataError):
    """Two documents under one id, `doc_id`."""

    def __init__(self, doc_id: str) -> None:
        super().__init__(f"document id {doc_id!r} occurs twice")
        self.doc_id = doc_id


class Corpus:
    """Documents in rows 0 to len(corpus) - 1, some of them perhaps deleted.

    digest     hash of the segments' contents and the tombstones: equal digests, equal documents in equal rows
    tie_order  (rows,) int32: smaller comes first where scores are equal, so that doc_ids fall as in trec_eval
    """

    def __init__(self, batches: Sequence[pa.RecordBatch], arrays: Mapping[str, NDArray], segments: list[dict]) -> None:
        """Internal: use Corpus.open, from_texts, from_records or of_ids."""
        self._batches = list(batches)
        self._starts = np.cumsum([0, *(batch.num_rows for batch in batches)])
        self._segments = segments
        self.deleted: NDArray[np.int32] = arrays["deleted"]
        self.tie_order: NDArray[np.int32] = arrays["tie_order"]
        self._lookup_keys: NDArray[np.uint64] = arrays["lookup_keys"]
        self._lookup_rows: NDArray[np.int32] = arrays["lookup_rows"]
        described = json.dumps([segments, self.deleted.tolist()], sort_keys=True)
        self.digest: str = hashlib.sha256(described.encode()).hexdigest()[:32]

    # -- making one ---------------------------------------------------------------------------------------------

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> Corpus:
        """Documents d1, d2, ... of these texts, in memory."""
        if isinstance(texts, (str, Mapping)):
            what = "one text" if isinstance(texts, str) else "a mapping; from_records takes documents with ids"
            raise UsageError(f"Corpus.from_texts takes a list of texts, not {what}")
        return cls.from_records({"id": f"d{number}", "text": text} for number, text in enumerate(texts, start=1))

    @classmethod
    def from_records(cls, records: Iterable[Mapping[str, Any]]) -> Corpus:
        """Documents of mappings with `id` (or `_id`), `text`, and perhaps `title` and further fields, in memory.

        What is no text becomes one as in a file: see rankpipe.data.records. Raises DataError for a document without an id or
        a `text`, which may be empty.
        """
        return cls._in_memory(records, _SegmentBuilder())

    @classmethod
    def of_fields(cls, records: Iterable[Record]) -> Corpus:
        """Internal: documents that need not have a `text`, nor any field at all beside `id`, in memory."""
        return cls._in_memory(records, _SegmentBuilder(texts=False))

    @classmethod
    def _in_memory(cls, records: Iterable[Mapping[str, Any]], builder: _SegmentBuilder) -> Corpus:
        batches = list(builder.batches(records))
        return cls(batches, _arrays(builder.ids, deleted=()), [builder.description()])

    @classmethod
    def of_ids(cls, ids: Iterable[str]) -> Corpus:
        """A corpus that knows ids only, for files of results without their texts."""
        return cls.of_fields({"id": doc_id} for doc_id in ids)

    @classmethod
    def build(cls, folder: Path, records: Iterable[Record]) -> Corpus:
        """Write a corpus into an existing, empty folder, in memory bounded by the ids, and open it."""
        builder = _SegmentBuilder()
        files = _write_batches(folder, "segment-1", builder.batches(records))
        _write_folder(folder, [{**builder.description(), "files": files}], _arrays(builder.ids, deleted=()))
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> Corpus:
        """Open a corpus folder; its texts stay on disk."""
        import pyarrow as pa

        try:
            described = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
            if described["format"] != FORMAT:
                raise StoreError(f"{folder} has corpus format {described['format']}; this version reads {FORMAT}")
            arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in FILES}
            batches: list[pa.RecordBatch] = []
            for segment in described["segments"]:
                for file in segment["files"]:
                    reader = pa.ipc.open_file(pa.memory_map(str(folder / file), "rb"))
                    batches += [reader.get_batch(number) for number in range(reader.num_record_batches)]
        except (OSError, EOFError, ValueError, KeyError, TypeError, pa.ArrowInvalid) as error:
            raise StoreError(f"{folder} is not a whole corpus: {error}") from error
        segments = [{key: value for key, value in one.items() if key != "files"} for one in described["segments"]]
        corpus = cls(batches, arrays, segments)
        if len(corpus) != len(corpus.tie_order) or corpus.size != len(corpus._lookup_keys):
            raise StoreError(
                f"{folder} is not a whole corpus: {len(corpus)} rows, {len(corpus.tie_order)} in tie_order"
            )
        return corpus

    def save(self, folder: Path) -> Corpus:
        """Write this corpus into an existing, empty folder, its segments as they are, and open it there."""
        start, described = 0, []
        for number, segment in enumerate(self._segments, start=1):
            end = start + segment["rows"]
            batches = (b for b, s in zip(self._batches, self._starts, strict=False) if start <= s < end)
            described.append({**segment, "files": _write_batches(folder, f"segment-{number}", batches)})
            start = end
        _write_folder(folder, described, {name: np.asarray(getattr(self, _attribute(name))) for name in FILES})
        return Corpus.open(folder)

    def extended(self, records: Iterable[Mapping[str, Any]]) -> Corpus:
        """This corpus and further documents, in new rows; their ids must be new (delete the old ones first)."""
        builder = _SegmentBuilder()
        batches = list(builder.batches(records))
        old = self.ids(np.arange(len(self), dtype=np.int32))
        gone = set(self.deleted.tolist())
        living = {doc_id for row, doc_id in enumerate(old) if row not in gone}
        if repeated := next((doc_id for doc_id in builder.ids if doc_id in living), None):
            raise DataError(f"document id {repeated!r} is in the corpus already")
        arrays = _arrays([*old, *builder.ids], deleted=self.deleted)
        return Corpus([*self._batches, *batches], arrays, [*self._segments, builder.description()])

    def without(self, ids: Iterable[str]) -> Corpus:
        """This corpus with these documents deleted: their rows stay, as tombstones. Unknown ids raise UsageError."""
        if isinstance(ids, str):
            raise UsageError("Corpus.without takes a list of document ids, not one id")
        ids = list(ids)
        if problem := next((problem for one in ids if (problem := id_problem(one))), None):
            raise UsageError(f"a document id {problem}")
        rows = self.rows(ids)
        if (rows < 0).any():
            raise UsageError(f"document id {ids[int(np.argmin(rows))]!r} is not in the corpus")
        deleted = np.union1d(self.deleted, rows).astype(np.int32)
        every = self.ids(np.arange(len(self), dtype=np.int32))
        return Corpus(self._batches, _arrays(every, deleted=deleted), self._segments)

    # -- reading it ---------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Number of rows, deleted ones included."""
        return int(self._starts[-1])

    @property
    def size(self) -> int:
        """Number of documents, without the deleted ones."""
        return len(self) - len(self.deleted)

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the text fields that any document has."""
        return tuple(dict.fromkeys(name for batch in self._batches for name in batch.schema.names if name != "id"))

    @property
    def segments(self) -> tuple[tuple[str, int], ...]:
        """Digest and rows of every segment, in their order: where digests are equal, so are the documents in these rows."""
        return tuple((segment["digest"], segment["rows"]) for segment in self._segments)

    def live_rows(self) -> NDArray[np.int32]:
        """(size,) int32: the rows that are not deleted, rising."""
        return np.setdiff1d(np.arange(len(self), dtype=np.int32), self.deleted, assume_unique=True).astype(np.int32)

    def ids(self, rows: Sequence[int] | NDArray[np.integer]) -> list[str]:
        """Ids of rows."""
        return self._column("id", rows)

    def rows(self, ids: Sequence[str]) -> NDArray[np.int32]:
        """(len(ids),) int32: the rows of ids, -1 where there is no such document or it is deleted."""
        keys = np.fromiter((_hash(doc_id) for doc_id in ids), np.uint64, len(ids))
        found = np.full(len(ids), -1, np.int32)
        position = np.searchsorted(self._lookup_keys, keys)
        pending = np.arange(len(ids))
        while len(pending):  # more than one round only where two ids share a 64-bit hash
            in_range = position[pending] < len(self._lookup_keys)
            pending = pending[in_range]
            pending = pending[self._lookup_keys[position[pending]] == keys[pending]]
            rows = self._lookup_rows[position[pending]]
            same = np.fromiter((a == ids[p] for a, p in zip(self.ids(rows), pending, strict=True)), bool, len(pending))
            found[pending[same]] = rows[same]
            pending = pending[~same]
            position[pending] += 1
        return found

    def texts(self, rows: Sequence[int] | NDArray[np.integer], field: str = "text") -> list[str]:
        """One field of rows; empty text where a document has no such field. Unknown fields raise UsageError."""
        if len(self) and not self.fields:
            raise UsageError("this corpus knows document ids only, no texts; a run read with corpus= has them")
        if field not in ("text", "title") and field not in self.fields and len(self):
            raise UsageError(f"the corpus has no field {field!r}; it has {', '.join(self.fields)}")
        return self._column(field, rows)

    def joined_texts(
        self, rows: Sequence[int] | NDArray[np.integer], fields: Sequence[str] = ("title", "text")
    ) -> list[str]:
        """Fields of rows, joined by one blank and stripped: what lexical indexes and encoders read.

        Raises UsageError for an unknown field, and where no document has any of the fields.
        """
        columns = [self.texts(rows, field) for field in fields]
        if len(self) and not set(fields) & set(self.fields):
            raise UsageError(
                f"no document has a field {' or '.join(map(repr, fields))}; there is {', '.join(self.fields)}"
            )
        return [" ".join(parts).strip() for parts in zip(*columns, strict=True)]

    def records(self, rows: Sequence[int] | NDArray[np.integer]) -> list[dict[str, str]]:
        """Rows as the records that they were made of, without the fields that a document does not have."""
        columns = {name: self._values(name, rows) for name in ("id", *self.fields)}
        return [
            {name: value for name, values in columns.items() if (value := values[place]) is not None}
            for place in range(len(rows))
        ]

    def blocks(self, size: int = BATCH) -> Iterator[NDArray[np.int32]]:
        """The live rows, in blocks of at most `size`."""
        live = self.live_rows()
        for start in range(0, len(live), size):
            yield live[start : start + size]

    def __repr__(self) -> str:
        return f"Corpus({self.size} documents, digest {self.digest[:12]})"

    def _column(self, field: str, rows: Sequence[int] | NDArray[np.integer]) -> list[str]:
        return [value or "" for value in self._values(field, rows)]

    def _values(self, field: str, rows: Sequence[int] | NDArray[np.integer]) -> list[str | None]:
        """A field of rows; None where a document does not have it."""
        wanted = np.asarray(rows, np.int64)
        if not len(wanted):
            return []
        if wanted.min() < 0 or wanted.max() >= len(self):
            row = int(wanted[(wanted < 0) | (wanted >= len(self))][0])
            raise UsageError(f"a corpus of {len(self)} rows has no row {row}; they count from 0")
        batch_of = np.searchsorted(self._starts, wanted, side="right") - 1
        order = np.argsort(batch_of, kind="stable")
        values: list[str | None] = [None] * len(wanted)
        cuts = np.flatnonzero(np.diff(batch_of[order])) + 1
        for group in np.split(order, cuts):
            number = int(batch_of[group[0]])
            batch = self._batches[number]
            if field in batch.schema.names:
                taken = batch.column(field).take(_indices(wanted[group] - self._starts[number]))
                for place, value in zip(group.tolist(), taken.to_pylist(), strict=True):
                    values[place] = value
        return values


class _SegmentBuilder:
    """Turns records into record batches; afterwards knows the ids and the digest of all it has seen.

    texts  whether every document has to have a `text`: a search in documents without one finds nothing, and says nothing
    """

    def __init__(self, *, texts: bool = True) -> None:
        self._texts = texts
        self.ids: list[str] = []
        self._seen: set[str] = set()
        self._digest = hashlib.sha256()

    def batches(self, records: Iterable[Mapping[str, Any]]) -> Iterator[pa.RecordBatch]:
        """Record batches of at most BATCH documents. Columns only grow: a field, once seen, is in every later batch."""
        columns: dict[str, None] = {"id": None}
        pending: list[Record] = []
        for record in records:
            try:
                pending.append(self._checked(record))
            except DataError as error:
                located = getattr(records, "located", None)  # a reader knows the file and line of its last record
                raise (located(error) if located else error) from None
            if len(pending) == BATCH:
                yield self._batch(pending, columns)
                pending = []
        if pending:
            yield self._batch(pending, columns)

    def description(self) -> dict:
        """Rows and digest of the segment, for the corpus' own digest."""
        return {"rows": len(self.ids), "digest": self._digest.hexdigest()}

    def _checked(self, record: Mapping[str, Any]) -> Record:
        """The record, all of its fields as texts."""
        if not isinstance(record, Mapping):
            raise DataError(
                f"document {len(self.ids) + 1} is {record!r:.40}, not a mapping such as {{'id': '7', 'text': 'words'}}"
            )
        if self._texts and not is_plain(record):
            try:  # NaN is what tables of pandas have where there is nothing
                record = record_of({name: value for name, value in record.items() if not _is_nan(value)})
            except ValueError as error:
                raise DataError(f"document {len(self.ids) + 1}: {error}") from None
        doc_id = record.get("id", "")
        if problem := id_problem(doc_id):
            raise DataError(f"id of document {len(self.ids) + 1} {problem}")
        if doc_id in self._seen:
            raise RepeatedIdError(doc_id)
        for name, value in record.items():
            if problem := text_problem(name) or text_problem(value):
                raise DataError(f"document {doc_id!r}, field {name!r}: {problem}")
        self._seen.add(doc_id)
        self.ids.append(doc_id)
        return record

    def _batch(self, records: list[Record], columns: dict[str, None]) -> pa.RecordBatch:
        import pyarrow as pa

        for record in records:
            columns.update(dict.fromkeys(record))
            for name in sorted(record):
                for part in (name, record[name]):
                    encoded = part.encode()
                    self._digest.update(len(encoded).to_bytes(8, "little"))
                    self._digest.update(encoded)
            self._digest.update(b"\xff" * 8)
        arrays = [pa.array([record.get(name) for record in records], pa.large_string()) for name in columns]
        return pa.record_batch(arrays, names=list(columns))


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and value != value


def _write_batches(folder: Path, name: str, batches: Iterable[pa.RecordBatch]) -> list[str]:
    """Write batches as Arrow IPC files, a new one whenever a further column appears; give the files' names."""
    import pyarrow as pa

    files: list[str] = []
    with ExitStack() as open_files:
        writer, schema = None, None
        for batch in batches:
            if writer is None or batch.schema != schema:
                open_files.close()
                files.append(f"{name}-{len(files) + 1}.arrow")
                sink = open_files.enter_context(pa.OSFile(str(folder / files[-1]), "wb"))
                writer = open_files.enter_context(pa.ipc.new_file(sink, batch.schema))
                schema = batch.schema
            writer.write_batch(batch)
    return files


def _arrays(ids: list[str], deleted: Sequence[int] | NDArray[np.int32]) -> dict[str, NDArray]:
    """Tie order, id lookup and tombstones of a corpus with these ids. The lookup knows only living rows."""
    deleted = np.asarray(deleted, np.int32)
    tie_order = np.empty(len(ids), np.int32)
    tie_order[sorted(range(len(ids)), key=ids.__getitem__, reverse=True)] = np.arange(len(ids), dtype=np.int32)
    keys = np.fromiter((_hash(doc_id) for doc_id in ids), np.uint64, len(ids))
    rows = np.argsort(keys, kind="stable").astype(np.int32)
    rows = rows[~np.isin(rows, deleted)]
    return {"deleted": deleted, "tie_order": tie_order, "lookup_keys": keys[rows], "lookup_rows": rows}


def _hash(doc_id: str) -> int:
    """64-bit hash of an id, the same in every process."""
    return int.from_bytes(hashlib.blake2b(doc_id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _indices(rows: NDArray[np.int64]) -> pa.Array:
    import pyarrow as pa

    return pa.array(rows)


def _attribute(name: str) -> str:
    return f"_{name}" if name.startswith("lookup") else name


def _write_folder(folder: Path, segments: list[dict], arrays: Mapping[str, NDArray]) -> None:
    for name, array in arrays.items():
        npy.save(folder / f"{name}.npy", array)
    text = json.dumps({"format": FORMAT, "segments": segments}, indent=1)
    (folder / "corpus.json").write_text(text + os.linesep, encoding="utf-8")
