"""Build an inverted index from texts, or from documents given as weighted terms.

Tokens are gathered into blocks that fit in memory. A block is inverted by counting; the blocks of a large corpus wait
in files, and as documents come in the order of their rows, merging them is copying every term's slices one after
another. Two builds of the same corpus write the same bytes.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankpipe import npy
from rankpipe.compiled import compiled
from rankpipe.errors import DataError, UsageError
from rankpipe.index.bm25 import length_bytes
from rankpipe.index.layout import Header, growing_array, write_header
from rankpipe.index.tokenising import Tokeniser, Tokens, as_array
from rankpipe.index.vocabulary import encode, pack

if TYPE_CHECKING:
    from rankpipe.index.analysis import Analyzer

BLOCK = 1 << 24  # tokens gathered before a block is inverted; some 500 MiB are in use then
LONGEST = 1 << 24  # lengths below this: a frequency shares 32 bits with the length's byte


class Block(NamedTuple):
    """Postings of consecutive documents, by the terms' numbers in the order of their discovery.

    starts     (terms seen so far + 1,) int64
    documents  (P,) int32, rows, rising for each term
    payload    (P,) uint32, frequency * 256 + the length's byte, or the bits of a float32 impact
    """

    starts: NDArray[np.int64]
    documents: NDArray[np.int32]
    payload: NDArray[np.uint32]


def build(folder: Path, texts: Iterable[str], analyzer: Analyzer, *, rows: NDArray[np.integer] | None = None) -> None:
    """Write the index of texts into an empty folder, to be scored by BM25.

    rows are the texts' rows in the corpus, rising; without them, 0, 1, 2 and so on. OSError if the disk refuses.
    """
    rows, tokeniser, blocks = _checked(rows), Tokeniser(analyzer), _Blocks(folder)
    lengths = [np.empty(0, np.int32)]
    for tokens, sizes in _batches(tokeniser.parts(texts)):
        kept = np.concatenate([[0], np.cumsum(tokens >= 0)])
        lengths.append(np.diff(kept[np.cumsum(sizes)], prepend=0).astype(np.int32))
        if lengths[-1].max() >= LONGEST:
            raise DataError(f"a document has {lengths[-1].max():,} tokens; an index takes less than {LONGEST:,}")
        at = _rows(rows, blocks.texts, sizes.size)
        postings = _invert(tokens, sizes, at, length_bytes(lengths[-1]), len(tokeniser.terms))
        blocks.add(Block(*postings), sizes.size)
    at = _all_rows(rows, blocks.texts)
    by_row = np.zeros(at[-1] + 1 if at.size else 0, np.int32)
    by_row[at] = np.concatenate(lengths)
    npy.save(folder / "lengths.npy", by_row)
    codebook = np.unique(np.concatenate([np.empty(0, np.uint32), *(np.unique(b.payload) for b in blocks.blocks)]))
    npy.save(folder / "codebook.npy", codebook)
    terms, size = blocks.write(tokeniser.terms, np.uint16 if codebook.size <= 1 << 16 else np.uint32, codebook)
    filled, total = int(np.count_nonzero(by_row)), int(by_row.sum(dtype=np.int64))
    write_header(folder, Header("counts", analyzer.fingerprint, by_row.size, filled, total, terms, size))


def build_impacts(
    folder: Path, documents: Iterable[Mapping[str, float]], *, rows: NDArray[np.integer] | None = None
) -> None:
    """Write the index of documents given as term -> weight (finite, above 0), to be scored by the dot product.

    rows as in build. For learned sparse encoders (SPLADE: Formal, Piwowarski and Clinchant, SIGIR 2021).
    """
    rows, terms, blocks = _checked(rows), dict[str, int](), _Blocks(folder)
    filled = 0
    for tokens, weights, sizes in _impact_batches(documents, terms):
        at = _rows(rows, blocks.texts, sizes.size)
        order = np.argsort(tokens, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(tokens, minlength=len(terms)))]).astype(np.int64)
        blocks.add(Block(starts, np.repeat(at, sizes)[order], weights[order].view(np.uint32)), sizes.size)
        filled += int(np.count_nonzero(sizes))
    at = _all_rows(rows, blocks.texts)
    size, postings = blocks.write(terms, np.float32, None)
    write_header(folder, Header("impacts", "", int(at[-1]) + 1 if at.size else 0, filled, 0, size, postings))


def _batches(parts: Iterable[Tokens]) -> Iterator[Tokens]:
    """Parts, put together to some BLOCK tokens."""
    tokens, sizes, total = [], [], 0
    for part_tokens, part_sizes in parts:
        tokens.append(part_tokens)
        sizes.append(part_sizes)
        total += part_tokens.size
        if total >= BLOCK:
            yield np.concatenate(tokens), np.concatenate(sizes)
            tokens, sizes, total = [], [], 0
    if tokens:
        yield np.concatenate(tokens), np.concatenate(sizes)


def _impact_batches(
    documents: Iterable[Mapping[str, float]], terms: dict[str, int]
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]]:
    tokens, weights, sizes = array("i"), array("f"), array("q")
    for number, document in enumerate(documents):
        for term, weight in document.items():
            if not 0 < weight < np.inf:
                raise DataError(f"document {number}: weight {weight} of term {term!r}; weights are finite and above 0")
            tokens.append(terms.setdefault(term, len(terms)))
            weights.append(weight)
        sizes.append(len(document))
        if len(tokens) >= BLOCK:
            yield as_array(tokens, np.int32), as_array(weights, np.float32), as_array(sizes, np.int64)
            tokens, weights, sizes = array("i"), array("f"), array("q")
    if sizes:
        yield as_array(tokens, np.int32), as_array(weights, np.float32), as_array(sizes, np.int64)


def _checked(rows: NDArray[np.integer] | None) -> NDArray[np.integer] | None:
    if rows is not None and rows.size and (rows[0] < 0 or rows[-1] >= 1 << 31 or np.any(rows[1:] <= rows[:-1])):
        raise UsageError("rows must rise, from 0 to less than 2^31")
    return rows


def _rows(rows: NDArray[np.integer] | None, begin: int, size: int) -> NDArray[np.int32]:
    """Rows of `size` texts from the text `begin` on."""
    if rows is None:
        return np.arange(begin, begin + size, dtype=np.int32)
    if rows.size < begin + size:
        raise UsageError(f"{rows.size} rows are too few: there are {begin + size} texts or more")
    return rows[begin : begin + size].astype(np.int32)


def _all_rows(rows: NDArray[np.integer] | None, texts: int) -> NDArray[np.int32]:
    """Rows of all texts."""
    if rows is not None and rows.size != texts:
        raise UsageError(f"{rows.size} rows are too many for {texts} texts")
    return _rows(rows, 0, texts)


class _Blocks:
    """Blocks of postings: in memory while there is one, else in files of the folder; then the index's own arrays."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.texts = 0
        self.blocks: list[Block] = []

    def add(self, block: Block, texts: int) -> None:
        """Take the postings of further texts."""
        for part in block:
            part.flags.writeable = False  # as mapped ones are: compiled code meets one type of array
        self.texts += texts
        self.blocks.append(block)
        if len(self.blocks) == 2:
            self._spill(0)
        if len(self.blocks) >= 2:
            self._spill(len(self.blocks) - 1)

    def _files(self, number: int) -> list[Path]:
        return [self.folder / f"block-{number}-{part}.npy" for part in Block._fields]

    def _spill(self, number: int) -> None:
        paths = self._files(number)
        for path, part in zip(paths, self.blocks[number], strict=True):
            npy.save(path, part)
        self.blocks[number] = Block(*(np.load(path, mmap_mode="r").view(np.ndarray) for path in paths))

    def write(self, terms: Iterable[str], dtype: type, codebook: NDArray[np.uint32] | None) -> tuple[int, int]:
        """Write vocabulary, starts, documents and payload; return the number of terms and of postings."""
        encoded = [encode(term) for term in terms]
        order = np.array(sorted(range(len(encoded)), key=encoded.__getitem__), np.int64)
        letters, letter_starts = pack([encoded[number] for number in order])
        frequencies = np.zeros(order.size, np.int64)
        for block in self.blocks:
            frequencies[: block.starts.size - 1] += np.diff(block.starts)
        starts = np.concatenate([[0], np.cumsum(frequencies[order])])
        for name, values in (("letters", letters), ("letter_starts", letter_starts), ("starts", starts)):
            npy.save(self.folder / f"{name}.npy", values)
        coded = _coder(dtype, codebook)
        with (
            growing_array(self.folder / "documents.npy", np.int32, starts[-1]) as documents_file,
            growing_array(self.folder / "payload.npy", dtype, starts[-1]) as payload_file,
        ):
            for first, last in _ranges(starts):
                documents, payload = self._merged(order[first:last], starts[first : last + 1])
                documents_file.write(documents.data)
                payload_file.write(coded(payload).data)
        spilled = len(self.blocks) if len(self.blocks) > 1 else 0
        self.blocks.clear()  # some systems do not delete what is mapped
        for number in range(spilled):
            for path in self._files(number):
                path.unlink()
        return order.size, int(starts[-1])

    def _merged(
        self, numbers: NDArray[np.int64], starts: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.uint32]]:
        """Postings of a few terms from all blocks; starts says where each term's lie, from starts[0] on."""
        heads = starts[:-1] - starts[0]
        documents = np.empty(starts[-1] - starts[0], np.int32)
        payload = np.empty(documents.size, np.uint32)
        for block in self.blocks:
            _gather(block, numbers, heads, documents, payload)
        return documents, payload


