"""What files say of documents beside the corpus: numbers, and texts; a document a line of JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankpipe.data import Corpus
from rankpipe.data.lines import Lines
from rankpipe.errors import DataError

LARGEST = np.finfo(np.float32).max


def read_columns(path: Path, corpus: Corpus) -> dict[str, NDArray[np.float32]]:
    """By key of the file a number for every row of the corpus, NaN where the file says nothing.

    Documents that the corpus does not have are left out. Raises DataError, with file:line, for what is no number, and for
    a file without any.
    """
    example = '{"_id": "doc-7", "clicks": 12}'
    records = dict(_records(path, example, _is_number, "a finite number of 32 bits"))
    found: dict[str, NDArray[np.float32]] = {}
    for row, record in zip(corpus.rows(list(records)).tolist(), records.values(), strict=True):
        for name, value in record.items():
            column = found.setdefault(name, np.full(len(corpus), np.nan, np.float32))
            if row >= 0:
                column[row] = value
    if not found:
        raise DataError(f"{path}: holds no numbers, such as {example}")
    return found


def read_texts(path: Path, corpus: Corpus) -> Corpus:
    """The documents of a corpus, in its order, with what the file says of them for fields, and none of their own.

    A document that the file says nothing of has empty ones. Raises DataError, with file:line, for what is no text, and
    for a file without any.
    """
    example = '{"_id": "doc-7", "clicked": "words"}'
    records = dict(_records(path, example, lambda value: isinstance(value, str), "a text"))
    names = {name: "" for record in records.values() for name in record}
    if not names:
        raise DataError(f"{path}: holds no texts, such as {example}")
    ids = corpus.ids(corpus.live_rows())
    return Corpus.of_fields({"id": doc_id, **names, **records.get(doc_id, {})} for doc_id in ids)


def _records(
    path: Path, example: str, fits: Callable[[Any], bool], wanted: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Ids of documents, and what the file says of each."""
    lines, seen = Lines(path), dict[str, int]()
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise lines.error(f"not JSON: {error}") from None
        if not isinstance(record, dict) or not isinstance(record.get("_id"), str):
            raise lines.error(f"not an object with the id of a document, such as {example}")
        doc_id = record.pop("_id")
        if "id" in record:
            raise lines.error(f"the key 'id' cannot be that of a field; a document is named by '_id', as in {example}")
        if doc_id in seen:
            raise lines.error(f"document {doc_id!r} stood in line {seen[doc_id]} already")
        seen[doc_id] = lines.number
        for name, value in record.items():
            if not fits(value):
                raise lines.error(f"{name!r} is {json.dumps(value)[:40]}, not {wanted}")
        yield doc_id, record


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= float(LARGEST)
