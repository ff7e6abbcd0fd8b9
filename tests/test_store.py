"""The store: artefacts found by what made them, digests of files, what kills and damage leave."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rankpipe.errors import StoreError
from rankpipe.store import (
    ALWAYS_HASHED,
    all_found,
    artefact,
    file_digest,
    has,
    home,
    key_digest,
    made_by,
    remove,
    resumable,
)

KEY = {"corpus": "abc", "k1": 0.9}


def make(folder: Path) -> None:
    (folder / "words.txt").write_text("one two")
    (folder / "deep").mkdir()
    (folder / "deep" / "numbers.bin").write_bytes(bytes(100))


def refuse(folder: Path) -> None:
    raise AssertionError(f"{folder}: built, though the store has it")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- artefacts ----------------------------------------------------------------------------------------------------------


def test_an_artefact_is_made_once_and_found_by_its_key() -> None:
    folder = artefact("index", KEY, make)
    assert folder == home() / "index" / key_digest(KEY)
    assert (folder / "words.txt").read_text() == "one two"
    assert artefact("index", {"k1": 0.9, "corpus": "abc"}, refuse) == folder
    assert artefact("index", {**KEY, "k1": 1.2}, make) != folder


def test_the_manifest_says_what_made_it() -> None:
    manifest = json.loads((artefact("index", KEY, make) / "manifest.json").read_text())
    assert (manifest["kind"], manifest["key"], sorted(manifest["files"])) == (
        "index",
        KEY,
        ["deep/numbers.bin", "words.txt"],
    )


def test_a_build_that_fails_leaves_nothing() -> None:
    def fail(folder: Path) -> None:
        make(folder)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        artefact("index", KEY, fail)
    assert names(home() / "index") == []
    artefact("index", KEY, make)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "words.txt").write_text("one tw"), "words.txt has 6 bytes, not 7"),
        (
            lambda folder: (folder / "words.txt").write_text("one twO"),
            "the content of words.txt is not what was written",
        ),
        (
            lambda folder: (folder / "words.txt").unlink(),
            "No such file or directory: {folder}/words.txt",
        ),
        (lambda folder: (folder / "manifest.json").unlink(), "No such file or directory: {folder}/manifest.json"),
        (
            lambda folder: (folder / "manifest.json").write_text("[]"),
            "the content of manifest.json is not what was written",
        ),
    ],
)
def test_a_damaged_artefact_is_set_aside_and_built_anew(damage, reason: str) -> None:
    folder = artefact("index", KEY, make)
    damage(folder)
    with pytest.raises(StoreError) as caught:
        artefact("index", KEY, refuse)
    aside = next((home() / "index").glob(".damaged-*"))
    assert str(caught.value) == (
        f"{folder} is damaged: {reason.format(folder=folder)}; "
        f"it is set aside as {aside.name}, and the next run builds it anew"
    )
    assert (artefact("index", KEY, make) / "words.txt").read_text() == "one two"


def test_damaged_artefacts_are_removed_but_for_the_last_of_a_week(monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged() -> list[str]:
        return [name for name in names(home() / "index") if name.startswith(".damaged-")]

    for _ in range(2):
        folder = artefact("index", KEY, make)
        (folder / "words.txt").write_text("")
        with pytest.raises(StoreError):
            artefact("index", KEY, refuse)
    second = damaged()[1]
    (home() / "index" / ".damaged-by-hand").mkdir()
    artefact("index", KEY, make)
    assert damaged() == [second]
    days = 8 * 24 * 3600 * 1_000_000_000
    monkeypatch.setattr("time.time_ns", lambda: int(second.rpartition("-")[2]) + days)
    assert artefact("index", KEY, refuse).is_dir()  # nothing is built, so nothing is swept
    assert damaged() == [second]
    resumable("index", {"corpus": "other"}, lambda folder: None)
    assert damaged() == []


def test_all_artefacts_of_a_kind_are_found_and_removed() -> None:
    assert all_found("index/of") == []
    made = sorted(artefact("index/of", {"part": part}, make) for part in range(3))
    assert all_found("index/of") == made
    remove(made[1])
    remove(made[1])  # another process was first
    assert all_found("index/of") == [made[0], made[2]]
    assert names(home() / "index" / "of") == [made[0].name, made[2].name]
    (made[2] / "words.txt").unlink()
    with pytest.raises(StoreError, match=r"is damaged: No such file or directory"):
        all_found("index/of")
    assert all_found("index/of") == [made[0]]


def test_artefacts_are_found_by_what_their_keys_have_in_common() -> None:
    made = {part: artefact("index", {"part": part, "of": (1, 2)}, make) for part in range(3)}
    assert has("index", {"part": 1, "of": (1, 2)})
    assert not has("index", {"part": 3, "of": (1, 2)})
    (made[0] / "manifest.json").write_text("{")
    found = made_by("index", lambda key: key["part"] < 2)
    assert found == [(made[1], {"part": 1, "of": [1, 2]})]
    (made[2] / "words.txt").unlink()
    assert made_by("index", lambda key: key["part"] < 2) == found
    with pytest.raises(StoreError, match=r"is damaged: No such file or directory"):
        made_by("index", lambda key: True)


def test_all_of_a_kind_go_at_once() -> None:
    for part in range(3):
        artefact("index/of", {"part": part}, make)
    remove(home() / "index" / "of")
    assert all_found("index/of") == []
    assert names(home() / "index") == []
    artefact("index/of", {"part": 1}, make)
    assert len(all_found("index/of")) == 1


def test_an_artefact_that_cannot_be_read_just_now_stays() -> None:
    folder = artefact("index", KEY, make)
    program = f"""
