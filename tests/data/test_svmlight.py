"""SVMlight files: by hand, against scikit-learn, odd numbers to the last bit, and what is refused, word for word."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rankpipe.data import svmlight
from rankpipe.data.svmlight import FeatureLists, read_svmlight, write_svmlight
from rankpipe.errors import DataError, UsageError

TWO = "2 qid:10 1:0.5 3:-1e-3 # docid = A\n0 qid:10 2:7\n\n# a comment\n1 qid:b\t1:3 \r\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lists.txt"


def read(path: Path, text: str, **settings: object) -> FeatureLists:
    path.write_bytes(text.encode())
    return read_svmlight(path, **settings)  # type: ignore[arg-type]


def test_a_file_by_hand(path: Path) -> None:
    lists = read(path, TWO, comments=True)
    assert lists.query_ids == ("10", "b")
    assert lists.offsets.tolist() == [0, 2, 3]
    assert lists.grades.tolist() == [2, 0, 1]
    assert lists.features.tolist() == [[0.5, 0, np.float32(-1e-3)], [0, 7, 0], [3, 0, 0]]
    assert lists.features.dtype == np.float32
    assert lists.comments == ("docid = A", "", "")
    assert len(lists) == 2
    assert lists.counts.tolist() == [2, 1]


def test_a_given_number_of_features_is_kept(path: Path) -> None:
    assert read(path, TWO, features=5).features.shape == (3, 5)


def test_indices_of_many_features_are_kept_across_blocks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svmlight, "BLOCK", 20)
    highest = (3, 255, 256, 65_535, 65_536, 70_000)  # around what one byte and two bytes hold
    path.write_text("".join(f"1 qid:{row} 1:{row} {index}:2.5\n" for row, index in enumerate(highest)))
    features = read_svmlight(path).features
    assert features.shape == (6, 70_000)
    assert [np.flatnonzero(row).tolist() for row in features] == [[2], *([0, index - 1] for index in highest[1:])]


def test_blocks_may_end_anywhere(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(f"{at % 3} qid:q{at // 4} 1:{at / 7:.6f} {2 + at % 5}:{-at}.25 # line {at}\n" for at in range(100))
    whole = read(path, text, comments=True)
    for size in (1, 7, 64, 1000):
        monkeypatch.setattr(svmlight, "BLOCK", size)
        parts = read_svmlight(path, comments=True)
        assert parts.query_ids == whole.query_ids
        assert parts.offsets.tolist() == whole.offsets.tolist()
        assert np.array_equal(parts.features, whole.features)
        assert np.array_equal(parts.grades, whole.grades)
        assert parts.comments == whole.comments


def test_errors_in_later_blocks_name_the_line_of_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svmlight, "BLOCK", 16)
    with pytest.raises(DataError, match=r"lists\.txt:9: the grade is 'x', not a number$"):
        read(path, "0 qid:1 1:2.5\n" * 8 + "x qid:1 1:2.5\n")


@pytest.mark.parametrize(
    "number",
    [
        *("0", "-0.0", "1", "+2.5", ".5", "5.", "1e5", "1E-5", "123456789012345678901234567890", "0.1", "1e22", "1e23"),
        *("9007199254740993", "0.000000000000000000000000000001", "1.7976931348623157e38", "3.4028234e38", "1e-45"),
        *("0.30000000000000004", "2.2250738585072014e-308", "00001.50", "179769313486231570000.0"),
    ],
)
def test_numbers_are_read_as_python_reads_them(path: Path, number: str) -> None:
    lists = read(path, f"{number} qid:1 1:{number}\n")
    expected = np.float32(float(number))
    assert lists.features[0, 0] == expected
    assert lists.grades[0] == expected


def test_drawn_numbers_are_exact(path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=2000) * 10.0 ** rng.integers(-20, 20, size=2000)
    texts = [
        format(value, spec)
        for value, spec in zip(values, ["r", ".3e", ".17g", ".8g"] * 500, strict=True)
        if spec != "r"
    ]
    lists = read(path, "".join(f"0 qid:1 1:{text}\n" for text in texts))
    assert lists.features[:, 0].tolist() == [float(np.float32(float(text))) for text in texts]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x qid:1 1:2", "the grade is 'x', not a number"),
        ("nan qid:1 1:2", "the grade is 'nan', not a number"),
        ("1 1:2", "behind the grade stands '1:2', not the query, qid:..."),
        ("1", "behind the grade stands '', not the query, qid:..."),
        ("1 qid: 1:2", "behind the grade stands 'qid:', not the query, qid:..."),
        ("1 qid:1 abc", "'abc' is not a feature, index:value"),
        ("1 qid:1 a:2", "'a:2': the index must be a whole number from 1"),
        ("1 qid:1 0:2", "'0:2': the index must be a whole number from 1"),
        ("1 qid:1 :2", "':2': the index must be a whole number from 1"),
        ("1 qid:1 2:1 2:3", "'2:3': the index does not rise; each feature is given once, the lowest first"),
        ("1 qid:1 2:1 1:3", "'1:3': the index does not rise; each feature is given once, the lowest first"),
        ("1 qid:1 2:", "'2:': the value is not a finite number"),
        ("1 qid:1 2:nan", "'2:nan': the value is not a finite number"),
        ("1 qid:1 2:inf", "'2:inf': the value is not a finite number"),
        ("1 qid:1 2:1e", "'2:1e': the value is not a finite number"),
        ("1 qid:1 2:1.2.3", "'2:1.2.3': the value is not a finite number"),
        ("1 qid:1 2:1e39", "feature 2 is 1e+39, too large for 32 bits"),
        ("1e39 qid:1 1:1", "the grade is 1e+39, too large for 32 bits"),
        ("1e400 qid:1 1:1", "the grade is inf, too large for 32 bits"),
        ("1 qid:1 99999999:1", "'99999999:1': more than 1,048,576 features are not read"),
        ("1 qid:1 99999999999999999999999:1", "'99999999999999999999999:1': more than 1,048,576 features are not read"),
    ],
)
def test_what_is_no_line_is_refused(path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError) as error:
        read(path, f"1 qid:0 1:1\n{line}\n")
    assert str(error.value) == f"{path}:2: {message}"


def test_an_index_above_the_given_number_is_refused(path: Path) -> None:
    with pytest.raises(DataError) as error:
        read(path, TWO, features=2)
    assert str(error.value) == f"{path}:1: '3:-1e-3': there are 2 features"


def test_a_query_in_two_places_is_refused(path: Path) -> None:
    with pytest.raises(DataError) as error:
        read(path, "1 qid:a 1:1\n1 qid:b 1:1\n1 qid:a 1:1\n")
    assert str(error.value) == (
        f"{path}:3: query 'a' stood in line 1 already, and another query between; the lines of a query stand together"
    )


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n"])
def test_a_file_without_documents_is_refused(path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"lists\.txt: holds no documents$"):
        read(path, text)


def test_a_file_that_is_not_there_or_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^there is no file .*missing\.txt$"):
        read_svmlight(tmp_path / "missing.txt")
    with pytest.raises(DataError, match=r": is a folder, not an SVMlight file$"):
        read_svmlight(tmp_path)


def test_a_truncated_gzip_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lists.txt.gz"
    path.write_bytes(gzip.compress(TWO.encode())[:-12])
    with pytest.raises(DataError, match=r"lists\.txt\.gz: cannot be read: "):
        read_svmlight(path)


@pytest.mark.parametrize("name", ["written.txt", "written.txt.gz"])
def test_what_is_written_is_read_again_to_the_last_bit(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 6)).astype(np.float32) * (rng.random((50, 6)) < 0.5)
    features[:, 5] = 1e-30  # so that the last feature is there
    lists = FeatureLists(
        ("a", "q2"),
        np.array([0, 20, 50]),
        rng.integers(0, 5, 50).astype(np.float32),
        features,
        tuple(f"doc {at}" for at in range(50)),
    )
    write_svmlight(lists, tmp_path / name)
    again = read_svmlight(tmp_path / name, comments=True)
    assert again.query_ids == lists.query_ids
    assert again.offsets.tolist() == lists.offsets.tolist()
    assert np.array_equal(again.features, features)
    assert np.array_equal(again.grades, lists.grades)
    assert again.comments == lists.comments


@pytest.mark.parametrize(
    ("query_id", "comment", "message"),
    [
        ("a b", "", "query id 'a b' cannot stand in an SVMlight file: it is empty, or has a blank or #"),
        ("", "", "query id '' cannot stand in an SVMlight file: it is empty, or has a blank or #"),
        ("a", "x\ny", "comment 'x\\ny' cannot stand in an SVMlight file: it has more than one line"),
    ],
)
def test_what_a_line_cannot_hold_is_not_written(tmp_path: Path, query_id: str, comment: str, message: str) -> None:
    one = FeatureLists((query_id,), np.array([0, 1]), np.ones(1, np.float32), np.ones((1, 1), np.float32), (comment,))
    with pytest.raises(UsageError) as error:
        write_svmlight(one, tmp_path / "lists.txt")
    assert str(error.value) == message
    assert list(tmp_path.iterdir()) == []


def test_grades_are_written_to_the_last_bit(tmp_path: Path) -> None:
    grades = np.array([1234567.0, 0.12345678, 3.0], np.float32)
    lists = FeatureLists(("a",), np.array([0, 3]), grades, np.ones((3, 1), np.float32))
    write_svmlight(lists, tmp_path / "lists.txt")
    assert read_svmlight(tmp_path / "lists.txt").grades.tolist() == grades.tolist()


def test_what_could_not_be_read_again_is_not_written(path: Path, tmp_path: Path) -> None:
    lists = read(path, TWO)
    with pytest.raises(UsageError, match=r"^one query id stands twice, and its two lists would be read as one$"):
        write_svmlight(lists.select([0, 0]), tmp_path / "out.txt")
    lists.features[0, 0] = np.nan
    with pytest.raises(UsageError, match=r"^grades and features must be finite numbers to be written$"):
        write_svmlight(lists, tmp_path / "out.txt")
    assert not (tmp_path / "out.txt").exists()


def test_a_matrix_that_no_memory_holds_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svmlight, "MOST_NUMBERS", 1000)
    with pytest.raises(DataError) as error:
        read(path, "0 qid:1 1:1\n0 qid:1 501:1\n")
    assert str(error.value) == f"{path}: 2 documents with 501 features are 1,002 numbers, and 1,000 are read at most"


def test_some_queries_are_selected_in_the_order_given(path: Path) -> None:
    some = read(path, TWO, comments=True).select([1, 0])
    assert some.query_ids == ("b", "10")
    assert some.offsets.tolist() == [0, 1, 3]
    assert some.grades.tolist() == [1, 2, 0]
    assert some.features[:, 0].tolist() == [3, 0.5, 0]
    assert some.comments == ("", "docid = A", "")


def test_lists_are_widened_by_features_that_are_not_there(path: Path) -> None:
    lists = read(path, TWO)
    assert lists.widened(4).features.tolist() == [[*row, 0] for row in lists.features.tolist()]
    with pytest.raises(UsageError, match=r"^3 features are there, and 2 are wanted$"):
        lists.widened(2)


@pytest.mark.parametrize("name", ["letor-mq2008/Fold1/vali.txt.gz", "ltr-lightgbm/train.txt.gz"])
def test_real_files_are_read_as_scikit_learn_reads_them(real_file: Callable[[str], Path], name: str) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    path = real_file(name)
    lists = read_svmlight(path)
    features, grades, queries = datasets.load_svmlight_file(str(path), query_id=True)
    assert np.array_equal(lists.features, features.toarray().astype(np.float32))
    assert np.array_equal(lists.grades, grades.astype(np.float32))
    assert [int(one) for one in np.repeat(lists.query_ids, lists.counts)] == queries.tolist()


def test_a_byte_order_mark_is_no_part_of_the_first_grade(path: Path) -> None:
    assert read(path, "\ufeff" + TWO).grades.tolist() == [2, 0, 1]
