"""A store that cannot be written, a full disk, Ctrl-C and kill -9: said in a line, and the next run works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import rankpipe

Command = Callable[..., Any]
ADVICE = "set RANKPIPE_HOME to another folder"

posix_only = pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")


def leftovers(folder: Path) -> list[str]:
    """What unfinished work has left in a folder."""
    return [path.name for path in folder.rglob(".building-*")]


def wait_for(marker: Path, process: subprocess.Popen[Any]) -> None:
    """Return once a process has made the file; fail if it ends before."""
    deadline = time.monotonic() + 120
    while not marker.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert marker.exists(), process.communicate()


# -- a store that cannot be written -------------------------------------------------------------------------------------


def test_a_store_at_or_below_a_file_is_said(
    rankpipe: Command, pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    for home in (tmp_path / "file", tmp_path / "file" / "deep" / "store"):
        monkeypatch.setenv("RANKPIPE_HOME", str(home))
        done = rankpipe("search", "bm25", "cat", "--dataset", pets)
        assert done == (1, "", f"error: cannot write corpora to the store {home}: Not a directory; {ADVICE}\n")


def test_a_store_of_an_unknown_user_is_said(
    rankpipe: Command, pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANKPIPE_HOME", "~nobody-of-this-name/store")
    done = rankpipe("search", "bm25", "cat", "--dataset", pets)
    message = "error: RANKPIPE_HOME is '~nobody-of-this-name/store', and there is no such user; set it to a folder\n"
    assert done == (1, "", message)


READ_ONLY = """
import os, sys
from rankpipe.cli import main

def call(*arguments):
    sys.argv = ["rankpipe", *arguments]
    try:
        main()
    except SystemExit as end:
        print("status", end.code, flush=True)

call("search", "bm25", "cat", "--dataset", "pets", "-k", "1")
for folder, _, files in os.walk("store"):
    os.chmod(folder, 0o555)
if os.geteuid() == 0:
    os.seteuid(65534)  # root may write anywhere
call("search", "bm25", "cat", "--dataset", "pets", "-k", "1")
call("search", "bm25", "cat", "--dataset", "pets/queries.jsonl")
"""


@pytest.fixture
def open_folder(pets: Path, tmp_path: Path) -> Iterator[Path]:
    """A folder that every user may enter, with pets in it, and whose store can be deleted afterwards."""
    entered = [folder for folder in (tmp_path, *tmp_path.parents) if folder.stat().st_uid == os.geteuid()]
    modes = {folder: folder.stat().st_mode for folder in entered}
    for folder in entered:
        folder.chmod(0o755)
    yield tmp_path
    for folder, _, _ in os.walk(tmp_path / "store"):
        os.chmod(folder, 0o755)
    for folder, mode in modes.items():
        folder.chmod(mode)


def _closed_to_others(path: Path) -> bool:
    return any(not folder.stat().st_mode & 0o001 for folder in path.resolve().parents)


@posix_only
def test_a_read_only_store_is_read_and_what_it_lacks_is_said(open_folder: Path) -> None:
    if os.geteuid() == 0 and (
        closed := next(filter(_closed_to_others, (Path(rankpipe.__file__), Path(sys.prefix))), None)
    ):
        pytest.skip(f"root tests this as another user, who may not enter {closed}")
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY],
        capture_output=True,
        text=True,
        cwd=open_folder,
        env={**os.environ, "RANKPIPE_HOME": "store"},
    )
    assert done.stdout.count("status 0\n") == 2, done.stdout + done.stderr
    answer, again, last = done.stdout.split("status 0\n")
    assert answer.startswith("1. d1  ")
    assert (again, last) == (answer, "status 1\n")
    assert done.stderr == f"error: cannot write corpora to the store store: Permission denied; {ADVICE}\n"


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.argv[0:2] = ["rankpipe"]
from rankpipe.cli import main
main()
"""


@posix_only
def test_a_full_disk_leaves_nothing_half_written(rankpipe: Command, pets: Path, tmp_path: Path, store: Path) -> None:
    output = tmp_path / "out"
    run = ["run", "bm25", "--dataset", str(pets), "--output", str(output)]

    def limited(size: int) -> tuple[int, str]:
        done = subprocess.run([sys.executable, "-c", LIMITED, str(size), *run], capture_output=True, text=True)
        assert leftovers(tmp_path) == []
        assert not output.exists()
        return done.returncode, done.stderr.splitlines()[-1]

    assert limited(100) == (1, f"error: cannot write corpora to the store {store}: File too large; {ADVICE}")
    assert rankpipe("index", "bm25", "--dataset", pets).status == 0
    assert limited(50) == (1, f"error: cannot write {output}: File too large")
    assert rankpipe(*run).status == 0


@posix_only
@pytest.mark.parametrize(("stage", "kind"), [("dense", "vectors"), ("sparse", "sparse")])
def test_a_disk_that_fills_up_while_encoding_is_said(
    request: pytest.FixtureRequest, rankpipe: Command, pets: Path, tmp_path: Path, store: Path, stage: str, kind: str
) -> None:
    model = request.getfixturevalue("tiny_masked_lm" if stage == "sparse" else "tiny_encoder")(tmp_path / "model")
    (tmp_path / "p.yaml").write_text(f"stages: [{stage}: {{model: {model}}}]")
    assert rankpipe("index", "bm25", "--dataset", pets).status == 0  # the corpus is there
    index = ["index", str(tmp_path / "p.yaml"), "--dataset", str(pets)]
    done = subprocess.run([sys.executable, "-c", LIMITED, "150", *index], capture_output=True, text=True)
    said = f"error: cannot write {kind} to the store {store}: File too large; {ADVICE}\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)
    assert leftovers(tmp_path) == []
    assert rankpipe(*index).status == 0


