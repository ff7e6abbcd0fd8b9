"""Answers of a language model, kept on disk: what was asked once is not asked again, also after a process was killed.

$RANKPIPE_HOME/answers/DIGEST.sqlite       DIGEST of what makes the answers: model, precision, how they are written
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

from rankpipe.errors import StoreError
from rankpipe.models import tables
from rankpipe.models.language_model import Answer, Chat, Writer, Writing
from rankpipe.store import home, key_digest

FORMAT = 2
COLUMNS = "chat TEXT PRIMARY KEY, content TEXT NOT NULL"


class Answers:
    """The answers of a writer, from the file where they are there, else written and kept. Threads may share it.

    counts  asked: chats; written: those of them that went to the model; tokens that these had and got
    """

    def __init__(self, writer: Writer, writing: Writing) -> None:
        """Name the file; it is made when something is to be kept in it."""
        self._writer, self._writing = writer, writing
        key = {"format": FORMAT, **writer.key(), "writing": asdict(writing)}
        self.file = home() / "answers" / f"{key_digest(key)}.sqlite"
        self.counts: Counter[str] = Counter()
        self._writes, self._counts = threading.Lock(), threading.Lock()

    def of(self, chats: Sequence[Chat], advance: Callable[[int], None] = lambda _: None) -> list[list[Answer]]:
        """Answers to chats, of each as many as `writing` says. Equal chats are asked once.

        advance  is told how many chats are done, now and then

        Raises what the writer raises, after what was answered so far is kept; StoreError where that cannot be.
        """
        keys = [_key(chat) for chat in chats]
        wanted, often = dict(zip(keys, chats, strict=True)), Counter(keys)
        known: dict[str, list[Answer]] = {}

        def take(found: Mapping[str, list[Answer]]) -> None:
            known.update(found)
            advance(sum(often[key] for key in found))

        with tables.opened(self.file, "answers", COLUMNS) as connection:
            take(self._kept(connection, list(wanted)))
            self._count(asked=len(chats), written=0)
            if len(known) < len(wanted):
                with self._writes:
                    take(
                        self._kept(connection, [key for key in wanted if key not in known])
                    )  # of another thread, meanwhile
                    self._write(connection, {key: chat for key, chat in wanted.items() if key not in known}, take)
        return [known[key] for key in keys]

    def _kept(self, connection: sqlite3.Connection, keys: Sequence[str]) -> dict[str, list[Answer]]:
        select = "SELECT chat, content FROM answers WHERE chat IN"
        try:
            return tables.found(connection, select, keys, lambda row: [Answer(*one) for one in json.loads(row[0])])
        except json.JSONDecodeError as error:
            raise StoreError(f"{self.file}: an answer in it is damaged: {error}; remove the file") from None

    def _write(
        self,
        connection: sqlite3.Connection,
        missing: Mapping[str, Chat],
        take: Callable[[Mapping[str, list[Answer]]], None],
    ) -> None:
        """Have chats answered and keep each one's answers as they come; then `take` is given them."""
        keys = list(missing)

        def keep(place: int, answers: list[Answer]) -> None:
            content = json.dumps([list(one) for one in answers])  # ASCII: a lone surrogate is kept as it is
            with connection:
                connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (keys[place], content))
            self._count(
                prompt_tokens=sum(one.prompt_tokens for one in answers), tokens=sum(one.tokens for one in answers)
            )
            take({keys[place]: answers})

        if keys:
            self._count(written=len(keys))
            self._writer.write(list(missing.values()), self._writing, keep)

    def _count(self, **more: int) -> None:
        with self._counts:
            self.counts.update(more)


def _key(chat: Chat) -> str:
    return hashlib.sha256(json.dumps(list(chat)).encode()).hexdigest()