def _ranges(starts: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Ranges of terms that together have at most BLOCK postings, or are one term."""
    first = 0
    while first < starts.size - 1:
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + BLOCK, side="right")) - 1)
        yield first, last
        first = last


def _coder(dtype: type, codebook: NDArray[np.uint32] | None) -> Callable[[NDArray[np.uint32]], NDArray]:
    """How a block's payload becomes the index's: bits of an impact, or place in the codebook."""
    if codebook is None:
        return lambda payload: payload.view(np.float32)
    if not codebook.size or codebook[-1] >= 1 << 24:
        return lambda payload: np.searchsorted(codebook, payload).astype(dtype)
    places = np.zeros(codebook[-1] + 1, dtype)
    places[codebook] = np.arange(codebook.size)
    return lambda payload: places[payload]


@compiled
def _invert(tokens, sizes, rows, length_codes, terms):
    """The block of texts whose tokens follow one another; those below 0 are skipped."""
    room = np.zeros(terms + 1, np.int64)
    for token in tokens:
        if token >= 0:
            room[token + 1] += 1
    for term in range(terms):
        room[term + 1] += room[term]
    heads = room[:-1].copy()
    documents = np.empty(room[terms], np.int32)
    payload = np.empty(room[terms], np.uint32)
    begin = 0
    for text in range(sizes.size):
        row, once = rows[text], np.uint32(256 + length_codes[text])
        for token in tokens[begin : begin + sizes[text]]:
            if token >= 0:
                head = heads[token]
                if head > room[token] and documents[head - 1] == row:
                    payload[head - 1] += np.uint32(256)
                else:
                    documents[head], payload[head] = row, once
                    heads[token] = head + 1
        begin += sizes[text]
    starts = np.empty(terms + 1, np.int64)
    kept = 0
    for term in range(terms):
        starts[term] = kept
        for place in range(room[term], heads[term]):
            documents[kept], payload[kept] = documents[place], payload[place]
            kept += 1
    starts[terms] = kept
    return starts, documents[:kept].copy(), payload[:kept].copy()


@compiled
def _gather(block, terms, heads, documents, payload):
    """Copy a block's postings of the terms to where the terms' heads stand, and move the heads on."""
    for i in range(terms.size):
        if terms[i] < block.starts.size - 1:
            for place in range(block.starts[terms[i]], block.starts[terms[i] + 1]):
                documents[heads[i]], payload[heads[i]] = block.documents[place], block.payload[place]
                heads[i] += 1
