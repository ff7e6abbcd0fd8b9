"""Pointwise: a re-ranker that asks a language model about every candidate by itself, for yes or no."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Len
from numpy.typing import NDArray
from pydantic import field_validator
from pydantic.dataclasses import dataclass

from rankpipe.models.language_model import behind
from rankpipe.progress import counted
from rankpipe.run import Run
from rankpipe.stage import SETTINGS, Several
from rankpipe.stages.generative import Generative, asked
from rankpipe.stages.prompt_file import PromptFile


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Pointwise(Generative):
    """Score candidates by how much rather a language model says "yes" than "no" about them.

    Nogueira, Jiang, Pradeep and Lin, Findings of EMNLP 2020, arXiv 2003.06713, with the logits of a model that was not
    trained for it, as in Zhuang, Qin, Hui, Wu, Yan, Wang and Bendersky, NAACL 2024, arXiv 2310.14122.

    scores   "logit": the logit of the first answer less that of the second; "probability": its sigmoid, from 0 to 1
    answers  the two answers, each one token of the model

    model, prompt, depth, rest, max_words, max_length, fields
             see rankpipe.stages.generative
    """

    places: ClassVar = {"user": ("query", "document")}

    prompt: PromptFile = "pointwise"
    scores: Literal["logit", "probability"] = "logit"
    answers: Annotated[Several[str], Len(2, 2)] = ("yes", "no")

    @field_validator("answers")
    @classmethod
    def _differ(cls, answers: Sequence[str]) -> Sequence[str]:
        if answers[0] == answers[1]:
            raise ValueError(f"both answers are {answers[0]!r}, so that every score would be 0")
        return answers

    @property
    def lowest_score(self) -> float | None:
        """0 for probabilities where the rest is dropped: what is kept stands below them. Logits have no lowest one."""
        return 0.0 if self.scores == "probability" and self.rest == "drop" else None

    def _score(self, run: Run) -> NDArray[np.floating]:
        opened = self._opened_once()
        rows = run.query_rows.tolist()
        texts = self._texts(run)
        chats = [asked(opened.prompt, run.queries.texts[row], [text]) for row, text in zip(rows, texts, strict=True)]
        self._refuse_long(run, rows, chats)
        answers = [behind(opened.prompt.answer, answer) for answer in self.answers]
        with counted(len(chats), "prompts") as advance:
            logits = opened.model.next_logits(chats, answers, advance)
        self._count(run.corpus, prompts=len(chats))
        scores = logits[:, 0] - logits[:, 1]
        return 1 / (1 + np.exp(-scores.astype(np.float64))) if self.scores == "probability" else scores
