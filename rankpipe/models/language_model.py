"""What the stages that ask a language model need of one. No torch here: the model may as well stand behind a network.

Everything is given and answered as text: a model has its own tokens, and its own template around what it is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

THOUGHTS = {
    "<think>": "</think>",
    "<thought>": "</thought>",
    "[THINK]": "[/THINK]",
    "<seed:think>": "</seed:think>",
    "<|START_THINKING|>": "<|END_THINKING|>",
}
"""What stands around the thoughts of models that think before they answer: Qwen, DeepSeek, GLM and SmolLM; EXAONE;
Magistral; Seed-OSS; Command A. What begins them, and what ends them."""


class Chat(NamedTuple):
    """What a model is told.

    user    its question
    system  what stands above it, if anything
    answer  how the model's answer begins, if it is to begin in a certain way
    """

    user: str
    system: str = ""
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Writing:
    """How answers are to be written.

    longest      tokens of an answer, at most
    count        answers to one chat
    temperature  by which logits are divided before a token is drawn; 0: the most probable token is taken
    top_p        a token is drawn from the most probable ones that together have at least this share; 1: from all
    seed         of all that is drawn; what is drawn for a chat depends on it and on the chat alone
    stop         texts that end an answer; they are not part of it
    """

    longest: int
    count: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


class Answer(NamedTuple):
    """What a model wrote.

    text           as it came: it may be empty, or hold U+FFFD where it is no text
    ended          whether the model, or a text of `stop`, ended it; False where it was cut at `longest` tokens
    prompt_tokens  of the chat; 0 where they are not known
    tokens         of the answer; 0 where they are not known
    read           False where the chat is longer than the model can read: there is no answer, then
    """

    text: str
    ended: bool
    prompt_tokens: int = 0
    tokens: int = 0
    read: bool = True

    def whole(self) -> Answer:
        """The answer without the beginning of a character that it may have been cut in."""
        return self if self.ended else self._replace(text=self.text.rstrip("\ufffd"))


Answered = Callable[[int, list[Answer]], None]
"""Is told the place of a chat, and its answers."""


class Writer(Protocol):
    """What can answer chats in words: a model in this process, or one behind a network."""

    def key(self) -> Mapping[str, Any]:
        """What makes the model's answers, as JSON takes it: its digest or name, its precision."""
        ...

    def counts(self) -> Mapping[str, int]:
        """What it has done so far that a manifest should tell: requests, retries."""
        ...

    def write(self, chats: Sequence[Chat], writing: Writing, answered: Answered = ...) -> list[list[Answer]]:
        """(C, count) answers.

        answered  is told the place of a chat and its answers as soon as they are there, one call at a time
        """
        ...


class LanguageModel(Writer, Protocol):
    """A language model that is open. What it says of a chat depends on nothing that is asked with it, but for rounding.

    Every method that computes takes `advance`, which is told how many chats are done, now and then.
    """

    @property
    def context(self) -> int | None:
        """Tokens that a chat and the answer to it may have together; None where no limit is known."""
        ...

    def lengths(self, chats: Sequence[Chat]) -> NDArray[np.int64]:
        """(C,) tokens of chats, with the template around them and the beginning of the answer."""
        ...

    def next_logits(
        self, chats: Sequence[Chat], options: Sequence[str], advance: Callable[[int], None] = ...
    ) -> NDArray[np.float32]:
        """(C, O) logits of texts as what comes next, up to a number that those of a chat have in common.

        Raises UsageError for an option that is not one token of the model.
        """
        ...

    def log_probabilities(
        self, chats: Sequence[Chat], texts: Sequence[str], advance: Callable[[int], None] = ...
    ) -> NDArray[np.float32]:
        """(C,) mean natural logarithm of the probabilities of a text's tokens, each chat going on with its own text.

        It is 0 for a text without tokens.
        """
        ...

    def arrange(
        self,
        chats: Sequence[Chat],
        texts: Sequence[Sequence[str]],
        separator: str,
        advance: Callable[[int], None] = ...,
    ) -> list[list[int]]:
        """How chats go on where each has to list all of its texts once, the separator between them.

        Of the tokens that such a list can go on with, the most probable one is taken each time. Gives the places of a
        chat's texts, in the order of the list. Raises ModelError where the model's tokens do not tell texts apart.
        """
        ...


def behind(beginning: str, text: str) -> str:
    """A text as it goes on from the beginning of an answer, which does not end in white space: a blank stands between."""
    return f" {text}" if beginning else text


def without_thoughts(text: str) -> str:
    """An answer without what the model thought before it; nothing where it came no further than that.

    Some chat templates begin the thoughts themselves: then an answer has their end alone. Where an answer speaks of such
    marks, they stand further on in it.
    """
    led = text.lstrip()
    for begin, end in THOUGHTS.items():
        thought, ended, answer = text.partition(end)
        if ended and (led.startswith(begin) or begin not in thought):
            return answer.lstrip()
        if led.startswith(begin):
            return ""
    return text
