import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankpipe.data import Corpus, Queries
from rankpipe.errors import DataError, RankpipeError, UsageError
from rankpipe.run import Run

CORPUS = Corpus.of_ids("fabdce")
QUERIES = Queries.of({"q1": "one", "q2": "two", "q3": "three"})
LARGEST = float(np.finfo(np.float32).max)


def a_run(ranked: dict[str, dict[str, float]] | None = None) -> Run:
    return Run.of(QUERIES, CORPUS, ranked or {"q1": {"a": 3, "b": 0.1}, "q3": {"d": -1e-7, "e": -1e-7}})


def read(folder: Path, text: str, **known: Corpus | Queries) -> Run:
    path = folder / "x.trec"
    path.write_text(text, encoding="utf-8")
    return Run.read_trec(path, **known)  # type: ignore[arg-type]


def test_a_file_has_six_columns_and_nine_digits(tmp_path: Path) -> None:
    a_run().write_trec(tmp_path / "run.trec", tag="mine")
    *lines, last = (tmp_path / "run.trec").read_text().splitlines()
    assert lines == ["q1 Q0 a 1 3 mine", "q1 Q0 b 2 0.100000001 mine", "q3 Q0 e 1 -1.00000001e-07 mine"]
    assert last.startswith("q3 Q0 d 2 -1.00000001")


def test_equal_scores_are_written_a_trace_apart_which_only_doubles_show(tmp_path: Path) -> None:
    ranked = {doc_id: score for score, ids in ((LARGEST, "ab"), (0, "cd"), (-1, "ef")) for doc_id in ids}
    run = a_run({"q1": ranked})
    run.write_trec(tmp_path / "run.trec")
    written = [float(line.split()[4]) for line in (tmp_path / "run.trec").read_text().splitlines()]
    assert written == sorted(set(written), reverse=True)
    assert np.array(written, np.float32).tolist() == [LARGEST, LARGEST, 0, 0, -1, -1]


@pytest.mark.parametrize("name", ["run.trec", "run.trec.gz"])
def test_a_written_file_reads_as_the_same_run(tmp_path: Path, name: str) -> None:
    a_run().write_trec(tmp_path / name)
    assert Run.read_trec(tmp_path / name, corpus=CORPUS, queries=QUERIES).to_dict() == a_run().to_dict()
    alone = Run.read_trec(tmp_path / name)  # a file knows nothing of queries without candidates
    assert alone.to_dict() == {query_id: one for query_id, one in a_run().to_dict().items() if one}


def test_equal_runs_make_equal_gzip_files(tmp_path: Path) -> None:
    for name in ("one.gz", "two.gz"):
        a_run().write_trec(tmp_path / name)
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()


def test_a_run_without_candidates_is_an_empty_file(tmp_path: Path) -> None:
    Run.empty(QUERIES, CORPUS).write_trec(tmp_path / "run.trec")
    assert (tmp_path / "run.trec").read_bytes() == b""
    assert Run.read_trec(tmp_path / "run.trec", queries=QUERIES).to_dict() == {"q1": {}, "q2": {}, "q3": {}}
    assert Run.read_trec(tmp_path / "run.trec", queries=Queries.of({})).to_dict() == {}
    assert len(Run.read_trec(tmp_path / "run.trec")) == 0


