"""Files and folders that appear whole or not at all: written aside, under a hidden name, and renamed at the end.

kill -9, a full disk or two processes at once leave nothing half-written behind a valid name, and what was there before
stays until the new one is whole.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import platform
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from rankpipe.errors import RankpipeError, UsageError, WriteError

MANIFEST = "manifest.json"
STREAMS = (Path("/dev/stdout"), Path("/dev/stderr"))
"""What others write to as well, even where it leads to a file."""


@contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file beside `path` for writing, and rename it to `path` at the end; an error leaves `path` as it was.

    Where `path` is a link, this is what it leads to. What is no file but takes what is written, as /dev/stdout or a named
    pipe does, is written to as it is.

    Raises WriteError where it cannot be written.
    """
    path = Path(path)
    as_text: Any = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    if _is_device(path):
        with as_write_errors(path), open(path, mode.replace("w", "a"), **as_text) as file:
            yield file
        return
    path = Path(os.path.realpath(path))
    with as_write_errors(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}-", dir=path.parent)
        try:
            with os.fdopen(handle, mode, **as_text) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o666 & ~_umask())
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _is_device(path: Path) -> bool:
    """Whether what is written to a path goes on to somebody else, so that another file in its place would be none."""
    if Path(os.path.abspath(path)) in STREAMS:
        return True
    return path.exists() and not path.is_file() and not path.is_dir()


def check_writable(path: Path, what: str = "file") -> None:
    """Refuse a place where nothing can be written, so that no work is done in vain; folders above it may be missing.

    what  the path is to be, for the error

    Raises UsageError where a folder above it is a file, RankpipeError where it may not be written to.
    """
    if _is_device(path) and os.access(path, os.W_OK):
        return
    above = next(folder for folder in Path(os.path.abspath(path)).parents if os.path.exists(folder))
    if not os.path.isdir(above):
        raise UsageError(f"{path} cannot be a {what}: {above} is a file")
    if not os.access(above, os.W_OK | os.X_OK):
        raise RankpipeError(f"cannot write {path}: {above} may not be written to")


def check_replaceable(path: Path, *, force: bool = False) -> None:
    """Refuse what replacing_folder would refuse, so that no work is done in vain.

    A folder that a process was about to replace when it was killed is put in its place again.

    Raises UsageError for what is not replaced, RankpipeError where nothing can be written.
    """
    check_writable(path, "folder")
    _put_back(Path(os.path.abspath(path)))
    if os.path.lexists(path) and not force:
        raise UsageError(f"{path} exists already; choose another folder, or replace it with --force")
    if path.is_file() or _is_device(path) or (path.is_dir() and any(path.iterdir()) and not _is_ours(path)):
        raise UsageError(f"{path} holds no results of rankpipe (no {MANIFEST} of its own), so it is not replaced")


