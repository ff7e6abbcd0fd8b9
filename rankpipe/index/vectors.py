"""Vectors of a corpus on disk: memory-mapped, built in shards, so that a killed build goes on where it stopped.

    vectors.json        format, dimensions, documents, windows, norm
    rows.npy            (N,) int32, the corpus row of every document, rising
    offsets.npy         (N + 1,) int64: document n owns vectors offsets[n]:offsets[n + 1], one for each of its windows
    vectors.npy         (W, D) float32 or float16
    truncated.npy       (N,) bool, whether a document was cut when it was encoded
    texts.npy           (N, 2) uint64, digests of what was encoded (rankpipe/index/same_texts.py); not of candidates

While it is being built, the folder holds shards (rankpipe/index/shards.py) with vectors and truncated, and counts: the
windows of each document.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankpipe import npy
from rankpipe.errors import StoreError
from rankpipe.index import shards
from rankpipe.writing import replacing

FORMAT = 2
SHARD = 2048
"""Documents of a shard: what a killed build loses at most, and the texts that are sorted by length together."""
HEADER = "vectors.json"

Precision = Literal["float32", "float16"]
"""In which vectors are kept."""


class Block(NamedTuple):
    """Vectors of N documents, W in all.

    vectors    (W, D) float32, finite
    offsets    (N + 1,) int64: document n owns vectors offsets[n]:offsets[n + 1], at least one
    truncated  (N,) whether a document was cut
    """

    vectors: NDArray[np.float32]
    offsets: NDArray[np.int64]
    truncated: NDArray[np.bool_]


Encode = Callable[[NDArray[np.int32], Callable[[int], None]], Block]
"""Vectors of the documents at rows of a corpus; the second argument is to be told how many more are done."""


@dataclass(frozen=True)
class Header:
    """How many there are: N documents, W windows, of D dimensions; the length of the longest vector."""

    dimensions: int
    documents: int
    windows: int
    norm: float


def build(
    folder: Path,
    rows: NDArray[np.int32],
    encode: Encode,
    *,
    dimensions: int,
    precision: Precision,
    shard: int = SHARD,
    known: NDArray[np.int32] = shards.NONE,
) -> None:
    """Write the vectors of documents at `rows` into a folder, keeping the shards that are finished there.

    known  rows of documents that `encode` has the vectors of, so that it does not tell of them
    """
    if not (folder / HEADER).is_file():

        def make(part: NDArray[np.int32], advance: shards.Advance) -> shards.Shard:
            return _shard(encode(part, advance), dimensions, precision)

        _join(folder, rows, shards.complete(folder, rows, make, shard, known), dimensions, precision)
    shards.remove(folder)


def _shard(block: Block, dimensions: int, precision: Precision) -> shards.Shard:
    if block.vectors.shape[1] != dimensions:
        raise StoreError(f"vectors of {block.vectors.shape[1]} dimensions among those of {dimensions}")
    kept = kept_in(precision, block.vectors)
    arrays = {"vectors": kept, "counts": np.diff(block.offsets), "truncated": block.truncated}
    return shards.Shard(arrays, {"documents": len(block.truncated), "windows": len(kept), "norm": longest(kept)})


def _join(folder: Path, rows: NDArray[np.int32], count: int, dimensions: int, precision: Precision) -> None:
    """Copy the shards into one array; the header, written last, says that it is whole."""
    described = [shards.described(folder, number) for number in range(count)]
    counts, truncated = (
        [shards.array(folder, number, name) for number in range(count)] for name in ("counts", "truncated")
    )
    windows = sum(one["windows"] for one in described)
    with replacing(folder / "vectors.npy", "wb") as file:
        npy.begin(file, precision, (windows, dimensions))
        for number in range(count):
            file.write(shards.array(folder, number, "vectors").data)
    npy.save(folder / "offsets.npy", np.concatenate([[0], *counts]).cumsum().astype(np.int64))
    npy.save(folder / "rows.npy", rows.astype(np.int32))
    npy.save(folder / "truncated.npy", np.concatenate([np.empty(0, bool), *truncated]))
    norm = max((one["norm"] for one in described), default=0.0)
    _write_header(folder, Header(dimensions, len(rows), windows, norm))


def _write_header(folder: Path, header: Header) -> None:
    with replacing(folder / HEADER) as file:
        json.dump({"format": FORMAT, **asdict(header)}, file)


def kept_in(precision: Precision, values: NDArray[np.float32]) -> NDArray[np.float32 | np.float16]:
    """Finite vectors as they are stored. Raises StoreError for values that are too large for that."""
    if precision == "float32":
        return values
    with np.errstate(over="ignore"):
        kept = values.astype(np.float16)
    if not np.isfinite(kept).all():
        raise StoreError(f"a vector holds {np.abs(values).max():g}, which is too large for float16; store float32")
    return kept


def longest(values: NDArray[np.floating]) -> float:
    """Length of the longest of vectors (W, D), 0 for none."""
    return float(np.sqrt(np.einsum("wd,wd->w", values, values, dtype=np.float64).max(initial=0)))


@dataclass(frozen=True, eq=False)
class Vectors:
    """The vectors of N documents, read-only.

    rows     (N,) int32, rows of the corpus, rising
    offsets  (N + 1,) int64: document n owns values[offsets[n]:offsets[n + 1]], one for each of its windows
    values   (W, D) float32 or float16
    norm     length of the longest vector, or more
    truncated  (N,) whether a document was cut when it was encoded
    """

    rows: NDArray[np.int32]
    offsets: NDArray[np.int64]
    values: NDArray[np.float32 | np.float16]
    norm: float
    truncated: NDArray[np.bool_]

    @classmethod
    def open(cls, folder: Path) -> Vectors:
        """Map the vectors of a folder. Raises StoreError if its files do not fit together."""
        try:
            read = json.loads((folder / HEADER).read_text(encoding="utf-8"))
            if read["format"] != FORMAT:
                raise StoreError(f"{folder} has vectors of format {read['format']}; this version reads {FORMAT}")
            header = Header(**{name: read[name] for name in Header.__dataclass_fields__})
            names = ("rows", "offsets", "vectors", "truncated")
            rows, offsets, values, truncated = (_mapped(folder / f"{name}.npy") for name in names)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{folder} does not hold whole vectors: {error}") from error
        documents = (header.documents,)
        expected = (documents, (header.documents + 1,), (header.windows, header.dimensions), documents)
        shapes = (rows.shape, offsets.shape, values.shape, truncated.shape)
        if shapes != expected:
            held, wanted = (", ".join(map(str, one)) for one in (shapes, expected))
            raise StoreError(f"{folder} holds arrays of the shapes {held}, not {wanted}")
        return cls(rows, offsets, values, float(header.norm), truncated)

    @classmethod
    def of(cls, rows: NDArray[np.int32], block: Block, precision: Precision = "float32") -> Vectors:
        """Vectors in memory, of documents at rising rows."""
        values = kept_in(precision, block.vectors)
        return cls(rows, block.offsets, values, longest(values), block.truncated)

    def save(self, folder: Path) -> None:
        """Write them into an empty folder, where `open` finds them."""
        for name in ("rows", "offsets", "truncated"):
            npy.save(folder / f"{name}.npy", getattr(self, name))
        npy.save(folder / "vectors.npy", self.values)
        _write_header(folder, Header(self.dimensions, len(self.rows), len(self.values), self.norm))

    @property
    def dimensions(self) -> int:
        """D."""
        return int(self.values.shape[1])

    @cached_property
    def plain(self) -> bool:
        """Whether every document has one vector."""
        return len(self.values) == len(self.rows)

    def places(self, rows: NDArray[np.integer]) -> NDArray[np.int64]:
        """(n,) which document each row of the corpus is here; -1 for none."""
        if not len(self.rows):
            return np.full(len(rows), -1, np.int64)
        at = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        return np.where(self.rows[at] == rows, at, -1)

    def moved(self, begin: int, end: int, start: int) -> Vectors:
        """The documents of rows begin to end - 1 as those of rows start, start + 1, ...; a view."""
        first, last = np.searchsorted(self.rows, [begin, end]).tolist()
        offsets = self.offsets[first : last + 1]
        return Vectors(
            self.rows[first:last] + np.int32(start - begin),
            offsets - offsets[0],
            self.values[offsets[0] : offsets[-1]],
            self.norm,
            self.truncated[first:last],
        )

    def blocks(self, size: int) -> Iterator[tuple[int, int]]:
        """Ranges of documents, in turn, that have at most `size` vectors together, or are one document."""
        begin, documents = 0, len(self.rows)
        while begin < documents:
            end = int(np.searchsorted(self.offsets, self.offsets[begin] + size, side="right")) - 1
            end = min(max(end, begin + 1), documents)
            yield begin, end
            begin = end


@dataclass(frozen=True, eq=False)
class Elsewhere(Vectors):
    """Vectors of another corpus for documents of this one, which stand there in an order of their own.

    rows  (n,) int32, rows of this corpus, rising
    at    (n,) int64, which of the N documents each of them is
    """

    at: NDArray[np.int64]

    @classmethod
    def of_documents(cls, vectors: Vectors, rows: NDArray[np.int32], at: NDArray[np.int64]) -> Elsewhere:
        """The documents of these vectors that are at rows of another corpus; nothing is copied."""
        return cls(rows, vectors.offsets, vectors.values, vectors.norm, vectors.truncated, at)

    def places(self, rows: NDArray[np.integer]) -> NDArray[np.int64]:
        """(n,) as of Vectors."""
        here = super().places(rows)
        return np.where(here >= 0, self.at[here], -1) if len(self.at) else here


def merged(parts: Sequence[Vectors]) -> Vectors:
    """All documents of vectors that have equal dimensions, in memory; of one that several have, the first's."""
    return gathered(parts, np.unique(np.concatenate([part.rows for part in parts])))


