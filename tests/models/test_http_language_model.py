"""A model behind a server of this test, which answers as OpenAI's do and misbehaves in every way it is told to."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from email.message import Message
from email.utils import format_datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from rankpipe.errors import RankpipeError, UsageError
from rankpipe.models.completions import answer_seed
from rankpipe.models.endpoint import Endpoint
from rankpipe.models.http_connection import LARGEST, Connection
from rankpipe.models.http_exchange import seconds_asked
from rankpipe.models.http_language_model import Backoff, HttpLanguageModel
from rankpipe.models.language_model import Answer, Chat, Writer, Writing

KEY = "sk-1234567890-secret"
SHORT = Writing(longest=20)


class Asked(NamedTuple):
    """A request that came. connection: by which, as the address of the client."""

    question: dict[str, Any]
    path: str
    headers: Message
    connection: tuple[str, int]

    @property
    def user(self) -> str:
        return next(one["content"] for one in self.question["messages"] if one["role"] == "user")

    @property
    def seed(self) -> int:
        return self.question["seed"]


class Handler(BaseHTTPRequestHandler):
    """One connection to the server; it stays open until someone closes it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    told: Server
    asked: Asked

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
        pass

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked = Asked(question, self.path, self.headers, self.client_address)
        self.told.asked.append(self.asked)
        try:
            step = self.told.steps.popleft()
        except IndexError:
            step = self.told.always
        with contextlib.suppress(ConnectionError):
            step(self)

    def reply(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def hang_up(self) -> None:
        """Close the half of the connection by which answers go."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_WR)


Step = Callable[[Handler], None]


def completion(text: object, finish: str = "stop", **more: object) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return json.dumps({"object": "chat.completion", "choices": [choice], **more}).encode()


def echo(handler: Handler) -> None:
    """Answer with the question, and the seed by which answers to one question differ."""
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    handler.reply(completion(f"{handler.asked.user} {handler.asked.seed}", usage=usage))


def says(body: bytes, status: int = 200, **headers: str) -> Step:
    return lambda handler: handler.reply(body, status, **headers)


def raw(content: bytes) -> Step:
    """Send bytes and close the connection."""

    def send(handler: Handler) -> None:
        handler.wfile.write(content)
        handler.hang_up()

    return send


def resets(handler: Handler) -> None:
    """Break the connection off as a process that dies does."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    os.close(handler.connection.detach())


def silent(handler: Handler) -> None:
    handler.told.over.wait()


def drips(beginning: bytes) -> Step:
    """Send a beginning and then a byte now and then, for ever."""

    def send(handler: Handler) -> None:
        handler.wfile.write(beginning)
        while not handler.told.over.wait(0.02):
            handler.wfile.write(b"x")

    return send


def floods(beginning: bytes, block: bytes) -> Step:
    """Send a beginning and then a block again and again, for ever."""

    def send(handler: Handler) -> None:
        handler.wfile.write(beginning)
        while not handler.told.over.is_set():
            handler.wfile.write(block)

    return send


class Server(ThreadingHTTPServer):
    """What the server does: the steps in turn, and then one always."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), type("Told", (Handler,), {"told": self}))
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.steps: deque[Step] = deque()
        self.always: Step = echo
        self.asked: list[Asked] = []
        self.over = threading.Event()

    @property
    def full_url(self) -> str:
        return f"{self.url}/chat/completions"

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, serve: Callable[[ThreadingHTTPServer], None]) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    told = Server()
    serve(told)
    yield told
    told.over.set()
    wait_for_threads(0)


@pytest.fixture
def keys() -> Iterator[None]:
    """Ctrl-C interrupts, also where the tests run in the background of a shell, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def opened(server: Server, **settings: Any) -> HttpLanguageModel:
    endpoint = Endpoint(**{"url": server.url, "timeout": 20.0, "retries": 2, "concurrency": 1, **settings})
    return HttpLanguageModel("tiny", endpoint, Backoff(first=0.001, longest=0.01))


def chats(count: int) -> list[Chat]:
    return [Chat(f"q{number}") for number in range(count)]


def wait_for_threads(count: int) -> None:
    """Until only so many threads of models are left."""
    for _ in range(2000):
        if sum(thread.name == "rankpipe-http" for thread in threading.enumerate()) <= count:
            return
        time.sleep(0.005)
    raise AssertionError(f"more than {count} threads are left")


def failure(model: HttpLanguageModel, count: int = 1, **more: Any) -> str:
    with pytest.raises(RankpipeError) as raised:
        model.write(chats(count), SHORT, **more)
    assert KEY not in str(raised.value)
    return str(raised.value)


# What is asked


def test_it_is_a_writer_whose_key_is_its_name_and_address(server: Server) -> None:
    model: Writer = opened(server, timeout=3, concurrency=9)
    assert model.key() == {"model": "tiny", "url": server.url}
    assert opened(server, length_field="max_completion_tokens").key() == {
        **model.key(),
        "length_field": "max_completion_tokens",
    }
    assert opened(server, fields={"seed": None}).key() == {**model.key(), "fields": {"seed": None}}
    assert KEY not in repr(model)
    assert KEY not in repr(vars(model))


def test_a_request_is_plain_json(server: Server) -> None:
    writing = Writing(longest=5, count=2, temperature=0.7, top_p=0.9, seed=40, stop=("\n", "END"))
    opened(server).write([Chat("Was heißt ∅?", "Be brief.", "It is")], writing)
    assert [one.question for one in server.asked] == [
        {
            "model": "tiny",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Was heißt ∅?"},
                {"role": "assistant", "content": "It is"},
            ],
            "max_tokens": 5,
            "temperature": 0.7,
            "top_p": 0.9,
            "seed": seed,
            "stop": ["\n", "END"],
        }
        for seed in (40, answer_seed(40, 1))
    ]
    first = server.asked[0]
    assert (first.path, first.headers["Authorization"]) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert first.headers["Content-Type"] == "application/json"


