"""Finding what comes with the package, in a source checkout and in an installed one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import rankpipe
from rankpipe.data.shipped import shipped

PACKAGE = Path(rankpipe.__file__).parent
PROGRAM = "from rankpipe.data.shipped import shipped; print(shipped('datasets'))"


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PROGRAM], cwd=folder, capture_output=True, text=True, check=False)


def test_pipelines_and_cards_are_there() -> None:
    assert (shipped("datasets") / "cards" / "python-docs.yaml").is_file()
    assert (shipped("pipelines") / "bm25.yaml").is_file()
    assert (shipped("adapters") / "python-docs" / "adapter_config.json").is_file()


def test_an_installed_package_has_them_inside_whatever_else_is_called_datasets(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "rankpipe", ignore=shutil.ignore_patterns("__pycache__", "_shipped"))
    (tmp_path / "datasets").mkdir()  # as the package of Hugging Face is beside ours in site-packages
    without = run(tmp_path)
    assert without.returncode == 1
    inside = tmp_path / "rankpipe" / "_shipped" / "datasets"
    assert without.stderr.splitlines()[-1] == (
        f"rankpipe.errors.UsageError: this installation of rankpipe lacks its folder 'datasets' ({inside}): "
        "install it again"
    )
    inside.mkdir(parents=True)
    assert run(tmp_path).stdout == f"{inside}\n"