import resource
from pathlib import Path
from rankpipe.store import artefact
from rankpipe.errors import StoreError
import json
files = []
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
try:
    while True:
        files.append(open("/dev/null"))
except OSError:
    pass
try:
    artefact("index", {KEY!r}, None)
except StoreError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"{folder} cannot be read: Too many open files: {folder}/manifest.json\n"
    assert artefact("index", KEY, refuse) == folder


BUILD = """
import sys, time
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent in the background has it ignored
from pathlib import Path
from rankpipe.store import artefact

def make(folder):
    (folder / "who.txt").write_text(sys.argv[1])
    print("building", flush=True)
    sys.stdin.readline()

print(artefact("index", {"corpus": "abc"}, make))
"""


def build(name: str) -> "subprocess.Popen[str]":
    """Start a process that builds an artefact, waiting in the middle for a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", BUILD, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "building\n"
    return process


def test_two_processes_that_build_the_same_artefact_agree() -> None:
    first, second = build("first"), build("second")
    answers = [first.communicate("\n")[0], second.communicate("\n")[0]]
    folder = home() / "index" / key_digest({"corpus": "abc"})
    assert answers == [f"{folder}\n"] * 2
    assert (folder / "who.txt").read_text() == "first"
    assert names(folder.parent) == [folder.name]
    assert artefact("index", {"corpus": "abc"}, refuse) == folder


def test_what_killed_builds_leave_is_swept_and_what_live_ones_build_is_not() -> None:
    killed, living = build("killed"), build("living")
    killed.kill()
    killed.communicate()
    assert len(names(home() / "index")) == 2
    other = artefact("index", {"corpus": "other"}, make)
    assert names(home() / "index") == sorted(
        [other.name, next((home() / "index").glob(f".building-{living.pid}-*")).name]
    )
    answer, _ = living.communicate("\n")
    assert (Path(answer.strip()) / "who.txt").read_text() == "living"


def test_what_another_machine_builds_in_a_shared_store_is_not_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    killed = build("killed")
    killed.kill()
    killed.communicate()
    with monkeypatch.context() as patch:
        patch.setattr("platform.node", lambda: "another machine")
        other = artefact("index", {"corpus": "other"}, make)
        assert len(names(home() / "index")) == 2
    artefact("index", {"corpus": "third"}, make)
    assert [name for name in names(other.parent) if name.startswith(".building-")] == []


def test_what_is_built_under_this_name_elsewhere_is_not_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    living = build("living")

    def unknown(process: int, signal: int) -> None:
        raise ProcessLookupError(process, signal)

    with monkeypatch.context() as patch:  # as in another container of the same host name, which does not see it
        patch.setattr("os.kill", unknown)
        other = artefact("index", {"corpus": "other"}, make)
    assert names(other.parent) == sorted([other.name, next(other.parent.glob(f".building-{living.pid}-*")).name])
    answer, _ = living.communicate("\n")
    assert (Path(answer.strip()) / "who.txt").read_text() == "living"


def test_halves_that_nobody_goes_on_with_are_removed_after_a_week() -> None:
    for name, days in (("old", 8), ("young", 6)):
        with pytest.raises(ValueError, match="half"):
            resumable("vectors", {"name": name}, half)
        partial = home() / "vectors" / f".partial-{key_digest({'name': name})}"
        then = time.time() - days * 86400
        for path in (*partial.iterdir(), partial):
            os.utime(path, (then, then))
    with pytest.raises(ValueError, match="half"):
        resumable("vectors", {"name": "other"}, half)
    assert names(home() / "vectors") == sorted(f".partial-{key_digest({'name': name})}" for name in ("young", "other"))


def half(folder: Path) -> None:
    (folder / "shard-0.npy").write_bytes(b"x")
    raise ValueError("half")


def test_a_build_that_is_interrupted_leaves_nothing() -> None:
    process = build("interrupted")
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert names(home() / "index") == []


def test_a_store_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RANKPIPE_HOME", str(tmp_path / "file"))
    with pytest.raises(StoreError) as caught:
        artefact("index", KEY, make)
    assert str(caught.value) == (
        f"cannot write index to the store {tmp_path}/file: Not a directory; set RANKPIPE_HOME to another folder"
    )


def test_a_file_of_the_users_that_is_gone_is_no_fault_of_the_store(tmp_path: Path) -> None:
    def copy(folder: Path) -> None:
        shutil.copy(tmp_path / "corpus.jsonl", folder)

    with pytest.raises(StoreError) as caught:
        artefact("corpora", KEY, copy)
    assert (
        str(caught.value) == f"cannot build corpora for the store: No such file or directory: {tmp_path}/corpus.jsonl"
    )


def test_a_read_only_store_is_named_and_still_read(lock: Callable[[Path], None]) -> None:
    folder = artefact("index", KEY, make)
    lock(folder.parent)
    assert artefact("index", KEY, refuse) == folder
    with pytest.raises(StoreError) as caught:
        artefact("index", {"other": 1}, make)
    folder.parent.chmod(0o755)
    assert str(caught.value) == (
        f"cannot write index to the store {home()}: Permission denied; set RANKPIPE_HOME to another folder"
    )


LIMITED = """
import resource, signal
from rankpipe.errors import RankpipeError
from rankpipe.store import artefact

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing on fails as it does on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