def test_what_is_empty_is_not_sent(server: Server) -> None:
    opened(server, key_variable="NO_SUCH_KEY").write([Chat("")], SHORT)
    assert server.asked[0].question == {
        "model": "tiny",
        "messages": [{"role": "user", "content": ""}],
        "max_tokens": 20,
        "temperature": 0.0,
        "top_p": 1.0,
        "seed": 0,
    }
    assert "Authorization" not in server.asked[0].headers


def test_the_field_that_limits_an_answer_has_the_name_that_the_server_knows(server: Server) -> None:
    opened(server, length_field="max_completion_tokens").write(chats(1), SHORT)
    assert server.asked[0].question["max_completion_tokens"] == 20
    assert "max_tokens" not in server.asked[0].question


def test_fields_are_sent_beside_and_instead_of_the_others_or_left_out(server: Server) -> None:
    fields = {"temperature": None, "top_p": 0.5, "chat_template_kwargs": {"enable_thinking": False}}
    opened(server, fields=fields).write(chats(1), SHORT)
    assert server.asked[0].question == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "q0"}],
        "max_tokens": 20,
        "top_p": 0.5,
        "seed": 0,
        "chat_template_kwargs": {"enable_thinking": False},
    }


def test_half_a_character_is_sent_as_one_that_a_server_can_read(server: Server) -> None:
    opened(server).write([Chat("a \ud83d b 😀")], SHORT)
    assert server.asked[0].user == "a \ufffd b 😀"


def test_nothing_is_asked_for_no_chats(server: Server) -> None:
    assert opened(server).write([], SHORT) == []
    assert server.asked == []


def test_a_key_of_several_lines_is_refused_and_not_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n{KEY}")
    with pytest.raises(UsageError) as raised:
        opened(server).write(chats(1), SHORT)
    assert str(raised.value) == "the environment variable 'OPENAI_API_KEY' holds no key: it is one line of plain ASCII"


