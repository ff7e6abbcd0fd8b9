"""Files and folders that appear whole or not at all, whatever kills who writes them."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rankpipe.errors import RankpipeError, UsageError
from rankpipe.store import artefact
from rankpipe.writing import check_replaceable, replacing, replacing_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path) as file:
        file.write("new\n")
        file.flush()
        assert path.read_text() == "old"
    assert (path.read_bytes(), names(tmp_path)) == (b"new\n", ["file"])


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as file:  # noqa: PT012 - the error must come from within
        file.write("new")
        raise error
    assert (path.read_text(), names(tmp_path)) == ("old", ["file"])


def test_a_written_file_may_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "file", "wb") as file:
            file.write(b"x")
        with replacing_folder(tmp_path / "folder") as place:
            inside = place / "model" / "weights"
            inside.parent.mkdir()
            inside.touch(mode=0o600)
        folder = artefact("index", {"corpus": "abc"}, lambda made: (made / "words").touch())
    finally:
        os.umask(before)
    written = tmp_path / "file", tmp_path / "folder", folder, tmp_path / "folder" / "model" / "weights"
    assert [stat.S_IMODE(path.stat().st_mode) for path in written] == [0o640, 0o750, 0o750, 0o640]


def test_a_name_as_long_as_the_file_system_takes_can_be_written(tmp_path: Path) -> None:
    with replacing(tmp_path / ("x" * 255)) as file:
        file.write("new")
    assert (tmp_path / ("x" * 255)).read_text() == "new"


def test_a_link_leads_to_what_is_replaced_and_a_file_keeps_its_rights(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("old")
    file.chmod(0o600)
    link.symlink_to(file)
    with replacing(link) as opened:
        opened.write("new")
    assert (link.is_symlink(), file.read_text(), stat.S_IMODE(file.stat().st_mode)) == (True, "new", 0o600)


@pytest.mark.skipif(os.name != "posix", reason="named pipes of POSIX")
def test_a_pipe_and_standard_output_stay_what_they_are(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True)
    with replacing(pipe) as opened:
        opened.write("through")
    assert (reader.communicate()[0], stat.S_ISFIFO(pipe.stat().st_mode)) == ("through", True)
    program = "from rankpipe.writing import check_writable, replacing\ncheck_writable('/dev/stdout')\nwith replacing('/dev/stdout') as file: file.write('out')"
    with open(tmp_path / "file", "w") as file:
        subprocess.run([sys.executable, "-c", f"print('before', flush=True)\n{program}"], stdout=file, check=True)
    assert (tmp_path / "file").read_text() == "before\nout"
    piped = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (piped.stdout, piped.stderr) == ("out", "")
    with pytest.raises(UsageError, match="pipe holds no results of rankpipe"), replacing_folder(pipe, force=True):
        pass
    assert names(tmp_path) == ["file", "pipe"]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(RankpipeError) as caught, replacing(tmp_path / "folder"):
        pass
    assert str(caught.value) == f"cannot write {tmp_path}/folder: Is a directory"
    assert names(tmp_path) == ["folder"]


def results(folder: Path, content: str = "old") -> Path:
    """Make a folder of results, as `rankpipe run` does."""
    with replacing_folder(folder) as aside:
        (aside / "run.trec").write_text(content)
        (aside / "manifest.json").write_text(json.dumps({"versions": {"rankpipe": "0.1.0"}}))
    return folder


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    with replacing_folder(tmp_path / "new" / "folder") as aside:
        (aside / "run.trec").write_text("x")
        assert not (tmp_path / "new" / "folder").exists()
    assert (names(tmp_path / "new"), names(tmp_path / "new" / "folder")) == (["folder"], ["run.trec"])


def test_an_existing_folder_is_refused(tmp_path: Path) -> None:
    folder, link = results(tmp_path / "out"), tmp_path / "leads-nowhere"
    link.symlink_to(tmp_path / "gone")
    for path in (folder, link):
        for enter in (lambda path=path: check_replaceable(path), lambda path=path: replacing_folder(path).__enter__()):
            with pytest.raises(UsageError) as caught:
                enter()
            assert str(caught.value) == f"{path} exists already; choose another folder, or replace it with --force"
    assert names(tmp_path) == ["leads-nowhere", "out"]


def test_results_are_replaced_by_force(tmp_path: Path) -> None:
    folder = results(tmp_path / "out")
    with replacing_folder(folder, force=True) as aside:
        (aside / "run.trec").write_text("new")
        assert (folder / "run.trec").read_text() == "old"
    assert ((folder / "run.trec").read_text(), names(tmp_path)) == ("new", ["out"])


KILLED = """
import os, sys
from pathlib import Path
from rankpipe.writing import replacing_folder
rename = os.rename

def killed(old, new):
    if Path(new) == Path(sys.argv[1]):
        os._exit(9)
    rename(old, new)

os.rename = killed
with replacing_folder(sys.argv[1], force=True) as aside:
    (aside / "run.trec").write_text("new")
