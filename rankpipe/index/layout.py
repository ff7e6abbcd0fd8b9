"""The files of an inverted index, and the checks made when they are opened.

A folder holds `index.json`, the header, and plain .npy arrays:

letters         (B,) uint8         the terms' UTF-8, in rising order, one after another
letter_starts   (V + 1,) int64     where each term's letters begin
starts          (V + 1,) int64     where each term's postings begin
documents       (P,) int32         rows of the corpus, rising for each term
payload         (P,) uint16/32     counts: a code, the place in the codebook of (frequency, length byte)
                     float32       impacts: the term's weight in the document, above 0
codebook        (C,) uint32        counts only: frequency * 256 + Lucene's byte of the document's length, rising
lengths         (rows,) int32      counts only: tokens of each row's document, 0 for rows without one

A posting thus carries all that its score needs, whatever k1 and b are, in 6 bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rankpipe import npy
from rankpipe.errors import StoreError

FORMAT = "rankpipe inverted index"
VERSION = 1
HEADER = "index.json"
CHECKED = 1 << 24  # postings whose order is checked on opening, some 50 ms; search guards itself whatever their number


@dataclass(frozen=True)
class Header:
    """What the arrays are.

    analyzer   its fingerprint, "" for impacts
    rows       one more than the greatest row
    documents  documents with at least one term: N of the idf and divisor of the average length
    tokens     the sum of all lengths
    """

    kind: Literal["counts", "impacts"]
    analyzer: str
    rows: int
    documents: int
    tokens: int
    terms: int
    postings: int


@dataclass(frozen=True)
class Arrays:
    """The arrays of one index, read-only and memory-mapped; codebook and lengths are empty for impacts."""

    letters: NDArray[np.uint8]
    letter_starts: NDArray[np.int64]
    starts: NDArray[np.int64]
    documents: NDArray[np.int32]
    payload: NDArray[np.uint16] | NDArray[np.uint32] | NDArray[np.float32]
    codebook: NDArray[np.uint32]
    lengths: NDArray[np.int32]


def write_header(folder: Path, header: Header) -> None:
    """Write index.json; done last, so that a folder without it is not an index."""
    text = json.dumps({"format": FORMAT, "version": VERSION, **asdict(header)}, indent=1)
    (folder / HEADER).write_text(text + "\n", encoding="utf-8")


@contextmanager
def growing_array(path: Path, dtype: DTypeLike, size: int) -> Iterator[BinaryIO]:
    """A .npy file of one dimension, open for writing its items in order."""
    with path.open("wb") as file:
        npy.begin(file, dtype, (int(size),))
        yield file


def read(folder: Path) -> tuple[Header, Arrays]:
    """Open an index; StoreError if a file is missing, damaged or does not fit the others."""
    header = _read_header(folder / HEADER)
    counts = header.kind == "counts"
    codes = ("uint16", "uint32") if counts else ("float32",)
    arrays = Arrays(
        letters=_load(folder, "letters", ("uint8",), None),
        letter_starts=_load(folder, "letter_starts", ("int64",), header.terms + 1),
        starts=_load(folder, "starts", ("int64",), header.terms + 1),
        documents=_load(folder, "documents", ("int32",), header.postings),
        payload=_load(folder, "payload", codes, header.postings),
        codebook=_load(folder, "codebook", ("uint32",), None) if counts else np.empty(0, np.uint32),
        lengths=_load(folder, "lengths", ("int32",), header.rows) if counts else np.empty(0, np.int32),
    )
    _check(folder, header, arrays)
    return header, arrays


def damaged(path: Path, what: str) -> StoreError:
    """The error for a file that is not what it should be."""
    return StoreError(f"{path}: damaged index: {what}; build it again")


def _read_header(path: Path) -> Header:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(f"{path}: no such file; {path.parent} is not an inverted index") from None
    except ValueError as error:
        raise damaged(path, f"its header is no JSON ({error})") from None
    if not isinstance(fields, Mapping) or fields.get("format") != FORMAT:
        raise damaged(path, f"its header does not say '{FORMAT}'")
    if fields.get("version") != VERSION:
        raise StoreError(
            f"{path}: index of format {fields.get('version')}, this version reads {VERSION}; build it again"
        )
    expected = {name: str if name in ("kind", "analyzer") else int for name in Header.__dataclass_fields__}
    for name, kind in expected.items():
        value = fields.get(name)
        if type(value) is not kind or (isinstance(value, int) and not 0 <= value < 1 << 62):
            raise damaged(path, f"its {name} is {value!r}")
    if fields["kind"] not in ("counts", "impacts"):
        raise damaged(path, f"its kind is {fields['kind']!r}")
    return Header(**{name: fields[name] for name in expected})


def _load(folder: Path, name: str, dtypes: tuple[str, ...], size: int | None) -> NDArray:
    path = folder / f"{name}.npy"
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise damaged(path, "the file is missing") from None
    except OSError:
        raise
    except Exception as error:  # numpy's reading of a damaged .npy header may end in nearly anything
        raise damaged(path, f"it cannot be read ({type(error).__name__})") from None
    if array.ndim != 1 or array.dtype.name not in dtypes:
        raise damaged(path, f"it holds {array.dtype.name} {array.shape}, not {' or '.join(dtypes)}")
    if size is not None and array.size != size:
        raise damaged(path, f"it holds {array.size} items, not {size}")
    plain = np.asarray(array).view(np.ndarray)
    plain.flags.writeable = False  # so that compiled code meets one type of array, mapped or not
    return plain


def _check(folder: Path, header: Header, arrays: Arrays) -> None:
    """What reading the small arrays can tell, and the large ones where they are not so large."""
    for name, last, least in (("letter_starts", arrays.letters.size, 0), ("starts", header.postings, 1)):
        starts: NDArray[np.int64] = getattr(arrays, name)
        if starts[0] != 0 or starts[-1] != last or np.any(np.diff(starts) < least):
            raise damaged(folder / f"{name}.npy", f"it does not rise from 0 to {last}")
    if header.kind == "counts":
        book, path = arrays.codebook, folder / "codebook.npy"
        if np.any(book < 256) or np.any(book[1:] <= book[:-1]):
            raise damaged(path, "it does not rise")
        if arrays.payload.itemsize == 2 and book.size > 1 << 16:
            raise damaged(path, f"{book.size} entries are more than codes of two bytes can name")
        if arrays.payload.itemsize == 4 and arrays.payload.max(initial=0) >= max(book.size, 1):
            raise damaged(folder / "payload.npy", f"a code is not below {book.size}")
        lengths = arrays.lengths
        if np.any(lengths < 0) or lengths.sum(dtype=np.int64) != header.tokens:
            raise damaged(folder / "lengths.npy", f"the lengths do not add up to {header.tokens}")
        if np.count_nonzero(lengths) != header.documents:
            raise damaged(folder / "lengths.npy", f"not {header.documents} documents have a term")
    if header.postings <= CHECKED:
        _check_postings(folder, header, arrays)


def _check_postings(folder: Path, header: Header, arrays: Arrays) -> None:
    documents, payload = arrays.documents, arrays.payload
    rises = documents[1:] > documents[:-1]
    rises[arrays.starts[1:-1] - 1] = True  # where the next term begins
    if documents.min(initial=0) < 0 or documents.max(initial=-1) >= header.rows or not rises.all():
        raise damaged(folder / "documents.npy", f"rows do not rise within 0 and {header.rows - 1} for each term")
    if header.kind == "counts":
        if payload.max(initial=0) >= max(arrays.codebook.size, 1):
            raise damaged(folder / "payload.npy", f"a code is not below {arrays.codebook.size}")
    elif not (payload.min(initial=np.inf) > 0 and payload.max(initial=0) < np.inf):
        raise damaged(folder / "payload.npy", "a weight is not a positive number")