# Ties, neighbouring floats and the ends of float32.
scores = st.one_of(
    st.integers(-1, 1).map(float),
    st.sampled_from([LARGEST, -LARGEST, 1e-45, -1e-45, float(np.nextafter(np.float32(1), np.float32(2)))]),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@given(st.dictionaries(st.sampled_from(QUERIES.ids), st.dictionaries(st.sampled_from("abcdef"), scores)))
def test_any_run_survives_its_file(tmp_path_factory: pytest.TempPathFactory, ranked: dict) -> None:
    path = tmp_path_factory.mktemp("run") / "run.trec"
    run = a_run(ranked) if ranked else Run.empty(QUERIES, CORPUS)
    run.write_trec(path)
    again = Run.read_trec(path, corpus=CORPUS, queries=QUERIES)
    assert [list(one.items()) for one in again.to_dict().values()] == [
        list(one.items()) for one in run.to_dict().values()
    ]


def test_the_order_is_that_of_the_scores_not_of_the_ranks(tmp_path: Path) -> None:
    run = read(tmp_path, "q1 Q0 a 1 1 t\nq1\tQ0  b 2\t2 t\n\nq1 Q0 c 3 2 t\n")
    assert list(run.to_dict()["q1"].items()) == [("c", 2), ("b", 2), ("a", 1)]


def test_queries_may_be_mixed_and_end_lines_as_they_like(tmp_path: Path) -> None:
    run = read(tmp_path, "\ufeffq1 Q0 a 1 2 t\r\nq2 Q0 a 1 2 t\r\nq1 Q0 b 2 1 t")
    assert run.to_dict() == {"q1": {"a": 2, "b": 1}, "q2": {"a": 2}}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q1 Q0 b 2 1", "5 columns, not the 6 of 'query_id Q0 doc_id rank score tag'"),
        ("q1 Q0 b 2 1 t t", "7 columns, not the 6 of 'query_id Q0 doc_id rank score tag'"),
        ("q1 Q0 b 2 x t", "the score 'x' is not a finite number"),
        ("q1 Q0 b 2 nan t", "the score 'nan' is not a finite number"),
        ("q1 Q0 b 2 -inf t", "the score '-inf' is not a finite number"),
        ("q1 Q0 b 2 1e39 t", "the score '1e39' is not a finite number"),
        ("q1 Q0 b 2 1_0 t", "the score '1_0' is not a finite number"),
        ("q1 Q0 b 2 \uff11 t", "the score '\uff11' is not a finite number"),
        ("q1 Q0 a 2 1 t", "document 'a' stands twice in the ranking of query 'q1'"),
        ("q9 Q0 a 2 1 t", "query 'q9' is not among the queries"),
        ("q1 Q0 zz 2 1 t", "document 'zz' is not in the corpus"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, f"q1 Q0 a 1 2 t\n\n{line}\n", corpus=CORPUS, queries=QUERIES)
    assert str(caught.value) == f"{tmp_path}/x.trec:3: {message}"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        Run.read_trec(tmp_path / "none.trec")
    assert str(caught.value) == f"there is no file {tmp_path}/none.trec"


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    packed = gzip.compress("".join(f"q1 Q0 d{n} 1 {n} t\n" for n in range(5000)).encode())
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 0xFF
    contents = {
        "cut.gz": packed[:-100],
        "flipped.gz": bytes(flipped),
        "plain.gz": b"q1 Q0 a 1 2 t\n",
        "latin": b"q\xe9 Q0",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}:"):
            Run.read_trec(tmp_path / name)


@pytest.mark.parametrize(
    ("query_id", "doc_id", "tag", "message"),
    [
        ("q 1", "a", "t", "query id 'q 1' has white space in it"),
        ("q1", "a\n", "t", "document id 'a\\n' has white space in it"),
        ("q1", "a\u3000b", "t", "document id 'a\\u3000b' has white space in it"),
        ("q1", "a", "", "tag '' is empty"),
    ],
)
def test_ids_that_the_format_cannot_hold_are_refused(
    tmp_path: Path, query_id: str, doc_id: str, tag: str, message: str
) -> None:
    run = Run.of(Queries.of({query_id: ""}), Corpus.of_ids([doc_id]), {query_id: {doc_id: 1}})
    with pytest.raises(UsageError) as caught:
        run.write_trec(tmp_path / "run.trec", tag=tag)
    assert str(caught.value).startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RankpipeError) as caught:
        a_run().write_trec(tmp_path / "none" / "run.trec")
    assert str(caught.value) == f"cannot write {tmp_path}/none/run.trec: No such file or directory"


FULL_DISK = """
import resource, signal, sys
from rankpipe.data import Corpus, Queries
from rankpipe.errors import RankpipeError
from rankpipe.run import Run

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
ids = [f"d{number}" for number in range(3000)]
try:
    Run.of(Queries.of("one"), Corpus.of_ids(ids), {"q1": dict.fromkeys(ids, 1.0)}).write_trec(sys.argv[1])
except RankpipeError as error:
    print(error)
"""


@pytest.mark.parametrize("name", ["run.trec", "run.trec.gz"])
def test_a_file_system_that_is_full_leaves_the_old_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("the old one")
    done = subprocess.run([sys.executable, "-W", "error", "-c", FULL_DISK, path], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"cannot write {path}: File too large\n", "")
    assert [path.read_text(), *tmp_path.iterdir()] == ["the old one", path]


def test_an_order_of_ties_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ties is 'ranks', must be 'doc_id' or 'rank'"):
        Run.read_trec(tmp_path / "run.trec", ties="ranks")  # type: ignore[arg-type]


def test_ranks_may_order_equal_scores_which_then_move_apart(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    path.write_text("q Q0 a 2 1.5 x\nq Q0 b 1 1.5 x\nq Q0 c 3 1.5 x\nq Q0 d 4 -2 x\n")
    assert list(Run.read_trec(path).to_dict()["q"]) == ["c", "b", "a", "d"]
    ranked = Run.read_trec(path, ties="rank")
    assert list(ranked.to_dict()["q"]) == ["b", "a", "c", "d"]
    step = np.float32(2**-23)
    assert ranked.scores.tolist() == [1.5, 1.5 - step, 1.5 - 2 * step, -2]


def test_a_score_that_its_rank_contradicts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    path.write_text("q Q0 a 1 1 x\nq Q0 b 2 1.5 x\n")
    with pytest.raises(DataError) as raised:
        Run.read_trec(path, ties="rank")
    assert str(raised.value) == f"{path}:2: the score 1.5 is higher than the one that is ranked above it"


@pytest.mark.parametrize("rank", ["first", "--1", "9" * 5000])
def test_a_rank_that_is_no_number_is_refused_where_ranks_count(tmp_path: Path, rank: str) -> None:
    path = tmp_path / "run.trec"
    path.write_text(f"q Q0 a -1 2 x\nq Q0 b {rank} 1 x\n")
    assert len(Run.read_trec(path)) == 1
    with pytest.raises(DataError) as raised:
        Run.read_trec(path, ties="rank")
    assert str(raised.value) == f"{path}:2: the rank {rank!r} is not a whole number"
