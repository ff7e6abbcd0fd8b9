"""The command line: what every command prints and leaves, its exit statuses, and where its errors go."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rankpipe import __version__
from rankpipe.cli.common import excerpt

Command = Callable[..., Any]

MEASURES = ["nDCG@10", "R@100", "RR@10", "AP", "Judged@10"]


def in_a_process(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`python -m rankpipe ...`, as a shell starts it."""
    return subprocess.run(
        [sys.executable, "-m", "rankpipe", *arguments], capture_output=True, text=True, cwd=cwd, timeout=300
    )


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- run ----------------------------------------------------------------------------------------------------------------


def test_run_leaves_the_files_of_the_contract(rankpipe: Command, pets: Path, tmp_path: Path) -> None:
    output = tmp_path / "deep" / "out"
    done = rankpipe("run", "bm25", "--dataset", pets, "--output", output)
    assert done.status == 0
    assert [line.split()[0] for line in done.out.splitlines()] == MEASURES
    assert done.err.splitlines()[-1] == f"results: {output}"
    assert files(output) == ["manifest.json", "metrics.json", "per_query.jsonl", "report.md", "run.trec"]
    assert files(output.parent) == ["out"]
    metrics = json.loads((output / "metrics.json").read_text())
    # q1 finds d1 and d2 in the right order, q2 finds d3, q3 has stop words only: (1 + 1 + 0) / 3
    assert metrics == dict.fromkeys(MEASURES, pytest.approx(2 / 3))
    per_query = [json.loads(line) for line in (output / "per_query.jsonl").read_text().splitlines()]
    assert [one["query_id"] for one in per_query] == ["q1", "q2", "q3"]
    assert [list(one) for one in per_query] == [["query_id", *MEASURES]] * 3
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["versions"]["rankpipe"] == __version__
    assert {"command", "pipeline", "dataset", "digests", "seeds", "machine", "seconds"} <= manifest.keys()
    assert (output / "report.md").read_text().startswith("# bm25 on ")
    rows = [line.split() for line in (output / "run.trec").read_text().splitlines()]
    assert [(row[0], row[1], row[2], row[3], row[5]) for row in rows] == [
        ("q1", "Q0", "d1", "1", "rankpipe"),
        ("q1", "Q0", "d2", "2", "rankpipe"),
        ("q2", "Q0", "d3", "1", "rankpipe"),
    ]


