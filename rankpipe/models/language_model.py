"""What the stages that ask a language model need of one. No torch here: the model may as well stand behind a network.

Everything is given and answered as text: a model has its own tokens, and its own template around what it is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Chat(NamedTuple):
    """What a model is told.

    user    its question
    system  what stands above it, if anything
    answer  how the model's answer begins, if it is to begin in a certain way
    """

    user: str
    system: str = ""
    answer: str = ""


class LanguageModel(Protocol):
    """A language model that is open. What it says of a chat depends on nothing that is asked with it, but for rounding.

    Every method that computes takes `advance`, which is told how many chats are done, now and then.
    """

    @property
    def context(self) -> int | None:
        """Tokens that a chat and the answer to it may have together; None where no limit is known."""
        ...

    def key(self) -> Mapping[str, Any]:
        """What makes the model's answers, as JSON takes it: its digest or name, its precision."""
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

    def generate(
        self, chats: Sequence[Chat], longest: Sequence[str], advance: Callable[[int], None] = ...
    ) -> list[str]:
        """How chats go on, taking the most probable token each time.

        longest  of each chat, a text: what is generated ends after as many tokens as it has
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
