"""The index of documents that a sparse encoder made weighted terms of: built in shards, searched by the dot product.

sparse.json     format, documents, truncated; written last
...             the inverted index of impacts, see rankpipe/index/layout.py
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankpipe.errors import StoreError
from rankpipe.index import layout, shards
from rankpipe.index.inverted import build_impacts
from rankpipe.store import replacing

FORMAT = [1, layout.VERSION]
SHARD = 2048
"""Documents of a shard: what a killed build loses at most, and the texts that are sorted by length together."""
HEADER = "sparse.json"


class SparseBlock(NamedTuple):
    """Weighted terms of N documents, P in all.

    offsets    (N + 1,) int64: document n owns terms offsets[n]:offsets[n + 1], perhaps none
    terms      (P,) int32, numbers of terms in the encoder's vocabulary
    weights    (P,) float32, finite, above 0
    truncated  documents that were cut
    """

    offsets: NDArray[np.int64]
    terms: NDArray[np.int32]
    weights: NDArray[np.float32]
    truncated: int


Encode = Callable[[NDArray[np.int32], shards.Advance], SparseBlock]
"""Terms of the documents at rows of a corpus."""


def build(
    folder: Path, rows: NDArray[np.int32], encode: Encode, vocabulary: Callable[[], Sequence[str]], *, size: int = SHARD
) -> None:
    """Write the index of documents at `rows` into a folder, keeping the shards that are finished there.

    vocabulary  gives the terms as text, by their numbers
    """
    if not (folder / HEADER).is_file():
        count = shards.complete(folder, rows, lambda part, advance: _shard(encode(part, advance)), size)
        build_impacts(folder, _documents(folder, count, vocabulary()), rows=rows)
        truncated = sum(shards.described(folder, number)["truncated"] for number in range(count))
        with replacing(folder / HEADER) as file:
            json.dump({"format": FORMAT, "documents": len(rows), "truncated": truncated}, file)
    shards.remove(folder)


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
    arrays = {"offsets": block.offsets, "terms": block.terms, "weights": block.weights}
    return shards.Shard(arrays, {"truncated": block.truncated})


def _documents(folder: Path, count: int, vocabulary: Sequence[str]) -> Iterator[Mapping[str, float]]:
    for number in range(count):
        offsets, terms, weights = (shards.array(folder, number, name) for name in ("offsets", "terms", "weights"))
        yield from as_mappings(SparseBlock(offsets, terms, weights, 0), vocabulary)
