"""Builds that a killed process leaves behind, and that the next one goes on with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rankpipe import store
from rankpipe.errors import RankpipeError, StoreError
from rankpipe.writing import locked

KEY = {"what": "numbers"}


def parts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != store.MANIFEST)


def test_what_a_failed_build_has_left_is_there_again(store: Path) -> None:
    from rankpipe.store import resumable

    def fails(folder: Path) -> None:
        (folder / "first").write_text("1")
        raise RuntimeError("the light went out")

    with pytest.raises(RuntimeError, match="the light went out"):
        resumable("things", KEY, fails)

    def goes_on(folder: Path) -> None:
        assert parts(folder) == ["first"]
        (folder / "second").write_text("2")

    folder = resumable("things", KEY, goes_on)
    assert parts(folder) == ["first", "second"]
    assert [path.name for path in (store / "things").iterdir()] == [folder.name]


def test_a_manifest_that_a_failed_build_has_left_is_no_part_of_the_result(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rankpipe.store import found, resumable

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def writes(folder: Path) -> None:
        name = "b" if (folder / "a").exists() else "a"
        (folder / name).write_text(name)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", full)  # behind the manifest
        with pytest.raises(StoreError, match="No space left on device"):
            resumable("things", KEY, writes)
    assert [path.name for path in (store / "things").glob(".partial-*/*") if path.name == "manifest.json"]
    folder = resumable("things", KEY, writes)
    assert list(json.loads((folder / "manifest.json").read_text())["files"]) == ["a", "b"]
    assert found("things", KEY) == folder


def test_an_artefact_that_is_there_is_not_built_again() -> None:
    def fails(folder: Path) -> None:
        raise RuntimeError("built twice")

    made = store.resumable("things", KEY, lambda folder: None)
    assert store.resumable("things", KEY, fails) == made == store.found("things", KEY)
    assert store.found("things", {"what": "letters"}) is None


def test_a_damaged_one_is_set_aside(store: Path) -> None:
    from rankpipe.store import found, resumable

    def writes(folder: Path) -> None:
        (folder / "a").write_text("1")

    folder = resumable("things", KEY, writes)
    (folder / "a").write_text("2")
    with pytest.raises(StoreError, match="the content of a is not what was written"):
        found("things", KEY)
    assert found("things", KEY) is None


BUILD = """
import sys, time
from pathlib import Path
from rankpipe.store import resumable

def make(folder):
    (folder / f"begun-{sys.argv[1]}").touch()
    for _ in range(600):
        if Path(sys.argv[2]).exists():
            return
        time.sleep(0.05)

print(resumable("things", {"what": "numbers"}, make))
"""


def start(name: str, gate: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, name, str(gate)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(path: Path) -> None:
    for _ in range(1200):
        if path.exists():
            return
        time.sleep(0.05)
    pytest.fail(f"{path} did not appear")


@pytest.mark.skipif(os.name != "posix", reason="the lock is POSIX's")
def test_two_processes_do_not_build_the_same_at_once(store: Path, tmp_path: Path) -> None:
    from rankpipe.store import key_digest

    gate, partial = tmp_path / "gate", store / "things" / f".partial-{key_digest(KEY)}"
    first = start("first", gate)
    wait_for(partial / "begun-first")
    second = start("second", gate)
    assert second.stderr is not None
    assert second.stderr.readline() == f"waiting for another process, which builds {partial}\n"
    gate.touch()
    assert first.communicate()[0] == second.communicate()[0] != ""
    assert (first.returncode, second.returncode) == (0, 0)
    folder = store / "things" / key_digest(KEY)
    assert parts(folder) == ["begun-first"]


@pytest.mark.skipif(os.name != "posix", reason="the lock is POSIX's")
def test_a_killed_process_gives_the_lock_back(store: Path, tmp_path: Path) -> None:
    from rankpipe.store import key_digest

    partial = store / "things" / f".partial-{key_digest(KEY)}"
    first = start("first", tmp_path / "never")
    wait_for(partial / "begun-first")
    first.send_signal(signal.SIGKILL)
    first.communicate()
    gate = tmp_path / "gate"
    gate.touch()
    second = start("second", gate)
    second.communicate()
    assert parts(store / "things" / key_digest(KEY)) == ["begun-first", "begun-second"]


def test_unfinished_work_beside_a_path_is_there_again_for_the_same_key(tmp_path: Path) -> None:
    path = tmp_path / "out"

    def works(key: dict[str, str]) -> list[str]:
        with store.unfinished(path, key) as folder:
            found = parts(folder)
            (folder / "first").write_text("1")
            raise RuntimeError(",".join(found))

    for key, left in ((KEY, ""), (KEY, "first"), ({"what": "letters"}, "")):
        with pytest.raises(RuntimeError, match=f"^{left}$"):
            works(key)
    assert [one.name.startswith(".unfinished-out-") for one in tmp_path.iterdir()] == [True] * 2
    with store.unfinished(path, KEY) as folder:
        assert parts(folder) == ["first"]
    assert not folder.exists()
    assert len(list(tmp_path.iterdir())) == 1  # that of the other key


def test_two_processes_do_not_do_the_same_unfinished_work(tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="needs POSIX locks")
    path = tmp_path / "out"
    with store.unfinished(path, KEY) as folder:
        with (
            pytest.raises(RankpipeError, match=f"^another process works on {path}, in {folder}$"),
            store.unfinished(path, KEY),
        ):
            raise AssertionError("both at work")
        assert folder.exists()
    assert not folder.exists()


def test_the_lock_of_a_folder_that_is_there_no_more_is_nobodys(tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="needs POSIX locks")
    with locked(tmp_path / "gone") as ours:
        assert not ours
    with locked(tmp_path) as ours, store.locked(tmp_path, wait=False) as theirs:
        assert (ours, theirs) == (True, False)
