import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "eval" / "beir.py"


@pytest.fixture(scope="module")
def beir(eval_script: Callable[[str], ModuleType]) -> ModuleType:
    return eval_script("beir")


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command over two pipelines and a data set `tiny` of RANKPIPE_DATA."""
    folder = tmp_path / "data" / "tiny"
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": "d1", "title": "", "text": "red apple"}, {"_id": "d2", "title": "", "text": "red car"}]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(one) + "\n" for one in documents))
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "red car"}\n{"_id": "q2", "text": "apple"}\n')
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td2\t1\nq2\td1\t1\n")
    monkeypatch.setenv("RANKPIPE_DATA", str(tmp_path / "data"))
    (tmp_path / "one.yaml").write_text("stages: [bm25: {k: 1}]\n")
    (tmp_path / "two.yaml").write_text("stages: [bm25: {k: 2}]\n")
    pipelines = [str(tmp_path / "one.yaml"), str(tmp_path / "two.yaml")]
    return [
        "--pipelines",
        *pipelines,
        "--datasets",
        "tiny",
        "--measures",
        "AP",
        "R@10",
        "--output",
        str(tmp_path / "out"),
    ]


def test_every_cell_and_the_tables_are_written(beir, arguments, tmp_path, capsys):
    assert beir.main(arguments) == 0
    cell = json.loads((tmp_path / "out" / "one" / "tiny.json").read_text())
    assert cell["measures"] == {"AP": 1, "R@10": 1}
    assert cell["per_query"]["AP"] == {"q1": 1, "q2": 1}
    assert cell["pipeline"][0]["bm25"]["k"] == 1
    table = (tmp_path / "out" / "table.md").read_text()
    assert table.startswith("# Pipelines by data sets, split test\n\n```sh\npython eval/beir.py --pipelines ")
    assert "| tiny | one | **1.0000** | **1.0000** | bm25 " in table
    assert "| tiny | two | **1.0000** | **1.0000** | bm25 " in table
    rows = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [(row["pipeline"], row["measures"]["AP"]) for row in rows] == [("one", 1), ("two", 1)]
    assert (tmp_path / "out" / "table.csv").read_text().startswith("dataset,pipeline,AP,R@10,seconds,differs,error\n")
    assert "tiny, one: running" in capsys.readouterr().err


def test_a_finished_cell_is_run_again_only_when_something_changed_or_it_is_forced(beir, arguments, tmp_path, capsys):
    beir.main(arguments)
    capsys.readouterr()
    (tmp_path / "two.yaml").write_text("stages: [bm25: {k: 2, b: 0.5}]\n")
    beir.main(arguments)
    assert capsys.readouterr().err.splitlines() == ["tiny, one: finished before", "tiny, two: running"]
    qrels = tmp_path / "data" / "tiny" / "qrels" / "test.tsv"
    qrels.write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td1\t1\n")
    beir.main(arguments)
    assert capsys.readouterr().err.splitlines() == ["tiny, one: running", "tiny, two: running"]
    beir.main([*arguments, "--force"])
    assert capsys.readouterr().err.splitlines() == ["tiny, one: running", "tiny, two: running"]


def test_a_cell_of_a_network_depends_on_its_weights_and_on_their_precision(
    beir, arguments, tmp_path, capsys, tiny_encoder
):
    tiny_encoder(tmp_path / "model")
    (tmp_path / "two.yaml").write_text("stages: [bm25, rescore: {model: model}]\n")
    beir.main(arguments)
    cell = json.loads((tmp_path / "out" / "two" / "tiny.json").read_text())
    assert (cell["runtime"]["dtype"], cell["opened"]["rescore"]["dtype"]) == ("float32", "float32")
    capsys.readouterr()
    again, finished = "tiny, two: running", "tiny, two: finished before"
    for options, said in (([], finished), (["--dtype", "bfloat16"], again), ([], again)):
        beir.main([*arguments, *options])
        assert capsys.readouterr().err.splitlines() == ["tiny, one: finished before", said]
    tiny_encoder(tmp_path / "model", seed=1)
    beir.main(arguments)
    assert capsys.readouterr().err.splitlines() == ["tiny, one: finished before", again]


def test_a_cell_depends_on_every_network_and_ranker_that_a_stage_names(
    beir, arguments, tmp_path, capsys, tiny_encoder, tiny_ranker
):
    for name in ("model", "other"):
        tiny_encoder(tmp_path / name)
    tiny_ranker(tmp_path / "ranker")
    (tmp_path / "two.yaml").write_text(
        "stages: [dense: {model: model, query_model: other}, features, learned: {model: ranker}]\n"
    )
    changes = {
        "running": lambda: None,
        "finished before": lambda: None,
        "running again": lambda: tiny_encoder(tmp_path / "other", seed=1),
        "running once more": lambda: tiny_ranker(tmp_path / "ranker", hidden=(8,)),
    }
    for said, change in changes.items():
        change()
        capsys.readouterr()
        assert beir.main(arguments) == 0
        assert said.startswith(capsys.readouterr().err.splitlines()[-1].removeprefix("tiny, two: "))


def test_a_cell_that_fails_is_shown_the_others_are_finished_and_the_status_is_1(beir, arguments, tmp_path, capsys):
    (tmp_path / "one.yaml").write_text("stages: [bm52: {k: 1}]\n")
    assert beir.main(arguments) == 1
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| tiny | one | n/a | n/a | n/a |" in table
    assert "- tiny, one: failed: " in table
    assert "did you mean 'bm25'?" in table
    assert "| tiny | two | 1.0000 | 1.0000 | bm25 " in table
    assert not (tmp_path / "out" / "one" / "tiny.json").exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--measures", "nDGC@10"], "error: there is no measure 'nDGC@10'; did you mean 'nDCG@10'?\n"),
        (
            ["--datasets", "tiny", "tiny"],
            "error: two of the data sets are called 'tiny'; a row of the table needs a name of its own\n",
        ),
    ],
)
def test_a_wrong_command_is_refused_with_status_2(beir, arguments, extra, message, capsys):
    assert beir.main([*arguments, *extra]) == 2
    assert capsys.readouterr().err == message


def test_a_damaged_cell_is_a_failure_that_says_what_to_do(beir, arguments, tmp_path):
    beir.main(arguments)
    file = tmp_path / "out" / "one" / "tiny.json"
    file.write_text("{")
    assert beir.main(arguments) == 1
    table = (tmp_path / "out" / "table.md").read_text()
    assert "cannot be read as a finished cell" in table
    assert "delete it, or use --force" in table
    assert beir.main([*arguments, "--force"]) == 0
