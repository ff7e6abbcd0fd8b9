"""What the stages that ask a language model about candidates have in common: model, prompt, texts, what is counted."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
from annotated_types import Gt, MinLen
from numpy.typing import NDArray
from pydantic import field_validator
from pydantic.dataclasses import dataclass

from rankpipe.data import Corpus
from rankpipe.errors import UsageError
from rankpipe.models.language_model import Chat, LanguageModel
from rankpipe.models.prompt import SEPARATOR, Prompt, filled, load_prompt
from rankpipe.models.references import need_extra
from rankpipe.models.runtime import current_runtime
from rankpipe.run import Rest, Run
from rankpipe.stage import SETTINGS, Part, Reference, Several, Stage
from rankpipe.stages.prompt_file import PromptFile, loadable

NEEDS = ("torch", "transformers")
"""What the extra 'llm' brings, as far as a model that is no GGUF file needs it."""


WORD_LENGTH = 16
"""Characters that count for a word where no blank parts words, as in Chinese or Thai; other texts have six or so."""


class Opened(NamedTuple):
    """An open model, the prompt, and of every corpus, by its digest, what was counted."""

    model: LanguageModel
    prompt: Prompt
    counts: dict[str, Counter[str]]


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Generative(Stage):
    """Settings of a stage that asks a causal language model.

    places      what the prompt has to have, by its sections

    model       folder, GGUF file, hub name, alias or package: reference of the model
    prompt      file of the prompt, or name of one that comes with rankpipe
    depth       candidates scored per query
    rest        what becomes of those below: "keep" leaves them below in their order, "drop" removes them
    max_words   words of a document that are read, parted by white space; what is longer is cut, and counted
    max_length  tokens that a prompt and its answer may have; by default as many as the network has positions for
    fields      the fields of a document, joined by a blank, that are read
    """

    needs: ClassVar[frozenset[Part]] = frozenset({"candidates"})
    places: ClassVar[Mapping[str, Sequence[str]]]

    model: Reference
    prompt: PromptFile
    depth: Annotated[int, Gt(0)] = 100
    rest: Rest = "keep"
    max_words: Annotated[int, Gt(0)] = 300
    max_length: Annotated[int, Gt(0)] | None = None
    fields: Annotated[Several[str], MinLen(1)] = ("title", "text")

    @field_validator("prompt")
    @classmethod
    def _has_its_places(cls, reference: str) -> str:
        return loadable(cls._prompt_of, reference)

    def __call__(self, run: Run) -> Run:
        """Rescore the candidates."""
        return run.rescored_to(self.depth, self._score, rest=self.rest) if len(run.documents) else run

    def prepare(self, corpus: Corpus) -> None:
        """Open the model, and read the prompt."""
        self._opened_once()

    def facts(self, corpus: Corpus) -> Mapping[str, Any]:
        """Digests of model and prompt, precision."""
        opened = self._opened_once()
        return {**opened.model.key(), "prompt": opened.prompt.digest()}

    def counted(self, corpus: Corpus) -> Mapping[str, Any]:
        """Prompts, candidates that were read, and how many of these were cut."""
        return dict(self._opened_once().counts.get(corpus.digest, {}))

    @abstractmethod
    def _score(self, run: Run) -> NDArray[np.floating]:
        """(H,) scores of a run's candidates."""

    def _opened_once(self) -> Opened:
        """The open model. Raises MissingExtraError, ModelError, DataError for the prompt, UsageError."""
        return self.open_once(current_runtime(), self._open)

    @classmethod
    def _prompt_of(cls, reference: str) -> Prompt:
        """The prompt in a file, or of a name. Raises UsageError for a place too few or too many, DataError where it is none."""
        prompt = load_prompt(reference)
        prompt.need(**cls.places)
        prompt.have_only("query", "count", "documents" if "{documents}" in prompt.user else "document")
        return prompt

    def _open(self) -> Opened:
        prompt = self._prompt_of(self.prompt)
        need_extra(f"stage '{self.type_name()}'", NEEDS, "transformers", "llm")
        from rankpipe.models.local_language_model import LocalLanguageModel  # brings torch

        model = LocalLanguageModel(self.model, current_runtime())
        if self.max_length is not None and model.context is not None and self.max_length > model.context:
            raise UsageError(
                f"max_length is {self.max_length}; model {self.model!r} has positions for {model.context} tokens"
            )
        return Opened(model, prompt, {})

    def _texts(self, run: Run) -> list[str]:
        """(H,) what is read of a run's candidates."""
        rows, places = np.unique(run.documents, return_inverse=True)
        cut = [cut_to(text, self.max_words) for text in run.corpus.joined_texts(rows, self.fields)]
        found = [cut[place] for place in places.reshape(-1).tolist()]
        self._count(run.corpus, candidates=len(found), cut=sum(was_cut for _, was_cut in found))
        return [text for text, _ in found]

    def _count(self, corpus: Corpus, **more: int) -> None:
        self._opened_once().counts.setdefault(corpus.digest, Counter()).update(more)

    def _refuse_long(
        self, run: Run, rows: Sequence[int], chats: Sequence[Chat], *, answer: int = 0, or_lower: str = ""
    ) -> None:
        """Raise UsageError where a chat about the query of a row, with the longest answer, is longer than can be read.

        answer    tokens that an answer may have, besides those that a chat has of it
        or_lower  a setting that makes prompts shorter as well as max_words
        """
        model, prompt, _ = self._opened_once()
        limit = self.max_length or model.context
        if limit is None or not len(chats):
            return
        lengths = model.lengths(chats) + answer
        longest = int(lengths.argmax())
        if lengths[longest] <= limit:
            return
        row = rows[longest]
        whose = f"'{self.type_name()}': the prompt of query {run.queries.ids[row]!r} has"
        said = f"'max_length' is {limit}" if self.max_length else f"model {self.model!r} reads at most {limit}"
        [alone] = model.lengths([asked(prompt, run.queries.texts[row], [""])]).tolist()
        if alone > limit:
            raise UsageError(
                f"{whose} {alone} tokens without any document, and {said}; shorten the query, or the prompt"
            )
        lower = f"'max_words' ({self.max_words})" + (
            f" or '{or_lower}' ({getattr(self, or_lower)})" if or_lower else ""
        )
        raise UsageError(f"{whose} {lengths[longest]} tokens with its answer, and {said}; lower {lower}")

    def _largest(self, run: Run, texts: Sequence[str], size: int) -> tuple[list[int], list[list[str]]]:
        """Rows of queries, and of each the `size` candidates that take the most tokens, in their order."""
        opened = self._opened_once()
        lengths = opened.model.lengths([Chat(opened.prompt.listed([text])[0]) for text in texts])
        rows = np.flatnonzero(run.counts).tolist()
        groups = []
        for row in rows:
            span = run.span(row)
            places = np.sort(np.argsort(-lengths[span], kind="stable")[:size]) + span.start
            groups.append([texts[place] for place in places.tolist()])
        return rows, groups


def asked(prompt: Prompt, query: str, documents: Sequence[str]) -> Chat:
    """What a model is told about one document, or several."""
    values = {"query": query, "count": str(len(documents))}
    if "{documents}" in prompt.user:
        values["documents"] = SEPARATOR.join(prompt.listed(documents))
    else:
        values["document"] = documents[0]
    return Chat(filled(prompt.user, values), prompt.system, filled(prompt.answer, values))


def cut_to(text: str, words: int) -> tuple[str, bool]:
    """The first words of a text, parted by white space, and whether there were more.

    Of a script without blanks so many characters count for a word, WORD_LENGTH, that other texts are not cut by them.
    """
    parts = text.split(None, words)
    kept = text if len(parts) <= words else text[: len(text) - len(parts[-1])].rstrip()
    kept = kept if len(kept) <= words * WORD_LENGTH else kept[: words * WORD_LENGTH].rstrip()
    return kept, kept is not text


def by_rank(run: Run, ranks: NDArray[np.int64]) -> NDArray[np.float32]:
    """(H,) scores of candidates in a new order: the number of candidates for rank 1, and 1 for the last."""
    return (np.repeat(run.counts, run.counts) - ranks + 1).astype(np.float32)
