"""The artefact store: folders found by what made them, with a manifest, written aside and renamed.

    $RANKPIPE_HOME/KIND/DIGEST/            DIGEST = sha256 of the key, in canonical JSON; KIND may have folders in it
        manifest.json                      the key, and size and sha256 of every other file
        ...                                whatever was built

A reader sees a whole artefact or none: a build writes into a hidden folder beside it and renames it at the end, so
kill -9, a full disk or two builds at once leave nothing half-written behind a valid name.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import platform
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from rankpipe.errors import RankpipeError, StoreError, UsageError, WriteError

MANIFEST = "manifest.json"
ALWAYS_HASHED = 64 << 20
"""Files up to this many bytes are hashed whenever their artefact is opened; larger ones when their time stamp moved."""
RACY_NS = 2_000_000_000
"""A file changed this recently may change again within one tick of its time stamp: its digest is not remembered."""
KEPT_NS = 7 * 24 * 3600 * 1_000_000_000
"""How long what is of no use by itself is kept: a week. A damaged artefact to look at, half of one to go on with."""
STREAMS = (Path("/dev/stdout"), Path("/dev/stderr"))
"""What others write to as well, even where it leads to a file."""
BEYOND_ADVICE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO)
"""Faults of a file outside of the store that another folder for the store would not mend."""


def home() -> Path:
    """Folder of the store: $RANKPIPE_HOME, else rankpipe/ in the user's cache folder. StoreError without any."""
    if chosen := os.environ.get("RANKPIPE_HOME"):
        if (folder := os.path.expanduser(chosen)).startswith("~"):
            raise StoreError(f"RANKPIPE_HOME is {chosen!r}, and there is no such user; set it to a folder")
        return Path(folder)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if cache.startswith("~"):
        raise StoreError("there is no home folder to keep the store in; set RANKPIPE_HOME to a folder")
    return Path(cache) / "rankpipe"


