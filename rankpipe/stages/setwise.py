"""Setwise: a re-ranker that asks a language model which of a few candidates is the most relevant, and sorts by that."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from rankpipe.models.language_model import Chat, behind
from rankpipe.models.prompt import LETTERS
from rankpipe.progress import counted
from rankpipe.run import Run
from rankpipe.stage import SETTINGS
from rankpipe.stages.generative import Generative, asked, by_rank
from rankpipe.stages.heap import first_in_order, most_groups, side_by_side
from rankpipe.stages.prompt_file import PromptFile


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Setwise(Generative):
    """Sort candidates by heap sort, a language model choosing the most relevant of a few by the logits of their letters.

    Zhuang, Zhuang, Koopman and Zuccon, SIGIR 2024, arXiv 2310.09497. The sort ends when the first k are in order; the
    other candidates down to `depth` follow in the order that they came in. The first of n candidates scores n, the last 1.

    Candidates of a prompt stand in the order that they came in, and of equal logits the first one wins: a model that
    always names the first letter leaves all of them as they were. In the authors' code the parent in the heap comes
    first. As the sort moves the last candidates to the root, the same model would put these on top.

    k         candidates that are put in order
    children  candidates that one is compared with at once; a node of the heap has so many children

    model, prompt, depth, rest, max_words, max_length, fields
              see rankpipe.stages.generative
    """

    places: ClassVar = {"user": ("query", "documents"), "document": ("document", "letter")}

    prompt: PromptFile = "setwise"
    k: Annotated[int, Gt(0)] = 10
    children: Annotated[int, Ge(1), Le(len(LETTERS) - 1)] = 3

    def _score(self, run: Run) -> NDArray[np.floating]:
        texts = self._texts(run)
        self._chats(run, *self._largest(run, texts, self.children + 1))  # so that what is too long is said at once
        bounds = run.offsets.tolist()
        sorts = [first_in_order(range(*pair), self.k, self.children) for pair in pairwise(bounds)]
        sorting = side_by_side(sorts)
        most = sum(most_groups(count, self.k, self.children) for count in run.counts.tolist())
        with counted(most, "prompts, at most,") as advance:
            try:
                groups = next(sorting)
                while True:
                    groups = sorting.send(self._winners(run, texts, groups, advance))
            except StopIteration as done:
                orders: list[list[int]] = done.value
        ranks = np.empty(len(texts), np.int64)
        ranks[[place for order in orders for place in order]] = run.ranks
        return by_rank(run, ranks)

    def _winners(
        self, run: Run, texts: list[str], groups: list[list[int]], advance: Callable[[int], None]
    ) -> list[int]:
        """Of each group of candidates, all of one query, the place of the most relevant one within the group."""
        opened = self._opened_once()
        rows = run.query_rows[[group[0] for group in groups]].tolist()
        chats = self._chats(run, rows, [[texts[one] for one in group] for group in groups])
        letters = [behind(opened.prompt.answer, letter) for letter in LETTERS[: self.children + 1]]
        logits = opened.model.next_logits(chats, letters, advance)
        self._count(run.corpus, prompts=len(chats))
        return [int(one[: len(group)].argmax()) for one, group in zip(logits, groups, strict=True)]

    def _chats(self, run: Run, rows: list[int], groups: list[list[str]]) -> list[Chat]:
        """What is asked about the query of each row and a group of texts. Raises UsageError for what is too long."""
        prompt = self._opened_once().prompt
        chats = [asked(prompt, run.queries.texts[row], group) for row, group in zip(rows, groups, strict=True)]
        self._refuse_long(run, rows, chats, or_lower="children")
        return chats
