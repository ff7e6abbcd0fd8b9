import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic.dataclasses import dataclass

from rankpipe.cli import listing, main
from rankpipe.errors import UsageError
from rankpipe.pipeline import Pipeline, registry
from rankpipe.pipeline.registry import BUILT_IN, load_stage, name_of, register, stage_names
from rankpipe.run import Run
from rankpipe.stage import SETTINGS, Chain, Part, Stage


def install(folder: Path, package: str, entry_points: str) -> None:
    """Put a distribution that gives stages into a folder, as pip would."""
    info = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[rankpipe.stages]\n{entry_points}\n")


def test_built_in_names_are_the_hyphenated_class_names() -> None:
    assert {"bm25", "chain", "cut", "fuse", "interpolate"} <= set(BUILT_IN)
    assert [load_stage(name).type_name() for name in BUILT_IN] == list(BUILT_IN)
    assert [name_of(load_stage(name)) for name in BUILT_IN] == list(BUILT_IN)


def test_packages_add_stages_through_the_entry_point(little_stages: None) -> None:
    assert {"seek", "join"} <= set(stage_names())
    seek = load_stage("seek")
    assert issubclass(seek, Stage)
    assert name_of(seek) == "seek"


def test_names_are_sorted() -> None:
    assert list(stage_names()) == sorted(stage_names())


def test_listing_imports_no_stage() -> None:
    code = (
        "import sys; from rankpipe.pipeline.registry import stage_names; stage_names(); "
        "print(sorted(m for m in sys.modules if m.startswith('rankpipe.stage') or m in ('numba', 'pyarrow', 'numpy')))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"


def test_an_unknown_name_gets_a_suggestion(little_stages: None) -> None:
    with pytest.raises(UsageError) as error:
        load_stage("bm52")
    assert str(error.value) == "no stage is called 'bm52'; did you mean 'bm25'?"


def test_an_unknown_name_like_no_other_gets_the_list(little_stages: None) -> None:
    with pytest.raises(
        UsageError, match=r"^no stage is called 'zzzzzz'; there are: attention, blend, bm25, bo1, broken, chain, "
    ):
        load_stage("zzzzzz")


def test_a_failing_import_names_the_package(little_stages: None) -> None:
    with pytest.raises(UsageError) as error:
        load_stage("broken")
    assert str(error.value) == (
        "stage 'broken' (little_broken:Broken of package 'little-stages') cannot be imported: "
        "RuntimeError: no such engine on this machine"
    )


def test_a_class_that_is_not_there_is_said(little_stages: None) -> None:
    with pytest.raises(UsageError) as error:
        load_stage("gone")
    assert str(error.value) == (
        "stage 'gone' (little_stages:Gone of package 'little-stages') cannot be imported: "
        "AttributeError: module 'little_stages' has no attribute 'Gone'"
    )


def test_a_class_that_is_no_stage_is_said(little_stages: None) -> None:
    with pytest.raises(UsageError) as error:
        load_stage("not-a-stage")
    assert str(error.value) == (
        "stage 'not-a-stage' (little_stages:NotAStage of package 'little-stages') "
        "is not a subclass of rankpipe.stage.Stage"
    )


def test_a_class_that_is_unfinished_is_said(little_stages: None) -> None:
    with pytest.raises(UsageError) as error:
        load_stage("unfinished")
    assert str(error.value) == (
        "stage 'unfinished' (little_stages:Unfinished of package 'little-stages') does not define __call__"
    )


def test_a_clash_with_a_built_in_names_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "other-search", "bm25 = other:BM25")
    monkeypatch.syspath_prepend(tmp_path)
    message = (
        "stage 'bm25' is given twice: rankpipe.stages.bm25:BM25 of package 'rankpipe' and "
        "other:BM25 of package 'other-search'; one of the packages has to go"
    )
    with pytest.raises(UsageError) as error:
        load_stage("bm25")
    assert str(error.value) == message
    with pytest.raises(UsageError) as error:
        stage_names()
    assert str(error.value) == message
    assert load_stage("chain") is Chain


def test_a_clash_between_packages_names_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "a", "one-search", "fetch = one:Fetch")
    install(tmp_path / "b", "two-search", "fetch = two:Fetch")
    monkeypatch.syspath_prepend(tmp_path / "b")
    monkeypatch.syspath_prepend(tmp_path / "a")
    with pytest.raises(UsageError) as error:
        load_stage("fetch")
    assert str(error.value) == (
        "stage 'fetch' is given twice: one:Fetch of package 'one-search' and "
        "two:Fetch of package 'two-search'; one of the packages has to go"
    )


def test_a_class_that_nobody_registered_has_no_name(little_stages: None) -> None:
    class Mine(Chain):
        pass

    with pytest.raises(UsageError, match=r"Mine is not registered as a stage; .* entry point group 'rankpipe.stages'$"):
        name_of(Mine)


def test_one_stage_that_cannot_be_imported_keeps_no_other_from_the_list(
    little_stages: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["rankpipe", "stages"])
    with pytest.raises(SystemExit, match=r"^0$"):
        main()
    listed = capsys.readouterr().out
    assert "\ngone: stage 'gone' (little_stages:Gone of package 'little-stages') cannot be imported: " in listed
    assert "\ninterpolate: Score the candidates by " in listed


def test_a_program_registers_a_stage_for_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry, "_own", {})

    def defined(bonus: float) -> type[Stage]:
        @register
        @dataclass(frozen=True, kw_only=True, config=SETTINGS)
        class Raised(Stage):
            """Every score, with something added."""

            needs: ClassVar[frozenset[Part]] = frozenset({"candidates"})
            by: float = bonus

            def __call__(self, run: Run) -> Run:
                return run.rescored(run.scores + self.by)

        return Raised

    first = defined(1.0)
    assert (load_stage("raised"), name_of(first)) == (first, "raised")
    assert "raised" in stage_names()
    pipeline = Pipeline.from_yaml("stages: [bm25, raised: {by: 2.5}]")
    assert Pipeline.from_yaml(pipeline.to_yaml()) == pipeline
    second = defined(2.0)  # the cell of a notebook is run again
    assert load_stage("raised") is second
    with pytest.raises(
        UsageError, match=r"Raised was defined anew; make the pipeline again, of the class that there is now$"
    ):
        name_of(first)


def test_a_name_that_is_taken_cannot_be_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_own", {})

    class Cut(Chain):
        """Another one."""

    class Raw(Stage):
        """Without a call."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Plain(Stage):
        """With a setting that nobody checks."""

        by: float = 1.0
        known: ClassVar[int] = 3

        def __call__(self, run: Run) -> Run:
            return run

    for stage, message in (
        (Plain, r"Plain: 'by' is no setting that is checked; put @pydantic.dataclasses.dataclass"),
        (Cut, r"^a stage 'cut' is there already; give class .*Cut another name$"),
        (Raw, r"Raw does not define __call__$"),
        (dict, r"^<class 'dict'> is not a subclass of rankpipe.stage.Stage$"),
    ):
        with pytest.raises(UsageError, match=message):
            register(stage)  # type: ignore[type-var]
    assert registry._own == {}


def test_a_stage_without_a_docstring_is_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registry, "_own", {})

    @register
    @dataclass(frozen=True, kw_only=True, config=SETTINGS)
    class Silent(Stage):
        def __call__(self, run: Run) -> Run:
            return run

    Silent.__doc__ = None
    listing.stages()
    assert "\nsilent: \n" in capsys.readouterr().out
