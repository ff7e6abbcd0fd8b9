"""Listwise: a re-ranker that has a language model write the order of the candidates, window by window."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar, cast

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from rankpipe.data import Corpus
from rankpipe.models.answers import Answers
from rankpipe.models.endpoint import Endpoint
from rankpipe.models.language_model import Chat, LanguageModel, Writing, behind
from rankpipe.models.runtime import current_runtime
from rankpipe.progress import counted
from rankpipe.run import Run
from rankpipe.stage import SETTINGS
from rankpipe.stages.generative import Generative, Opened, asked, by_rank
from rankpipe.stages.prompt_file import PromptFile

SEPARATOR = " > "
RANKING = re.compile(r"\[[0-9]+\](?: > \[[0-9]+\])*")
NUMBER = re.compile(r"\[([0-9]+)\]")


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Listwise(Generative):
    """Rank candidates in the order that a language model writes down, "[2] > [1] > [3]", in overlapping windows.

    RankGPT: Sun, Yan, Ma, Wang, Ren, Chen, Yin and Ren, EMNLP 2023, arXiv 2304.09542. The first window holds the last
    candidates, the last window the first ones, so that a candidate can rise all the way. What is written is the most
    probable token each time. The first of n candidates scores n, the last 1.

    window       candidates in one prompt
    step         candidates from one window to the next; by default half a window
    constrained  the model can write nothing but a ranking of all candidates of the window; without it, answers that are
                 none are mended, see read_ranking, and `counted` says how many and how. They are kept in the store, too
    max_tokens   of an answer that is not constrained; by default as many as a ranking of the window needs. A model that
                 thinks before it writes needs more
    endpoint     server of OpenAI's interface that has the model, `model` being its name there; `constrained: false` only.
                 See rankpipe.models.endpoint

    model, prompt, depth, rest, max_words, max_length, fields
                 see rankpipe.stages.generative
    """

    places: ClassVar = {"user": ("query", "documents"), "document": ("document", "number")}

    prompt: PromptFile = "listwise"
    window: Annotated[int, Ge(2)] = 20
    step: Annotated[int, Ge(1)] | None = None
    constrained: bool = True
    max_tokens: Annotated[int, Ge(1)] | None = None
    endpoint: Endpoint | None = None

    @model_validator(mode="after")
    def _fits(self) -> Listwise:
        if self.endpoint is not None and self.constrained:
            raise ValueError(
                "'endpoint' needs 'constrained: false': what a server's model writes cannot be constrained"
            )
        if self.max_tokens is not None and self.constrained:
            raise ValueError(
                "'max_tokens' is of 'constrained: false': a constrained answer is a ranking, and ends with it"
            )
        if self.endpoint is not None and self.max_length is not None:
            raise ValueError("'max_length' is of models in this process; a server says itself how much it reads")
        if (self.step or 1) > self.window:
            raise ValueError("'step' is larger than 'window': it would leave candidates out")
        return self

    def _score(self, run: Run) -> NDArray[np.floating]:
        texts = self._texts(run)
        if self.endpoint is None:  # a server knows how long a prompt may be, and says so
            self._chats(run, *self._largest(run, texts, self.window))  # so that what is too long is said at once
        bounds = run.offsets.tolist()
        orders = [list(range(*pair)) for pair in pairwise(bounds)]
        plans = [windows(len(order), self.window, self.step or self.window // 2) for order in orders]
        with counted(sum(map(len, plans)), "prompts") as advance:
            for turn in range(max(map(len, plans), default=0)):
                rows = [row for row, plan in enumerate(plans) if turn < len(plan)]
                parts = [slice(*plans[row][turn]) for row in rows]
                shown = [orders[row][part] for row, part in zip(rows, parts, strict=True)]
                found = self._ranked(run, rows, [[texts[one] for one in group] for group in shown], advance)
                for row, part, group, ranking in zip(rows, parts, shown, found, strict=True):
                    orders[row][part] = [group[place] for place in ranking]
        ranks = np.empty(len(texts), np.int64)
        ranks[[place for order in orders for place in order]] = run.ranks
        return by_rank(run, ranks)

    def _ranked(
        self, run: Run, rows: list[int], groups: list[list[str]], advance: Callable[[int], None]
    ) -> list[list[int]]:
        """The order that the model gives each group of texts, about the query of a row, as places in the group."""
        chats = self._chats(run, rows, groups)
        self._count(run.corpus, prompts=len(chats))
        if self.constrained:
            names = [numbers(len(group)) for group in groups]
            return self._opened_once().model.arrange(chats, names, SEPARATOR, advance)
        found = []  # every chat was read: what `write` would leave unread is refused by _chats
        for chat, (answer,), group in zip(chats, self._answers.of(chats, advance), groups, strict=True):
            # All else that the answer begins with is no ranking; a server may have begun it anew.
            begun = "[" if chat.answer.endswith("[") and not answer.text.lstrip().startswith("[") else ""
            order, faults = read_ranking(begun + answer.text, len(group))
            self._count(run.corpus, mended=int(any(faults.values())), **faults)
            found.append(order)
        return found

    def counted(self, corpus: Corpus) -> Mapping[str, Any]:
        """Prompts, candidates that were read, and how many were cut; without constraints, what was mended and how."""
        found = super().counted(corpus)
        return found if self.constrained else {**found, **self._opened_once().model.counts(), **self._answers.counts}

    @property
    def _answers(self) -> Answers:
        """Of the model, each at most as long as a ranking of all candidates of a window."""
        return self.open_once(("answers", current_runtime()), self._open_answers)

    def _open_answers(self) -> Answers:
        return Answers(self._opened_once().model, Writing(longest=self._longest))

    @property
    def _longest(self) -> int:
        """Tokens of an answer that is not constrained, at most."""
        if self.max_tokens is not None:
            return self.max_tokens
        ranking = SEPARATOR.join(numbers(self.window))
        if self.endpoint is not None:
            return len(ranking)  # a server's tokens are not known: there are no more of them than letters
        bare, whole = self._opened_once().model.lengths([Chat(""), Chat("", answer=ranking)]).tolist()
        return whole - bare

    def _open(self) -> Opened:
        if self.endpoint is None:
            return super()._open()
        from rankpipe.models.http_language_model import HttpLanguageModel

        prompt = self._prompt_of(self.prompt)
        model = HttpLanguageModel(self.model, self.endpoint)
        return Opened(cast("LanguageModel", model), prompt, {})  # nothing but `write` is asked of it

    def _chats(self, run: Run, rows: list[int], groups: list[list[str]]) -> list[Chat]:
        """What is asked about the query of each row and a group of texts. Raises UsageError for what is too long."""
        prompt = self._opened_once().prompt
        chats = [asked(prompt, run.queries.texts[row], group) for row, group in zip(rows, groups, strict=True)]
        if self.constrained:
            rankings = [SEPARATOR.join(numbers(len(group))) for group in groups]
            whole = [
                chat._replace(answer=chat.answer + behind(chat.answer, ranking))
                for chat, ranking in zip(chats, rankings, strict=True)
            ]
            self._refuse_long(run, rows, whole, or_lower="window")
        elif self.endpoint is None:
            lower = "window" if self.max_tokens is None else "max_tokens"
            self._refuse_long(run, rows, chats, answer=self._longest, or_lower=lower)
        return chats


def numbers(count: int) -> list[str]:
    """How candidates are named, by their places."""
    return [f"[{number}]" for number in range(1, count + 1)]


def windows(size: int, window: int, step: int) -> list[tuple[int, int]]:
    """Begin and end of the windows over a list of `size` items, the last ones first; none where there is nothing to rank."""
    found: list[tuple[int, int]] = []
    end = size
    while end > 1:
        begin = max(end - window, 0)
        found.append((begin, end))
        if not begin:
            break
        end -= step
    return found


def read_ranking(answer: str, count: int) -> tuple[list[int], dict[str, int]]:
    """The order that an answer gives `count` candidates, as their places from 0, and how often what is wrong with it.

    An answer should be "[2] > [1] > [3]", with each number from 1 to count once, and nothing else. Of any other answer,
    numbers in brackets are read, in their order.

    wordy       1 for an answer with anything else in it; it is passed over
    repeated    numbers that stood before; they are dropped
    unknown     numbers that no candidate has; they are dropped
    missing     candidates without a number; they follow in the order that they were given in
    unreadable  1 for an answer without a number in brackets; the order stays as it is
    """
    places = {str(place + 1): place for place in range(count)}
    numbers = NUMBER.findall(answer)
    known = [number for number in numbers if number in places]
    order = list(dict.fromkeys(places[number] for number in known))
    faults = {
        "wordy": int(bool(numbers) and not RANKING.fullmatch(answer.strip())),
        "repeated": len(known) - len(order),
        "unknown": len(numbers) - len(known),
        "missing": count - len(order) if numbers else 0,
        "unreadable": int(not numbers),
    }
    named = set(order)
    return order + [place for place in range(count) if place not in named], faults