# -- runs that are stopped ----------------------------------------------------------------------------------------------


ENCODING = """
import os, signal, sys, time
from pathlib import Path
from rankpipe.models import bi_encoder, sparse_encoder
from rankpipe.cli import main

for kind in (bi_encoder.BiEncoder, sparse_encoder.SparseEncoder):
    def documents(self, *more, encode=kind.documents):
        if marker := os.environ.get("WAIT"):
            signal.signal(signal.SIGINT, signal.default_int_handler)
            Path(marker).touch()
            time.sleep(300)
        return encode(self, *more)
    kind.documents = documents
sys.argv[0] = "rankpipe"
main()
"""
"""`rankpipe`, which stops where it begins to encode documents."""


class Started:
    """`rankpipe run` in a process of its own, stopped in the middle of its work."""

    def __init__(self, folder: Path, stages: str, program: Sequence[str] = ("-m", "rankpipe")) -> None:
        self.folder, self._program = folder, program
        (folder / "p.yaml").write_text(f"stages: {stages}\n")
        self.process = self._start(WAIT=str(folder / "marker"))
        wait_for(folder / "marker", self.process)

    def _start(self, **environment: str) -> subprocess.Popen[str]:
        installed = Path(__file__).parent / "installed"
        paths = os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])
        return subprocess.Popen(
            [sys.executable, *self._program, "run", "p.yaml", "--dataset", "pets", "--output", "out"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": paths, **environment},
        )

    def stopped_by(self, number: int) -> tuple[int, str, str]:
        """Send it a signal; its status, standard output and standard error."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err

    def works_now(self) -> None:
        """The same command, undisturbed, leaves all its results and nothing else."""
        again = self._start()
        _, err = again.communicate(timeout=120)
        assert again.returncode == 0, err
        written = sorted(path.name for path in (self.folder / "out").iterdir())
        assert written == ["manifest.json", "metrics.json", "per_query.jsonl", "report.md", "run.trec"]
        assert leftovers(self.folder) == []


@posix_only
@pytest.mark.parametrize("at", ["build", "run"])
def test_ctrl_c_leaves_nothing_and_the_next_run_works(pets: Path, tmp_path: Path, at: str) -> None:
    started = Started(tmp_path, f"[bm25, wait: {{at: {at}}}]")
    assert started.stopped_by(signal.SIGINT) == (130, "", "interrupted\n")
    assert leftovers(tmp_path) == []
    assert not (tmp_path / "out").exists()
    started.works_now()


@posix_only
@pytest.mark.parametrize("at", ["build", "run"])
def test_kill_9_leaves_no_results_and_the_next_run_works(pets: Path, tmp_path: Path, at: str) -> None:
    started = Started(tmp_path, f"[bm25, wait: {{at: {at}}}]")
    assert started.stopped_by(signal.SIGKILL) == (-signal.SIGKILL, "", "")
    assert not (tmp_path / "out").exists()
    whole = [path for path in (tmp_path / "store" / "waiting").iterdir() if not path.name.startswith(".")]
    assert len(whole) == (0 if at == "build" else 1)
    started.works_now()


@posix_only
@pytest.mark.parametrize("stage", ["dense", "rescore", "sparse"])
def test_ctrl_c_while_encoding_leaves_no_results_and_the_next_run_works(
    request: pytest.FixtureRequest, pets: Path, tmp_path: Path, stage: str
) -> None:
    request.getfixturevalue("tiny_masked_lm" if stage == "sparse" else "tiny_encoder")(tmp_path / "model")
    first = "bm25, " if stage == "rescore" else ""
    started = Started(tmp_path, f"[{first}{stage}: {{model: ./model}}]", ("-c", ENCODING))
    assert started.stopped_by(signal.SIGINT) == (130, "", "interrupted\n")
    assert not (tmp_path / "out").exists()
    assert leftovers(tmp_path) == []
    started.works_now()


WRITING = """
import pathlib, time
from rankpipe.writing import replacing_folder
with replacing_folder(pathlib.Path("out")) as aside:
    (aside / "run.trec").write_text("q1 Q0 d1")
    pathlib.Path("marker").touch()
    time.sleep(300)
"""


@posix_only
def test_kill_9_while_results_are_written_leaves_none(rankpipe: Command, pets: Path, tmp_path: Path) -> None:
    writing = subprocess.Popen([sys.executable, "-c", WRITING], cwd=tmp_path)
    wait_for(tmp_path / "marker", writing)
    writing.kill()
    writing.wait()
    assert not (tmp_path / "out").exists()
    assert len(leftovers(tmp_path)) == 1
    assert rankpipe("run", "bm25", "--dataset", pets, "--output", tmp_path / "out").status == 0
    assert leftovers(tmp_path) == []
