"""The client of the Lucene process: starts it when it is first asked, asks it, ends it.

When the process dies, hangs or talks nonsense, the request at hand is a RankpipeError and the process is ended; the next
request starts another. What the two say to each other: lucene_server.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from rankpipe.errors import RankpipeError, UsageError


class Patience(NamedTuple):
    """Seconds after which a silent process counts as hanging; None: never.

    start   until Java runs
    answer  for one request: 64 queries, or some thousands of documents
    """

    start: float | None = 120
    answer: float | None = 600


PATIENCE = Patience()


class LuceneServer:
    """The process. It ends with this object, and by itself when our process ends in whatever way."""

    def __init__(self, command: Sequence[str] | None = None, patience: Patience = PATIENCE) -> None:
        """Nothing is started yet. command: what to start, by default rankpipe.index.lucene_server."""
        self._command = command
        self._patience = patience
        self._running: _Process | None = None
        self.lock = threading.RLock()

    def ask(self, doing: str, *, patient: bool = False, **request: Any) -> dict[str, Any]:
        """One request and its answer.

        doing    what for, as the end of "the Lucene process was killed while "
        patient  wait for the answer as long as it takes

        Raises UsageError for what the process says cannot be right, RankpipeError for all other failures.
        """
        with self.lock:
            process = self._process()
            try:
                answer = process.exchange(request, None if patient else self._patience.answer)
            except _Broken as broken:
                raise self._ended(process, broken, doing) from broken
            except BaseException:  # Ctrl-C, say: the answer still to come would be taken for that of the next request
                self.close()
                raise
            return self._checked(answer, doing)

    def close(self) -> None:
        """End the process, if it runs."""
        with self.lock:
            process, self._running = self._running, None
            if process is not None:
                process.end()

    @property
    def started(self) -> int | None:
        """Process id while it runs and may be asked from this process; it changes when another one is started."""
        running = self._running
        return running.child.pid if running is not None and running.owner == os.getpid() else None

    def _process(self) -> _Process:
        if self._running is not None and self._running.owner != os.getpid():
            self._running = None  # we are a fork: the process belongs to our parent
        if self._running is None:
            process = _Process(self._command or [sys.executable, "-m", "rankpipe.index.lucene_server"])
            try:
                answer = process.read(self._patience.start)
            except _Broken as broken:
                raise self._ended(process, broken, "starting") from broken
            except BaseException:
                process.end()
                raise
            if "ready" not in answer:
                process.end()
                self._checked(answer, "starting")
                raise self._ended(process, _nonsense(json.dumps(answer)), "starting")
            self._running = process
        return self._running

    def _ended(self, process: _Process, broken: _Broken, doing: str) -> RankpipeError:
        """End a process that is of no more use; what to say of it."""
        self._running = None
        status, said = process.end(wait=broken.gone)
        what = _how(status) if broken.gone else str(broken)
        return RankpipeError(f"the Lucene process {what} while {doing}" + (f"; its last words: {said}" if said else ""))

    def _checked(self, answer: dict[str, Any], doing: str) -> dict[str, Any]:
        if "error" not in answer:
            return answer
        error = str(answer["error"])
        if answer.get("of") == "usage":
            raise UsageError(error)
        self.close()  # Java may be in any state, above all when its memory is full
        if "OutOfMemoryError" in error:
            raise RankpipeError(
                f"Java ran out of memory while {doing} ({error}); give it more: JAVA_TOOL_OPTIONS=-Xmx4g in the environment"
            )
        raise RankpipeError(f"Lucene failed while {doing}: {error}")


class _Broken(Exception):
    """The process does not answer as agreed; gone: because it ended."""

    def __init__(self, what: str, *, gone: bool = False) -> None:
        super().__init__(what)
        self.gone = gone


def _nonsense(said: str) -> _Broken:
    return _Broken(f"said '{said if len(said) <= 60 else said[:60] + '...'}', which is no answer,")


class _Process:
    """One running process, and the socket that is its standard input and output."""

    def __init__(self, command: Sequence[str]) -> None:
        self.owner = os.getpid()
        self._socket, theirs = socket.socketpair()
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        root = str(Path(__file__).parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        # PYTHONSAFEPATH: files of the working folder are no modules.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
        try:
            with theirs:
                # A session of its own: Ctrl-C is for us, and we end it.
                self.child = subprocess.Popen(  # noqa: S603 - our own command
                    command,
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=self._errors,
                    env=environment,
                    start_new_session=True,
                )
        except OSError as error:
            self._socket.close()
            self._errors.close()
            raise RankpipeError(f"cannot start the Lucene process {command[0]}: {error.strerror}") from error
        self._lines = self._socket.makefile("rb")
        # Also at exit of the interpreter.
        self._finalizer = weakref.finalize(
            self, _end, self.child, self.owner, (self._lines, self._socket, self._errors)
        )

    def exchange(self, request: dict[str, Any], seconds: float | None) -> dict[str, Any]:
        """Send a line and read one; _Broken if that fails."""
        self._socket.settimeout(seconds)
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except TimeoutError:
            raise _Broken(f"did not take a request in {seconds:g} s and was ended") from None
        except OSError:
            raise _Broken("ended", gone=True) from None
        return self.read(seconds)

    def read(self, seconds: float | None) -> dict[str, Any]:
        """The next line it says."""
        self._socket.settimeout(seconds)
        try:
            line = self._lines.readline()
        except TimeoutError:
            raise _Broken(f"gave no answer in {seconds:g} s and was ended") from None
        except OSError:
            raise _Broken("ended", gone=True) from None
        if not line.endswith(b"\n"):
            raise _Broken("ended", gone=True)
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise _nonsense(line.decode(errors="replace").strip())
        return answer

    def end(self, *, wait: bool = False) -> tuple[int | None, str]:
        """End it, and give its exit status and the last line it wrote to standard error.

        wait: it is ending by itself. The status is None if that is not so after all.
        """
        status = None
        if wait:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = self.child.wait(5)
        if not self._errors.closed and os.getpid() == self.owner:
            self.child.kill()
            self.child.wait()
            said = _last_line(self._errors)
        else:
            said = ""
        self._finalizer()
        return status, said


def _end(child: subprocess.Popen[bytes], owner: int, ours: Sequence[IO[bytes] | socket.socket]) -> None:
    for one in ours:
        one.close()
    if os.getpid() == owner:  # in a fork, it is our parent's
        child.kill()
        child.wait()


def _last_line(file: IO[bytes]) -> str:
    file.seek(max(file.seek(0, os.SEEK_END) - 4096, 0))
    lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _how(status: int | None) -> str:
    """How a process ended, by its exit status."""
    if status is None:
        return "closed its output and was ended"
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        hint = " (by the system, if memory ran out)" if -status == signal.SIGKILL else ""
        return f"was killed by {name}{hint}"
    return f"ended with status {status}"