def test_a_line_break_at_the_end_of_the_key_does_no_harm(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")
    opened(server).write(chats(1), SHORT)
    assert server.asked[0].headers["Authorization"] == f"Bearer {KEY}"


# Order and concurrency


def test_answers_stand_in_the_order_of_the_chats_and_are_told_as_they_come(server: Server) -> None:
    together, known = threading.Barrier(3), [threading.Event() for _ in range(4)]
    known[3].set()

    def last_first(handler: Handler) -> None:
        together.wait(10)
        known[int(handler.asked.user[1:]) + 1].wait(10)
        echo(handler)

    places: list[int] = []

    def answered(place: int, answers: list[Answer]) -> None:
        assert [answer.text for answer in answers] == [f"q{place} 0"]
        places.append(place)
        known[place].set()

    server.always = last_first
    written = opened(server, concurrency=3).write(chats(3), SHORT, answered)
    assert [[answer.text for answer in answers] for answers in written] == [["q0 0"], ["q1 0"], ["q2 0"]]
    assert places == [2, 1, 0]


def test_a_chat_is_told_once_all_its_answers_are_there(server: Server) -> None:
    calls: list[tuple[int, list[str]]] = []
    threads: set[threading.Thread] = set()

    def answered(place: int, answers: list[Answer]) -> None:
        calls.append((place, [answer.text for answer in answers]))
        threads.add(threading.current_thread())

    written = opened(server, concurrency=8).write(chats(9), Writing(longest=5, count=3, seed=10), answered)
    assert sorted(calls) == [
        (place, [f"q{place} {answer_seed(10, number)}" for number in range(3)]) for place in range(9)
    ]
    assert [[answer.text for answer in answers] for answers in written] == [texts for _, texts in sorted(calls)]
    assert threads == {threading.current_thread()}


def test_nothing_is_sent_twice_when_nothing_fails(server: Server) -> None:
    model = opened(server, concurrency=8)
    model.write(chats(40), Writing(longest=5, count=2))
    sent = Counter((one.user, one.seed) for one in server.asked)
    assert sent == {(f"q{place}", seed): 1 for place in range(40) for seed in (0, answer_seed(0, 1))}
    assert model.counts() == {"requests": 80, "retries": 0, "prompt_tokens": 560, "tokens": 240}
    assert len({one.connection for one in server.asked}) <= 8


def test_a_thread_keeps_its_connection(server: Server) -> None:
    server.steps.extend([echo, says(b"busy", 503), says(b"", 500), echo])
    opened(server).write(chats(4), SHORT)
    assert len({one.connection for one in server.asked}) == 1


def test_a_connection_that_the_server_closed_meanwhile_is_opened_anew(server: Server) -> None:
    closed = threading.Event()

    def answer_and_leave(handler: Handler) -> None:
        echo(handler)
        handler.hang_up()
        closed.set()

    server.steps.append(answer_and_leave)
    connection = Connection(urlsplit(server.full_url), None)
    for _ in range(2):
        question = json.dumps({"messages": [{"role": "user", "content": "q"}], "seed": 0}).encode()
        assert connection.post(question, {}, 10.0).status == 200
        closed.wait(10)
    connection.close()
    assert len({one.connection for one in server.asked}) == 2


# What an answer is made of: more of it in test_completions.py


def told(server: Server, body: bytes, *stop: str) -> Answer:
    """The answer that is made of a body."""
    server.steps.append(says(body))
    return opened(server).write(chats(1), Writing(longest=20, stop=stop))[0][0]


def test_a_completion_becomes_an_answer(server: Server) -> None:
    body = completion("some text", usage={"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17})
    assert told(server, body) == Answer("some text", ended=True, prompt_tokens=12, tokens=5)
    assert told(server, completion("some te", "length")) == Answer("some te", ended=False)


def test_an_answer_that_is_empty_endless_or_no_text_is_an_answer(server: Server) -> None:
    assert told(server, completion(None)) == Answer("", ended=True)
    assert told(server, completion("again " * 100_000, "length")) == Answer("again " * 100_000, ended=False)
    assert told(server, completion("a caf? text").replace(b"?", b"\xe9\xff")).text == "a caf\ufffd\ufffd text"
    assert told(server, completion("half \ud83d a character")).text == "half \ufffd a character"


def test_a_server_that_leaves_a_stop_text_in_is_cut(server: Server) -> None:
    assert told(server, completion("one END two", "length"), "END") == Answer("one ", ended=True)


# Failures that may pass


BAD_BODIES = {
    b"<html>\n  <b>Welcome</b>\x1b[31m": "answers with what is no JSON: <html> <b>Welcome</b> [31m",
    completion("text")[:-4]: f"answers with what is no JSON: {completion('text')[:-4].decode()}",
    b"": "answers with what is no JSON: nothing",
    b'{"choices": []}': 'answers with JSON that is no completion: {"choices": []}',
    b'{"error": {"message": "out of memory"}}': "answers with JSON that is no completion: out of memory",
    b"[" * 5000: f"answers with what is no JSON: {'[' * 270}...",
}
ANSWER = completion("text")
HEAD = b"HTTP/1.1 200 OK\r\n"
BROKEN = {
    "nothing": b"",
    "half a status": b"HTTP/1.",
    "half a body": HEAD + b"Content-Length: 1000\r\n\r\n" + ANSWER,
    "all but a byte": HEAD + b"Content-Length: %d\r\n\r\n" % len(ANSWER) + ANSWER[:-1],
    "a chunk and no end": HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(ANSWER), ANSWER),
    "half a chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s" % (len(ANSWER) + 1, ANSWER),
    "no chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nmany\r\n" + ANSWER,
    "half of the headers": HEAD + b"Content-Le",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a long header": HEAD + b"X: " + b"x" * 70_000,
}


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_a_status_that_may_pass_is_asked_again(server: Server, status: int) -> None:
    server.steps.extend([says(b"busy", status), says(b"busy", status)])
    model = opened(server)
    assert model.write(chats(2), SHORT) == [[Answer(f"q{place} 0", True, 7, 3)] for place in range(2)]
    assert [one.user for one in server.asked] == ["q0", "q0", "q0", "q1"]
    assert model.counts() == {"requests": 4, "retries": 2, "prompt_tokens": 14, "tokens": 6}


@pytest.mark.parametrize("body", BAD_BODIES, ids=range(len(BAD_BODIES)))
def test_a_body_that_is_no_completion_is_asked_for_again(server: Server, body: bytes) -> None:
    server.steps.extend([says(body), echo])
    assert opened(server).write(chats(1), SHORT)[0][0].text == "q0 0"
    server.always = says(body)
    assert failure(opened(server, retries=1)) == f"{server.full_url} {BAD_BODIES[body]}; tried 2 times"


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_an_answer_that_breaks_off_is_asked_for_again(server: Server, content: bytes) -> None:
    server.steps.extend([raw(content), echo, raw(content), raw(content), echo])
    model = opened(server)
    assert [answers[0].text for answers in model.write(chats(3), SHORT)] == ["q0 0", "q1 0", "q2 0"]
    assert model.counts()["retries"] == 3


@pytest.mark.parametrize("name", ["nothing", "half a body", "all but a byte", "a chunk and no end", "reset"])
def test_a_server_that_always_breaks_off_is_said(server: Server, name: str) -> None:
    server.always = resets if name == "reset" else raw(BROKEN[name])
    assert failure(opened(server)) == (
        f"{server.full_url} closed the connection before its answer was whole; tried 3 times"
    )


def test_a_server_of_another_kind_is_said(server: Server) -> None:
    server.always = raw(BROKEN["no HTTP"])
    assert (
        failure(opened(server)) == f"{server.full_url} answers with what is no HTTP: SSH-2.0-OpenSSH_9.2; tried 3 times"
    )


def test_an_answer_to_the_end_of_the_connection_and_one_in_chunks_are_read(server: Server) -> None:
    half = len(ANSWER) // 2
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (ANSWER[:half], ANSWER[half:], b""))
    server.steps.extend([raw(HEAD + b"\r\n" + ANSWER), raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)])
    model = opened(server)
    assert [answers[0].text for answers in model.write(chats(2), SHORT)] == ["text", "text"]
    assert model.counts()["retries"] == 0


