"""Vectors on disk: what is written is read, and what was finished is not made again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rankpipe import progress
from rankpipe.errors import StoreError
from rankpipe.index.shards import finished
from rankpipe.index.vectors import Block, Vectors, build, gathered, merged

ROWS = np.array([0, 2, 3, 5, 8, 9, 11], np.int32)


def encoded(rows: NDArray[np.int32], advance: Callable[[int], None]) -> Block:
    """Row r has 1 + r % 3 windows of the values r, r + .25, r + .5; even rows count as cut."""
    counts = 1 + rows % 3
    vectors = [[row + window / 4] * 4 for row, count in zip(rows, counts, strict=True) for window in range(count)]
    advance(len(rows))
    return Block(np.array(vectors, np.float32).reshape(-1, 4), np.cumsum([0, *counts]), rows % 2 == 0)


def written(folder: Path, precision: str = "float32", shard: int = 3) -> Vectors:
    folder.mkdir(exist_ok=True)
    build(folder, ROWS, encoded, dimensions=4, precision=precision, shard=shard)  # type: ignore[arg-type]
    return Vectors.open(folder)


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("shard", [1, 3, 7, 100])
def test_what_is_written_is_read(tmp_path: Path, precision: str, shard: int) -> None:
    vectors = written(tmp_path / "v", precision, shard)
    expected = encoded(ROWS, lambda _: None)
    assert vectors.values.dtype == precision
    assert vectors.rows.tolist() == ROWS.tolist()
    assert np.array_equal(vectors.values, expected.vectors)
    assert np.array_equal(vectors.offsets, expected.offsets)
    assert vectors.dimensions == 4
    assert vectors.truncated.tolist() == [True, True, False, False, True, False, False]  # rows 0, 2 and 8
    assert vectors.norm == np.linalg.norm(expected.vectors, axis=1).max()
    assert sorted(path.name for path in (tmp_path / "v").iterdir()) == [
        "offsets.npy",
        "rows.npy",
        "truncated.npy",
        "vectors.json",
        "vectors.npy",
    ]


def test_finished_shards_are_not_encoded_again(tmp_path: Path) -> None:
    asked: list[list[int]] = []

    def stops(rows: NDArray[np.int32], advance: Callable[[int], None]) -> Block:
        asked.append(rows.tolist())
        if len(asked) == 3:
            raise KeyboardInterrupt
        return encoded(rows, advance)

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, ROWS, stops, dimensions=4, precision="float32", shard=3)
    assert finished(tmp_path) == [0, 1]
    (tmp_path / ".shard-00002-vectors.npy-half").write_bytes(b"what was being written")
    build(tmp_path, ROWS, stops, dimensions=4, precision="float32", shard=3)
    assert asked == [[0, 2, 3], [5, 8, 9], [11], [11]]
    assert np.array_equal(Vectors.open(tmp_path).values, encoded(ROWS, lambda _: None).vectors)
    assert not list(tmp_path.glob("*shard*"))


@pytest.mark.parametrize(
    "name", ["shard-00001.json", "shard-00001-vectors.npy", "shard-00001-counts.npy", "shard-00001-truncated.npy"]
)
def test_a_damaged_shard_is_said_and_made_anew(tmp_path: Path, name: str) -> None:
    def stops(rows: NDArray[np.int32], advance: Callable[[int], None]) -> Block:
        if rows[0] == 11:
            raise KeyboardInterrupt
        return encoded(rows, advance)

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, ROWS, stops, dimensions=4, precision="float32", shard=3)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-1])
    with pytest.raises(StoreError) as caught:
        build(tmp_path, ROWS, encoded, dimensions=4, precision="float32", shard=3)
    shard = tmp_path / "shard-00001.json"
    assert str(caught.value) == f"{shard}, or what it describes, is damaged; the next run makes it anew"
    build(tmp_path, ROWS, encoded, dimensions=4, precision="float32", shard=3)
    assert np.array_equal(Vectors.open(tmp_path).values, encoded(ROWS, lambda _: None).vectors)


def test_a_build_that_was_killed_while_joining_only_joins(tmp_path: Path) -> None:
    folder = tmp_path / "v"
    whole = written(folder)
    expected = np.array(whole.values)
    (folder / "shard-00000-vectors.npy").write_bytes(b"a shard that was to be removed")

    def fails(rows: NDArray[np.int32], advance: Callable[[int], None]) -> Block:
        raise AssertionError("encoded again")

    build(folder, ROWS, fails, dimensions=4, precision="float32", shard=3)
    assert np.array_equal(Vectors.open(folder).values, expected)


def test_no_documents_are_no_error(tmp_path: Path) -> None:
    build(tmp_path, ROWS[:0], encoded, dimensions=4, precision="float32")
    vectors = Vectors.open(tmp_path)
    assert (len(vectors.rows), vectors.values.shape, vectors.places(ROWS).tolist()) == (0, (0, 4), [-1] * 7)


def test_an_encoder_of_other_dimensions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="vectors of 4 dimensions among those of 5"):
        build(tmp_path, ROWS, encoded, dimensions=5, precision="float32")


def test_values_too_large_for_float16_are_refused(tmp_path: Path) -> None:
    def large(rows: NDArray[np.int32], advance: Callable[[int], None]) -> Block:
        block = encoded(rows, advance)
        return block._replace(vectors=block.vectors * 100_000)

    with pytest.raises(StoreError, match=r"a vector holds 300000, which is too large for float16; store float32"):
        build(tmp_path, ROWS[:3], large, dimensions=4, precision="float16")


def test_places_of_rows_that_have_no_vectors_are_minus_one(tmp_path: Path) -> None:
    assert written(tmp_path / "v").places(np.array([11, 1, 0, 100, 8])).tolist() == [6, -1, 0, -1, 4]


def test_merged_vectors_stand_in_the_order_of_their_rows() -> None:
    def of(*rows: int) -> Vectors:
        at = np.array(rows, np.int32)
        return Vectors.of(at, encoded(at, lambda _: None))

    together, whole = merged([of(2, 8), of(0, 11), of()]), of(0, 2, 8, 11)
    assert together.rows.tolist() == [0, 2, 8, 11]
    assert np.array_equal(together.offsets, whole.offsets)
    assert np.array_equal(together.values, whole.values)
    assert together.norm == whole.norm
    assert together.truncated.tolist() == whole.truncated.tolist() == [True, True, True, False]


def test_of_a_document_that_several_have_the_first_counts() -> None:
    def of(value: float, *rows: int) -> Vectors:
        at = np.array(rows, np.int32)
        values, cut = np.full((len(rows), 2), value, np.float32), np.full(len(rows), value == 2)
        return Vectors.of(at, Block(values, np.arange(len(rows) + 1), cut))

    parts = [of(1, 5, 7), of(2, 3, 5, 9), of(3, 3)]
    assert merged(parts).rows.tolist() == [3, 5, 7, 9]
    assert merged(parts).values[:, 0].tolist() == [2, 1, 1, 2]
    assert merged(parts).truncated.tolist() == [True, False, False, True]
    assert gathered(parts, np.array([5, 9], np.int32)).values[:, 0].tolist() == [1, 2]


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_what_is_gathered_is_saved_and_read(tmp_path: Path, precision: Any) -> None:
    rows = np.array([2, 5, 11], np.int32)
    taken = gathered([written(tmp_path / "v", precision)], rows)
    (tmp_path / "saved").mkdir()
    taken.save(tmp_path / "saved")
    for vectors in (taken, Vectors.open(tmp_path / "saved")):
        assert (vectors.values.dtype, vectors.rows.tolist()) == (precision, rows.tolist())
        assert np.array_equal(vectors.values, encoded(rows, lambda _: None).vectors)
        assert vectors.offsets.tolist() == [0, 3, 6, 9]
        assert vectors.truncated.tolist() == [True, False, False]


def test_moved_documents_keep_their_vectors(tmp_path: Path) -> None:
    vectors = written(tmp_path / "v")
    moved = vectors.moved(3, 9, 103)  # of the rows 3, 5 and 8
    assert moved.rows.tolist() == [103, 105, 108]
    expected = encoded(np.array([3, 5, 8], np.int32), lambda _: None)
    assert np.array_equal(moved.values, expected.vectors)
    assert moved.offsets.tolist() == expected.offsets.tolist()
    assert moved.truncated.tolist() == [False, False, True]
    assert moved.places(np.array([8, 105], np.int32)).tolist() == [-1, 1]
    assert len(vectors.moved(6, 8, 0).rows) == len(vectors.moved(12, 20, 0).values) == 0
    assert gathered([moved], np.array([105], np.int32)).values.tolist() == [[5] * 4, [5.25] * 4, [5.5] * 4]


def test_documents_whose_vectors_are_known_count_as_done_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("LOOK", "LONG"):
        monkeypatch.setattr(progress, name, -1.0)  # a line at once

    def encode(rows: NDArray[np.int32], advance: Callable[[int], None]) -> Block:
        return encoded(rows, advance if rows[0] == 5 else lambda _: None)

    known = np.array([0, 2, 3, 4, 11], np.int32)
    build(tmp_path, ROWS, encode, dimensions=4, precision="float32", shard=3, known=known)
    assert capsys.readouterr().err.startswith("7 of 7 documents done, ")


def test_blocks_hold_whole_documents(tmp_path: Path) -> None:
    vectors = written(tmp_path / "v")
    # windows: row 0 one, 2 three, 3 one, 5 three, 8 three, 9 one, 11 three
    assert list(vectors.blocks(4)) == [(0, 2), (2, 4), (4, 6), (6, 7)]
    assert list(vectors.blocks(1)) == [(place, place + 1) for place in range(7)]


@pytest.mark.parametrize("name", ["vectors.json", "rows.npy", "offsets.npy", "vectors.npy", "truncated.npy"])
def test_a_missing_file_is_a_store_error(tmp_path: Path, name: str) -> None:
    written(tmp_path / "v")
    (tmp_path / "v" / name).unlink()
    with pytest.raises(StoreError, match="does not hold whole vectors"):
        Vectors.open(tmp_path / "v")


def test_arrays_that_do_not_fit_together_are_a_store_error(tmp_path: Path) -> None:
    written(tmp_path / "v")
    np.save(tmp_path / "v" / "rows.npy", ROWS[:3])
    with pytest.raises(
        StoreError, match=r"holds arrays of the shapes \(3,\), \(8,\), \(15, 4\), \(7,\), not \(7,\), \(8,\)"
    ):
        Vectors.open(tmp_path / "v")
