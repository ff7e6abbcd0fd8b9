"""Attention: a re-ranker that lets a language model read all candidates, and ranks them by what it attends to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal
from zlib import crc32

import numpy as np
from annotated_types import Ge, Gt, Len, MinLen
from numpy.typing import NDArray
from pydantic import AfterValidator, model_validator
from pydantic.dataclasses import dataclass

from rankpipe.data import Corpus
from rankpipe.errors import UsageError
from rankpipe.models.attention_scores import known_heads
from rankpipe.models.references import need_extra
from rankpipe.models.runtime import current_runtime
from rankpipe.progress import counted
from rankpipe.run import Rest, Run
from rankpipe.stage import SETTINGS, Part, Reference, Several, Stage, note_explained
from rankpipe.stages.generative import NEEDS, cut_to
from rankpipe.stages.prompt_file import AttentionPromptFile

if TYPE_CHECKING:
    from rankpipe.models.attention import AttentionScorer, Listed

WINDOWED = "in the last window that read the document; the score is minus its rank"
"""What an explanation says of itself where a query needs several windows."""


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Attention(Stage):
    """Score the first candidates of every query by the attention that a language model pays to them.

    Chen, Gutiérrez and Su, ICLR 2025, arXiv 2410.02642. The model reads all candidates in one prompt, and behind them
    the query; nothing is generated.

    model         folder, GGUF file, hub name, alias or package: reference of a causal language model
    depth         candidates scored per query
    rest          what becomes of those below: "keep" leaves them below in their order, "drop" removes them
    max_words     of a document that are read, parted by blanks
    fields        the fields of a document, each on a line, that are read
    prompt        file, or name of a shipped one: attention-find, attention-answer
    heads         "all", heads such as ["14-22"], or a file of heads that `rankpipe train` has found
    layers        first and last layer that is read, from 0, where heads is "all"
    calibrate     subtract the attention of a query without content, which the prompt's form alone draws
    filter_sigma  tokens that lie so many standard deviations under the mean of their document are left out; null: none
    normalise     "sum" adds up the tokens of a document, "mean" divides by their number: long documents draw more
    order         of the candidates in the prompt: "reverse" puts the best one last, next to the query; "forward";
                  "random", by the seed and the query's id
    seed          of the order "random"
    window        candidates of a prompt: "fit" is all of them where the model's context holds them, else as many as it
                  holds; a number is never exceeded. Several windows move from the last candidates to the first
    stride        places from one window to the next, which may not be more than a window; by default half a window

    Scores are sums of attention; where a query needs several windows, they are minus its ranks, from -1.
    """

    needs: ClassVar[frozenset[Part]] = frozenset({"candidates"})

    model: Reference
    depth: Annotated[int, Gt(0)] = 20
    rest: Rest = "keep"
    max_words: Annotated[int, Gt(0)] = 300
    fields: Annotated[Several[str], MinLen(1)] = ("title", "text")
    prompt: AttentionPromptFile = "attention-find"
    heads: Annotated[Literal["all"] | Reference | Several[str], AfterValidator(known_heads)] = "all"
    layers: Annotated[Several[Annotated[int, Ge(0)]], Len(2, 2)] | None = None
    calibrate: bool = True
    filter_sigma: Annotated[float, Ge(0)] | None = 2.0
    normalise: Literal["sum", "mean"] = "sum"
    order: Literal["reverse", "forward", "random"] = "reverse"
    seed: Annotated[int, Ge(0)] = 0
    window: Literal["fit"] | Annotated[int, Ge(2)] = "fit"
    stride: Annotated[int, Ge(1)] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Attention:
        if self.layers is not None and self.heads != "all":
            raise ValueError("'layers' are those of 'heads: all'; a list or a file of heads says its own")
        if self.layers is not None and self.layers[0] > self.layers[1]:
            raise ValueError(f"'layers' is {list(self.layers)}: the first of the two is above the last")
        if self.seed and self.order != "random":
            raise ValueError(f"'seed' is that of 'order: random'; the order is {self.order}, which draws nothing")
        if self.stride is not None and isinstance(self.window, int) and self.stride > self.window:
            raise ValueError(
                f"'stride' is {self.stride}, and would leave out candidates between windows of {self.window}"
            )
        return self

    def __call__(self, run: Run) -> Run:
        """Rescore the candidates. Raises UsageError for a prompt that the model's context does not hold."""
        return run.rescored_to(self.depth, self._score, rest=self.rest) if len(run.documents) else run

    def prepare(self, corpus: Corpus) -> None:
        """Open the model."""
        self._opened_once()

    def facts(self, corpus: Corpus) -> Mapping[str, Any]:
        """Digests, heads, precision."""
        return self._opened_once().scorer.key()

    def counted(self, corpus: Corpus) -> Mapping[str, Any]:
        """Queries, prompts and their tokens; which share of the documents was cut."""
        told = self._opened_once().counts.get(corpus.digest)
        return {} if told is None else told.told()

    def _score(self, run: Run) -> NDArray[np.float64]:
        """(H,) scores of a run's candidates."""
        opened = self._opened_once()
        reading = _Reading(self, opened.scorer, run, opened.counts.setdefault(run.corpus.digest, _Counts()))
        scores = np.zeros(len(run.documents))
        with counted(len(run), "queries") as advance:
            for row, found in reading.all():
                scores[run.span(row)] = found
                advance(1)
        return scores

    def _opened_once(self) -> _Opened:
        """The open model. Raises MissingExtraError, ModelError, UsageError."""
        return self.open_once(current_runtime(), lambda: _Opened(self._open()))

    def _open(self) -> AttentionScorer:
        need_extra(f"stage '{self.type_name()}'", NEEDS, "transformers", "llm")
        from rankpipe.models.attention import (  # brings torch, so not before it is needed
            AttentionScorer,
            AttentionSettings,
        )

        settings = AttentionSettings(
            prompt=self.prompt,
            heads=self.heads if isinstance(self.heads, str) else tuple(self.heads),
            layers=None if self.layers is None else (self.layers[0], self.layers[1]),
            calibrate=self.calibrate,
            filter_sigma=self.filter_sigma,
            mean=self.normalise == "mean",
        )
        return AttentionScorer(self.model, settings, current_runtime())