def test_trouble_that_does_not_pass_is_said(server: Server) -> None:
    server.always = says(b'{"error": {"message": "CUDA out of memory"}}', 500)
    assert failure(opened(server)) == (
        f"{server.full_url} answers 500 Internal Server Error: CUDA out of memory; tried 3 times"
    )
    assert len(server.asked) == 3
    server.always = says(b"", 503)
    assert failure(opened(server, retries=0)) == f"{server.full_url} answers 503 Service Unavailable; tried once"


@pytest.mark.parametrize(
    "step",
    [
        silent,
        drips(HEAD + b"Content-Length: 1000\r\n\r\n"),
        drips(HEAD + b"\r\n"),
        drips(HEAD + b"X: "),
        drips(b"HTTP/1.1 200 "),
    ],
    ids=["silent", "body of a length", "body", "header", "status"],
)
def test_a_request_has_so_much_time_whether_bytes_come_or_not(server: Server, step: Step) -> None:
    server.steps.extend([step, echo])
    assert opened(server, timeout=0.2, retries=9).write(chats(1), SHORT)[0][0].text == "q0 0"
    server.always = step
    assert failure(opened(server, timeout=0.2, retries=1)) == (
        f"{server.full_url} gave no answer in 0.2 s (a slow model needs a longer 'timeout'); tried 2 times"
    )


