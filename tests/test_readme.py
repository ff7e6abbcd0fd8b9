"""What the README shows is what a reader gets."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.main import get_command

import rankpipe
from rankpipe import BM25, Corpus, Pipeline
from rankpipe.cli import app
from rankpipe.pipeline.registry import load_stage, stage_names
from rankpipe.stage import Stage

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_python_example_prints_what_the_readme_says() -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(_blocks("python")[0], "README.md", "exec"), {})
    output = README[README.index(_blocks("python")[0]) :].split("```\n", 2)[2]
    assert printed.getvalue() == output[: output.index("```")]


def test_the_yaml_example_is_the_pipeline_of_the_python_example() -> None:
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(_blocks("python")[0], "README.md", "exec"), names)
    pipeline = names["pipeline"]
    assert isinstance(pipeline, Pipeline)
    assert Pipeline.from_yaml(_blocks("yaml")[0]) == pipeline


@pytest.mark.parametrize("page", ["datasets.md", "pipelines.md", "evaluation.md", "python.md"])
def test_the_python_on_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # some of it writes
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert blocks
    module = ModuleType("page")  # dataclasses look their module up
    monkeypatch.setitem(sys.modules, "page", module)
    for block in blocks:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(block, page, "exec"), module.__dict__)
    if page == "pipelines.md":  # its last block is a stage of one's own
        corpus = Corpus.from_records(
            [{"id": "d1", "title": "plum", "text": "x x"}, {"id": "d2", "title": "pear", "text": "x"}]
        )
        run = (BM25() >> module.Prefer(word="pear", bonus=9.0)).on(corpus).run({"q": "x"})
        assert [one.doc_id for one in run["q"]] == ["d2", "d1"]


def test_the_page_of_commands_names_every_one_and_every_option() -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    commands: Any = get_command(app)
    assert set(re.findall(r"^\| `([a-z0-9]+)[ `]", page, re.MULTILINE)) == set(commands.commands)
    for name, command in commands.commands.items():
        options = {one for option in command.params for one in option.opts if one.startswith("-")} - {"--help"}
        missing = {one for one in options if not re.search(rf"`{one}[ `]", page)}
        assert missing == set(), name


def test_the_page_of_python_names_what_the_package_exports() -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    stages = {
        name for name in rankpipe.__all__ if isinstance(one := getattr(rankpipe, name), type) and issubclass(one, Stage)
    }
    others = set(rankpipe.__all__) - stages - {"__version__"}
    assert {name for name in others if f"`{name}`" not in page} == set()
    assert {type_name.__name__ for type_name in map(load_stage, stage_names())} <= stages
