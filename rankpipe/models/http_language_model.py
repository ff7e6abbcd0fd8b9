"""A language model behind any server of OpenAI's interface: a Writer over HTTP, without a library of a vendor.

It goes without proxies and follows no redirect: what is asked goes to the address that was named, or nowhere.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from rankpipe.errors import RankpipeError
from rankpipe.models import completions
from rankpipe.models.endpoint import Endpoint
from rankpipe.models.http_connection import Connection
from rankpipe.models.http_exchange import AgainError, Server
from rankpipe.models.language_model import Answer, Chat, Writing

FAREWELL = 1.0
"""Seconds that a call waits for its threads when it ends, all together. Looking up a host's name cannot be broken off."""

ATTENTION = 0.5
"""Seconds within which Ctrl-C is noticed."""


class Backoff(NamedTuple):
    """Seconds before a request that failed is sent again.

    They are drawn from 0 to a limit ("full jitter": Brooker, Exponential Backoff and Jitter, AWS Architecture Blog, 2015),
    and come on top of those that the server asks for by Retry-After.

    first    the limit before the second try; twice as much before each further one
    longest  at most, whatever the limit is and the server asks for
    """

    first: float = 1.0
    longest: float = 60.0

    def wait(self, failures: int, asked: float) -> float:
        """Seconds to wait now. failures: so far, from 1. asked: by the server."""
        limit = min(self.first * 2.0 ** min(failures - 1, 64), self.longest)
        return min(asked + random.uniform(0, limit), self.longest)  # noqa: S311 - no secret


BACKOFF = Backoff()


def _silent(_: int, __: list[Answer]) -> None:
    """Nobody is told."""


class HttpLanguageModel:
    """A model that a server knows by its name.

    Each answer is a request of its own: not every server knows `n`. Where a chat has the beginning of its answer, that is
    sent as the last message, of the assistant: some servers go on with it, others begin anew; one that repeats it has
    the repetition taken off.
    """

    def __init__(self, model: str, endpoint: Endpoint, backoff: Backoff = BACKOFF) -> None:
        """Nothing is sent yet, and no key is read."""
        self._model, self._endpoint, self._backoff = model, endpoint, backoff
        self._counts = Counter[str](requests=0, retries=0, prompt_tokens=0, tokens=0)
        self._lock = threading.Lock()

    def key(self) -> Mapping[str, Any]:
        """The model's name and where it is. Whether it is the same model there tomorrow, nobody can know.

        And what is sent otherwise than always: a server that does not know the field that limits an answer limits none.
        """
        field, fields = self._endpoint.length_field, dict(self._endpoint.fields)
        limited = {} if field == Endpoint.length_field else {"length_field": field}
        more = {"fields": fields} if fields else {}
        return {"model": self._model, "url": self._endpoint.url, **limited, **more}

    def counts(self) -> Mapping[str, int]:
        """What was asked so far, in all calls.

        requests       sent, or tried to be sent
        retries        of these, because the one before failed
        prompt_tokens  of the chats that were answered, once for each answer, as far as the server tells
        tokens         of the answers, as far as the server tells
        """
        with self._lock:
            return dict(self._counts)

    def write(
        self, chats: Sequence[Chat], writing: Writing, answered: Callable[[int, list[Answer]], None] = _silent
    ) -> list[list[Answer]]:
        """(C, count) answers; requests go out in the order of the chats.

        answered  is told in the thread of the caller; before an error is raised, also what came until then

        Raises RankpipeError at the first request that fails for good; all others are given up. UsageError if the key
        cannot be sent.
        """
        server = Server(self._endpoint)

        def ask(connection: Connection, over: threading.Event, task: _Task) -> Answer | None:
            chat = chats[task.place]
            body = completions.request(self._model, chat, writing, task.number, self._endpoint)
            return self._insist(lambda: server.answer(connection, body, chat, writing), over)

        tasks = [_Task(place, number) for place in range(len(chats)) for number in range(writing.count)]
        connections = [server.connection() for _ in range(min(self._endpoint.concurrency, len(tasks)))]
        found: list[dict[int, Answer]] = [{} for _ in chats]
        with _Threads(ask, tasks, connections) as threads:
            for task, answer in threads.answers():
                mine = found[task.place]
                mine[task.number] = answer
                if len(mine) == writing.count:
                    answered(task.place, _in_order(mine))
        return [_in_order(mine) for mine in found]

    def _insist(self, exchange: Callable[[], Answer], over: threading.Event) -> Answer | None:
        """The answer that an exchange gives at last; None if the call is over before."""
        failures = 0
        while not over.is_set():
            self._add(requests=1, retries=min(failures, 1))
            try:
                answer = exchange()
            except AgainError as again:
                failures += 1
                if failures > self._endpoint.retries:
                    times = "once" if failures == 1 else f"{failures} times"
                    raise RankpipeError(f"{again}; tried {times}") from None
                over.wait(self._backoff.wait(failures, again.seconds))
            else:
                self._add(prompt_tokens=answer.prompt_tokens, tokens=answer.tokens)
                return answer
        return None

    def _add(self, **more: int) -> None:
        with self._lock:
            self._counts.update(more)


