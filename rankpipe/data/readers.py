"""Readers of documents and queries (JSONL) and of judgements (BEIR's TSV, TREC's qrels); errors say file:line.

A line of JSONL is an object as rankpipe.data.records describes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rankpipe.data.corpus import Record, RepeatedIdError
from rankpipe.data.lines import Lines
from rankpipe.data.qrels import Qrels
from rankpipe.data.queries import Queries
from rankpipe.data.records import kind, record_of
from rankpipe.data.text import id_problem, text_problem
from rankpipe.errors import DataError

READER_FORMAT = 1
"""Rises whenever the same file gives other records than before: part of the key of a corpus in the store."""
BEIR_HEADER = "query-id\tcorpus-id\tscore"
_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,9}")


class DocumentReader:
    """The documents of a JSONL file, one record at a time, for Corpus.build and Corpus.from_records."""

    def __init__(self, path: Path | str) -> None:
        self._lines = Lines(path)

    def __iter__(self) -> Iterator[Record]:
        for line in self._lines:
            yield _record(self._lines, line)

    def located(self, error: DataError) -> DataError:
        """What a corpus has to say of the record it was given last, with its file and line."""
        if not isinstance(error, RepeatedIdError):
            return self._lines.error(str(error))
        last = self._lines.number
        again = Lines(self._lines.path)
        first = next((again.number for line in again if _record(again, line)["id"] == error.doc_id), last)
        return DataError.at(again.path, last, f"{error}; the first time in line {first}")


def read_queries(path: Path | str) -> Queries:
    """The queries of a JSONL file, in its order; keys other than id and text become fields."""
    lines = Lines(path)
    records: list[Record] = []
    first: dict[str, int] = {}
    for line in lines:
        record = _record(lines, line)
        query_id = record["id"]
        if problem := id_problem(query_id):
            raise lines.error(f"query id {query_id!r}: {problem}")
        if query_id in first:
            raise lines.error(f"query id {query_id!r} occurs twice; the first time in line {first[query_id]}")
        for name, value in record.items():
            if problem := text_problem(name) or text_problem(value):
                raise lines.error(f"query {query_id!r}, field {name!r}: {problem}")
        first[query_id] = lines.number
        records.append(record)
    return queries_of_records(records)


def queries_of_records(records: Sequence[Record]) -> Queries:
    """Queries of mappings with `id`, `text` and perhaps further fields; a query without a field has it empty."""
    names = dict.fromkeys(name for record in records for name in record if name not in ("id", "text"))
    return Queries(
        ids=tuple(record["id"] for record in records),
        texts=tuple(record["text"] for record in records),
        fields={name: tuple(record.get(name, "") for record in records) for name in names},
    )


def read_qrels(path: Path | str) -> Qrels:
    """The judgements of a file, in its order: BEIR's TSV, known by its header line, or TREC's four columns.

    Relevance is a whole number. A pair of query and document must not be judged twice.
    """
    lines = Lines(path)
    judgements: dict[str, dict[str, int]] = {}
    for query_id, doc_id, relevance in _judgements(lines):
        judged = judgements.setdefault(query_id, {})
        if doc_id in judged:
            again = Lines(path)
            first = next(again.number for one in _judgements(again) if one[:2] == (query_id, doc_id))
            raise lines.error(
                f"query {query_id!r} and document {doc_id!r} are judged twice: {judged[doc_id]} in line {first}, "
                f"{relevance} here; keep one"
            )
        judged[doc_id] = relevance
    if not judgements:
        raise DataError(f"{path}: holds no judgements")
    return Qrels(judgements)


def judgement_line(path: Path, query_id: str) -> int:
    """The line of a file of judgements that names a query first."""
    lines = Lines(path)
    return next(lines.number for one in _judgements(lines) if one[0] == query_id)


def _judgements(lines: Lines) -> Iterator[tuple[str, str, int]]:
    beir: bool | None = None
    for line in lines:
        if beir is None:
            beir = line.strip().lower() == BEIR_HEADER
            if beir:
                continue
            if len(line.split()) != 4 or line.strip().count("\t") == 2:  # BEIR's three, an id of which has a blank
                raise lines.error(
                    "neither the header 'query-id<TAB>corpus-id<TAB>score' of a BEIR file nor the four columns "
                    "'query_id 0 doc_id relevance' of a TREC file"
                )
        if beir:
            parts = [part.strip() for part in line.split("\t")]
            if len(parts) != 3 or not all(parts):
                raise lines.error(f"{_columns(parts)}, not the three of 'query-id<TAB>corpus-id<TAB>score'")
            query_id, doc_id, text = parts
        else:
            parts = line.split()
            if len(parts) != 4:
                raise lines.error(f"{_columns(parts)}, not the four of 'query_id 0 doc_id relevance'")
            query_id, _, doc_id, text = parts
        if not _WHOLE_NUMBER.fullmatch(text):
            raise lines.error(f"relevance {text!r} is not a whole number such as 0, 1 or 2")
        yield query_id, doc_id, int(text)


def _columns(parts: list[str]) -> str:
    empty = ", one of them empty" if not all(parts) else ""
    return f"{len(parts)} column{'s' * (len(parts) != 1)}{empty}"


def _record(lines: Lines, line: str) -> dict[str, str]:
    """The fields of one line of JSONL, `id` and `text` always among them."""
    try:
        return record_of(_object(lines, line), named="_id")
    except ValueError as error:
        raise lines.error(str(error)) from None


def _object(lines: Lines, line: str) -> dict[str, Any]:
    try:
        value = _DECODER.decode(line)
    except json.JSONDecodeError as error:
        raise lines.error(f"not JSON: {error.msg}, at character {error.pos + 1}") from None
    except _RepeatedKeyError as error:
        raise lines.error(f"the key {error.args[0]!r} stands twice; keep one") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of open brackets
        raise lines.error(f"not JSON that can be read: {error}") from None
    if type(value) is not dict:
        raise lines.error(f'{kind(value)}, not an object such as {{"_id": "7", "text": "..."}}')
    return value


class _RepeatedKeyError(Exception):
    """A key that stands twice in an object; of which json would take the last."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKeyError(next(key for place, key in enumerate(keys) if key in keys[:place]))
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_once)