def make(folder):
    (folder / "small").write_bytes(bytes(999))
    (folder / "large").write_bytes(bytes(1001))

try:
    artefact("index", {"corpus": "abc", "k1": 0.9}, make)
except RankpipeError as error:
    print(type(error).__name__, error)
"""


def test_a_full_disk_leaves_the_store_usable() -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=True)
    assert done.stdout == (
        f"StoreError cannot write index to the store {home()}: File too large; set RANKPIPE_HOME to another folder\n"
    )
    assert names(home() / "index") == []
    artefact("index", KEY, make)


# -- digests of files ---------------------------------------------------------------------------------------------------


def test_a_digest_is_the_sha256_and_is_remembered_once_the_file_is_old(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")  # its sha256 is the example of FIPS 180-2, appendix B.1
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_digest(path) == expected
    assert not (home() / "digests").exists()
    os.utime(path, (time.time() - 60, time.time() - 60))
    assert file_digest(path) == file_digest(path) == expected
    assert len(names(home() / "digests")) == 1


def test_a_file_that_is_written_while_it_is_hashed_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("a")
    began = path.stat().st_mtime_ns
    clock = iter(
        range(began + 10**9, began + 10**11, 3 * 10**9)
    )  # a second after it was written; then hashing took three
    monkeypatch.setattr("time.time_ns", lambda: next(clock))
    first = file_digest(path)
    path.write_text("b")
    os.utime(path, ns=(began, began))  # within one tick of the file system's clock
    assert file_digest(path) != first


def test_a_changed_file_has_a_new_digest(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"one", b"two"):
        path.write_bytes(content)
        os.utime(path, (time.time() - 60, time.time() - 60 + len(names(tmp_path)) + content[0]))
        digest = file_digest(path)
    path.write_bytes(b"one")
    assert file_digest(path) != digest


def test_a_memory_of_digests_that_is_damaged_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    os.utime(path, (time.time() - 60, time.time() - 60))
    digest = file_digest(path)
    for rubbish in ("", "[]", "{}", "null"):
        next((home() / "digests").iterdir()).write_text(rubbish)
        assert file_digest(path) == digest


@pytest.mark.parametrize("build", [artefact, resumable])
def test_a_large_file_just_built_is_not_hashed_again_when_it_is_opened(build: Callable[..., Path]) -> None:
    def make(folder: Path) -> None:
        (folder / "small").write_bytes(b"abc")
        with open(folder / "large", "wb") as file:
            file.truncate(ALWAYS_HASHED + 1)

    folder = build("index", KEY, make)
    [memory] = [json.loads(path.read_text()) for path in (home() / "digests").iterdir()]
    assert memory["path"] == str((folder / "large").resolve())
    assert memory["sha256"] == json.loads((folder / "manifest.json").read_text())["files"]["large"]["sha256"]
    assert build("index", KEY, make) == folder


def test_a_store_that_cannot_be_written_does_not_stop_digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    os.utime(path, (time.time() - 60, time.time() - 60))
    monkeypatch.setenv("RANKPIPE_HOME", str(path))
    assert file_digest(path).startswith("ba7816bf")


@pytest.mark.parametrize("key", [{"x": float("nan")}, {"x": Path("y")}])
def test_a_key_that_is_not_plain_is_refused(key: dict) -> None:
    with pytest.raises((ValueError, TypeError)):
        key_digest(key)
