"""CrossEncoder: a re-ranker that reads every candidate together with its query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from annotated_types import Ge, Gt, Len, MinLen
from numpy.typing import NDArray
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from rankpipe.data import Corpus
from rankpipe.models.pair_recipe import DOCUMENT, QUERY, PairSettings
from rankpipe.models.references import need_extra
from rankpipe.models.runtime import current_runtime
from rankpipe.progress import counted
from rankpipe.run import Rest, Run
from rankpipe.stage import SETTINGS, Part, Reference, Several, Stage

if TYPE_CHECKING:
    from rankpipe.models.cross_encoder import CrossEncoderScorer
    from rankpipe.models.pair_scores import PairScores

NEEDS = ("torch", "transformers")
"""What the extra 'dense' brings, as far as this needs it."""


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class CrossEncoder(Stage):
    """Score the first candidates of every query by a network that reads query and document together.

    Nogueira and Cho, 2019, arXiv 1901.04085. Models: sequence classifiers, causal language models that answer yes or
    no, cross-encoders of sentence-transformers. None is what the model's own folder says.

    model         folder, hub name, alias or package: reference of the network
    adapter       folder, package: reference, or name of one that rankpipe ships: an adapter in peft's format that is
                  merged into it
    depth         candidates scored per query
    rest          what becomes of those below: "keep" leaves them below in their order, "drop" removes them
    scores        "logit", or "probability": the sigmoid of the logit, from 0 to 1
    label         name or number of the class that is scored, where the model has several; its logit is the logarithm
                  of its odds, and its probability that of the softmax
    query_prompt  stands before every query; "" for none
    prompt        a text with {query} and {document} that a pair is written into, for language models
    answers       tokens of a causal language model: the score is the logit of the first, less that of the second
    max_length    tokens of a pair that are read
    windows       how a document is read that is too long for it: "first", its beginning; "max", in windows, of which
                  the greatest score counts; "best", the one window that holds most of the query's tokens
    stride        tokens from the beginning of one window to that of the next; by default half a window
    fields        the fields of a document, joined by a blank, that are read
    store         keep the scores of pairs: what was scored once is not scored again, and a killed run goes on
    """

    needs: ClassVar[frozenset[Part]] = frozenset({"candidates"})

    model: Reference
    adapter: Reference | None = None
    depth: Annotated[int, Gt(0)] = 100
    rest: Rest = "keep"
    scores: Literal["logit", "probability"] = "logit"
    label: str | Annotated[int, Ge(0)] | None = None
    query_prompt: str | None = None
    prompt: str | None = None
    answers: Annotated[Several[str], Len(1, 2)] | None = None
    max_length: Annotated[int, Ge(1)] | None = None
    windows: Literal["first", "max", "best"] = "first"
    stride: Annotated[int, Ge(1)] | None = None
    fields: Annotated[Several[str], MinLen(1)] = ("title", "text")
    store: bool = False

    @model_validator(mode="after")
    def _fits(self) -> CrossEncoder:
        if self.stride is not None and self.windows == "first":
            raise ValueError("'stride' needs 'windows: max' or 'windows: best'")
        if self.prompt is not None and (self.prompt.count(DOCUMENT) != 1 or QUERY not in self.prompt):
            raise ValueError(f"'prompt' must hold {QUERY}, and {DOCUMENT} once")
        return self

    @property
    def lowest_score(self) -> float | None:
        """0 for probabilities where the rest is dropped: what is kept stands below them. Logits have no lowest one."""
        return 0.0 if self.scores == "probability" and self.rest == "drop" else None

    def __call__(self, run: Run) -> Run:
        """Rescore the candidates. With windows, run.passages says which of them counted."""
        if not len(run.documents):
            return run
        scored = run.ranks <= self.depth
        found, windows = self._score(run.keep(scored))
        if self.windows != "first":
            passages = np.full(len(run.documents), -1, np.int32)
            passages[scored] = windows
            run = replace(run, passages=passages)
        return run.rescored_to(self.depth, lambda _: found, rest=self.rest)

    def prepare(self, corpus: Corpus) -> None:
        """Open the network."""
        self._opened_once()

    def facts(self, corpus: Corpus) -> Mapping[str, Any]:
        """Digests, precision, and what scores mean."""
        return self._opened_once().scorer.key()

    def counted(self, corpus: Corpus) -> Mapping[str, Any]:
        """Pairs, which share of them was cut, and, of a stage that keeps scores, how many were not there."""
        opened = self._opened_once()
        pairs, truncated = opened.counts.get(corpus.digest, (0, 0))
        computed = {} if opened.kept is None else {"computed": opened.kept.computed}
        return {"pairs": pairs, "truncated_share": round(truncated / pairs, 6), **computed} if pairs else {}

    def _score(self, run: Run) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """(H,) scores of a run's candidates, and the windows that they are of."""
        opened = self._opened_once()
        rows, documents = np.unique(run.documents, return_inverse=True)
        pairs = np.stack([run.query_rows, documents.reshape(-1)], axis=1).astype(np.int64)
        with counted(len(pairs), "pairs") as advance:
            texts = run.corpus.joined_texts(rows, self.fields)
            scorer = opened.kept or opened.scorer
            found = scorer.score(run.queries.texts, texts, pairs, advance)
        before, truncated = opened.counts.get(run.corpus.digest, (0, 0))
        opened.counts[run.corpus.digest] = (before + len(pairs), truncated + int(found.truncated.sum()))
        return found.scores, found.windows

    def _opened_once(self) -> _Opened:
        """The open network. Raises MissingExtraError, ModelError, UsageError."""
        return self.open_once(current_runtime(), self._open)

    def _open(self) -> _Opened:
        need_extra(f"stage '{self.type_name()}'", NEEDS, "transformers", "dense")
        from rankpipe.models.cross_encoder import CrossEncoderScorer  # brings torch, so not before it is needed
        from rankpipe.models.pair_scores import PairScores

        settings = PairSettings(
            scores=self.scores,
            label=self.label,
            query_prompt=self.query_prompt,
            prompt=self.prompt,
            answers=None if self.answers is None else tuple(self.answers),
            max_length=self.max_length,
            windows=self.windows,
            stride=self.stride,
        )
        scorer = CrossEncoderScorer(self.model, settings, current_runtime(), adapter=self.adapter)
        return _Opened(scorer, PairScores(scorer) if self.store else None, {})


class _Opened(NamedTuple):
    """An open network, the scores that are kept of it, and of every corpus, by its digest: pairs, and how many were cut."""

    scorer: CrossEncoderScorer
    kept: PairScores | None
    counts: dict[str, tuple[int, int]]
