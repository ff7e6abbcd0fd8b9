"""The artefact store: folders found by what made them, with a manifest, written aside and renamed.

    $RANKPIPE_HOME/KIND/DIGEST/            DIGEST = sha256 of the key, in canonical JSON; KIND may have folders in it
        manifest.json                      the key, and size and sha256 of every other file
        ...                                whatever was built

A reader sees a whole artefact or none: a build writes into a hidden folder beside it and renames it at the end, so
kill -9, a full disk or two builds at once leave nothing half-written behind a valid name.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rankpipe.errors import RankpipeError, StoreError, WriteError
from rankpipe.writing import (
    MANIFEST,
    as_write_errors,
    aside_prefix,
    building_in,
    locked,
    of_others,
    open_to_others,
    reason_of,
    refused,
    remove_free,
    replacing,
    sweep,
)

ALWAYS_HASHED = 64 << 20
"""Files up to this many bytes are hashed whenever their artefact is opened; larger ones when their time stamp moved."""
RACY_NS = 2_000_000_000
"""A file changed this recently may change again within one tick of its time stamp: its digest is not remembered."""
KEPT_NS = 7 * 24 * 3600 * 1_000_000_000
"""How long what is of no use by itself is kept: a week. A damaged artefact to look at, half of one to go on with."""
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
        sweep(parent)
        _sweep_damaged(parent)
        with building_in(parent) as aside:
            started = time.time()
            make(aside)
            open_to_others(aside)
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


def made_by(
    kind: str, alike: Callable[[Mapping[str, Any]], bool], *, damaged: Callable[[StoreError], None] | None = None
) -> list[tuple[Path, Mapping[str, Any]]]:
    """Folders and keys of the artefacts of a kind whose key is `alike`, in the order of their names.

    A key is as JSON gives it back: sequences are lists.

    damaged  is told of each that is damaged, which is left out then; without it, StoreError is raised
    """
    found = []
    for folder in sorted((home() / kind).glob("[!.]*")):
        try:
            key = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["key"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # of what made it nothing is known; who asks for it by its key hears of the damage
        try:
            if alike(key) and _verify(folder):
                found.append((folder, key))
        except StoreError as error:
            if damaged is None:
                raise
            damaged(error)
    return found


def remove(folder: Path) -> None:
    """Remove an artefact, or all of a kind, if it may be: who has it open keeps it, others find it whole or not at all."""
    sweep(folder.parent)
    gone = folder.with_name(f"{aside_prefix()}{folder.name}")
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
def unfinished(path: Path, key: Mapping[str, Any]) -> Iterator[Path]:
    """Give a hidden folder beside `path` for work that takes long: empty, or as a killed process with this key left it.

    It goes when the block ends without an error. Raises RankpipeError where it cannot be made, or where another process
    works in it.
    """
    path = Path(os.path.abspath(path))
    folder = path.with_name(f".unfinished-{path.name[:100]}-{key_digest(key)[:12]}")
    with as_write_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, wait=False) as ours:
        if not ours:
            raise RankpipeError(f"another process works on {path}, in {folder}")
        yield folder
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _storing(kind: str) -> Iterator[None]:
    """Turn what the operating system refuses into an error of the store."""
    try:
        yield
    except (OSError, WriteError) as error:
        cause, own = refused(error), Path(os.path.abspath(home()))
        reason = reason_of(cause, own)
        if cause.errno in BEYOND_ADVICE and of_others(cause, own):
            raise StoreError(f"cannot build {Path(kind).parts[0]} for the store: {reason}") from cause
        raise StoreError(
            f"cannot write {Path(kind).parts[0]} to the store {home()}: {reason}; set RANKPIPE_HOME to another folder"
        ) from cause


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


def _sweep_partial(parent: Path, but: Path) -> None:
    """Remove halves of artefacts that nobody goes on with: those that have not been written to for a while."""
    for path in parent.glob(".partial-*"):
        try:
            old = time.time_ns() - max(one.stat().st_mtime_ns for one in (path, *path.iterdir())) > KEPT_NS
        except OSError:  # it is gone
            continue
        if old and path != but:
            remove_free(path)


def _sweep_damaged(parent: Path) -> None:
    """Remove artefacts that were set aside as damaged, but for the last of each, which is kept for a while."""
    kept: set[str] = set()
    for path in sorted(parent.glob(".damaged-*"), key=lambda path: path.name, reverse=True):
        name, _, since = path.name.rpartition("-")
        if name in kept or not since.isdigit() or time.time_ns() - int(since) > KEPT_NS:
            shutil.rmtree(path, ignore_errors=True)
        kept.add(name)
