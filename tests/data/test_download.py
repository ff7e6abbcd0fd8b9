"""Downloads from a server of this test on the loopback address, which misbehaves in every way it is told to."""

from __future__ import annotations

import errno
import hashlib
import http.client
import io
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rankpipe.data import Dataset
from rankpipe.data.catalogue import Card, SplitCounts
from rankpipe.data.download import DownloadError, Limits, download, unpack
from rankpipe.data.sources import Archive
from rankpipe.errors import DataError, StoreError
from rankpipe.store import key_digest

CONTENT = bytes(range(256)) * 4000
MD5 = hashlib.md5(CONTENT).hexdigest()
QUICK = Limits(timeout=0.5, tries=3, pause=0.01)


@dataclass
class Server:
    """What the server has and does.

    cuts        bytes of each answer, in turn, that are sent before the line is cut
    tells_size  in an answer to a range that begins behind the end
    gate        has to be open for an answer to go on after its first half
    """

    content: bytes = CONTENT
    etag: str = '"one"'
    ranges: bool = True
    status: int = 200
    sends_on: str = ""
    cuts: list[int] = field(default_factory=list)
    stall: float = 0.0
    lie: bool = False
    tells_size: bool = True
    gate: threading.Event | None = None
    asked: list[str] = field(default_factory=list)
    url: str = ""


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
            pass

        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            server.asked.append(wanted)
            if server.sends_on and self.path == "/file.zip":
                self.send_response(302)
                self.send_header("Location", server.sends_on)
                self.end_headers()
                return
            if server.status != 200:
                self.send_error(server.status)
                return
            start = 0
            if server.ranges and wanted and self.headers.get("If-Range") == server.etag:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                if start >= len(server.content):
                    self.send_response(416)
                    if server.tells_size:
                        self.send_header("Content-Range", f"bytes */{len(server.content)}")
                    self.end_headers()
                    return
            body = server.content[start:]
            self.send_response(206 if start else 200)
            self.send_header("ETag", server.etag)
            self.send_header("Content-Length", str(len(body)))
            if start:
                told = start + 1 if server.lie else start
                self.send_header("Content-Range", f"bytes {told}-{len(server.content) - 1}/{len(server.content)}")
            self.end_headers()
            sent = server.cuts.pop(0) if server.cuts else len(body)
            self.wfile.write(body[: sent // 2])
            if server.gate:
                server.gate.wait()
            self.wfile.write(body[sent // 2 : sent])
            if server.stall and sent < len(body):
                self.wfile.flush()
                time.sleep(server.stall)

    return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    told = Server()
    listening = ThreadingHTTPServer(("127.0.0.1", 0), _handler(told))
    told.url = f"http://127.0.0.1:{listening.server_port}/file.zip"
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    yield told
    listening.shutdown()
    listening.server_close()
    thread.join()


def test_a_file_comes_whole(server: Server, tmp_path: Path) -> None:
    download(server.url, tmp_path / "file.zip", md5=MD5, limits=QUICK)
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["file.zip"]


def test_a_transfer_cut_half_way_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.cuts = [500_000, 100_000]
    download(server.url, tmp_path / "file.zip", md5=MD5, limits=QUICK)
    assert server.asked == ["", "bytes=500000-", "bytes=600000-"]
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(server: Server, tmp_path: Path) -> None:
    server.cuts = [300_000, 1000, 1000]
    with pytest.raises(DownloadError) as raised:
        download(server.url, tmp_path / "file.zip", md5=MD5, limits=QUICK)
    assert str(raised.value) == (
        f"cannot fetch {server.url}: the transfer broke off after 302,000 of 1,024,000 bytes, 3 times; "
        "302,000 bytes have come and are kept, so the next try goes on from there"
    )
    assert not (tmp_path / "file.zip").exists()
    server.asked.clear()
    download(server.url, tmp_path / "file.zip", md5=MD5, limits=QUICK)
    assert server.asked == ["bytes=302000-"]
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    server.cuts = [300_000, 0, 0]
    with pytest.raises(DownloadError):
        download(server.url, tmp_path / "file.zip", limits=QUICK)
    server.content, server.etag = b"another file", '"two"'
    download(server.url, tmp_path / "file.zip", limits=QUICK)
    assert (tmp_path / "file.zip").read_bytes() == b"another file"


def _left_whole(server: Server, path: Path) -> None:
    """Leave what a process leaves that is killed between the last byte and the new name."""
    path.mkdir()  # so that the new name cannot be given
    with pytest.raises(IsADirectoryError):
        download(server.url, path, limits=QUICK)
    path.rmdir()
    server.asked.clear()


def test_a_file_that_had_come_whole_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    _left_whole(server, tmp_path / "file.zip")
    download(server.url, tmp_path / "file.zip", md5=MD5, limits=QUICK)
    assert server.asked == ["bytes=1024000-"]
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["file.zip"]


def test_a_file_that_had_come_whole_is_compared_with_its_checksum(server: Server, tmp_path: Path) -> None:
    _left_whole(server, tmp_path / "file.zip")
    with pytest.raises(DownloadError, match=f"^what {server.url} gave has the md5 {MD5}, not 0{{32}}; it was deleted$"):
        download(server.url, tmp_path / "file.zip", md5="0" * 32, limits=QUICK)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("size", "tells_size"), [(1000, True), (1_024_000, False)])
def test_a_file_of_which_more_has_come_than_there_is_or_nobody_knows_is_fetched_anew(
    server: Server, tmp_path: Path, size: int, tells_size: bool
) -> None:
    _left_whole(server, tmp_path / "file.zip")
    server.content, server.tells_size = CONTENT[:size], tells_size
    download(server.url, tmp_path / "file.zip", limits=QUICK)
    assert server.asked == ["bytes=1024000-", ""]
    assert (tmp_path / "file.zip").read_bytes() == CONTENT[:size]


def test_a_server_that_cannot_resume_is_asked_for_all_of_it_again(server: Server, tmp_path: Path) -> None:
    server.ranges, server.cuts = False, [500_000]
    download(server.url, tmp_path / "file.zip", md5=MD5, limits=QUICK)
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


def test_a_server_that_sends_another_part_than_asked_for_is_not_believed(server: Server, tmp_path: Path) -> None:
    server.cuts, server.lie = [500_000], True
    download(server.url, tmp_path / "file.zip", md5=MD5, limits=QUICK)
    assert server.asked == ["", "bytes=500000-", ""]
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


DOWNLOAD = """
import sys
from pathlib import Path
from rankpipe.data.download import download

download(sys.argv[1], Path(sys.argv[2]), md5=sys.argv[3])
"""
READ = """
import sys
from rankpipe.data.catalogue import Card, SplitCounts
from rankpipe.data.sources import Archive

counts = {"test": SplitCounts(queries=1, judgements=1)}
card = Card(name="beir/tiny", source=sys.argv[1], md5=sys.argv[3], documents=2, splits=counts)
assert len(Archive(card).corpus()) == 2
"""


@pytest.mark.skipif(os.name != "posix", reason="the lock is POSIX's")
@pytest.mark.parametrize("script", [DOWNLOAD, READ])
def test_of_two_processes_one_fetches_and_the_other_waits_for_it(server: Server, tmp_path: Path, script: str) -> None:
    server.content, server.gate = _beir_zip(), threading.Event()
    md5 = hashlib.md5(server.content).hexdigest()
    command = [sys.executable, "-c", script, server.url, tmp_path / "file.zip", md5]
    with subprocess.Popen(command) as first:
        while not server.asked:
            assert first.poll() is None
            time.sleep(0.01)
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as second:
            assert second.stderr is not None
            told = second.stderr.readline()
            server.gate.set()
            after = second.stderr.read()
    assert told.startswith("waiting for another process, which builds ")
    assert (first.returncode, second.returncode, after) == (0, 0, "")
    assert server.asked == [""]


def test_a_file_that_is_there_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.zip").write_bytes(b"whole")
    download(server.url, tmp_path / "file.zip", md5=MD5, limits=QUICK)
    assert server.asked == []
    assert (tmp_path / "file.zip").read_bytes() == b"whole"


def test_a_wrong_checksum_deletes_the_file(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as raised:
        download(server.url, tmp_path / "file.zip", md5="0" * 32, limits=QUICK)
    assert str(raised.value) == f"what {server.url} gave has the md5 {MD5}, not {'0' * 32}; it was deleted"
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_there_is_said_at_once(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(DownloadError) as raised:
        download(server.url, tmp_path / "file.zip", limits=QUICK)
    assert str(raised.value) == f"cannot fetch {server.url}: the server answers 404 Not Found"
    assert len(server.asked) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_server_in_trouble_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.status = 503
    with pytest.raises(DownloadError) as raised:
        download(server.url, tmp_path / "file.zip", limits=QUICK)
    assert str(raised.value) == f"cannot fetch {server.url}: the server answers 503 Service Unavailable, 3 times"
    assert len(server.asked) == 3


def test_a_server_that_falls_silent_is_given_up(server: Server, tmp_path: Path) -> None:
    server.cuts, server.stall = [1000, 1000, 1000], 2.0
    with pytest.raises(DownloadError, match="timed out, 3 times; 3,000 bytes have come and are kept"):
        download(server.url, tmp_path / "file.zip", limits=QUICK)


@pytest.mark.parametrize(
    "fault",
    [
        ssl.SSLError(1, "[SSL: DECRYPTION_FAILED_OR_BAD_RECORD_MAC] decryption failed or bad record mac"),
        OSError(errno.EHOSTUNREACH, "No route to host"),
        TimeoutError("timed out"),
        http.client.IncompleteRead(b""),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_a_line_that_fails_in_any_way_is_taken_up_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    read, faults = http.client.HTTPResponse.read1, [None, fault]  # after the first block

    def faulty(response: http.client.HTTPResponse, n: int = -1) -> bytes:
        if faults and (now := faults.pop(0)):
            raise now
        return read(response, min(n, 1000))

    monkeypatch.setattr(http.client.HTTPResponse, "read1", faulty)
    download(server.url, tmp_path / "file.zip", md5=MD5, limits=QUICK)
    assert server.asked == ["", "bytes=1000-"]
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


def test_a_server_that_answers_no_http_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            for _ in range(QUICK.tries):
                with listening.accept()[0] as line:
                    line.recv(1000)
                    line.sendall(b"no HTTP\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/file.zip"
        with pytest.raises(DownloadError) as raised:
            download(url, tmp_path / "file.zip", limits=QUICK)
        thread.join()
    assert str(raised.value) == f"cannot fetch {url}: no HTTP, 3 times"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_the_stores_error_and_not_the_networks(server: Server, store: Path) -> None:
    part = store / "downloads" / f".partial-{MD5}.zip"
    part.mkdir(parents=True)
    (part / "content").symlink_to("/dev/full")
    with pytest.raises(StoreError) as raised:
        Archive(Card(name="beir/tiny", source=server.url, md5=MD5)).corpus()
    assert str(raised.value) == (
        f"cannot write archives to the store {store}: No space left on device; set RANKPIPE_HOME to another folder"
    )
    assert len(server.asked) == 1


def test_no_server_at_all_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as raised:
        download("http://127.0.0.1:9/file.zip", tmp_path / "file.zip", limits=QUICK)
    assert str(raised.value) == ("cannot fetch http://127.0.0.1:9/file.zip: [Errno 111] Connection refused, 3 times")


def test_a_file_above_the_limit_is_refused_before_it_comes(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as raised:
        download(server.url, tmp_path / "file.zip", limits=Limits(largest=1000))
    assert str(raised.value) == f"cannot fetch {server.url}: it has 1,024,000 bytes; at most 1,000 are taken"


def test_other_addresses_than_http_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as raised:
        download("file:///etc/passwd", tmp_path / "file.zip")
    assert str(raised.value) == "cannot fetch file:///etc/passwd: only http and https are"


def _zip(path: Path, members: dict[str, bytes], *, link: str | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        if link:
            member = zipfile.ZipInfo(link)
            member.external_attr = 0o120777 << 16
            archive.writestr(member, "/etc/passwd")
    return path


def _refusal(archive: Path, folder: Path) -> str:
    folder.mkdir()
    with pytest.raises(DataError) as raised:
        unpack(archive, folder)
    assert list(folder.rglob("*")) == []
    return str(raised.value).removeprefix(f"{archive}: ")


def test_a_server_may_send_on_to_http_alone(server: Server, tmp_path: Path) -> None:
    server.sends_on = f"{server.url}-elsewhere"
    download(server.url, tmp_path / "file", md5=MD5, limits=QUICK)
    assert (tmp_path / "file").read_bytes() == CONTENT
    for address in ("ftp://127.0.0.1/file", "file:///etc/hostname"):
        server.sends_on = address
        with pytest.raises(DownloadError, match=f"cannot fetch {server.url}: the server .*{address}.*"):
            download(server.url, tmp_path / "other", limits=QUICK)
        assert not (tmp_path / "other").exists()


def test_an_archive_is_unpacked_with_its_folders(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "a.zip", {"set/corpus.jsonl": b"{}\n", "set/qrels/test.tsv": b"x"})
    (tmp_path / "to").mkdir()
    unpack(archive, tmp_path / "to")
    assert (tmp_path / "to/set/corpus.jsonl").read_bytes() == b"{}\n"
    assert (tmp_path / "to/set/qrels/test.tsv").read_bytes() == b"x"


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "C:evil", "..\\evil", "."])
def test_a_member_outside_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    archive = _zip(tmp_path / "a.zip", {"good": b"x", name: b"x"})
    assert _refusal(archive, tmp_path / "to") == f"{name!r} would be unpacked outside of its folder"


def test_a_link_is_refused(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "a.zip", {"good": b"x"}, link="passwd")
    assert _refusal(archive, tmp_path / "to") == "'passwd' is a link; only plain files are unpacked"


def test_a_bomb_is_refused_before_it_goes_off(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "a.zip", {"bomb": bytes(50_000_000)})
    assert _refusal(archive, tmp_path / "to") == (
        f"its {archive.stat().st_size:,} bytes say that they unpack to 50,000,000, which no collection of texts does"
    )


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "a.zip", {"a": bytes(range(256)) * 100})
    archive.write_bytes(archive.read_bytes()[:100])
    assert _refusal(archive, tmp_path / "to") == "not a whole zip archive: File is not a zip file"


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["a", "a/b"], "'a' is in it as a file and as a folder"),
        (["a/b/c", "a/b"], "'a/b' is in it as a file and as a folder"),
        (["a/b", "a//b"], "'a//b' is in it twice"),
        (["a/b", "a/./b"], "'a/./b' is in it twice"),
    ],
)
def test_two_members_that_cannot_both_be_unpacked_are_refused(tmp_path: Path, names: list[str], says: str) -> None:
    archive = _zip(tmp_path / "a.zip", dict.fromkeys(names, b"x"))
    assert _refusal(archive, tmp_path / "to") == says


def _damaged(method: int, at: int, damage: bytes) -> bytes:
    """An archive with one member, some of whose packed bytes are others."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        archive.writestr("a", " ".join(str(number * 7919 % 10007) for number in range(2000)))
    content = packed.getvalue()
    return content[:at] + damage + content[at + len(damage) :]


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        (zipfile.ZIP_STORED, "Bad CRC-32 for file 'a'"),
        (zipfile.ZIP_DEFLATED, "Error -3 while decompressing data: "),
        (zipfile.ZIP_BZIP2, "Invalid data stream"),
        (zipfile.ZIP_LZMA, "Corrupt input data"),
    ],
)
def test_a_damaged_member_is_an_error(tmp_path: Path, method: int, reason: str) -> None:
    (tmp_path / "a.zip").write_bytes(_damaged(method, 1000, b"\xff" * 50))
    (tmp_path / "to").mkdir()
    with pytest.raises(DataError) as raised:
        unpack(tmp_path / "a.zip", tmp_path / "to")
    assert str(raised.value).startswith(f"{tmp_path / 'a.zip'}: not a whole zip archive: {reason}")


def test_a_member_whose_name_is_no_text_is_an_error(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "a.zip", {"é": b"x"})
    archive.write_bytes(archive.read_bytes().replace("é".encode(), b"\xe9\xe9"))
    assert _refusal(archive, tmp_path / "to").startswith(
        "not a whole zip archive: 'utf-8' codec can't decode byte 0xe9"
    )


def _beir_zip(folder: str = "tiny", documents: int = 2) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        lines = "".join(f'{{"_id": "d{n}", "title": "", "text": "text {n}"}}\n' for n in range(documents))
        archive.writestr(f"{folder}/corpus.jsonl", lines)
        archive.writestr(f"{folder}/queries.jsonl", '{"_id": "q", "text": "text 1"}\n')
        archive.writestr(f"{folder}/qrels/test.tsv", "query-id\tcorpus-id\tscore\nq\td1\t1\n")
    return packed.getvalue()


def _card(server: Server, documents: int = 2) -> Card:
    return Card(
        name="beir/tiny",
        source=server.url,
        md5=hashlib.md5(server.content).hexdigest(),
        documents=documents,
        splits={"test": SplitCounts(queries=1, judgements=1)},
    )


def test_a_data_set_is_fetched_once_when_something_of_it_is_asked_for(server: Server, store: Path) -> None:
    server.content = _beir_zip()
    source = Archive(_card(server))
    assert source.splits == ("test",)
    assert server.asked == []
    dataset = Dataset("beir/tiny", source.card, source)
    assert dataset.corpus.texts([0, 1]) == ["text 0", "text 1"]
    assert dict(dataset.qrels("test")["q"]) == {"d1": 1}
    assert dataset.queries("test")["q"] == "text 1"
    assert server.asked == [""]
    assert list((store / "downloads").iterdir()) == []


def test_an_archive_with_other_counts_than_the_card_is_refused(server: Server) -> None:
    server.content = _beir_zip(documents=3)
    with pytest.raises(DataError) as raised:
        Archive(_card(server)).corpus()
    assert str(raised.value) == f"{server.url} is not the 'beir/tiny' of the catalogue: 3 documents, not 2"


def test_of_several_data_sets_in_an_archive_the_one_of_that_name_is_meant(server: Server) -> None:
    packed = io.BytesIO(_beir_zip("all/tiny"))
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("all/other/corpus.jsonl", '{"_id": "x", "text": "y"}\n')
    server.content = packed.getvalue()
    assert len(Archive(_card(server)).corpus()) == 2


def test_a_damaged_archive_is_told_again_leaves_nothing_unpacked_and_is_not_fetched_again(
    server: Server, store: Path
) -> None:
    server.content = _damaged(zipfile.ZIP_DEFLATED, 1000, b"\xff" * 50)
    for _ in range(2):
        with pytest.raises(DataError, match=r"\.zip: not a whole zip archive: Error -3 while decompressing data"):
            Archive(_card(server)).corpus()
    assert server.asked == [""]
    assert [path for path in (store / "archives").rglob("*") if path.is_file()] == []


def test_what_was_unpacked_when_a_process_was_killed_is_unpacked_anew(server: Server, store: Path) -> None:
    server.content = _beir_zip()
    source = Archive(_card(server))
    key = {"url": server.url, "md5": source.card.md5}
    left = store / "archives" / f".partial-{key_digest(key)}" / "files" / "tiny" / "corpus.jsonl"
    left.parent.mkdir(parents=True)
    left.write_text('{"_id": "d0"')
    assert source.corpus().texts([0, 1]) == ["text 0", "text 1"]


def test_what_cannot_be_fetched_says_what_else_can_be_done(server: Server) -> None:
    server.status = 404
    with pytest.raises(DownloadError) as raised:
        Archive(_card(server), help_text="bring it as a folder").corpus()
    assert str(raised.value) == (f"cannot fetch {server.url}: the server answers 404 Not Found; bring it as a folder")