def key_digest(key: Mapping[str, Any]) -> str:
    """Digest of what makes an artefact: 32 hexadecimal digits of the sha256 of its canonical JSON."""
    text = json.dumps(key, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def artefact(kind: str, key: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
    """Folder of the artefact that `key` describes, built by `make(empty folder)` if the store does not have it.

    Raises StoreError if it is damaged (it is then set aside, and built anew next time) or cannot be written.
    """
    parent = home() / kind
    folder = parent / key_digest(key)
    with _storing(kind):
        if _verify(folder):
            return folder
        parent.mkdir(parents=True, exist_ok=True)
        _sweep(parent)
        _sweep_damaged(parent)
        with _aside(parent) as aside:
            started = time.time()
            make(aside)
            _open_to_others(aside)
            digests = _write_manifest(aside, kind, key, seconds=time.time() - started)
            try:
                os.rename(aside, folder)
            except OSError:
                if not folder.exists():  # if it does, another process was first: its artefact is as good
                    raise
            else:
                _remember_large(folder, digests)
    return folder


def found(kind: str, key: Mapping[str, Any]) -> Path | None:
    """Folder of the artefact that `key` describes, if the store has it. Raises StoreError if it is damaged."""
    folder = home() / kind / key_digest(key)
    return folder if _verify(folder) else None


def has(kind: str, key: Mapping[str, Any]) -> bool:
    """Whether the store has a folder for the artefact that `key` describes; `found` looks whether it is whole, too."""
    return (home() / kind / key_digest(key)).is_dir()


def all_found(kind: str, known: Container[Path] = ()) -> list[Path]:
    """Folders of all artefacts of a kind, in the order of their names. Raises StoreError if one is damaged.

    known  those that need not be looked at again
    """
    return [folder for folder in sorted((home() / kind).glob("[!.]*")) if folder in known or _verify(folder)]


def made_by(kind: str, alike: Callable[[Mapping[str, Any]], bool]) -> list[tuple[Path, Mapping[str, Any]]]:
    """Folders and keys of the artefacts of a kind whose key is `alike`, in the order of their names.

    A key is as JSON gives it back: sequences are lists. Raises StoreError if one of them is damaged.
    """
    found = []
    for folder in sorted((home() / kind).glob("[!.]*")):
        try:
            key = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["key"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # of what made it nothing is known; who asks for it by its key hears of the damage
        if alike(key) and _verify(folder):
            found.append((folder, key))
    return found


def remove(folder: Path) -> None:
    """Remove an artefact, or all of a kind, if it may be: who has it open keeps it, others find it whole or not at all."""
    _sweep(folder.parent)
    gone = folder.with_name(f"{_aside_prefix()}{folder.name}")
    try:
        os.rename(folder, gone)
    except OSError:
        return
    shutil.rmtree(gone, ignore_errors=True)


def resumable(kind: str, key: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
    """As artefact, for builds that take long: what a killed `make(folder)` has left is there when it is called again.

    `make` gets the folder .partial-DIGEST, empty or as the last one left it, and has to see for itself what in it is
    whole (a file that was renamed into place is) and to remove what is not part of the result. One process builds at a
    time; others that want the same wait for it.
    """
    parent = home() / kind
    folder, partial = parent / key_digest(key), parent / f".partial-{key_digest(key)}"
    with _storing(kind):
        while (there := found(kind, key)) is None:
            partial.mkdir(parents=True, exist_ok=True)
            _sweep_damaged(parent)
            _sweep_partial(parent, but=partial)
            with locked(partial) as ours:
                if ours:
                    started = time.time()
                    # One that is there is of a process that was killed behind it, or had no room for it.
                    (partial / MANIFEST).unlink(missing_ok=True)
                    make(partial)
                    digests = _write_manifest(partial, kind, key, seconds=time.time() - started)
                    os.rename(partial, folder)
                    _remember_large(folder, digests)
                    return folder
    return there


def file_digest(path: Path) -> str:
    """The sha256 of a file, in hexadecimal; remembered in the store while size, time stamp and inode stay the same."""
    path = path.resolve()
    began, status = time.time_ns(), path.stat()
    try:
        remembered = json.loads(_memo(path).read_text())
        if remembered["stamp"] == _stamp(status):
            return str(remembered["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no memory of it: hash it
    digest = _sha256(path)
    if began - status.st_mtime_ns > RACY_NS and path.exists() and _stamp(path.stat()) == _stamp(status):
        _remember(path, status, digest)
    return digest


def _memo(path: Path) -> Path:
    """Where the digest of a file is remembered."""
    return home() / "digests" / hashlib.sha256(os.fsencode(path)).hexdigest()[:32]


def _stamp(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _remember(path: Path, status: os.stat_result, digest: str) -> None:
    memo = _memo(path)
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        with replacing(memo) as file:
            json.dump({"path": str(path), "stamp": _stamp(status), "sha256": digest}, file)
    except (OSError, RankpipeError):
        pass  # a store that cannot be written costs time here, nothing else


@contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file beside `path` for writing, and rename it to `path` at the end; an error leaves `path` as it was.

    Where `path` is a link, this is what it leads to. What is no file but takes what is written, as /dev/stdout or a named
    pipe does, is written to as it is.

    Raises WriteError where it cannot be written.
    """
    path = Path(path)
    if _is_device(path):
        appending = mode.replace("w", "a")
        with (
            _writing(path),
            open(
                path, appending, encoding=None if "b" in mode else "utf-8", newline=None if "b" in mode else "\n"
            ) as file,
        ):
            yield file
        return
    path = Path(os.path.realpath(path))
    with _writing(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}-", dir=path.parent)
        try:
            with os.fdopen(
                handle, mode, encoding=None if "b" in mode else "utf-8", newline=None if "b" in mode else "\n"
            ) as file:
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
    if path.is_file() or (path.is_dir() and any(path.iterdir()) and not _is_ours(path)):
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
    with _writing(path):
        check_replaceable(path, force=force)
        path = Path(os.path.abspath(path))  # "." has no folder to stand in
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        with _aside(path.parent) as aside:
            yield aside
            _open_to_others(aside)
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
def unfinished(path: Path, key: Mapping[str, Any]) -> Iterator[Path]:
    """Give a hidden folder beside `path` for work that takes long: empty, or as a killed process with this key left it.

    It goes when the block ends without an error. Raises RankpipeError where it cannot be made, or where another process
    works in it.
    """
    path = Path(os.path.abspath(path))
    folder = path.with_name(f".unfinished-{path.name[:100]}-{key_digest(key)[:12]}")
    with _writing(path):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, wait=False) as ours:
        if not ours:
            raise RankpipeError(f"another process works on {path}, in {folder}")
        yield folder
        shutil.rmtree(folder, ignore_errors=True)


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
def _aside(parent: Path) -> Iterator[Path]:
    """Give a hidden folder to build in, which is gone at the end unless it was renamed; nobody sweeps it meanwhile."""
    folder = Path(tempfile.mkdtemp(prefix=_aside_prefix(), dir=parent))
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
def _writing(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses into an error of ours."""
    try:
        yield
    except (OSError, WriteError) as error:
        cause = _refused(error)
        raise WriteError(f"cannot write {path}: {_reason(cause, Path(os.path.abspath(path)).parent)}") from cause


@contextmanager
def _storing(kind: str) -> Iterator[None]:
    """Turn what the operating system refuses into an error of the store."""
    try:
        yield
    except (OSError, WriteError) as error:
        cause, own = _refused(error), Path(os.path.abspath(home()))
        reason = _reason(cause, own)
        if cause.errno in BEYOND_ADVICE and _of_others(cause, own):
            raise StoreError(f"cannot build {Path(kind).parts[0]} for the store: {reason}") from cause
        raise StoreError(
            f"cannot write {Path(kind).parts[0]} to the store {home()}: {reason}; set RANKPIPE_HOME to another folder"
        ) from cause


def _refused(error: OSError | WriteError) -> OSError:
    """What the operating system refused: of a folder that is being written, people do not know the single files."""
    return error if isinstance(error, OSError) else cast(OSError, error.__cause__)


def _reason(error: OSError, own: Path) -> str:
    """What the system says, and of which file, unless that is one of ours below `own`."""
    said = os.strerror(error.errno) if error.errno else str(error)  # strerror of an error of pyarrow's is a long story
    return said + (f": {os.fsdecode(error.filename)}" if _of_others(error, own) else "")


def _of_others(error: OSError, own: Path) -> bool:
    """Whether an error names a file that is not below a folder."""
    name = error.filename
    return isinstance(name, (str, bytes)) and own not in Path(os.path.abspath(os.fsdecode(name))).parents


def _open_to_others(folder: Path) -> None:
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


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _write_manifest(folder: Path, kind: str, key: Mapping[str, Any], *, seconds: float) -> dict[str, str]:
    """Describe an artefact in its folder; give the sha256 of its files."""
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = {"kind": kind, "key": key, "files": files, "seconds": round(seconds, 3)}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")
    return {name: str(file["sha256"]) for name, file in files.items()}


def _remember_large(folder: Path, digests: Mapping[str, str]) -> None:
    """Remember the digests of the large files just written, so that opening them next time does not hash them again."""
    for name, digest in digests.items():
        path = (folder / name).resolve()
        if (status := path.stat()).st_size > ALWAYS_HASHED:
            _remember(path, status, digest)


def _verify(folder: Path) -> bool:
    """Compare an artefact with its manifest; False if there is none. A damaged one is set aside and raises StoreError."""
    if not folder.exists():
        return False
    try:
        fault = _fault(folder)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        fault = f"{error.strerror}: {error.filename}"
    except OSError as error:  # too many open files, say: no reason to build it anew
        raise StoreError(f"{folder} cannot be read: {error.strerror}: {error.filename}") from error
    if fault is None:
        return True
    aside = folder.with_name(f".damaged-{folder.name}-{time.time_ns()}")
    try:
        os.rename(folder, aside)
    except FileNotFoundError:  # it was removed while we looked
        return False
    except OSError:
        raise StoreError(f"{folder} is damaged: {fault}; delete it, and it is built anew") from None
    raise StoreError(f"{folder} is damaged: {fault}; it is set aside as {aside.name}, and the next run builds it anew")


def _fault(folder: Path) -> str | None:
    """How an artefact differs from its manifest, if it does. Raises OSError for what cannot be read."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        expected = {name: (file["bytes"], file["sha256"]) for name, file in manifest["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"the content of {MANIFEST} is not what was written"
    for name, (size, digest) in expected.items():
        path = folder / name
        found = path.stat().st_size
        if found != size:
            return f"{name} has {found} bytes, not {size}"
        if digest != (_sha256(path) if found <= ALWAYS_HASHED else file_digest(path)):
            return f"the content of {name} is not what was written"
    return None


def _aside_prefix() -> str:
    """Begin the name of a folder that is being built: by which process, and of which machine or container."""
    return f".building-{os.getpid()}-{_machine()}-"


def _machine() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:12]


def _abandoned(name: str) -> bool:
    """Whether what is left of a name, behind its dot, is of a process of this machine that lives no more."""
    _, pid, machine, *_ = [*name.split("-"), "", ""]
    return machine == _machine() and pid.isdigit() and not _alive(int(pid))


def _sweep(parent: Path) -> None:
    """Remove what builds that were killed have left in a folder: hidden folders of processes that live no more.

    Those of another machine that shares the folder stay: its process ids mean nothing here. Nor do those of a container
    with this machine's name; what it builds it holds the lock of.
    """
    for path in parent.glob(f".building-*-{_machine()}-*"):
        if _abandoned(path.name):
            _remove_free(path)


def _sweep_partial(parent: Path, but: Path) -> None:
    """Remove halves of artefacts that nobody goes on with: those that have not been written to for a while."""
    for path in parent.glob(".partial-*"):
        try:
            old = time.time_ns() - max(one.stat().st_mtime_ns for one in (path, *path.iterdir())) > KEPT_NS
        except OSError:  # it is gone
            continue
        if old and path != but:
            _remove_free(path)


def _remove_free(folder: Path) -> None:
    """Remove a folder, unless a process holds its lock."""
    with locked(folder, wait=False) as ours:
        if ours:
            shutil.rmtree(folder, ignore_errors=True)


def _sweep_damaged(parent: Path) -> None:
    """Remove artefacts that were set aside as damaged, but for the last of each, which is kept for a while."""
    kept: set[str] = set()
    for path in sorted(parent.glob(".damaged-*"), key=lambda path: path.name, reverse=True):
        name, _, since = path.name.rpartition("-")
        if name in kept or not since.isdigit() or time.time_ns() - int(since) > KEPT_NS:
            shutil.rmtree(path, ignore_errors=True)
        kept.add(name)


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
