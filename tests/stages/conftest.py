"""A language model behind a server, for stages that ask one."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rankpipe.models.endpoint import Endpoint


class Model(ThreadingHTTPServer):
    """A server of OpenAI's interface that says what `answer` makes of what it is asked; None: it fails."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answer: Callable[[str], str | bytes | None] = lambda user: f"About {user.splitlines()[-1]}"
        super().__init__(("127.0.0.1", 0), type("Told", (_Handler,), {"told": self}))

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(url=f"http://127.0.0.1:{self.server_port}/v1", retries=0)


class _Handler(BaseHTTPRequestHandler):
    told: Model

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
        pass

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.told.asked.append(question)
        answer = self.told.answer(question["messages"][0]["content"])
        text, finish = (
            (answer[:-3], "length") if isinstance(answer, str) and answer.endswith("...") else (answer, "stop")
        )
        body = b"" if answer is None else text
        if isinstance(text, str):
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
            usage = {"prompt_tokens": 7, "completion_tokens": 2}
            body = json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage}).encode()
        self.send_response(400 if answer is None else 200)
        self.send_header("Content-Length", str(len(body)))  # type: ignore[arg-type]
        self.end_headers()
        self.wfile.write(body)  # type: ignore[arg-type]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[[ThreadingHTTPServer], None]) -> Model:
    """The server, running; the store is one of its own."""
    monkeypatch.setenv("RANKPIPE_HOME", str(tmp_path / "home"))
    told = Model()
    serve(told)
    return told
