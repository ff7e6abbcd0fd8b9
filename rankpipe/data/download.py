"""Files fetched over HTTP, and archives taken apart: resumed where they stopped, checked, and never outside their folder."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import socket
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from stat import S_ISLNK
from typing import Any

from rankpipe.errors import DataError, RankpipeError
from rankpipe.progress import tracked
from rankpipe.writing import locked

SCHEMES = ("http://", "https://")
BLOCK = 1 << 18
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""
TRIES = 4
"""How often a broken transfer is taken up again before it is an error."""
LARGEST_FILE = 64 << 30
"""Bytes that a file may have: several times the largest collection of the catalogue."""
LARGEST_RATIO = 200
"""Times its packed size that an archive may unpack to; text packs by 3 to 10, a bomb by 1,000."""
MOST_MEMBERS = 10_000
"""Files that an archive may hold."""


class DownloadError(RankpipeError):
    """A file that cannot be fetched: the network, the server, or what came is not what was asked for."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a server is given before it counts as broken.

    timeout  seconds without a byte
    tries    transfers, the first included; each goes on where the one before stopped
    pause    seconds before the second transfer, twice as long before each further one
    largest  bytes of the whole file
    """

    timeout: float = TIMEOUT
    tries: int = TRIES
    pause: float = 1.0
    largest: int = LARGEST_FILE


def download(url: str, path: Path, *, md5: str | None = None, limits: Limits | None = None) -> None:
    """Fetch a file to `path`, whole and with the right digest, or not at all; one that is there is not fetched again.

    What has come is kept in the folder .partial-NAME beside it, also when the process is killed, and the next call goes
    on from there if the server still has the same file (its ETag or date of change say so); otherwise it starts anew.
    One process fetches a file at a time; others that want the same wait for it.

    Raises DownloadError for what the server refuses, a transfer that keeps breaking off, a file that is too large, and
    one whose digest is not `md5`; the wrong file is deleted, so that the next call starts anew.
    """
    if not url.startswith(SCHEMES):
        raise DownloadError(f"cannot fetch {url}: only http and https are")
    part = _Part(path)
    while not path.is_file():
        part.folder.mkdir(parents=True, exist_ok=True)
        with locked(part.folder) as ours:
            if not ours:
                continue
            try:
                if not path.is_file():  # nobody was faster
                    _fetch(url, part, md5, limits or Limits())
                    os.replace(part.file, path)
            finally:
                if not part.size:
                    part.delete()


def unpack(archive: Path, folder: Path, *, largest: int = LARGEST_FILE) -> None:
    """Unpack a zip archive into an existing folder.

    Raises DataError, before anything is written, for a member that would land outside the folder, a link, one name
    twice or as file and folder, too many members, or sizes that no honest archive of texts has; and while unpacking for
    a damaged member or one that is larger than the archive says.
    """
    with open(archive, "rb") as file:
        with _damage_told(archive):
            packed = zipfile.ZipFile(file)
            members = [member for member in packed.infolist() if not member.is_dir()]
        _check_members(archive, members, largest)
        for member in members:
            _unpack_member(archive, packed, member, folder)


class _Broken(Exception):
    """A transfer that broke off and may be taken up again."""


class _Part:
    """What has come of a file, and of which version of it: two files in a folder that can be locked."""

    def __init__(self, path: Path) -> None:
        self.folder = path.with_name(f".partial-{path.name}")
        self.file = self.folder / "content"
        self._version = self.folder / "version"

    @property
    def size(self) -> int:
        """Bytes that have come."""
        return self.file.stat().st_size if self.file.exists() else 0

    @property
    def version(self) -> str:
        """ETag or date of change that the server gave with these bytes; empty if it gave none."""
        return self._version.read_text(encoding="utf-8") if self.size and self._version.exists() else ""

    def begin(self, version: str = "") -> None:
        """Empty the file and note its version."""
        self.file.write_bytes(b"")
        self._version.write_text(version, encoding="utf-8")

    def delete(self) -> None:
        """Remove the folder; whoever waits for its lock makes another one."""
        shutil.rmtree(self.folder)


def _fetch(url: str, part: _Part, md5: str | None, limits: Limits) -> None:
    """Complete the part, in as many transfers as it takes, and compare its digest."""
    reason = "it was not tried"
    for attempt in range(limits.tries):
        if attempt:
            time.sleep(limits.pause * 2 ** (attempt - 1))
        try:
            _transfer(url, part, limits)
            break
        except _Broken as broken:
            reason = str(broken)
    else:
        had = f"; {part.size:,} bytes have come and are kept, so the next try goes on from there" if part.size else ""
        raise DownloadError(f"cannot fetch {url}: {reason}, {limits.tries} times{had}")
    if md5 is not None and (found := _md5(part.file)) != md5:
        part.begin()
        raise DownloadError(f"what {url} gave has the md5 {found}, not {md5}; it was deleted")


def _transfer(url: str, part: _Part, limits: Limits) -> None:
    """One connection: append to the part what is missing of it. Raises _Broken if it should be tried again."""
    response = _answer(url, part, limits)
    if response is None:
        return
    with response:
        total = _begin(url, part, response, limits)
        _receive(part, response, total, limits)
    if total is not None and part.size < total:
        raise _Broken(f"the transfer broke off after {part.size:,} of {total:,} bytes")


def _answer(url: str, part: _Part, limits: Limits) -> Any:
    """The response that brings what is missing; None if nothing is."""
    request = urllib.request.Request(url, headers={"User-Agent": "rankpipe", "Accept-Encoding": "identity"})  # noqa: S310
    if part.version:
        request.add_header("Range", f"bytes={part.size}-")
        request.add_header("If-Range", part.version)
    try:
        return _OPENER.open(request, timeout=limits.timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # the file has no bytes beyond those that have come
            if error.headers.get("Content-Range") == f"bytes */{part.size}":
                return None
            part.begin()
            raise _Broken("the server has another file than before") from error
        if error.code in (408, 429) or error.code >= 500:
            raise _Broken(f"the server answers {error.code} {error.reason}") from error
        raise DownloadError(f"cannot fetch {url}: the server answers {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, socket.gaierror):  # no such host, or no network: not worth a wait
            raise DownloadError(f"cannot fetch {url}: {error.reason.strerror}") from error
        raise _Broken(str(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(_in_one_line(error)) from error


class _SentOn(urllib.request.HTTPRedirectHandler):
    """Follows a server that sends on to another address; not to FTP, which Python would."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.startswith(SCHEMES):
            fp.close()
            raise DownloadError(
                f"cannot fetch {req.full_url}: the server sends on to {newurl}, and only http and https are fetched"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_SentOn)


