"""What the stages that have a language model rewrite queries have in common: the model, how it writes, what is refused."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
from annotated_types import Ge, Gt, Le
from pydantic import field_validator
from pydantic.dataclasses import dataclass

from rankpipe.data import Corpus
from rankpipe.data.text import text_problem
from rankpipe.models.answers import Answers
from rankpipe.models.endpoint import Endpoint
from rankpipe.models.language_model import Answer, Chat, Writer, Writing
from rankpipe.models.prompt import Prompt, filled, load_prompt
from rankpipe.models.references import need_extra
from rankpipe.models.runtime import current_runtime
from rankpipe.progress import counted
from rankpipe.run import Run
from rankpipe.stage import SETTINGS, Reference, Stage
from rankpipe.stages.encoding import said
from rankpipe.stages.generative import NEEDS
from rankpipe.stages.prompt_file import PromptFile, loadable

RUNAWAY_WORDS, RUNAWAY_SHARE = 30, 0.25
"""An answer of so many words, of which a smaller share than this are different ones, turns in circles."""
WORD = re.compile(r"\w+")
REPLACEMENT = "\ufffd"


class Open(NamedTuple):
    """The prompt, the answers, and of every corpus, by its digest, what was counted."""

    prompt: Prompt
    answers: Answers
    writer: Writer
    counts: dict[str, Counter[str]]


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Rewriting(Stage):
    """Settings of a stage that has a language model write something for every query.

    What the model answers is kept in the store, and not asked for again. An answer that is empty, is no text, turns in
    circles, or is a piece of the prompt's own text is refused: the query then stays as it is. `counted` says how often.

    places       of the prompt, which has all of them and no other

    writer       folder, GGUF file, hub name, alias or package: reference of the model; with `endpoint`, its name there
    endpoint     server of OpenAI's interface that has the model: {url: http://localhost:8000/v1}; by default the model
                 runs in this process. See rankpipe.models.endpoint
    prompt       file of the prompt, or name of one that comes with rankpipe
    max_tokens   of an answer; it is cut there
    temperature  0: the most probable token each time; above, tokens are drawn, the more evenly the higher it is
    top_p        tokens are drawn from the most probable ones that together have this share
    seed         of what is drawn
    """

    places: ClassVar[Sequence[str]] = ("query",)

    writer: Reference
    endpoint: Endpoint | None = None
    prompt: PromptFile
    max_tokens: Annotated[int, Gt(0)] = 128
    temperature: Annotated[float, Ge(0)] = 0.0
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    seed: Annotated[int, Ge(0), Le(2**31 - 1)] = 0

    @field_validator("prompt")
    @classmethod
    def _has_its_places(cls, reference: str) -> str:
        return loadable(cls._prompt_of, reference)

    def prepare(self, corpus: Corpus) -> None:
        """Read the prompt, and open the model where it runs in this process."""
        self._opened_once()

    def facts(self, corpus: Corpus) -> Mapping[str, Any]:
        """What makes the answers: the model, the digest of the prompt."""
        opened = self._opened_once()
        return {"writer": dict(opened.writer.key()), "prompt": opened.prompt.digest()}

    def counted(self, corpus: Corpus) -> Mapping[str, Any]:
        """Queries, those that stayed as they were and why, answers that the model wrote, and tokens."""
        opened = self._opened_once()
        return {**opened.counts.get(corpus.digest, {}), **opened.writer.counts(), **opened.answers.counts}

    def answered(self, run: Run) -> list[list[str]]:
        """For every query the answers that are not refused; none for one without text."""
        opened = self._opened_once()
        rows = np.flatnonzero(said(run.queries.texts)).tolist()
        chats = [self._chat(opened.prompt, run.queries.texts[row]) for row in rows]
        with counted(len(chats), "queries") as advance:
            answers = opened.answers.of(chats, advance)
        kept: list[list[str]] = [[] for _ in run.queries.ids]
        counts: Counter[str] = Counter(queries=len(rows))
        for row, group in zip(rows, ([one.whole() for one in group] for group in answers), strict=True):
            problems = [refusal(answer) or copied(answer, opened.prompt) for answer in group]
            counts.update(f"refused_{problem.replace(' ', '_')}" for problem in problems if problem)
            kept[row] = [one.text for one, problem in zip(group, problems, strict=True) if not problem]
        opened.counts.setdefault(run.corpus.digest, Counter()).update(counts)
        return kept

    def _count_unchanged(self, run: Run, changed: Sequence[bool]) -> None:
        """Count the queries with text that what was answered has changed nothing of."""
        stay = int(np.count_nonzero(said(run.queries.texts) & ~np.array(changed, bool)))
        self._opened_once().counts.setdefault(run.corpus.digest, Counter()).update(unchanged=stay)

    def _chat(self, prompt: Prompt, query: str) -> Chat:
        values = {"query": query, **self._values}
        return Chat(filled(prompt.user, values), prompt.system, filled(prompt.answer, values))

    @property
    def _values(self) -> Mapping[str, str]:
        """What places of the prompt hold, beside that of the query."""
        return {}

    @property
    def _answers_each(self) -> int:
        """Answers to each query."""
        return 1

    @property
    def _stop(self) -> tuple[str, ...]:
        """Texts that end an answer."""
        return ()

    def _opened_once(self) -> Open:
        """The prompt and the model. Raises MissingExtraError, ModelError, DataError for the prompt, UsageError."""
        return self.open_once(("writer", current_runtime()), self._open)

    @classmethod
    def _prompt_of(cls, reference: str) -> Prompt:
        """The prompt in a file, or of a name. Raises UsageError for places that do not fit, DataError where it is none."""
        prompt = load_prompt(reference)
        prompt.need(cls.places)
        prompt.have_only(*cls.places)
        return prompt

    def _open(self) -> Open:
        prompt = self._prompt_of(self.prompt)
        writer = open_writer(self.writer, self.endpoint, f"stage '{self.type_name()}'")
        writing = Writing(
            longest=self.max_tokens,
            count=self._answers_each,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            stop=self._stop,
        )
        return Open(prompt, Answers(writer, writing), writer, {})


def open_writer(reference: str, endpoint: Endpoint | None, who: str) -> Writer:
    """A model at an endpoint, or in this process. Raises MissingExtraError, for `who`, and ModelError."""
    if endpoint is not None:
        from rankpipe.models.http_language_model import HttpLanguageModel

        return HttpLanguageModel(reference, endpoint)
    need_extra(who, NEEDS, "transformers", "llm")
    from rankpipe.models.local_language_model import LocalLanguageModel  # brings torch, so not before it is needed

    return LocalLanguageModel(reference, current_runtime())


def refusal(answer: Answer) -> str | None:
    """Why an answer is of no use: "prompt too long", "unreadable", "empty", "runaway"; None for one that is."""
    if not answer.read:
        return "prompt too long"
    if REPLACEMENT in answer.text or text_problem(answer.text):
        return "unreadable"
    words = WORD.findall(answer.text.lower())
    if not words:
        return "empty"
    circles = len(words) >= RUNAWAY_WORDS and len(set(words)) < RUNAWAY_SHARE * len(words)
    return "runaway" if circles else None


def copied(answer: Answer, prompt: Prompt) -> str | None:
    """Say "copied" of an answer whose words the prompt itself has in a row, such as an example; None of another."""
    said, asked = (f" {' '.join(WORD.findall(text))} " for text in (answer.text, f"{prompt.system} {prompt.user}"))
    return "copied" if said in asked else None


def one_line(text: str) -> str:
    """A text without line breaks and without blanks at its ends."""
    return " ".join(text.split())
