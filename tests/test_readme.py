"""What the README shows is what a reader gets."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

from rankpipe import Pipeline

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


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