@contextlib.contextmanager
def accepting_nobody() -> Iterator[str]:
    """Address of a server whose queue of those who wait is full."""
    with socket.socket() as busy, contextlib.ExitStack() as waiting:
        busy.bind(("127.0.0.1", 0))
        busy.listen(0)
        for _ in range(4):
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(busy.getsockname())
        yield f"http://127.0.0.1:{busy.getsockname()[1]}"


@contextlib.contextmanager
def mute() -> Iterator[str]:
    """Address of a server that never says a word of TLS."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"https://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.skipif(sys.platform != "linux", reason="a full queue is another matter elsewhere")
def test_a_server_that_accepts_nobody_is_given_up(server: Server) -> None:
    with accepting_nobody() as url:
        assert failure(opened(server, url=url, timeout=0.2, retries=1)) == (
            f"{url}/chat/completions gave no answer in 0.2 s (a slow model needs a longer 'timeout'); tried 2 times"
        )


@pytest.mark.skipif(sys.platform != "linux", reason="a full queue is another matter elsewhere")
def test_an_address_that_accepts_nobody_does_not_keep_the_next_one_waiting(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with accepting_nobody() as url:
        dead = socket.getaddrinfo("127.0.0.1", urlsplit(url).port, type=socket.SOCK_STREAM)
        living = socket.getaddrinfo("127.0.0.1", urlsplit(server.url).port, type=socket.SOCK_STREAM)
        monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [*dead, *living])  # a host of two addresses
        opened(server, timeout=1.0, retries=0).write(chats(1), SHORT)
    assert len(server.asked) == 1


def test_no_server_is_said(server: Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1/"
    model = opened(server, url=url)
    assert failure(model) == (f"no server answers at {url}chat/completions: the connection was refused; tried 3 times")
    assert model.counts() == {"requests": 3, "retries": 2, "prompt_tokens": 0, "tokens": 0}


def test_the_server_says_how_long_it_is_to_be_left_alone() -> None:
    now = datetime.now(timezone.utc)
    assert seconds_asked("7") == seconds_asked(" 7.0 ") == 7
    assert 3500 < seconds_asked(format_datetime(now + timedelta(hours=1), usegmt=True)) <= 3600
    assert 3500 < seconds_asked(format_datetime(now + timedelta(hours=1)).replace("+0000", "-0000")) <= 3600
    for nothing in (
        "",
        "soon",
        "-5",
        "nan",
        "1e3",
        "²",
        format_datetime(now - timedelta(hours=1)),
        "1 Jan 99999999999999 0:0",
    ):
        assert seconds_asked(nothing) == 0


def test_waits_are_drawn_from_limits_that_double_and_come_on_top_of_what_the_server_asks_for() -> None:
    backoff = Backoff(first=2.0, longest=10.0)
    for failures, limit in ((1, 2), (2, 4), (3, 8), (4, 10), (5000, 10)):
        drawn = [backoff.wait(failures, 0.0) for _ in range(400)]
        assert 0 <= min(drawn) < limit / 4
        assert limit * 3 / 4 < max(drawn) <= limit
    assert all(7 <= backoff.wait(1, 7.0) <= 9 for _ in range(100))
    assert backoff.wait(1, 3600.0) == 10


def test_too_many_requests_are_sent_again_after_a_bounded_time(server: Server) -> None:
    server.steps.extend([says(b"slower", 429, Retry_After="3600"), says(b"slower", 429, Retry_After="0")])
    model = HttpLanguageModel("tiny", Endpoint(url=server.url, retries=2), Backoff(longest=0.01))
    assert model.write(chats(1), SHORT)[0][0].text == "q0 0"


def test_a_server_is_left_alone_as_long_as_it_asks_for_but_not_once_the_call_has_failed(server: Server) -> None:
    slowed, again = threading.Event(), threading.Event()

    def step(handler: Handler) -> None:
        if handler.asked.user == "q0":
            (again if slowed.is_set() else slowed).set()
            handler.reply(b"slower", 429, Retry_After="3600")
        else:
            slowed.wait(10)
            again.wait(0.2)
            handler.reply(b"never", 400)

    server.always = step
    model = HttpLanguageModel("tiny", Endpoint(url=server.url, concurrency=2), Backoff(first=0.0))
    assert failure(model, 2) == f"{server.full_url} answers 400 Bad Request: never"
    assert not again.is_set()


# Failures that do not pass


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (400, b'{"error": {"message": "too long", "type": "x"}}', ": too long"),
        (413, b"", ""),
        (422, b'{"detail": [{"loc": ["seed"]}]}', ': {"detail": [{"loc": ["seed"]}]}'),
        (
            400,
            b'{"error": {"message": "Unsupported value: \'temperature\' must be 1"}}',
            ": Unsupported value: 'temperature' must be 1; 'fields: {temperature: null}' of the endpoint leaves it out",
        ),
        (501, b"<html>Unsupported method</html>", ": <html>Unsupported method</html>"),
        (400, b"x" * 5000, f": {'x' * 300}..."),
    ],
)
def test_a_refusal_is_said_at_once(server: Server, status: int, body: bytes, said: str) -> None:
    server.always = says(body, status)
    assert failure(opened(server)) == f"{server.full_url} answers {status} {HTTPStatus(status).phrase}{said}"
    assert len(server.asked) == 1


def test_an_address_or_model_that_is_not_there_is_said_with_what_to_look_at(server: Server) -> None:
    server.always = says(b'{"error": {"message": "model \'tiny\' not found"}}', 404)
    assert failure(opened(server)) == (
        f"{server.full_url} answers 404 Not Found: model 'tiny' not found; "
        "is the model's name right, and the address? Most often it ends in /v1"
    )


@pytest.mark.parametrize(("status", "reason"), [(401, "Unauthorized"), (403, "Forbidden")])
def test_a_key_that_is_refused_is_named_by_its_variable_and_never_shown(
    server: Server, status: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.always = says(f"{' ' * 290}Incorrect key: {KEY}{KEY}".encode(), status)
    assert failure(opened(server)) == (
        f"{server.full_url} answers {status} {reason}: Incorrect key: ******; "
        "the key that was sent is that of the environment variable 'OPENAI_API_KEY'"
    )
    monkeypatch.delenv("OPENAI_API_KEY")
    server.always = says(b"", status)
    assert failure(opened(server)) == (
        f"{server.full_url} answers {status} {reason}; no key was sent: the environment variable 'OPENAI_API_KEY' is empty"
    )
    assert len(server.asked) == 2


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_key_is_not_shown_in_part_where_what_the_server_says_is_cut(server: Server, cut: int) -> None:
    server.always = says(("x" * (300 - cut) + KEY).encode(), 400)
    assert "sk-" not in failure(opened(server))


def test_a_key_is_not_shown_as_json_or_an_address_writes_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", 'sk/live+"Q9==')
    server.always = says(rb"""no key sk\/live+"Q9==, sk/live+\"Q9==, sk%2Flive%2B%22Q9%3D%3D""", 400)
    assert failure(opened(server)) == f"{server.full_url} answers 400 Bad Request: no key ***, ***, ***"


