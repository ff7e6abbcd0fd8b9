"""Click logs: what is read, what is added up, and every kind of bad line, with its count and lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rankpipe.data import Corpus, Queries
from rankpipe.errors import DataError, UsageError
from rankpipe.training.click_log import ClickLog, read_click_log, write_click_log

CORPUS = Corpus.from_records([{"id": f"d{number}", "text": "a"} for number in range(1, 6)])
QUERIES = Queries.of({"q1": "one", "q2": "two"})
GOOD: dict[str, Any] = {"query": "q1", "shown": ["d1", "d2", "d3"], "clicks": [2], "time": 10}


def read(path: Path, records: Sequence[Any]) -> ClickLog:
    text = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in records)
    path.write_text(text, encoding="utf-8")
    return read_click_log(path, QUERIES, CORPUS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "clicks.jsonl"


def test_sessions_are_read_as_they_stand(path: Path) -> None:
    log = read(path, [GOOD, {"query": "q2", "shown": ["d5"], "clicks": [], "time": 10.5}])
    assert [(one.line, one.query, one.shown, one.clicks) for one in log.sessions] == [
        (1, "q1", ("d1", "d2", "d3"), (2,)),
        (2, "q2", ("d5",), ()),
    ]
    assert log.problems.count == 0
    log.refuse_problems()


def test_sessions_of_one_list_are_added_up(path: Path) -> None:
    other = {"query": "q1", "shown": ["d3", "d1"], "clicks": [1], "time": 13}
    log = read(path, [GOOD, {**GOOD, "clicks": [1, 2], "time": 11}, {**GOOD, "clicks": [], "time": 12}, other])
    queries, sessions = log.added_up(QUERIES, CORPUS, 3)
    rows = CORPUS.rows(["d1", "d2", "d3"]).tolist()
    assert queries.tolist() == [0, 0]
    assert sessions.shown.tolist() == [rows, [rows[2], rows[0], -1]]
    assert sessions.count.tolist() == [3, 1]
    assert sessions.clicks.tolist() == [[1, 2, 0], [1, 0, 0]]
    assert sessions.pairs[0].tolist() == [[0, 0, 1], [1, 0, 2], [0, 0, 0]]
    assert sessions.pairs[1].tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_what_stands_below_the_last_position_is_left_out(path: Path) -> None:
    sessions = read(path, [{**GOOD, "clicks": [3, 1]}]).added_up(QUERIES, CORPUS, 2).sessions
    assert sessions.shown.shape == (1, 2)
    assert sessions.clicks.tolist() == [[1, 0]]


BAD: dict[str, tuple[Any, str]] = {
    "form": (
        {"query": "q1", "shown": "d1", "clicks": []},
        "no session: 'query' must be a text, 'shown' a list of texts, 'clicks' a list of whole numbers",
    ),
    "json": ("{", "no session: 'query' must be a text, 'shown' a list of texts, 'clicks' a list of whole numbers"),
    "number": (
        {**GOOD, "clicks": [1.5], "time": 11},
        "no session: 'query' must be a text, 'shown' a list of texts, 'clicks' a list of whole numbers",
    ),
    "empty": ({**GOOD, "shown": [], "clicks": [], "time": 11}, "nothing was shown"),
    "negative": ({**GOOD, "clicks": [-1], "time": 11}, "a clicked position below 1"),
    "zero": ({**GOOD, "clicks": [0], "time": 11}, "a clicked position below 1"),
    "outside": ({**GOOD, "clicks": [4], "time": 11}, "a click beyond the end of the list"),
    "document twice": (
        {**GOOD, "shown": ["d1", "d1"], "time": 11},
        "a document that was shown twice, or a position that was clicked twice",
    ),
    "click twice": (
        {**GOOD, "clicks": [2, 2], "time": 11},
        "a document that was shown twice, or a position that was clicked twice",
    ),
    "repeated": (GOOD, "a session that was there before"),
    "backwards": ({**GOOD, "time": 9}, "a time before that of the line above, or none that can be read"),
    "no time": ({**GOOD, "time": "yesterday"}, "a time before that of the line above, or none that can be read"),
    "query": ({**GOOD, "query": "q9", "time": 11}, "a query that the data set does not have"),
    "document": ({**GOOD, "shown": ["d1", "d9"], "time": 11}, "a document that the data set does not have"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_told_with_its_line(path: Path, name: str) -> None:
    record, message = BAD[name]
    log = read(path, [GOOD, record])
    assert len(log.sessions) == 1
    with pytest.raises(DataError) as error:
        log.refuse_problems()
    assert str(error.value) == (
        f"{path}: {message}: 1 line (2)\n1 of 2 sessions are wrong; mend the log, or leave them out with 'bad: leave-out'"
    )


def test_many_bad_lines_are_counted_and_the_first_named(path: Path) -> None:
    records = [{**GOOD, "clicks": [-1], "time": time} for time in range(20, 28)]
    log = read(path, [GOOD, *records, {**GOOD, "query": "q9", "time": 40}, {**GOOD, "time": 41}])
    assert str(log.problems) == (
        f"{path}: a clicked position below 1: 8 lines (2, 3, 4, 5, 6 and 3 more)\n"
        f"{path}: a query that the data set does not have: 1 line (10)"
    )
    assert log.problems.told() == {
        "position": {"count": 8, "first_lines": [2, 3, 4, 5, 6]},
        "query": {"count": 1, "first_lines": [10]},
    }
    assert len(log.sessions) + log.problems.count == log.problems.sessions == 11


def test_a_clock_that_went_backwards_once_spoils_one_line(path: Path) -> None:
    times = [10, 30, 20, 21]
    log = read(path, [{**GOOD, "time": time} for time in times])
    assert log.problems.told() == {"backwards": {"count": 1, "first_lines": [3]}}


def test_times_may_be_texts_or_left_out(path: Path) -> None:
    times = ["2026-01-01T10:00:00Z", "2026-01-01T12:00:00+01:00", "2026-01-01T11:30:00"]
    assert read(path, [{**GOOD, "time": time} for time in times]).problems.count == 0
    timeless = {name: value for name, value in GOOD.items() if name != "time"}
    assert len(read(path, [timeless, timeless]).sessions) == 2  # nobody can know whether they are one


def test_sessions_with_an_id_are_told_apart_by_it(path: Path) -> None:
    log = read(path, [{**GOOD, "session": "a"}, {**GOOD, "session": "b"}, {**GOOD, "session": "a", "clicks": []}])
    assert log.problems.told() == {"repeated": {"count": 1, "first_lines": [3]}}


def test_a_parquet_file_says_the_same(tmp_path: Path, path: Path) -> None:
    records = [GOOD, {**GOOD, "clicks": [7], "time": 11}, {**GOOD, "query": "q2", "time": 12}]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "clicks.parquet")
    log = read_click_log(tmp_path / "clicks.parquet", QUERIES, CORPUS)
    assert log.sessions == read(path, records).sessions
    assert log.problems.told() == {"outside": {"count": 1, "first_lines": [2]}}


@pytest.mark.parametrize("time", [10**400, -(2**70), 1e400, True, [1]])
def test_a_time_that_is_none_spoils_its_line_alone(path: Path, time: Any) -> None:
    log = read(path, [GOOD, {**GOOD, "clicks": [], "time": time}, {**GOOD, "clicks": [1], "time": 12}])
    assert log.problems.told() == {"backwards": {"count": 1, "first_lines": [2]}}
    assert len(log.sessions) == 2


def test_times_of_nanoseconds_are_read(tmp_path: Path) -> None:
    times = pa.array([1_700_000_000_000_000_001, 1_700_000_001_000_000_999], pa.timestamp("ns"))
    columns = {"query": ["q1", "q1"], "shown": [["d1"], ["d1"]], "clicks": [[1], []], "time": times}
    pq.write_table(pa.table(columns), tmp_path / "clicks.parquet")
    assert len(read_click_log(tmp_path / "clicks.parquet", QUERIES, CORPUS).sessions) == 2


def test_a_log_is_written_under_a_name_that_it_is_read_by(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"x\.jsonl\.gz: a log is written to a file whose name ends in \.jsonl$"):
        write_click_log(iter([GOOD]), tmp_path / "x.jsonl.gz")


def test_what_is_written_is_read_again(path: Path) -> None:
    write_click_log(iter([GOOD, {**GOOD, "time": 11}]), path)
    log = read_click_log(path, QUERIES, CORPUS)
    assert [one.clicks for one in log.sessions] == [(2,), (2,)]


def test_files_that_are_no_log_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^there is no file .*missing\.jsonl$"):
        read_click_log(tmp_path / "missing.jsonl", QUERIES, CORPUS)
    with pytest.raises(UsageError, match=r"^there is no file .*missing\.parquet$"):
        read_click_log(tmp_path / "missing.parquet", QUERIES, CORPUS)
    with pytest.raises(UsageError, match=r"clicks\.csv: a click log ends in \.jsonl, \.jsonl\.gz or \.parquet$"):
        read_click_log(tmp_path / "clicks.csv", QUERIES, CORPUS)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"empty\.jsonl: holds no sessions$"):
        read_click_log(tmp_path / "empty.jsonl", QUERIES, CORPUS)
    (tmp_path / "broken.parquet").write_text("no such thing")
    with pytest.raises(DataError, match=r"broken\.parquet: cannot be read: "):
        read_click_log(tmp_path / "broken.parquet", QUERIES, CORPUS)