@contextmanager
def replacing_folder(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Give an empty folder beside `path`, renamed to `path` at the end; an existing `path` is refused without `force`.

    With `force` the old folder is there until the new one is whole. It is replaced only if it is empty or its
    manifest.json gives rankpipe among its "versions": others use that file name too, web pages for one.

    Raises UsageError for a path that is not replaced, also where it came to be meanwhile: then the new folder is kept
    beside it, under a name that the error says. WriteError where it cannot be written.
    """
    path = Path(path)
    with as_write_errors(path):
        check_replaceable(path, force=force)
        path = Path(os.path.abspath(path))  # "." has no folder to stand in
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        with building_in(path.parent) as aside:
            yield aside
            open_to_others(aside)
            if not force and os.path.lexists(path):
                kept = path.with_name(f"{path.name}-{os.getpid()}")
                os.rename(aside, kept)
                raise UsageError(f"{path} was made by another meanwhile, and stays; what was to stand there is {kept}")
            if path.is_dir() and not path.is_symlink():
                _exchange(aside, path)
            else:
                path.unlink(missing_ok=True)
                os.rename(aside, path)


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a folder, waiting for it; False if the folder went while we waited, or if we do not wait.

    The lock is the operating system's, so a process that is killed gives it back. Where a system or a file system has no
    locks, nobody waits.
    """
    try:
        import fcntl
    except ImportError:
        yield True
        return
    handle = _handle(folder)
    if handle is None:
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                yield False
                return
            print(f"waiting for another process, which builds {folder}", file=sys.stderr)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:  # of a file system without locks
            pass
        yield _leads_to(folder, handle)
    finally:
        os.close(handle)


def _handle(folder: Path) -> int | None:
    try:
        return os.open(folder, os.O_RDONLY)
    except FileNotFoundError:  # whoever had the lock has renamed or removed it
        return None


def _leads_to(folder: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(folder), os.fstat(handle))
    except FileNotFoundError:
        return False


@contextmanager
def building_in(parent: Path) -> Iterator[Path]:
    """Give a hidden folder to build in, which is gone at the end unless it was renamed; nobody sweeps it meanwhile."""
    folder = Path(tempfile.mkdtemp(prefix=aside_prefix(), dir=parent))
    try:
        with locked(folder, wait=False):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _exchange(aside: Path, path: Path) -> None:
    """Put a folder in the place of another, which goes; an error leaves the other where it was.

    A process that is killed in between leaves none in its place: _put_back puts the other one there again.
    """
    old = path.with_name(f"{_replaced_prefix(path)}{aside.name.removeprefix('.')}")
    os.rename(path, old)
    try:
        os.rename(aside, path)
    except BaseException:
        os.rename(old, path)
        raise
    shutil.rmtree(old)


def _put_back(path: Path) -> None:
    """Put a folder in its place again that a killed process had moved away, or remove it where there is another one."""
    if not path.parent.is_dir():
        return
    for old in sorted(path.parent.glob(f"{glob.escape(_replaced_prefix(path))}*")):
        if not _abandoned(old.name.removeprefix(_replaced_prefix(path))):
            continue
        if os.path.lexists(path):
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(old, path)


def _replaced_prefix(path: Path) -> str:
    name = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]
    return f".replaced-{path.name[:100]}-{name}-"


def _is_ours(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    versions = manifest.get("versions") if isinstance(manifest, dict) else None
    return isinstance(versions, dict) and "rankpipe" in versions


@contextmanager
def as_write_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses into an error of ours."""
    try:
        yield
    except (OSError, WriteError) as error:
        cause = refused(error)
        raise WriteError(f"cannot write {path}: {reason_of(cause, Path(os.path.abspath(path)).parent)}") from cause


def refused(error: OSError | WriteError) -> OSError:
    """What the operating system refused: of a folder that is being written, people do not know the single files."""
    return error if isinstance(error, OSError) else cast(OSError, error.__cause__)


def reason_of(error: OSError, own: Path) -> str:
    """What the system says, and of which file, unless that is one of ours below `own`."""
    said = os.strerror(error.errno) if error.errno else str(error)  # strerror of an error of pyarrow's is a long story
    return said + (f": {os.fsdecode(error.filename)}" if of_others(error, own) else "")


def of_others(error: OSError, own: Path) -> bool:
    """Whether an error names a file that is not below a folder."""
    name = error.filename
    return isinstance(name, (str, bytes)) and own not in Path(os.path.abspath(os.fsdecode(name))).parents


def open_to_others(folder: Path) -> None:
    """Give a folder and its files the rights that the umask leaves: mkdtemp keeps others out, and so does safetensors."""
    mask = _umask()
    os.chmod(folder, 0o777 & ~mask)
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            os.chmod(file, 0o666 & ~mask)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def aside_prefix() -> str:
    """Begin the name of a folder that is being built: by which process, and of which machine or container."""
    return f".building-{os.getpid()}-{_machine()}-"


def _machine() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:12]


def _abandoned(name: str) -> bool:
    """Whether what is left of a name, behind its dot, is of a process of this machine that lives no more."""
    _, pid, machine, *_ = [*name.split("-"), "", ""]
    return machine == _machine() and pid.isdigit() and not _alive(int(pid))


def sweep(parent: Path) -> None:
    """Remove what builds that were killed have left in a folder: hidden folders of processes that live no more.

    Those of another machine that shares the folder stay: its process ids mean nothing here. Nor do those of a container
    with this machine's name; what it builds it holds the lock of.
    """
    for path in parent.glob(f".building-*-{_machine()}-*"):
        if _abandoned(path.name):
            remove_free(path)


def remove_free(folder: Path) -> None:
    """Remove a folder, unless a process holds its lock."""
    with locked(folder, wait=False) as ours:
        if ours:
            shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: int) -> bool:
    if os.name != "posix":  # elsewhere, signal 0 is not a question
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
