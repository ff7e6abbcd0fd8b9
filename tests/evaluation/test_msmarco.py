"""eval/msmarco.py searches the collection, here a tiny one in the place of ir_datasets' own, and re-ranks given runs."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
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


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """A home of ir_datasets with three passages, where it has downloaded and unpacked the 8.8 million."""
    home = tmp_path / "ir_datasets"
    files = {
        "irds_version.txt": "v2",  # of how its passages are mended; without it, they are downloaded anew
        "collection.tsv": "0\tsweet apple tree\n1\tapple apple apple\n2\ta car on a road\n",
        "dev/small/queries.tsv": "10\troad\n11\tapple\n",
        "dev/small/qrels": "10 0 2 1\n11 0 0 1\n",
        "trec-dl-2019/queries.tsv": "20\tapple\n21\tcar\n",  # 21 is not judged
        "trec-dl-2019/qrels": "20 0 0 2\n20 0 1 1\n",
        "trec-dl-2020/qrels": "30 0 2 3\n",
    }
    for name, text in files.items():
        path = home / "msmarco-passage" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    queries = home / "msmarco-passage" / "trec-dl-2020" / "queries.tsv.gz"
    queries.write_bytes(gzip.compress(b"30\tcar\n31\ttree\n"))
    return home


def search(home: Path, output: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`eval/msmarco.py search` in a process of its own, for ir_datasets looks for its home when it is imported."""
    pipeline = home.parent / "bm25.yaml"
    pipeline.write_text("stages: [bm25: {k: 10}]\n")
    command = [sys.executable, SCRIPT, "search", "--pipelines", pipeline, "--output", output]
    environment = {**os.environ, "IR_DATASETS_HOME": str(home), "RANKPIPE_DATA": "", **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_collection_of_ir_datasets_is_searched(collection: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = search(collection, out)
    assert done.returncode == 0, done.stderr
    measures = {}
    for folder in sorted(out.iterdir()):
        (row,) = json.loads((folder / "table.json").read_text())
        measures[row["dataset"]] = row["measures"]
    # "apple" finds passage 1 before 0. In 2019 passage 1 has grade 1, which is no answer in AP: half of it is left;
    # nDCG takes grades as they are: (1 / log2(2) + 2 / log2(3)) / (2 / log2(2) + 1 / log2(3)) = 0.8597
    assert measures == {
        "msmarco-passage/dev/small": {"RR@10": 0.75, "R@1000": 1.0},
        "msmarco-passage/trec-dl-2019/judged": {"nDCG@10": pytest.approx(0.8597, abs=1e-4), "AP": 0.5, "R@1000": 1.0},
        "msmarco-passage/trec-dl-2020/judged": {"nDCG@10": 1.0, "AP": 1.0, "R@1000": 1.0},
    }
    cell = json.loads((out / "msmarco-passage--trec-dl-2019--judged" / "bm25.json").read_text())
    assert list(cell["per_query"]["AP"]) == ["20"]


def test_a_collection_that_cannot_be_downloaded_is_one_error_of_every_cell(tmp_path: Path) -> None:
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    done = search(tmp_path / "ir_datasets", tmp_path / "out", IR_DATASETS_DL_TRIES="1", **nowhere)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for name in ("dev/small", "trec-dl-2019/judged", "trec-dl-2020/judged"):
        folder = tmp_path / "out" / f"msmarco-passage/{name}".replace("/", "--")
        (row,) = json.loads((folder / "table.json").read_text())
        assert row["error"] == (
            f"ir_datasets cannot provide 'msmarco-passage/{name}': the download from msmarco.z22.web.core.windows.net "
            "failed; bring it as a folder in BEIR layout (its source: "
            "https://msmarco.z22.web.core.windows.net/msmarcoranking/collectionandqueries.tar.gz), by its path or "
            "inside a folder that RANKPIPE_DATA names"
        )


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