class _Task(NamedTuple):
    """An answer to be asked for: the place of its chat, and its number among those to the chat."""

    place: int
    number: int


class _Threads:
    """Threads that do tasks, each over its own connection. They end with the block, also where it is left by an error.

    They are daemons, not of a ThreadPoolExecutor, for which the interpreter would wait when Ctrl-C ends it.
    """

    def __init__(
        self,
        ask: Callable[[Connection, threading.Event, _Task], Answer | None],
        tasks: Sequence[_Task],
        connections: Sequence[Connection],
    ) -> None:
        """Nothing is started yet. ask: gives None once the event is set; the thread ends, then."""
        self._ask, self._connections = ask, connections
        self._expected, self._tasks = len(tasks), deque(tasks)
        self._over = threading.Event()
        self._news: queue.SimpleQueue[tuple[_Task, Answer] | BaseException] = queue.SimpleQueue()
        self._started: list[threading.Thread] = []

    def __enter__(self) -> _Threads:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def answers(self) -> Iterator[tuple[_Task, Answer]]:
        """Start, and give each answer when it is there. Raises the first error of a thread, after what had come."""
        for connection in self._connections:
            thread = threading.Thread(target=self._work, args=(connection,), name="rankpipe-http", daemon=True)
            thread.start()
            self._started.append(thread)
        for _ in range(self._expected):
            news = self._next()
            if isinstance(news, BaseException):
                self._end()
                yield from self._rest()
                raise news
            yield news

    def _next(self) -> tuple[_Task, Answer] | BaseException:
        """Wait for news. Looks up now and then: a Ctrl-C just before the wait begins would be noticed at its end only."""
        while True:
            with suppress(queue.Empty):
                return self._news.get(timeout=ATTENTION)

    def _rest(self) -> Iterator[tuple[_Task, Answer]]:
        while not self._news.empty():
            news = self._news.get()
            if not isinstance(news, BaseException):
                yield news

    def _end(self) -> None:
        self._over.set()
        for connection in self._connections:
            connection.abort()
        until = time.monotonic() + FAREWELL
        for thread in self._started:
            thread.join(max(until - time.monotonic(), 0))

    def _work(self, connection: Connection) -> None:
        try:
            while not self._over.is_set():
                try:
                    task = self._tasks.popleft()
                except IndexError:
                    return
                answer = self._ask(connection, self._over, task)
                if answer is None:
                    return
                self._news.put((task, answer))
        except BaseException as error:  # whatever it is, the caller waits for news
            self._news.put(error)
        finally:
            connection.close()


def _in_order(answers: Mapping[int, Answer]) -> list[Answer]:
    """Answers to one chat by their numbers."""
    return [answers[number] for number in range(len(answers))]
