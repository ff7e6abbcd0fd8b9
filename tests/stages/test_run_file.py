"""The stage run-file: rankings of another system, by the ids of queries and documents."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from rankpipe import BM25, Corpus, Fuse, Pipeline, Queries, Run, RunFile
from rankpipe.errors import DataError, PipelineError, UsageError
from rankpipe.store import file_digest

CORPUS = Corpus.from_records([{"id": f"d{number}", "text": f"word{number} apple"} for number in range(4)])
QUERIES = Queries.of({"q1": "apple", "q2": "word1", "q3": "word2"})
EMPTY = Run.empty(QUERIES, CORPUS)
LINES = """\
q2 Q0 d1 1 7.5 other
q2 Q0 d0 2 7.5 other
q2 Q0 d3 3 -1 other
q1 Q0 d2 1 3 other
q9 Q0 d2 1 3 other
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "other.trec"
    path.write_text(LINES)
    return path


def test_rankings_are_those_of_the_file(file: Path) -> None:
    stage = RunFile(file=file)
    found = stage(EMPTY.select([1, 0]))
    assert found.to_dict() == {"q2": {"d1": 7.5, "d0": 7.5, "d3": -1.0}, "q1": {"d2": 3.0}}
    assert found.corpus is CORPUS
    found.check()
    assert stage.facts(CORPUS) == {"file": file_digest(file)}
    assert list(RunFile(file=file, k=1)(EMPTY.select([1])).to_dict()["q2"]) == ["d1"]


def test_equal_scores_may_stand_in_the_order_of_ranks(file: Path) -> None:
    file.write_text("q1 Q0 d0 1 7.5 x\nq1 Q0 d1 2 7.5 x\n")
    assert list(RunFile(file=file)(EMPTY.select([0])).to_dict()["q1"]) == ["d1", "d0"]
    assert list(RunFile(file=file, ties="rank")(EMPTY.select([0])).to_dict()["q1"]) == ["d0", "d1"]


def test_what_does_not_fit_is_an_error_unless_it_is_allowed(file: Path) -> None:
    with pytest.raises(UsageError) as raised:
        RunFile(file=file)(EMPTY)
    assert str(raised.value) == (
        f"'run-file': {file} has no query 'q3'; 'strict: false' leaves those that it does not have without candidates"
    )
    smaller = CORPUS.without(["d0"])
    with pytest.raises(DataError, match=r"other.trec:2: document 'd0' is not in the corpus"):
        RunFile(file=file).prepare(smaller)
    stage = RunFile(file=file, strict=False)
    found = stage(Run.empty(QUERIES, smaller))
    assert found.to_dict() == {"q1": {"d2": 3.0}, "q2": {"d1": 7.5, "d3": -1.0}, "q3": {}}
    assert stage.counted(smaller) == {"queries": 3, "queries_not_in_file": 1, "documents_not_in_corpus": 1}


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "gone.trec", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(UsageError) as raised:
            RunFile(file=path).prepare(CORPUS)
        assert str(raised.value) == f"'run-file': {path} cannot be read: {reason}"


def test_candidates_of_earlier_stages_are_replaced(file: Path) -> None:
    run = BM25(name="first")(EMPTY.select([0, 1])).with_feature("first", np.zeros(5, np.float32))
    found = RunFile(file=file)(run)
    assert found.features == {}
    assert found.counts.tolist() == [1, 3]


def test_two_files_are_fused_and_paths_stand_beside_the_pipeline(file: Path, tmp_path: Path) -> None:
    (tmp_path / "second.trec").write_text("q1 Q0 d3 1 2 x\nq2 Q0 d3 1 9 x\nq2 Q0 d1 2 8 x\n")
    (tmp_path / "mine.yaml").write_text(
        "stages:\n  - fuse:\n      branches:\n        - run-file: {file: other.trec}\n        - run-file: {file: second.trec}\n"
    )
    run = Pipeline.load(tmp_path / "mine.yaml", corpus=CORPUS).run(QUERIES.select([0, 1]))
    by_hand = Fuse([RunFile(file=file), RunFile(file=tmp_path / "second.trec")]).on(CORPUS).run(QUERIES.select([0, 1]))
    assert run.to_dict() == by_hand.to_dict()
    assert run.to_dict()["q2"]["d1"] == pytest.approx(1 / 61 + 1 / 62)
    (tmp_path / "mine.yaml").write_text("stages: [run-file: {file: gone.trec}]\n")
    with pytest.raises(
        PipelineError, match=r"mine.yaml:1:27: 'run-file' setting 'file' is 'gone.trec', and there is no file"
    ):
        Pipeline.load(tmp_path / "mine.yaml")
    with pytest.raises(ValidationError):
        RunFile(file=file, ties="score")  # type: ignore[arg-type]
