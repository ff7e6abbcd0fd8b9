"""Likelihood: a re-ranker that asks how probable the query is, to a language model that has read the candidate."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from rankpipe.errors import UsageError
from rankpipe.models.prompt import Prompt
from rankpipe.progress import counted
from rankpipe.run import Run
from rankpipe.stage import SETTINGS
from rankpipe.stages.generative import Generative, asked
from rankpipe.stages.prompt_file import PromptFile

QUERY = "{query}"


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Likelihood(Generative):
    """Score candidates by the mean log probability of the query's tokens, given a prompt with the candidate.

    UPR: Sachan, Lewis, Joshi, Aghajanyan, Yih, Pineau and Zettlemoyer, EMNLP 2022, arXiv 2204.07496. A query without
    tokens gives every candidate 0.

    prompt  its section `answer` ends with {query}, which is what is scored; what stands before it is given

    model, depth, rest, max_words, max_length, fields
            see rankpipe.stages.generative
    """

    places: ClassVar = {"user": ("document",), "answer": ("query",)}

    prompt: PromptFile = "likelihood"

    @classmethod
    def _prompt_of(cls, reference: str) -> Prompt:
        prompt = super()._prompt_of(reference)
        if prompt.answer.count(QUERY) != 1 or not prompt.answer.endswith(QUERY):
            raise UsageError(f"prompt {prompt.file}: its section 'answer' must have {QUERY} once, at its end")
        return prompt

    def _score(self, run: Run) -> NDArray[np.floating]:
        opened = self._opened_once()
        rows = run.query_rows.tolist()
        queries = [run.queries.texts[row] for row in rows]
        texts = self._texts(run)
        whole = [asked(opened.prompt, query, [text]) for query, text in zip(queries, texts, strict=True)]
        self._refuse_long(run, rows, whole)
        beginning = opened.prompt.answer.removesuffix(QUERY)
        with counted(len(whole), "prompts") as advance:
            scores = opened.model.log_probabilities(
                [chat._replace(answer=beginning) for chat in whole], queries, advance
            )
        self._count(run.corpus, prompts=len(whole))
        return scores
