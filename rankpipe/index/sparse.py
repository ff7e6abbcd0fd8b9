"""The index of documents that a sparse encoder made weighted terms of: built in shards, searched by the dot product.

sparse.json     format, documents, truncated; written last
rows.npy        (N,) int32, rows of the documents in the corpus, rising; those without terms are among them
truncated.npy   (N,) whether a document was cut
...             the inverted index of impacts, see rankpipe/index/layout.py
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankpipe import npy
from rankpipe.errors import StoreError
from rankpipe.index import layout, shards
from rankpipe.index.inverted import InvertedIndex, build_impacts
from rankpipe.index.segments import sharing
from rankpipe.writing import replacing

FORMAT = [2, layout.VERSION]
KIND = "sparse"
"""Of these indexes, in the store."""
SHARD = 2048
"""Documents of a shard: what a killed build loses at most, and the texts that are sorted by length together."""
HEADER = "sparse.json"


class SparseBlock(NamedTuple):
    """Weighted terms of N documents, P in all.

    offsets    (N + 1,) int64: document n owns terms offsets[n]:offsets[n + 1], perhaps none
    terms      (P,) int32, numbers of terms in the encoder's vocabulary
    weights    (P,) float32, finite, above 0
    truncated  (N,) whether a document was cut
    """

    offsets: NDArray[np.int64]
    terms: NDArray[np.int32]
    weights: NDArray[np.float32]
    truncated: NDArray[np.bool_]


Encode = Callable[[NDArray[np.int32], shards.Advance], SparseBlock]
"""Terms of the documents at rows of a corpus."""


def build(
    folder: Path,
    rows: NDArray[np.int32],
    encode: Encode,
    vocabulary: Callable[[], Sequence[str]],
    *,
    known: Sequence[Known] = (),
    size: int = SHARD,
) -> None:
    """Write the index of documents at `rows` into a folder, keeping the shards that are finished there.

    vocabulary  gives the terms as text, by their numbers
    known       documents that are not encoded, as their terms are known
    """
    if not (folder / HEADER).is_file():
        make = _Making(encode, known, vocabulary)
        there = np.concatenate([shards.NONE, *(one.rows for one in known)])
        count = shards.complete(folder, rows, lambda part, advance: _shard(make(part, advance)), size, there)
        build_impacts(folder, _documents(folder, count, vocabulary()), rows=rows)
        parts = (shards.array(folder, number, "truncated") for number in range(count))
        truncated = [np.zeros(0, bool), *map(np.array, parts)]  # copies: no shard may be open when it is removed
        npy.save(folder / "rows.npy", rows.astype(np.int32))
        npy.save(folder / "truncated.npy", cut := np.concatenate(truncated))
        with replacing(folder / HEADER) as file:
            json.dump({"format": FORMAT, "documents": len(rows), "truncated": int(cut.sum())}, file)
    shards.remove(folder)


@dataclass(frozen=True, eq=False)
class Known:
    """N documents whose terms stand in the index of another corpus.

    rows       (N,) int32, their rows in this corpus, rising
    truncated  (N,) whether each was cut
    index      where their terms are, each in a row that is `shift` more than here
    """

    rows: NDArray[np.int32]
    truncated: NDArray[np.bool_]
    index: InvertedIndex
    shift: int


def shared(key: Mapping[str, Any]) -> list[Known]:
    """Documents of a corpus that the store has the terms of, as other corpora have them too; key as that of an index.

    Raises StoreError for an index that is damaged.
    """
    found = []
    for folder, spans in sharing(KIND, key):
        index, rows, truncated = InvertedIndex.open(folder), *_read(folder)
        for begin, end, start in spans:
            part = slice(*np.searchsorted(rows, [begin, end]).tolist())
            found.append(Known(rows[part] + np.int32(start - begin), truncated[part], index, begin - start))
    return found


def _read(folder: Path) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Rows of the documents of an index, and which of them were cut. Raises StoreError."""
    try:
        rows, truncated = (np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("rows", "truncated"))
    except (OSError, ValueError, EOFError) as error:
        raise StoreError(f"{folder} does not hold a whole index: {error}") from error
    if rows.shape != truncated.shape:
        raise StoreError(f"{folder} holds {len(rows)} rows, and of {len(truncated)} documents whether they were cut")
    return rows, truncated


