"""eval/msmarco.py re-ranks given runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "eval" / "msmarco.py"


@pytest.fixture
def msmarco(eval_script: Callable[[str], ModuleType]) -> ModuleType:
    return eval_script("msmarco")


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs over a data set `tiny` of RANKPIPE_DATA: one puts the answer first, the other second."""
    folder = tmp_path / "data" / "tiny"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text('{"_id": "d1", "text": "red"}\n{"_id": "d2", "text": "car"}\n')
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "car"}\n')
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td2\t1\n")
    monkeypatch.setenv("RANKPIPE_DATA", str(tmp_path / "data"))
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "good.trec").write_text("q1 Q0 d2 1 2 x\nq1 Q0 d1 2 1 x\n")
    (tmp_path / "runs" / "bad.trec").write_text("q1 Q0 d1 1 2 x\nq1 Q0 d2 2 1 x\n")
    return tmp_path / "runs"


def test_every_run_is_measured_as_given_and_re_ranked(msmarco: ModuleType, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "first.yaml").write_text("stages: [cut: {k: 1}]\n")
    arguments = ["rerank", "--pipelines", str(tmp_path / "first.yaml"), "--dataset", "tiny"]
    assert msmarco.main([*arguments, "--runs", str(runs), "--output", str(tmp_path / "out")]) == 0
    rows = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [(row["dataset"], row["pipeline"], row["measures"]["RR@10"]) for row in rows] == [
        ("tiny, bad", "as given", 0.5),
        ("tiny, bad", "first", 0.0),
        ("tiny, good", "as given", 1.0),
        ("tiny, good", "first", 1.0),
    ]
    assert (tmp_path / "out" / "first" / "good.json").is_file()


def test_a_cell_says_in_which_precision_its_vectors_are(
    msmarco: ModuleType, runs: Path, tmp_path: Path, tiny_encoder: Callable[..., Path]
) -> None:
    model = tiny_encoder(tmp_path / "model")
    (tmp_path / "rescore.yaml").write_text(f"stages: [rescore: {{model: {model}}}]\n")
    arguments = ["rerank", "--pipelines", str(tmp_path / "rescore.yaml"), "--dataset", "tiny", "--runs", str(runs)]
    assert msmarco.main([*arguments, "--output", str(tmp_path / "out")]) == 0
    cell = json.loads((tmp_path / "out" / "rescore" / "bad.json").read_text())
    assert cell["opened"]["rescore"]["dtype"] in ("float32", "bfloat16")
    assert cell["measures"]["nDCG@10"] > 0


def test_a_folder_without_runs_is_a_wrong_command(
    msmarco: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert msmarco.main(["rerank", "--runs", str(empty), "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"error: {empty}: no run files (*.trec, *.trec.gz) in this folder\n"