@plain_dataclass
class _Counts:
    """What was done for a corpus."""

    queries: int = 0
    windowed: int = 0
    prompts: int = 0
    tokens: int = 0
    documents: int = 0
    cut: int = 0

    def told(self) -> dict[str, Any]:
        """As the manifest says it."""
        share = {"truncated_share": round(self.cut / self.documents, 6)} if self.documents else {}
        return {
            "queries": self.queries,
            "in_windows": self.windowed,
            "prompts": self.prompts,
            "tokens": self.tokens,
            **share,
        }


@plain_dataclass
class _Opened:
    """An open model, and what it has done for every corpus, by its digest."""

    scorer: AttentionScorer
    counts: dict[str, _Counts] = field(default_factory=dict)


@plain_dataclass
class _Plan:
    """How a query is scored.

    row     of the query
    order   (N,) its candidates, by their place in the ranking, in the order in which the model reads them
    listed  the beginning of the prompt with all of them
    window  candidates of a prompt
    """

    row: int
    order: NDArray[np.int64]
    listed: Listed
    window: int


@plain_dataclass
class _Read:
    """What became of a query.

    scores   (N,) of its candidates
    prompts  that were read: the candidates in each, by their place in the ranking, in the order in which they were read;
             the prompt's beginning; (P,) scores of its tokens
    shared   whether the first of the prompts had been read before, for another query
    """

    scores: NDArray[np.float64]
    prompts: list[tuple[NDArray[np.int64], Listed, NDArray[np.float64]]]
    shared: bool = False