def _begin(url: str, part: _Part, response: Any, limits: Limits) -> int | None:
    """Make the part ready for what the response brings; give the size of the whole file, if it is told."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not match or int(match[1]) != part.size:
            part.begin()
            raise _Broken("the server sent another part than it was asked for")
        total = None if match[2] == "*" else int(match[2])
    else:
        length = response.headers.get("Content-Length")
        total = int(length) if length and length.isdigit() else None
        etag = response.headers.get("ETag", "")
        part.begin("" if etag.startswith("W/") else etag or response.headers.get("Last-Modified", ""))
    if total is not None and total > limits.largest:
        raise DownloadError(f"cannot fetch {url}: it has {total:,} bytes; at most {limits.largest:,} are taken")
    return total


def _receive(part: _Part, response: Any, total: int | None, limits: Limits) -> None:
    started = part.size
    with open(part.file, "ab") as file:
        for block in tracked(_received(response), (total or 0) - started, "bytes"):
            file.write(block)
            if file.tell() > limits.largest:
                raise DownloadError(f"more than {limits.largest:,} bytes have come; the transfer was stopped")


def _received(response: Any) -> Iterator[bytes]:
    """What comes. Raises _Broken for every fault of the line, so that none is taken for one of the disk."""
    try:
        # read1 gives what has come, so that a line that falls silent costs nothing that came before
        yield from _blocks(response.read1)
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(_in_one_line(error)) from error


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _blocks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while block := read(BLOCK):
        yield block


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)  # the publisher's checksum: it finds accidents, not attackers
    with open(path, "rb") as file:
        for block in _blocks(file.read):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _damage_told(archive: Path) -> Iterator[None]:
    """Turn whatever reading a zip archive raises into an error of ours. Nothing may be written within the block."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # each kind of compression has its own for damage, OSError and ValueError among them
        raise DataError(f"{archive}: not a whole zip archive: {_in_one_line(error)}") from error


def _check_members(archive: Path, members: list[zipfile.ZipInfo], largest: int) -> None:
    if len(members) > MOST_MEMBERS:
        raise DataError(f"{archive}: {len(members):,} files in it; at most {MOST_MEMBERS:,} are unpacked")
    paths: set[PurePosixPath] = set()
    for member in members:
        path = PurePosixPath(member.filename)
        odd = not path.parts or ".." in path.parts or "\\" in member.filename or ":" in member.filename
        if odd or path.is_absolute():
            raise DataError(f"{archive}: {member.filename!r} would be unpacked outside of its folder")
        if S_ISLNK(member.external_attr >> 16):
            raise DataError(f"{archive}: {member.filename!r} is a link; only plain files are unpacked")
        if path in paths:
            raise DataError(f"{archive}: {member.filename!r} is in it twice")
        paths.add(path)
    if both := next((folder for path in sorted(paths) for folder in path.parents if folder in paths), None):
        raise DataError(f"{archive}: {str(both)!r} is in it as a file and as a folder")
    packed, unpacked = archive.stat().st_size, sum(member.file_size for member in members)
    if unpacked > min(largest, packed * LARGEST_RATIO):
        raise DataError(
            f"{archive}: its {packed:,} bytes say that they unpack to {unpacked:,}, which no collection of texts does"
        )


def _unpack_member(archive: Path, packed: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> None:
    target = folder.joinpath(*PurePosixPath(member.filename).parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target, "xb") as file:
        for block in _content(archive, packed, member):
            file.write(block)


def _content(archive: Path, packed: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    """What a member holds, unpacked, a block at a time."""
    size = 0
    with _damage_told(archive), packed.open(member) as source:
        for block in _blocks(source.read):
            size += len(block)
            if size > member.file_size:
                raise DataError(f"{archive}: {member.filename!r} is larger than the archive says")
            yield block
