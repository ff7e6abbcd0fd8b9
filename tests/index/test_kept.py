"""Vectors of candidates: encoded once, kept in parts that grow together, whoever asks and whatever stops it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rankpipe.errors import StoreError
from rankpipe.index import kept
from rankpipe.index.kept import Kept, forget
from rankpipe.index.vectors import Block, Precision, Vectors

KEY = {"model": "abc"}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "SHARD", 4)


class Encoder:
    """Row r has 1 + r % 2 windows of the values r, r + .5; those of 3, 6, ... were cut; remembers what it was asked for."""

    def __init__(self, stop: int | None = None) -> None:
        """Raise KeyboardInterrupt when it is asked for the stop-th time."""
        self.asked: list[list[int]] = []
        self._stop = stop

    def __call__(self, rows: NDArray[np.int32], advance: Callable[[int], None]) -> Block:
        """Vectors of rows."""
        self.asked.append(rows.tolist())
        if len(self.asked) == self._stop:
            raise KeyboardInterrupt
        counts = 1 + rows % 2
        vectors = [[row + window / 2] * 3 for row, count in zip(rows, counts, strict=True) for window in range(count)]
        advance(len(rows))
        return Block(np.array(vectors, np.float32).reshape(-1, 3), np.cumsum([0, *counts]), rows % 3 == 0)


def opened(encoder: Encoder, precision: Precision = "float32", **key: str) -> Kept:
    return Kept({**KEY, **key}, encoder, dimensions=3, precision=precision)


def taken(vectors: Kept, *rows: int) -> Vectors:
    """Vectors of rows, compared with what the encoder gives."""
    found = vectors.of(np.array(rows, np.int32))
    expected = Encoder()(np.unique(np.array(rows, np.int32)), lambda _: None)
    assert found.rows.tolist() == sorted(set(rows))
    assert np.array_equal(found.values, expected.vectors)
    assert np.array_equal(found.offsets, expected.offsets)
    assert np.array_equal(found.truncated, expected.truncated)
    return found


def sizes(store: Path) -> list[int]:
    """Documents of every part in the store."""
    folders = (store / "candidate-vectors").glob("*/[!.]*")
    return sorted(len(np.load(folder / "rows.npy")) for folder in folders)


def test_a_document_is_encoded_once_and_kept_for_the_next(store: Path) -> None:
    first, second = Encoder(), Encoder()
    vectors = opened(first)
    taken(vectors, 7, 2, 7, 9)
    taken(vectors, 2, 3)
    taken(vectors, 9, 2)
    again = opened(second)
    taken(again, 9, 3, 4, 2)
    assert (first.asked, second.asked) == ([[2, 7, 9], [3]], [[4]])
    assert sizes(store) == [1, 4]


def test_small_parts_are_joined_and_full_ones_left_alone(store: Path) -> None:
    vectors = opened(Encoder())
    found = []
    for row in range(9):
        taken(vectors, row)
        found.append(sizes(store))
    assert found == [[1], [2], [3], [4], [1, 4], [2, 4], [3, 4], [4, 4], [1, 4, 4]]
    taken(opened(Encoder()), *range(9))


def test_many_are_encoded_and_kept_shard_by_shard(store: Path) -> None:
    encoder = Encoder(stop=3)
    with pytest.raises(KeyboardInterrupt):
        opened(encoder).of(np.arange(10, dtype=np.int32))
    assert sizes(store) == [4, 4]
    second = Encoder()
    taken(opened(second), *range(10))
    assert second.asked == [[8, 9]]


def test_nothing_asked_gives_nothing(store: Path) -> None:
    found = taken(opened(Encoder()))
    assert (found.dimensions, len(found.values)) == (3, 0)
    assert not store.exists()


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_vectors_are_what_the_store_gives_back(precision: Precision) -> None:
    fresh = taken(opened(Encoder(), precision), 1, 2)
    read = taken(opened(Encoder(), precision), 1, 2)
    assert fresh.values.dtype == read.values.dtype == precision


def test_another_key_has_other_vectors() -> None:
    encoder = Encoder()
    for corpus in ("a", "b", "a"):
        taken(opened(encoder, corpus=corpus), 1)
    assert encoder.asked == [[1], [1]]


def test_a_part_that_another_process_has_joined_stays_open_here(store: Path) -> None:
    ours, theirs = Encoder(), Encoder()
    here = opened(ours)
    taken(here, 1, 2)
    there = opened(theirs)
    taken(there, 3)  # joins ours, whose folder goes
    assert sizes(store) == [3]
    taken(here, 1, 2, 3)  # what is missing is looked for once more
    assert (ours.asked, theirs.asked) == ([[1, 2]], [[3]])
    assert sizes(store) == [3]
    last = Encoder()
    taken(opened(last), 1, 2, 3)
    assert last.asked == []


def test_parts_that_are_open_are_not_read_again_for_another_document(store: Path) -> None:
    vectors = opened(Encoder())
    taken(vectors, 0, 1, 2, 3)
    (part,) = (store / "candidate-vectors").glob("*/[!.]*")
    (part / "truncated.npy").unlink()
    taken(vectors, 0, 4)
    with pytest.raises(StoreError, match="is damaged"):
        opened(Encoder())


def test_what_was_kept_twice_is_joined_into_one(store: Path) -> None:
    there = opened(Encoder())

    class Meanwhile(Encoder):
        def __call__(self, rows: NDArray[np.int32], advance: Callable[[int], None]) -> Block:
            taken(there, 2, 3)
            return super().__call__(rows, advance)

    taken(opened(Meanwhile()), 1, 2)
    assert sizes(store) == [2, 2]
    taken(opened(Encoder()), 2, 5)
    assert sizes(store) == [4]


def test_a_damaged_part_is_set_aside_and_encoded_anew(store: Path) -> None:
    vectors = opened(Encoder())
    taken(vectors, *range(4))
    taken(vectors, 6)
    [file] = [file for file in store.glob("candidate-vectors/*/*/vectors.npy") if len(np.load(file)) == 1]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"vectors.npy has 139 bytes, not 140; it is set aside as"):
        opened(Encoder())
    encoder = Encoder()
    taken(opened(encoder), *range(4), 6)
    assert encoder.asked == [[6]]


def test_a_block_is_what_is_kept_and_what_is_missing_which_is_not_kept(store: Path) -> None:
    encoder, told = Encoder(), []
    vectors = opened(encoder)
    taken(vectors, 2, 7)
    found = vectors.block(np.array([1, 2, 6, 7], np.int32), told.append)
    expected = Encoder()(np.array([1, 2, 6, 7], np.int32), lambda _: None)
    assert np.array_equal(found.vectors, expected.vectors)
    assert (found.offsets.tolist(), found.truncated.tolist()) == (
        expected.offsets.tolist(),
        [False, False, True, False],
    )
    assert (encoder.asked, told) == ([[2, 7], [1, 6]], [2])
    assert vectors.rows().tolist() == [2, 7]
    assert sizes(store) == [2]


def test_a_block_of_float16_is_what_is_kept() -> None:
    vectors = opened(Encoder(), "float16")
    kept = taken(vectors, 2, 7)
    block = vectors.block(np.array([2, 7], np.int32), lambda _: None)
    assert block.vectors.dtype == np.float32
    assert np.array_equal(block.vectors, kept.values)


def test_others_are_taken_and_not_kept(store: Path) -> None:
    encoder = Encoder()
    rows = np.array([3, 4], np.int32)
    others = [Vectors.of(rows, Encoder()(rows, lambda _: None))]
    vectors = Kept(KEY, encoder, dimensions=3, precision="float32", others=others)
    taken(vectors, 2, 3, 4)
    assert encoder.asked == [[2]]
    assert vectors.rows().tolist() == [2, 3, 4]
    assert sizes(store) == [1]


def test_what_is_forgotten_stays_for_who_has_it_open(store: Path) -> None:
    encoder = Encoder()
    vectors = opened(encoder)
    taken(vectors, 1, 2)
    forget(KEY)
    forget(KEY)  # another process was first
    assert not list((store / "candidate-vectors").iterdir())
    taken(vectors, 1, 2)
    assert encoder.asked == [[1, 2]]
    taken(opened(encoder), 2)
    assert encoder.asked == [[1, 2], [2]]


def test_where_nothing_can_be_kept_it_is_said_once_and_the_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RANKPIPE_HOME", str(tmp_path / "file"))
    encoder = Encoder()
    vectors = opened(encoder)
    for rows in ([1, 2], [2, 3], [3, 1], list(range(12))):
        taken(vectors, *rows)
    assert encoder.asked == [[1, 2], [3], [0, 4, 5, 6], [7, 8, 9, 10], [11]]
    assert capsys.readouterr().err == (
        f"note: encoded candidates are not kept: cannot write candidate-vectors to the store {tmp_path / 'file'}: "
        "Not a directory; set RANKPIPE_HOME to another folder\n"
    )
    monkeypatch.setenv("RANKPIPE_HOME", str(tmp_path / "store"))
    taken(vectors, 20)  # now it can, and all that was not kept is
    assert sizes(tmp_path / "store") == [13]


def test_threads_share_it_without_encoding_twice() -> None:
    import threading

    encoder = Encoder()
    vectors = opened(encoder)

    def ask(rows: Sequence[int]) -> None:
        vectors.of(np.array(rows, np.int32))

    threads = [threading.Thread(target=ask, args=([number, number + 1, number + 2],)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asked = [row for rows in encoder.asked for row in rows]
    assert sorted(asked) == list(range(10))