def test_a_key_that_is_none_takes_nothing_out_of_a_message(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    server.always = says(b"max_tokens exceeds the context", 400)
    assert failure(opened(server)) == f"{server.full_url} answers 400 Bad Request: max_tokens exceeds the context"


def test_a_redirect_is_not_followed(server: Server) -> None:
    server.always = says(b"", 308, Location="http://elsewhere.test/v1/chat/completions")
    assert failure(opened(server)) == (
        f"{server.full_url} sends on to http://elsewhere.test/v1/chat/completions (308), which is not followed: "
        "'url' has to be the address itself"
    )
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "step",
    [
        raw(HEAD + b"Content-Length: %d\r\n\r\n" % (LARGEST + 1)),
        raw(HEAD + b"Content-Length: %s\r\n\r\n" % (b"9" * 30)),
        floods(HEAD + b"\r\n", b" " * 65_536),
        floods(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b" " * 65_536 + b"\r\n"),
    ],
    ids=["length", "absurd length", "no length", "chunks"],
)
def test_a_body_without_an_end_is_not_read_to_it(server: Server, step: Step) -> None:
    server.always = step
    assert failure(opened(server)) == f"{server.full_url} answers with more than 16,777,216 bytes, which no text has"


def test_a_host_that_cannot_be_is_said(server: Server) -> None:
    url = f"http://{'a' * 64}.test/v1"
    assert failure(opened(server, url=url)) == (f"no server answers at {url}/chat/completions: no host has such a name")