"""


def test_a_process_that_is_killed_while_it_replaces_results_loses_none(tmp_path: Path) -> None:
    folder = results(tmp_path / "out")
    process = subprocess.run([sys.executable, "-c", KILLED, str(folder)])
    assert (process.returncode, folder.exists()) == (9, False)
    results(tmp_path / "other")  # which sweeps what killed processes have left
    with pytest.raises(UsageError, match="exists already"):
        check_replaceable(folder)
    assert (names(tmp_path), (folder / "run.trec").read_text()) == (["other", "out"], "old")
    assert subprocess.run([sys.executable, "-c", KILLED, str(folder)]).returncode == 9
    with pytest.raises(UsageError, match="exists already"), replacing_folder(folder):
        pass
    assert (folder / "run.trec").read_text() == "old"


def test_an_empty_folder_is_replaced_by_force(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with replacing_folder(tmp_path / "out", force=True) as aside:
        (aside / "run.trec").write_text("new")
    assert names(tmp_path / "out") == ["run.trec"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_folder(tmp_path: Path, error: type[BaseException]) -> None:
    folder = results(tmp_path / "out")
    with pytest.raises(error), replacing_folder(folder, force=True) as aside:  # noqa: PT012 - see above
        (aside / "run.trec").write_text("new")
        raise error
    assert ((folder / "run.trec").read_text(), names(tmp_path)) == ("old", ["out"])


LIMITED = """
import resource, signal, sys
from pathlib import Path
from rankpipe.errors import RankpipeError
from rankpipe.writing import replacing_folder

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing on fails as it does on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with replacing_folder(Path(sys.argv[1]), force=True) as folder:
        (folder / "small").write_bytes(bytes(999))
        (folder / "large").write_bytes(bytes(1001))
except RankpipeError as error:
    print(type(error).__name__, error)
"""


def test_a_full_disk_leaves_the_old_folder(tmp_path: Path) -> None:
    folder = results(tmp_path / "out")
    done = subprocess.run([sys.executable, "-c", LIMITED, folder], capture_output=True, text=True, check=True)
    assert done.stdout == f"WriteError cannot write {folder}: File too large\n"
    assert ((folder / "run.trec").read_text(), names(tmp_path)) == ("old", ["out"])


@pytest.mark.parametrize(
    "content",
    [
        {"precious.txt": "x"},
        {"manifest.json": '{"name": "My web page", "icons": []}'},
        {"manifest.json": "[1]"},
        {"manifest.json": '{"versions": ["rankpipe"]}'},
        {"manifest.json": "not JSON"},
        {"manifest.json": '{"kind": "index", "key": {}}'},
    ],
)
def test_a_folder_that_is_not_ours_is_never_replaced(tmp_path: Path, content: dict[str, str]) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    for name, text in content.items():
        (folder / name).write_text(text)
    with pytest.raises(UsageError) as caught, replacing_folder(folder, force=True):
        pass
    assert (
        str(caught.value)
        == f"{folder} holds no results of rankpipe (no manifest.json of its own), so it is not replaced"
    )
    assert {path.name: path.read_text() for path in folder.iterdir()} == content


def test_a_file_is_never_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with (
        pytest.raises(UsageError, match="holds no results of rankpipe"),
        replacing_folder(tmp_path / "out", force=True),
    ):
        pass
    assert (tmp_path / "out").read_text() == "x"


def test_a_folder_inside_a_file_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError) as caught:
        check_replaceable(tmp_path / "file" / "deep" / "out", force=True)
    assert str(caught.value) == f"{tmp_path}/file/deep/out cannot be a folder: {tmp_path}/file is a file"


def test_a_folder_that_may_not_be_written_to_is_refused_before_any_work(
    tmp_path: Path, lock: Callable[[Path], None]
) -> None:
    (tmp_path / "locked").mkdir()
    lock(tmp_path / "locked")
    with pytest.raises(RankpipeError) as caught:
        check_replaceable(tmp_path / "locked" / "deep" / "out")
    assert str(caught.value) == f"cannot write {tmp_path}/locked/deep/out: {tmp_path}/locked may not be written to"


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    folder = results(tmp_path / "elsewhere")
    (tmp_path / "out").symlink_to(folder)
    with replacing_folder(tmp_path / "out", force=True) as aside:
        (aside / "run.trec").write_text("new")
    assert ((tmp_path / "out" / "run.trec").read_text(), (folder / "run.trec").read_text()) == ("new", "old")


def test_the_working_folder_can_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(results(tmp_path / "out"))
    with replacing_folder(Path(), force=True) as aside:
        (aside / "run.trec").write_text("new")
    assert ((tmp_path / "out" / "run.trec").read_text(), names(tmp_path)) == ("new", ["out"])


def test_a_folder_that_another_process_made_meanwhile_stays_and_ours_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "results"

    def write() -> None:
        with replacing_folder(path) as aside:
            (aside / "new").touch()
            path.mkdir()
            (path / "precious").touch()

    with pytest.raises(UsageError) as raised:
        write()
    kept = tmp_path / f"results-{os.getpid()}"
    assert str(raised.value) == f"{path} was made by another meanwhile, and stays; what was to stand there is {kept}"
    assert (names(path), names(kept), names(tmp_path)) == (["precious"], ["new"], ["results", kept.name])