def gathered(parts: Sequence[Vectors], rows: NDArray[np.int32]) -> Vectors:
    """The documents at rising rows, in memory, each from the first of the parts that has it; one of them must."""
    places = np.stack([part.places(rows) for part in parts])
    source = (places >= 0).argmax(axis=0)
    chosen = [(part, source == number, places[number, source == number]) for number, part in enumerate(parts)]
    counts, truncated = np.zeros(len(rows), np.int64), np.zeros(len(rows), bool)
    for part, mine, at in chosen:
        counts[mine] = part.offsets[at + 1] - part.offsets[at]
        truncated[mine] = part.truncated[at]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    values = np.empty((offsets[-1], parts[0].dimensions), parts[0].values.dtype)
    for part, mine, at in chosen:
        values[_runs(offsets[:-1][mine], counts[mine])] = part.values[_runs(part.offsets[at], counts[mine])]
    return Vectors(rows, offsets, values, max(part.norm for part in parts), truncated)


def _runs(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """start, start + 1, ... of each run, one run after another."""
    ends = np.cumsum(counts)
    return np.arange(counts.sum()) + np.repeat(starts - ends + counts, counts)


def _mapped(path: Path) -> NDArray:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    plain = np.asarray(array).view(np.ndarray)
    plain.flags.writeable = False  # so that compiled code meets one type of array, mapped or not
    return plain