# How a call ends


def test_what_came_before_a_failure_is_told(server: Server) -> None:
    server.steps.extend([echo, echo, says(b"no", 400)])
    places: list[int] = []
    assert failure(opened(server), 9, answered=lambda place, _: places.append(place)).endswith("400 Bad Request: no")
    assert places == [0, 1]
    assert len(server.asked) == 3


def test_what_came_beside_a_failure_is_told(server: Server) -> None:
    told, places = threading.Event(), []

    def step(handler: Handler) -> None:
        if handler.asked.user == "q1":
            told.wait(10)
            handler.reply(b"no", 400)
            return
        if handler.asked.user == "q2":
            wait_for_threads(1)  # the one that failed has ended
        echo(handler)

    def answered(place: int, _: list[Answer]) -> None:
        places.append(place)
        told.set()
        wait_for_threads(0)  # so the failure is there first, and then an answer

    server.always = step
    assert failure(opened(server, concurrency=2), 3, answered=answered).endswith("400 Bad Request: no")
    assert places == [0, 2]


def test_a_failure_breaks_off_what_is_on_its_way(server: Server) -> None:
    waiting = threading.Barrier(4)

    def step(handler: Handler) -> None:
        waiting.wait(10)
        handler.reply(b"no", 400) if handler.asked.user == "q3" else silent(handler)

    server.always = step
    assert failure(opened(server, concurrency=4), 9) == f"{server.full_url} answers 400 Bad Request: no"
    assert len(server.asked) == 4


def test_a_connection_that_was_broken_off_sends_nothing_more(server: Server) -> None:
    connection = Connection(urlsplit(server.full_url), None)
    connection.abort()
    with pytest.raises(ConnectionAbortedError):
        connection.post(b"{}", {}, 10.0)
    assert server.asked == []


