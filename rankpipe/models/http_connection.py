"""A connection to an HTTP server that is kept from request to request. Each request has one moment when it is over.

http.client alone bounds the wait for each piece that comes: from a server that sends a byte now and then it would read for
ever. Neither proxies nor redirects are followed.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import selectors
import socket
import ssl
import time
from collections.abc import Mapping
from email.message import Message
from typing import Any, NamedTuple
from urllib.parse import SplitResult

BLOCK = 1 << 16
LARGEST = 16 << 20
"""Bytes that a reply may have: many times the longest answer of a language model."""


class Reply(NamedTuple):
    """What a server answered, read to its end."""

    status: int
    reason: str
    headers: Message
    body: bytes


class TooLargeError(Exception):
    """A reply has more than LARGEST bytes."""


class Connection:
    """A connection of one thread: it opens when it is first needed, and again after a failure."""

    def __init__(self, address: SplitResult, context: ssl.SSLContext | None) -> None:
        """Nothing is opened yet. context: of TLS, for https."""
        self._host, self._context = address.hostname or "", context
        self._port = address.port or (http.client.HTTP_PORT if context is None else http.client.HTTPS_PORT)
        if context is None:
            self._http = http.client.HTTPConnection(self._host, self._port)
        else:
            self._http = http.client.HTTPSConnection(self._host, self._port, context=context)
        self._path = address.path
        self._timed: _TimedSocket | None = None
        self._connecting: socket.socket | None = None
        self._aborted = False

    def post(self, body: bytes, headers: Mapping[str, str], seconds: float) -> Reply:
        """Send a request and read the reply, in so many seconds together.

        Raises OSError (TimeoutError once the time is over), http.client.HTTPException or TooLargeError; the connection
        is then closed.
        """
        deadline = time.monotonic() + seconds
        try:
            self._open(deadline)
            self._http.request("POST", self._path, body, dict(headers))
            with self._http.getresponse() as response:
                return Reply(response.status, response.reason, response.headers, _body(response))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close it; the next request opens it again."""
        self._http.close()
        self._timed = None

    def abort(self) -> None:
        """Make the request that is on its way fail, and all further ones. For other threads than that of `post`."""
        self._aborted = True
        timed = self._timed
        for one in (self._connecting, timed and timed.connected):
            if one is not None:
                with contextlib.suppress(OSError):
                    # Not the method of SSLSocket, which takes TLS from under the thread that reads.
                    socket.socket.shutdown(one, socket.SHUT_RDWR)

    def _open(self, deadline: float) -> None:
        if self._timed is not None and (self._http.sock is None or self._timed.gone()):
            self.close()
        if self._timed is None:
            self._timed = self._http.sock = _TimedSocket(self._connected(deadline))
        self._timed.deadline = deadline
        if self._aborted:
            raise ConnectionAbortedError

    def _connected(self, deadline: float) -> socket.socket:
        """A socket to the first of the host's addresses that takes one; each gets its share of the time."""
        failure = OSError(f"host {self._host} has no address")
        found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        for place, (family, kind, protocol, _, address) in enumerate(found):
            share = deadline - _left(deadline) * (1 - 1 / (len(found) - place))
            try:
                return self._reached(socket.socket(family, kind, protocol), address, share)
            except OSError as error:
                failure = error
        raise failure

    def _reached(self, one: socket.socket, address: Any, deadline: float) -> socket.socket:
        """A socket once it is connected, and speaks TLS if it is to."""
        try:
            self._connecting = one
            if self._aborted:
                raise ConnectionAbortedError
            one.settimeout(_left(deadline))
            one.connect(address)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # headers and body are two packets
            if self._context is not None:
                self._connecting = one = self._context.wrap_socket(
                    one, server_hostname=self._host, do_handshake_on_connect=False
                )
                one.settimeout(_left(deadline))
                one.do_handshake()
        except BaseException:
            one.close()
            raise
        finally:
            self._connecting = None
        return one


class _TimedSocket:
    """What http.client needs of a socket; nothing of it goes on after `deadline`, on the clock of time.monotonic."""

    def __init__(self, connected: socket.socket) -> None:
        self.connected = connected
        self.deadline = 0.0

    def sendall(self, content: bytes) -> None:
        self.connected.settimeout(_left(self.deadline))
        self.connected.sendall(content)

    def makefile(self, _: str) -> io.BufferedReader:
        return io.BufferedReader(_Received(self.connected, self.deadline))

    def close(self) -> None:
        self.connected.close()

    def gone(self) -> bool:
        """Whether the server closed it while nothing was asked; to be read there is only the end, then."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.connected, selectors.EVENT_READ)
            return bool(selector.select(0))


class _Received(io.RawIOBase):
    """What comes in from a socket until a moment."""

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        self._socket, self._deadline = connected, deadline
        self._file = connected.makefile("rb", buffering=0)  # holds the socket open when http.client has closed it

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int | None:  # type: ignore[override]  # what io.BufferedReader gives
        self._socket.settimeout(_left(self._deadline))
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


def _left(deadline: float) -> float:
    """Seconds until a moment. Raises TimeoutError if there are none."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def _body(response: http.client.HTTPResponse) -> bytes:
    if response.length is not None and response.length > LARGEST:
        raise TooLargeError
    body = bytearray()
    # Blocks, since a length that is told wrongly is otherwise noticed when it is too late.
    while block := response.read(BLOCK):
        body += block
        if len(body) > LARGEST:
            raise TooLargeError
    if response.length:  # what is missing; of a body that is read in blocks http.client does not say it itself
        raise http.client.IncompleteRead(b"", response.length)
    return bytes(body)