class _Making:
    """Makes the terms of documents: those that are known are taken over, the others encoded."""

    def __init__(self, encode: Encode, known: Sequence[Known], vocabulary: Callable[[], Sequence[str]]) -> None:
        self._encode, self._known = encode, known
        numbers = {name: number for number, name in enumerate(vocabulary() if known else ())}
        self._numbers = {
            index: np.array([numbers[index.term(term)] for term in range(index.header.terms)], np.int32)
            for index in {one.index for one in known}
        }

    def __call__(self, rows: NDArray[np.int32], advance: shards.Advance) -> SparseBlock:
        found: dict[int, _Document] = {}
        for one in self._known:
            found |= self._taken(one, np.setdiff1d(rows, list(found)))
        if len(left := np.setdiff1d(rows, list(found)).astype(np.int32)):
            found |= zip(left.tolist(), _documents_of(self._encode(left, advance)), strict=True)
        terms, weights, truncated = zip(*(found[row] for row in rows.tolist()), strict=True)
        offsets = np.cumsum([0, *map(len, terms)]).astype(np.int64)
        return SparseBlock(offsets, np.concatenate(terms), np.concatenate(weights), np.array(truncated, bool))

    def _taken(self, known: Known, rows: NDArray[np.int32]) -> dict[int, _Document]:
        """Of documents at rising rows those that are known, by their rows."""
        _, places, _ = np.intersect1d(known.rows, rows, assume_unique=True, return_indices=True)
        if not len(places):
            return {}
        there = known.rows[places] + known.shift
        offsets, terms, weights = known.index.impacts(begin := int(there[0]), int(there[-1]) + 1)
        block = SparseBlock(offsets, self._numbers[known.index][terms], weights, np.zeros(len(offsets) - 1, bool))
        block.truncated[there - begin] = known.truncated[places]
        documents = list(_documents_of(block))
        return {
            row: documents[at] for row, at in zip(known.rows[places].tolist(), (there - begin).tolist(), strict=True)
        }


class _Document(NamedTuple):
    """Terms of one document, their weights, and whether it was cut."""

    terms: NDArray[np.int32]
    weights: NDArray[np.float32]
    truncated: bool


def _documents_of(block: SparseBlock) -> Iterator[_Document]:
    for at, (begin, end) in enumerate(zip(block.offsets[:-1].tolist(), block.offsets[1:].tolist(), strict=True)):
        yield _Document(block.terms[begin:end], block.weights[begin:end], bool(block.truncated[at]))


def read_documents(folder: Path) -> tuple[int, int]:
    """How many documents of an index were read, and how many of them cut. Raises StoreError for a damaged index."""
    try:
        header = json.loads((folder / HEADER).read_text(encoding="utf-8"))
        return int(header["documents"]), int(header["truncated"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{folder} does not hold a whole index: {error}") from error


def as_mappings(block: SparseBlock, vocabulary: Sequence[str]) -> Iterator[Mapping[str, float]]:
    """Term -> weight, document by document, as the inverted index takes them."""
    terms: list[int] = block.terms.tolist()
    names = [vocabulary[term] for term in terms]
    weights = block.weights.tolist()
    for begin, end in zip(block.offsets[:-1].tolist(), block.offsets[1:].tolist(), strict=True):
        yield dict(zip(names[begin:end], weights[begin:end], strict=True))


def _shard(block: SparseBlock) -> shards.Shard:
    names = ("offsets", "terms", "weights", "truncated")
    return shards.Shard({name: getattr(block, name) for name in names}, {})


def _documents(folder: Path, count: int, vocabulary: Sequence[str]) -> Iterator[Mapping[str, float]]:
    for number in range(count):
        names = ("offsets", "terms", "weights", "truncated")
        yield from as_mappings(SparseBlock(*(shards.array(folder, number, name) for name in names)), vocabulary)