def test_an_error_of_the_one_who_is_told_ends_the_call(server: Server) -> None:
    def answered(place: int, answers: list[Answer]) -> None:
        raise OSError("disk full")

    server.steps.append(echo)
    server.always = silent
    with pytest.raises(OSError, match=r"^disk full$"):
        opened(server, concurrency=3).write(chats(9), SHORT, answered)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_key_press_ends_the_call(server: Server, keys: None) -> None:
    def interrupted(handler: Handler) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        silent(handler)

    server.always = interrupted
    with pytest.raises(KeyboardInterrupt):
        opened(server).write(chats(3), SHORT)
    assert len(server.asked) == 1


@pytest.mark.parametrize("seed", range(3))
def test_every_chat_is_answered_or_the_call_fails(server: Server, seed: int) -> None:
    random = Random(seed)
    trouble = [says(b"", 500), says(b"", 429), says(b"<html>"), raw(b""), raw(BROKEN["half a body"]), echo, echo]
    server.steps.extend(random.choices(trouble, k=400))
    told: list[int] = []
    model = opened(server, concurrency=8, retries=60)
    written = model.write(chats(60), Writing(longest=9, count=2), lambda place, _: told.append(place))
    expected = [[f"q{place} {answer_seed(0, number)}" for number in (0, 1)] for place in range(60)]
    got = [[answer.text for answer in answers] for answers in written]
    assert got == expected
    assert sorted(told) == list(range(60))
    assert model.counts()["requests"] == len(server.asked)
    server.steps.extend([*[echo] * 50, raw(b"")])
    failure(opened(server, concurrency=8, retries=0), 100)


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a key and a certificate for 127.0.0.1 that nobody signed."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the program openssl")
    folder = tmp_path_factory.mktemp("tls")
    file, signed = folder / "server.pem", folder / "signed.pem"
    making = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=here -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([openssl, *making.split(), "-keyout", file, "-out", signed], check=True, capture_output=True)
    file.write_bytes(file.read_bytes() + signed.read_bytes())
    return file


@pytest.fixture
def secure(server: Server, certificate: Path) -> Server:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.url = server.url.replace("http:", "https:")
    return server


def test_tls_is_spoken_where_the_address_says_so(
    secure: Server, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    model = opened(secure, concurrency=2, timeout=2)
    assert [answers[0].text for answers in model.write(chats(6), SHORT)] == [f"q{place} 0" for place in range(6)]
    assert len({one.connection for one in secure.asked}) <= 2
    secure.always = drips(HEAD + b"\r\n")
    assert failure(opened(secure, timeout=0.3, retries=0)) == (
        f"{secure.full_url} gave no answer in 0.3 s (a slow model needs a longer 'timeout'); tried once"
    )


def test_a_certificate_that_nobody_signed_is_refused(secure: Server) -> None:
    assert failure(opened(secure)).replace("self signed", "self-signed") == (
        f"{secure.full_url} has no certificate that is trusted here: self-signed certificate"
    )
    assert secure.asked == []


def test_a_handshake_that_does_not_end_is_given_up(server: Server) -> None:
    with mute() as url:
        assert failure(opened(server, url=url, timeout=0.2, retries=0)) == (
            f"{url}/chat/completions gave no answer in 0.2 s (a slow model needs a longer 'timeout'); tried once"
        )


def test_a_server_without_tls_is_said(server: Server) -> None:
    url = server.url.replace("http:", "https:")
    assert re.fullmatch(
        rf"{url}/chat/completions fails to speak TLS \([A-Z_]+\): does it answer to http only\?; tried once",
        failure(opened(server, url=url, retries=0)),
    )


@pytest.mark.skipif(sys.platform != "linux", reason="a full queue is another matter elsewhere")
@pytest.mark.parametrize("opening", [accepting_nobody, mute])
def test_a_key_press_ends_a_connection_that_is_being_made(
    server: Server, keys: None, opening: Callable[[], contextlib.AbstractContextManager[str]]
) -> None:
    with opening() as url:
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the timer is what interrupts
            timer.start()
            opened(server, url=url).write(chats(1), SHORT)
        wait_for_threads(0)
        timer.join()