class _Reading:
    """The candidates of a run: queries one a core, or, where they have the same candidates, one after the other."""

    def __init__(self, stage: Attention, scorer: AttentionScorer, run: Run, counts: _Counts) -> None:
        self._stage, self._scorer, self._run, self._counts = stage, scorer, run, counts
        rows, which = np.unique(run.documents, return_inverse=True)
        self._texts, cut = read_texts(run.corpus, rows, stage.fields, stage.max_words)
        self._which = which.reshape(-1)
        counts.documents += len(rows)
        counts.cut += cut

    def all(self) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Each query's row, and the (N,) scores of its candidates. All prompts are checked before the first is read."""
        plans = [self._plan(row) for row in range(len(self._run)) if self._run.counts[row]]
        largest = max(plans, key=lambda plan: self._tokens(plan))
        at_once = self._scorer.at_once(self._tokens(largest), f"query {self._id(largest.row)!r}")
        shared: dict[bytes, list[_Plan]] = {}
        for plan in plans:
            whole = plan.window == len(plan.order)
            key = self._documents(plan.row)[plan.order].tobytes() if whole else f"query {plan.row}".encode()
            shared.setdefault(key, []).append(plan)
        for together, found in self._scorer.each(self._read_all, list(shared.values()), at_once):
            for plan, one in zip(together, found, strict=True):
                self._note(plan.row, one)
                yield plan.row, one.scores

    def _plan(self, row: int) -> _Plan:
        scorer, stage, query = self._scorer, self._stage, self._run.queries.texts[row]
        count = int(self._run.counts[row])
        order = self._ordered(row, np.arange(count))
        listed = scorer.listed(self._written(row, order))
        most = scorer.most_documents(listed, query)
        window = count if stage.window == "fit" else min(stage.window, count)
        plan = _Plan(row, order, listed, min(window, most))
        if most < window and stage.window != "fit":
            raise UsageError(self._too_long(plan, f"{window} of them do not fit; choose a smaller window or max_words"))
        if most < (fewest := min(2, count)):
            raise UsageError(
                self._too_long(plan, f"even {fewest} of its candidates do not fit; choose a smaller max_words")
            )
        if plan.window < count and stage.stride is not None and stage.stride > plan.window:
            fit = (
                f"{plan.window} of them fit, and a stride of {stage.stride} would leave out candidates between windows"
            )
            raise UsageError(self._too_long(plan, f"{fit}; choose a smaller stride or max_words"))
        return plan

    def _too_long(self, plan: _Plan, what: str) -> str:
        tokens = self._scorer.tokens(plan.listed, self._run.queries.texts[plan.row])
        return (
            f"query {self._id(plan.row)!r}: its {len(plan.order)} candidates make a prompt of {tokens:,} tokens, and the "
            f"model reads {self._scorer.limit:,}; {what} ({self._stage.max_words})"
        )

    def _tokens(self, plan: _Plan) -> int:
        """Tokens of a query's longest prompt, at most."""
        tokens = self._scorer.tokens(plan.listed, self._run.queries.texts[plan.row])
        return tokens if plan.window == len(plan.order) else min(tokens, self._scorer.limit or tokens)

    def _read_all(self, together: Sequence[_Plan]) -> list[_Read]:
        """What becomes of queries whose prompts begin alike, or of one that is read in windows."""
        if together[0].window < len(together[0].order):
            return [self._in_windows(plan) for plan in together]
        read, found = self._scorer.read(together[0].listed), []
        for at, plan in enumerate(together):
            tokens = self._scorer.token_scores(read, self._run.queries.texts[plan.row])
            scores = np.empty(len(plan.order))
            scores[plan.order] = self._scorer.scores(read.listed, tokens)
            found.append(_Read(scores, [(plan.order, read.listed, tokens)], shared=at > 0))
        return found

    def _in_windows(self, plan: _Plan) -> _Read:
        """Scores are minus the ranks that windows, moved from the tail to the head, leave the candidates in."""
        scorer, query = self._scorer, self._run.queries.texts[plan.row]
        window, places = plan.window, np.arange(len(plan.order))
        prompts = []
        stride = self._stage.stride or max(1, window // 2)
        end = len(places)
        while True:
            begin = max(0, end - window)
            inside = places[begin:end]
            order = self._ordered(plan.row, inside)
            listed = scorer.listed(self._written(plan.row, order))
            tokens = scorer.token_scores(scorer.read(listed), query)
            prompts.append((order, listed, tokens))
            found = scorer.scores(listed, tokens)
            scores = dict(zip(order.tolist(), found.tolist(), strict=True))
            places[begin:end] = sorted(inside.tolist(), key=lambda place: -scores[place])  # equal ones stay as they are
            if begin == 0:
                break
            end -= stride
        ranks = np.empty(len(places))
        ranks[places] = np.arange(1, len(places) + 1)
        return _Read(-ranks, prompts)

    def _note(self, row: int, read: _Read) -> None:
        """Count a query, and explain it where that is asked for."""
        counts, windowed = self._counts, len(read.prompts) > 1
        counts.queries += 1
        counts.windowed += windowed
        for order, listed, tokens in read.prompts:
            if not read.shared:
                counts.prompts += 1
                counts.tokens += len(listed.ids)
            note_explained(
                self._stage,
                self._id(row),
                partial(self._explained, row, order, listed, tokens),
                remark=WINDOWED if windowed else None,
            )

    def _explained(
        self, row: int, order: NDArray[np.int64], listed: Listed, tokens: NDArray[np.float64]
    ) -> Iterator[tuple[int, list[tuple[str, float]]]]:
        documents = self._documents(row)[order].tolist()
        return zip(documents, self._scorer.explained(listed, tokens), strict=True)

    def _ordered(self, row: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Candidates, which stand in the order of their ranks, in that of the prompt."""
        if self._stage.order == "reverse":
            return places[::-1].copy()
        if self._stage.order == "random":
            return np.random.default_rng([self._stage.seed, crc32(self._id(row).encode())]).permutation(places)
        return places

    def _written(self, row: int, order: NDArray[np.int64]) -> list[str]:
        begin = self._run.span(row).start
        return [self._texts[self._which[begin + place]] for place in order.tolist()]

    def _documents(self, row: int) -> NDArray[np.int32]:
        return self._run.documents[self._run.span(row)]

    def _id(self, row: int) -> str:
        return self._run.queries.ids[row]


def read_texts(corpus: Corpus, rows: NDArray[np.integer], fields: Sequence[str], words: int) -> tuple[list[str], int]:
    """The first words of documents, each field on a line, empty ones left out; and how many documents were cut."""
    columns = [corpus.texts(rows, name) for name in fields]
    lines = ["\n".join(text for text in texts if text) for texts in zip(*columns, strict=True)]
    cut = [cut_to(text, words) for text in lines]
    return [text for text, _ in cut], sum(was_cut for _, was_cut in cut)
