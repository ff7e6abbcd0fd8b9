"""The index of weighted terms on disk: what is written is found, and what was finished is not made again."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rankpipe.errors import StoreError
from rankpipe.index.inverted import InvertedIndex
from rankpipe.index.shards import finished
from rankpipe.index.sparse import Known, SparseBlock, as_mappings, build, read_documents

ROWS = np.array([0, 2, 3, 5, 8, 9, 11], np.int32)
VOCABULARY = ["a", "b", "c", "d"]


def encoded(rows: NDArray[np.int32], advance: Callable[[int], None]) -> SparseBlock:
    """Row r has the terms 0 to r % 4 - 1, term t with the weight r + t / 4 + 1; even rows count as cut."""
    counts = rows % 4
    terms = [term for count in counts for term in range(count)]
    weights = [row + term / 4 + 1 for row, count in zip(rows, counts, strict=True) for term in range(count)]
    advance(len(rows))
    return SparseBlock(np.cumsum([0, *counts]), np.array(terms, np.int32), np.array(weights, np.float32), rows % 2 == 0)


def written(folder: Path, size: int = 3) -> InvertedIndex:
    folder.mkdir(exist_ok=True)
    build(folder, ROWS, encoded, lambda: VOCABULARY, size=size)
    return InvertedIndex.open(folder)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_what_is_written_is_found(tmp_path: Path, size: int) -> None:
    index = written(tmp_path / "i", size)
    ties = np.arange(12, dtype=np.int32)
    found = index.search(index.weighted_queries([{"b": 2.0}, {"d": 1.0}, {"a": 1.0, "c": 4.0}]), 10, ties)
    assert found.offsets.tolist() == [0, 3, 3, 8]
    # b stands in the rows 2, 3, 11, with r + 1.25, twice; d nowhere; a with r + 1, c with r + 1.5, four times
    assert found.documents.tolist() == [11, 3, 2, 11, 3, 9, 5, 2]
    assert found.scores.tolist() == [24.5, 8.5, 6.5, 62.0, 22.0, 10.0, 6.0, 3.0]
    assert read_documents(tmp_path / "i") == (7, 3)  # rows 0, 2 and 8
    assert not list((tmp_path / "i").glob("*shard*"))


def test_shards_of_any_size_give_the_same_index(tmp_path: Path) -> None:
    written(tmp_path / "a", 2)
    written(tmp_path / "b", 100)
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_finished_shards_are_not_encoded_again(tmp_path: Path) -> None:
    asked: list[list[int]] = []

    def stops(rows: NDArray[np.int32], advance: Callable[[int], None]) -> SparseBlock:
        asked.append(rows.tolist())
        if len(asked) == 3:
            raise KeyboardInterrupt
        return encoded(rows, advance)

    folder = tmp_path / "i"
    folder.mkdir()
    with pytest.raises(KeyboardInterrupt):
        build(folder, ROWS, stops, lambda: VOCABULARY, size=3)
    assert finished(folder) == [0, 1]
    (folder / ".shard-00002-terms.npy-half").write_bytes(b"what was being written")
    build(folder, ROWS, stops, lambda: VOCABULARY, size=3)
    assert asked == [[0, 2, 3], [5, 8, 9], [11], [11]]
    written(tmp_path / "whole")
    assert content(folder) == content(tmp_path / "whole")


def test_a_build_that_was_killed_while_indexing_encodes_nothing(tmp_path: Path) -> None:
    def killed() -> list[str]:
        raise KeyboardInterrupt

    def never(rows: NDArray[np.int32], advance: Callable[[int], None]) -> SparseBlock:
        raise AssertionError("encoded again")

    folder = tmp_path / "i"
    folder.mkdir()
    with pytest.raises(KeyboardInterrupt):
        build(folder, ROWS, encoded, killed, size=3)
    (folder / "index.json").write_text("{")  # and half of an index
    build(folder, ROWS, never, lambda: VOCABULARY, size=3)
    written(tmp_path / "whole")
    assert content(folder) == content(tmp_path / "whole")


@pytest.mark.parametrize("size", [1, 3, 100])
def test_terms_that_another_index_has_are_taken_over(tmp_path: Path, size: int) -> None:
    index, asked = written(tmp_path / "other"), list[int]()

    def moved(rows: list[int], shift: int) -> Known:
        return Known(np.array(rows, np.int32), (np.array(rows) + shift) % 2 == 0, index, shift)

    def rest(rows: NDArray[np.int32], advance: Callable[[int], None]) -> SparseBlock:
        asked.extend(rows.tolist())
        return encoded(rows, advance)

    # the other's rows 3, 5 and 9 again, and its 0, 2, 8 and 11, which are the rows 20, 22, 28 and 31 here
    known = [moved([3, 5, 9], 0), moved([5], 0), moved([20, 22, 28, 31], -20)]
    rows = np.array([3, 4, 5, 9, 14, 20, 22, 28, 31], np.int32)
    folder = tmp_path / "i"
    folder.mkdir()
    build(folder, rows, rest, lambda: VOCABULARY, known=known, size=size)
    assert asked == [4, 14]

    def same(rows: NDArray[np.int32], advance: Callable[[int], None]) -> SparseBlock:
        return encoded(np.where(rows < 20, rows, rows - 20), advance)

    (tmp_path / "whole").mkdir()
    build(tmp_path / "whole", rows, same, lambda: VOCABULARY)
    assert content(folder) == content(tmp_path / "whole")


def test_the_terms_of_documents_are_their_postings(tmp_path: Path) -> None:
    index = written(tmp_path / "i")  # row r has the terms 0 to r % 4 - 1: the rows 2, 3, 5, 9 and 11 have any
    offsets, terms, weights = index.impacts(2, 9)
    assert offsets.tolist() == [0, 2, 5, 5, 6, 6, 6, 6]
    assert terms.tolist() == [0, 1, 0, 1, 2, 0]
    assert weights.tolist() == [3.0, 3.25, 4.0, 4.25, 4.5, 6.0]
    assert index.impacts(6, 9)[0].tolist() == [0, 0, 0, 0]
    assert index.impacts(12, 14)[0].tolist() == [0, 0, 0]


def test_no_documents_are_an_index_too(tmp_path: Path) -> None:
    build(tmp_path, ROWS[:0], encoded, lambda: VOCABULARY)
    index = InvertedIndex.open(tmp_path)
    found = index.search(index.weighted_queries([{"a": 1.0}]), 3, np.empty(0, np.int32))
    assert (found.offsets.tolist(), read_documents(tmp_path)) == ([0, 0], (0, 0))


def test_documents_without_terms_are_an_index_too(tmp_path: Path) -> None:
    build(tmp_path, np.array([4, 8], np.int32), encoded, lambda: VOCABULARY)
    index = InvertedIndex.open(tmp_path)
    assert (index.header.rows, index.header.documents, index.header.terms) == (9, 0, 0)


def test_terms_are_given_as_text() -> None:
    block = encoded(np.array([2, 4], np.int32), lambda _: None)
    assert list(as_mappings(block, VOCABULARY)) == [{"a": 3.0, "b": 3.25}, {}]


def test_a_folder_without_its_header_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not hold a whole index"):
        read_documents(tmp_path)