def test_run_without_output_writes_nothing(
    rankpipe: Command, pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = rankpipe("run", "bm25", "--dataset", pets, "--measure", "P@1", "--measure", "RR")
    assert (done.status, done.out) == (0, "P@1  0.6667\nRR   0.6667\n")
    assert done.err.splitlines()[-1] == "nothing is written; --output FOLDER keeps the results"
    assert files(tmp_path) == ["pets", "store"]


def test_an_existing_folder_is_refused_and_replaced_by_force(rankpipe: Command, pets: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    again = ("run", "bm25", "--dataset", pets, "--output", output)
    assert rankpipe(*again).status == 0
    (output / "run.trec").write_text("old")
    refused = f"error: {output} exists already; choose another folder, or replace it with --force\n"
    assert rankpipe(*again) == (2, "", refused)
    assert (output / "run.trec").read_text() == "old"
    assert rankpipe(*again, "--force").status == 0
    assert (output / "run.trec").read_text().startswith("q1 Q0 d1 1 ")


def test_force_replaces_results_of_rankpipe_only(rankpipe: Command, pets: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "manifest.json").write_text("{}")
    done = rankpipe("run", "bm25", "--dataset", pets, "--output", tmp_path / "thesis", "--force")
    assert done == (
        2,
        "",
        f"error: {tmp_path / 'thesis'} holds no results of rankpipe (no manifest.json of its own), so it is not replaced\n",
    )
    assert (tmp_path / "thesis" / "manifest.json").read_text() == "{}"


# -- rerank -------------------------------------------------------------------------------------------------------------


def test_rerank_ranks_the_candidates_of_a_run_anew_and_measures_both(
    rankpipe: Command, pets: Path, tmp_path: Path
) -> None:
    (tmp_path / "given.trec").write_text("q1 Q0 d3 1 3 x\nq1 Q0 d1 2 2 x\nq1 Q0 d2 3 1 x\nq2 Q0 d3 1 1 x\n")
    (tmp_path / "first.yaml").write_text("stages: [cut: {k: 1}]")
    rerank = ("rerank", tmp_path / "first.yaml", "--run", tmp_path / "given.trec", "--dataset", pets)
    done = rankpipe(*rerank, "-m", "P@2", "-m", "R@10", "--output", tmp_path / "out")
    # given: q1 has one of two among the first two, q2 one of two, q3 is missing; cut leaves q1 nothing of use
    assert (done.status, done.out) == (0, "P@2   0.1667  (given: 0.3333)\nR@10  0.3333  (given: 0.6667)\n")
    assert (tmp_path / "out" / "run.trec").read_text() == "q1 Q0 d3 1 3 rankpipe\nq2 Q0 d3 1 1 rankpipe\n"
    exists = f"error: {tmp_path / 'out'} exists already; choose another folder, or replace it with --force\n"
    assert rankpipe(*rerank, "--output", tmp_path / "out") == (2, "", exists)


def test_rerank_takes_no_retriever_and_no_unknown_order_of_ties(rankpipe: Command, pets: Path, tmp_path: Path) -> None:
    (tmp_path / "given.trec").write_text("q1 Q0 d1 1 1 x\n")
    rerank = ("rerank", "bm25", "--run", tmp_path / "given.trec", "--dataset", pets)
    done = rankpipe(*rerank)
    message = "'bm25' replaces the candidates of the given run, which then count for nothing; re-ranking begins with a re-ranker"
    assert (done.status, done.out) == (2, "")
    assert done.err.endswith(f"bm25.yaml:3:5: {message}\n")
    (tmp_path / "cut.yaml").write_text("stages: [cut: {k: 1}]")
    rerank = ("rerank", tmp_path / "cut.yaml", *rerank[2:])
    assert rankpipe(*rerank, "--ties", "none") == (2, "", "error: --ties is 'none', must be doc_id or rank\n")


# -- check, search, index -----------------------------------------------------------------------------------------------

FUSED = """
stages:
  - fuse:
      branches:
        - bm25: {k1: 1.2}
        - bm25: {b: 0}
    name: first
  - cut: {k: 1}
"""


def test_check_names_the_stages_of_a_sound_file(rankpipe: Command, tmp_path: Path) -> None:
    (tmp_path / "fused.yaml").write_text(FUSED)
    done = rankpipe("check", tmp_path / "fused.yaml")
    assert done == (0, f"{tmp_path / 'fused.yaml'}: fuse >> cut: no mistakes found\n", "")
    assert rankpipe("check", "bm25") == (0, "bm25: bm25: no mistakes found\n", "")


def test_search_prints_hits_with_text_and_the_score_of_every_stage(
    rankpipe: Command, pets: Path, tmp_path: Path
) -> None:
    (tmp_path / "fused.yaml").write_text(FUSED)
    status, out, err = rankpipe("search", tmp_path / "fused.yaml", "cat mat", "--dataset", pets)
    first, title, text, blank = out.split("\n", 3)
    # reciprocal rank of two branches that both have d1 first: 1 / 61 + 1 / 61
    assert first.startswith("1. d1  0.0328  (bm25 ")
    assert first.endswith("  first 0.0328  cut 0.0328)")
    assert first.partition("(")[2].split()[0::2] == ["bm25", "bm25-2", "first", "cut"]
    assert (status, title, text, blank, err) == (0, "   Cats", "   The cat sat on the mat.", "\n", "")


def test_search_says_nothing_of_stages_that_did_not_find_a_document(
    rankpipe: Command, pets: Path, tmp_path: Path
) -> None:
    branches = "[{bm25: {fields: [title]}, name: titles}, {bm25: {fields: [text]}, name: texts}]"
    (tmp_path / "fused.yaml").write_text(f"stages: [fuse: {{branches: {branches}}}]")
    done = rankpipe("search", tmp_path / "fused.yaml", "winter", "--dataset", pets)
    first = done.out.splitlines()[0]
    assert first.partition("(")[2].split()[0::2] == ["texts", "fuse"]


@pytest.mark.parametrize(
    ("text", "query", "shown"),
    [
        ("one two three", "three", "one two three"),
        (
            "a " * 60 + "the cats sat on the mat " + "b " * 60,
            "cat mat",
            "…a the cats sat on the mat b b b b b b b b…",
        ),
        ("the cat " + "a " * 60 + "cat and mat", "MAT cat", "…a a a a a a a a a a a a a a a a cat and mat"),
        ("x" * 100, "cat", "x" * 43 + "…"),
        ("the cat " + "a " * 60, "cat", "the cat a a a a a a a a a a a a a a a a a a…"),
        ("a " * 60 + "x" * 50, "xxxx", "a a a a a a a a a a a a a a a a a a a a a a…"),
    ],
    ids=range(6),
)
def test_an_excerpt_has_the_words_of_the_query(text: str, query: str, shown: str) -> None:
    assert excerpt(text, query, 44) == shown
    assert len(shown) <= 44


def test_search_prints_lines_of_json(rankpipe: Command, pets: Path, tmp_path: Path) -> None:
    branches = "[{bm25: {fields: [title]}, name: titles}, {bm25: {fields: [text]}, name: texts}]"
    (tmp_path / "fused.yaml").write_text(f"stages: [fuse: {{branches: {branches}}}]")
    done = rankpipe("search", tmp_path / "fused.yaml", "winter", "--dataset", pets, "--json")
    documents = {one["_id"]: one for one in map(json.loads, (pets / "corpus.jsonl").read_text().splitlines())}
    found = [json.loads(line) for line in done.out.splitlines()]
    assert [one["rank"] for one in found] == list(range(1, len(found) + 1))
    first = found[0]
    assert first.keys() == {"rank", "id", "score", "scores", "document"}
    assert first["scores"]["titles"] is None
    assert first["scores"]["texts"] > 0
    assert first["document"]["text"] == documents[first["id"]]["text"]
    assert rankpipe("search", "bm25", "zzz", "-d", pets, "--json") == (0, "", "")


def test_json_is_in_ascii_on_one_line(rankpipe: Command, tmp_path: Path) -> None:
    text = "cat é \x85 \u2028 😀"
    (tmp_path / "odd.jsonl").write_text(
        json.dumps({"_id": "ü", "text": text, "size": 3}, ensure_ascii=False), encoding="utf-8"
    )
    done = rankpipe("search", "bm25", "cat", "-d", tmp_path / "odd.jsonl", "--json")
    assert done.out.isascii()
    [line] = done.out.splitlines()
    assert json.loads(line)["document"] == {"id": "ü", "text": text, "size": "3"}


def test_search_shows_as_many_as_asked(rankpipe: Command, pets: Path) -> None:
    for k, shown in (("1", 1), ("2", 2), ("1000000", 2)):
        done = rankpipe("search", "bm25", "cat", "-d", pets, "-k", k)
        assert (done.status, done.out.count("(bm25 ")) == (0, shown)
    assert rankpipe("search", "bm25", "cat", "-d", pets, "-k", "0") == (2, "", "error: -k is 0, must be at least 1\n")


@pytest.mark.parametrize("query", ["", " ", "the", "to be or not to be", "zebra", "?!", "\0"])
def test_a_query_that_matches_nothing_is_no_error(rankpipe: Command, pets: Path, query: str) -> None:
    assert rankpipe("search", "bm25", query, "-d", pets) == (0, "nothing found\n", "")


def test_what_a_terminal_would_obey_is_not_printed(rankpipe: Command, pets: Path) -> None:
    line = json.dumps({"_id": "\x1b[2J", "title": "a\x07title", "text": "red\x1b[31m\ntext"})
    (pets / "corpus.jsonl").write_text(line)
    done = rankpipe("search", "bm25", "red", "-d", pets)
    assert done.out.split("  ")[0] == "1. \ufffd[2J"
    assert done.out.splitlines()[1:] == ["   a\ufffdtitle", "   red\ufffd[31m text", ""]


def test_index_fills_the_store(rankpipe: Command, pets: Path, store: Path) -> None:
    done = rankpipe("index", "bm25", "--dataset", pets)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("4 documents indexed in ")
    assert done.out.endswith(f" s, in {store}\n")
    assert len(list((store / "inverted").iterdir())) == 1


# -- evaluate, compare --------------------------------------------------------------------------------------------------


@pytest.fixture
def results(rankpipe: Command, pets: Path, tmp_path: Path) -> Path:
    """What `rankpipe run bm25` leaves for the pets."""
    assert rankpipe("run", "bm25", "--dataset", pets, "--output", tmp_path / "results").status == 0
    return tmp_path / "results"


def test_evaluate_measures_as_run_did(rankpipe: Command, pets: Path, results: Path) -> None:
    trec = pets / "judged.txt"
    trec.write_text("q1 0 d1 2\nq1 0 d2 1\nq2 0 d3 1\nq3 0 d4 1\n")
    wanted = "".join(f"{name:<9}  0.6667\n" for name in MEASURES)
    for judgements in (("--qrels", trec), ("--qrels", pets / "qrels" / "test.tsv"), ("--dataset", pets)):
        done = rankpipe("evaluate", results / "run.trec", *judgements)
        assert (done.status, done.out) == (0, wanted)
        assert done.err.splitlines()[0] == "note: 1 judged query not in the run counted as 0"
    named = rankpipe("evaluate", results / "run.trec", "--qrels", trec, "-m", "P@2")
    assert named.out == "P@2  0.5000\n"  # (2/2 + 1/2 + 0) / 3


def test_evaluate_wants_one_source_of_judgements(rankpipe: Command, pets: Path, results: Path) -> None:
    refused = "error: give the judgements by one of --qrels FILE and --dataset NAME\n"
    assert rankpipe("evaluate", results / "run.trec") == (2, "", refused)
    both = ("--qrels", pets / "qrels" / "test.tsv", "--dataset", pets)
    assert rankpipe("evaluate", results / "run.trec", *both) == (2, "", refused)


def test_a_folder_of_results_says_what_it_is_measured_by(rankpipe: Command, garden: Path, tmp_path: Path) -> None:
    made = {split: tmp_path / split for split in ("dev", "test")}
    shown = {}
    for split, folder in made.items():
        done = rankpipe("run", "bm25", "--dataset", garden, "--split", split, "--output", folder)
        shown[split] = done.out
        for words in ((folder,), (folder, "--dataset", garden)):
            assert rankpipe("evaluate", *words)[:2] == (0, done.out)
    assert shown["dev"] != shown["test"]
    for words in ((), ("--dataset", garden)):
        assert rankpipe("compare", *made.values(), *words) == (
            2,
            "",
            f"error: the runs were made on {garden} dev, {garden} test; say by which to measure them all: --dataset NAME "
            "--split NAME\n",
        )


def test_compare_takes_folders_and_run_files(rankpipe: Command, pets: Path, results: Path, tmp_path: Path) -> None:
    (tmp_path / "other.trec").write_text("q1 Q0 d2 1 2 x\nq1 Q0 d1 2 1 x\nq2 Q0 d3 1 1 x\nq3 Q0 d4 1 1 x\n")
    done = rankpipe("compare", results, tmp_path / "other.trec", "--dataset", pets, "-m", "RR", "-m", "P@1")
    # the other one wins q3 and ties the rest: d1 and d2 are both relevant
    assert done.status == 0
    assert done.out.count("1/2/0") == 2
    assert "+0.3333" in done.out


def test_compare_takes_the_data_set_that_both_folders_name(
    rankpipe: Command, pets: Path, results: Path, tmp_path: Path
) -> None:
    assert rankpipe("run", "bm25-title-text", "--dataset", pets, "--output", tmp_path / "second").status == 0
    done = rankpipe("compare", results, tmp_path / "second")
    assert (done.status, done.err) == (0, "")
    assert done.out == rankpipe("compare", results, tmp_path / "second", "--dataset", pets).out


def test_compare_wants_two_runs(rankpipe: Command, pets: Path, results: Path) -> None:
    refused = "error: compare takes two runs or more, each once\n"
    assert rankpipe("compare", results, "--dataset", pets) == (2, "", refused)
    assert rankpipe("compare", results, results, "--dataset", pets) == (2, "", refused)


# -- lists --------------------------------------------------------------------------------------------------------------


def test_datasets_lists_the_catalogue_and_the_folders_at_hand(
    rankpipe: Command, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANKPIPE_DATA", str(pets.parent))
    done = rankpipe("datasets")
    lines = [line.split() for line in done.out.splitlines()]
    assert (done.status, done.err) == (0, "")
    assert lines[0] == ["name", "documents", "splits", "where"]
    assert ["pets", str(pets)] in lines
    where = {line[0]: line[-1] for line in lines}
    assert where["beir/scifact"] == "https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets/scifact.zip"
    assert where["msmarco-passage/dev/small"] == "msmarco-passage/dev/small"  # after "ir_datasets:"
    assert where["python-docs"] == "bundled"


def test_a_folder_below_one_named_for_its_collection_is_listed_as_that_of_its_card(
    rankpipe: Command, pets: Path, real_file: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    scifact, root = real_file("scifact"), pets.parent / "collections"
    for place, folder in (("beir/scifact", scifact), ("own/pets", pets)):
        (root / place).parent.mkdir(parents=True)
        (root / place).symlink_to(folder)
    monkeypatch.setenv("RANKPIPE_DATA", str(root))
    done = rankpipe("datasets")
    rows = [(line.split()[0], line.split()[-1]) for line in done.out.splitlines() if str(root) in line]
    assert rows == [("beir/scifact", str(root / "beir" / "scifact")), ("own/pets", str(root / "own" / "pets"))]


def test_a_folder_that_cannot_be_read_does_not_hide_the_others(
    rankpipe: Command, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = pets.rename(pets.parent / "scifact")
    (broken / "corpus.jsonl").write_bytes(b"\xff")
    monkeypatch.setenv("RANKPIPE_DATA", str(broken.parent))
    done = rankpipe("datasets")
    assert done.status == 0
    assert done.err == f"note: {broken}/corpus.jsonl:1: not UTF-8: invalid start byte at byte 1 of the line\n"
    lines = [line.split() for line in done.out.splitlines()]
    assert [line[0] for line in lines if "scifact" in line[0]] == ["beir/scifact", "scifact"]
    assert [line[-1] for line in lines if line[0] == "scifact"] == [str(broken)]


def test_stages_lists_names_and_settings(rankpipe: Command) -> None:
    done = rankpipe("stages")
    assert (done.status, done.err) == (0, "")
    assert "cut: Keep the first k candidates of every query, their scores unchanged.\n    k: required\n" in done.out
    assert "    k1: 0.9\n    b: 0.4\n    analyzer: english\n    fields: [title, text]\n" in done.out
    assert "    weights: null\n" in done.out


def test_adapters_lists_methods_as_the_docs_have_them(rankpipe: Command) -> None:
    done = rankpipe("adapters")
    assert (done.status, done.err) == (0, "")
    page = Path(__file__).parents[1] / "docs" / "adapters.md"
    assert f"\n```\n{done.out}```\n" in page.read_text(encoding="utf-8")
    assert (
        "sltrain: trains a network from nothing, and a ranker starts from a pretrained one\n    not for ranking\n"
        in done.out
    )


def test_a_stage_that_cannot_be_loaded_does_not_hide_the_others(
    rankpipe: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent / "pipeline" / "installed")
    done = rankpipe("stages")
    listed = [line.partition(":")[0] for line in done.out.splitlines() if not line.startswith(" ")]
    assert (done.status, done.err) == (0, "")
    assert {"bm25", "seek", "join"} <= set(listed)
    broken = [line for line in done.out.splitlines() if "stage '" in line]
    assert [line.partition(":")[0] for line in broken] == ["broken", "gone", "not-a-stage", "unfinished"]
    assert broken[0] == (
        "broken: stage 'broken' (little_broken:Broken of package 'little-stages') cannot be imported: "
        "RuntimeError: no such engine on this machine"
    )


# -- the command line itself --------------------------------------------------------------------------------------------

COMMANDS = [
    "run",
    "check",
    "search",
    "index",
    "evaluate",
    "train",
    "compare",
    "clicks",
    "doc2query",
    "datasets",
    "stages",
    "adapters",
]


def test_help_names_every_command(rankpipe: Command) -> None:
    done = rankpipe("--help")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("Usage: rankpipe [OPTIONS] COMMAND [ARGS]...\n")
    listed = [line.split()[0] for line in done.out.partition("Commands:\n")[2].splitlines()]
    assert [name for name in COMMANDS if name in listed] == COMMANDS
    assert "..." not in done.out.partition("Commands:\n")[2]  # every command is told in whole words
    for name in COMMANDS:
        helped = rankpipe(name, "--help")
        assert (helped.status, helped.err) == (0, "")
        assert helped.out.startswith(f"Usage: rankpipe {name} ")


def test_without_a_command_the_help_is_an_error(rankpipe: Command) -> None:
    done = rankpipe()
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("Usage: rankpipe [OPTIONS] COMMAND [ARGS]...\n")


def test_the_version_is_that_of_the_package(rankpipe: Command) -> None:
    assert rankpipe("--version") == (0, f"rankpipe {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dance"], "no such command 'dance'; see rankpipe --help"),
        (["run"], "missing argument 'PIPELINE'; see rankpipe run --help"),
        (["stages", "--loud"], "no such option: --loud; see rankpipe stages --help"),
        (["run", "bm25", "--threads", "0"], "threads is 0, must be at least 1"),
        (["run", "bm25", "--dtype", "int4"], "dtype is 'int4', must be one of auto, float32, bfloat16, float16"),
    ],
)
def test_a_wrong_command_line_is_one_line(rankpipe: Command, arguments: list[str], message: str) -> None:
    status, out, err = rankpipe(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {message.partition(';')[0]}")
    assert err.endswith(f"{message.partition(';')[2]}\n")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("place", [0, 1, 3])
def test_debug_anywhere_adds_the_traceback(rankpipe: Command, tmp_path: Path, place: int) -> None:
    arguments = ["evaluate", "nothing.trec", "--qrels", "q.txt"]
    plain = rankpipe(*arguments)
    assert plain == (2, "", "error: there is no file nothing.trec\n")
    arguments.insert(place, "--debug")
    debugged = rankpipe(*arguments)
    assert (debugged.status, debugged.out) == (2, "")
    assert debugged.err.startswith("Traceback (most recent call last):\n")
    assert debugged.err.endswith("UsageError: there is no file nothing.trec\nerror: there is no file nothing.trec\n")


def test_after_two_dashes_debug_is_a_query(rankpipe: Command, pets: Path) -> None:
    assert rankpipe("search", "bm25", "-d", pets, "--", "--debug") == (0, "nothing found\n", "")


# -- in a process of its own --------------------------------------------------------------------------------------------


def test_the_package_runs_as_a_module(pets: Path, tmp_path: Path) -> None:
    done = in_a_process("run", "bm25", "--dataset", "pets", "--output", "out", cwd=tmp_path)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, len(MEASURES))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["command"] == "rankpipe run bm25 --dataset pets --output out"
    refused = in_a_process("run", "bm25", "--dataset", "pets", "--output", "out", cwd=tmp_path)
    message = "error: out exists already; choose another folder, or replace it with --force\n"
    assert (refused.returncode, refused.stdout, refused.stderr) == (2, "", message)


def test_importing_the_package_and_asking_for_help_load_nothing_heavy() -> None:
    program = """
import sys
import rankpipe
bare = sorted({"numba", "pyarrow", "numpy", "pydantic"} & set(sys.modules))
from rankpipe.cli import main

sys.argv = ["rankpipe", "--help"]
try:
    main()
except SystemExit as end:
    print(bare, sorted({"numba", "pyarrow", "numpy"} & set(sys.modules)), end.code, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "[] [] 0\n"


def test_a_reader_that_goes_is_no_fault() -> None:
    command = subprocess.Popen(
        [sys.executable, "-m", "rankpipe", "stages"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert command.stdout is not None
    assert command.stderr is not None
    command.stdout.close()
    assert (command.stderr.read(), command.wait()) == (b"", 1)
    command.stderr.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_standard_output_on_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "rankpipe", "stages"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (1, "error: No space left on device\n")


def test_any_title_is_shown_in_any_terminal(pets: Path, tmp_path: Path) -> None:
    (pets / "corpus.jsonl").write_text(json.dumps({"_id": "d1", "title": "Café ☕", "text": "coffee"}))
    done = subprocess.run(
        [sys.executable, "-m", "rankpipe", "search", "bm25", "coffee", "-d", str(pets)],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stdout.splitlines()[1]) == (0, rb"   Caf\xe9 \u2615")


# -- places --------------------------------------------------------------------------------------------------------------


def test_a_tuned_pipeline_is_written_into_a_new_folder_and_a_wrong_place_is_told_before_the_work(
    rankpipe: Command, garden: Path, tmp_path: Path
) -> None:
    pipeline = tmp_path / "both.yaml"
    pipeline.write_text("stages: [fuse: {branches: [{bm25: {fields: [title]}}, {bm25: {fields: [text]}}]}]")
    command = ("tune", pipeline, "-d", garden)
    output = tmp_path / "new" / "tuned.yaml"
    assert rankpipe(*command, "--output", output).status == 0
    assert rankpipe("check", output).status == 0
    (tmp_path / "file").touch()
    done = rankpipe(*command, "--output", tmp_path / "file" / "tuned.yaml")
    assert done == (
        2,
        "",
        f"error: {tmp_path / 'file' / 'tuned.yaml'} cannot be a file: {tmp_path / 'file'} is a file\n",
    )
    assert rankpipe(*command, "--output", tmp_path) == (2, "", f"error: {tmp_path} is a folder; choose a file\n")


def test_a_folder_of_results_stands_for_its_run(rankpipe: Command, pets: Path, tmp_path: Path) -> None:
    assert rankpipe("run", "bm25", "-d", pets, "--output", tmp_path / "out").status == 0
    of_folder, of_file = (
        rankpipe("evaluate", place, "-d", pets) for place in (tmp_path / "out", tmp_path / "out" / "run.trec")
    )
    assert of_folder.status == 0
    assert of_folder == of_file


def test_a_pipeline_for_a_given_run_is_checked_as_one(rankpipe: Command, tmp_path: Path) -> None:
    path = tmp_path / "again.yaml"
    path.write_text("stages:\n  - rescore: {model: minilm}\n  - interpolate: {with: run}\n")
    assert rankpipe("check", path).status == 2
    done = rankpipe("check", path, "--rerank")
    assert done == (0, f"{path}: rescore >> interpolate: no mistakes found\n", "")
    path.write_text("stages:\n  - cut: {k: 5}\n  - fuse: {branches: [bm25, bm25: {k1: 2}]}\n")
    done = rankpipe("check", path, "--rerank")
    message = "'bm25' replaces the candidates of the given run, which then count for nothing"
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"{path}:3:23: {message}; ")


def test_a_data_set_without_documents_is_refused(rankpipe: Command, pets: Path) -> None:
    (pets / "corpus.jsonl").write_text("")
    assert rankpipe("run", "bm25", "-d", pets) == (2, "", f"error: {pets / 'corpus.jsonl'}: holds no documents\n")


@pytest.mark.parametrize(
    "stages",
    [
        "[original]",
        "[chain: {stages: []}]",
        "[{query2doc: {writer: smollm2}}]",
        "[original, {query2doc: {writer: smollm2}}]",
    ],
)
@pytest.mark.parametrize("command", [("check",), ("run",), ("search", "a query")])
def test_a_pipeline_that_finds_nothing_is_refused(
    tmp_path: Path, garden: Path, rankpipe: Callable[..., Any], stages: str, command: tuple[str, ...]
) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(f"stages: {stages}")
    data = () if command == ("check",) else ("--dataset", garden)
    done = rankpipe(command[0], file, *command[1:], *data)
    assert done.status == 2
    assert f"{file}: no stage makes candidates; put a retriever such as 'bm25' behind the last one" in done.err


def test_results_of_other_judgements_are_told_before_they_are_compared(
    tmp_path: Path, garden: Path, rankpipe: Callable[..., Any]
) -> None:
    for name in ("one", "two", "three"):
        assert rankpipe("run", "bm25", "--dataset", garden, "--output", tmp_path / name).status == 0
        if name == "two":
            with (garden / "qrels" / "test.tsv").open("a") as file:
                file.write("test0\td39\t1\n")
    note = f"note: '{garden}' had other documents, queries or judgements for some of these runs than for others"
    both = rankpipe("compare", tmp_path / "one", tmp_path / "two")
    assert note not in both.err
    assert f"note: '{garden}' had other judgements when these runs were made; they are measured by what" in both.err
    assert rankpipe("compare", tmp_path / "three", tmp_path / "three" / "run.trec", "-d", garden).err == ""
    assert note in rankpipe("compare", tmp_path / "one", tmp_path / "three").err


def test_a_re_ranked_run_of_fewer_queries_is_no_run_of_another_data_set(
    tmp_path: Path, garden: Path, rankpipe: Callable[..., Any]
) -> None:
    whole = tmp_path / "whole"
    assert rankpipe("run", "bm25", "--dataset", garden, "--output", whole).status == 0
    first = [line for line in (whole / "run.trec").read_text().splitlines() if line.startswith(("test0 ", "test1 "))]
    (tmp_path / "half.trec").write_text("".join(f"{line}\n" for line in first))
    pipeline = tmp_path / "again.yaml"
    pipeline.write_text("stages: [cut: {k: 3}]\n")
    words = ("rerank", pipeline, "--run", tmp_path / "half.trec", "--dataset", garden, "--output")
    for name in ("one", "two"):
        assert rankpipe(*words, tmp_path / name).status == 0
    done = rankpipe("compare", tmp_path / "one", tmp_path / "two")
    assert (done.status, done.err) == (0, "")


def test_compare_takes_the_split_that_is_asked_for_and_tells_what_was_assumed(
    tmp_path: Path, garden: Path, rankpipe: Callable[..., Any]
) -> None:
    runs = [tmp_path / "one", tmp_path / "two"]
    for folder in runs:
        assert rankpipe("run", "bm25", "--dataset", garden, "--output", folder).status == 0
    refused = rankpipe("compare", *runs, "--split", "nosuch")
    assert (refused.status, "has no split 'nosuch'" in refused.err) == (2, True)
    refused = rankpipe("compare", *runs, "--split", "test", "--qrels", garden / "qrels" / "test.tsv")
    assert (refused.status, refused.err) == (
        2,
        "error: --split is one of a data set; the judgements are those of --qrels\n",
    )
    lines = (runs[1] / "run.trec").read_text().splitlines()
    first = lines[0].split()[0]
    half = tmp_path / "half.trec"
    half.write_text("".join(f"{line}\n" for line in lines if line.split()[0] == first))
    assert "not in the run counted as 0" in rankpipe("compare", runs[0] / "run.trec", half, "-d", garden).out
