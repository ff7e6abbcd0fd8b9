"""HyDE: a rewriter that searches with the vectors of passages that a language model makes up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from rankpipe.data import Corpus
from rankpipe.run import Run
from rankpipe.stage import SETTINGS, QueryPart
from rankpipe.stages.encoding import Encoding
from rankpipe.stages.prompt_file import PromptFile
from rankpipe.stages.rewriting import Rewriting, one_line
from rankpipe.stages.vector_feedback import mean_with, of_length_one


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Hyde(Rewriting, Encoding):
    """Give every query the mean of its own vector and those of passages that a language model writes in answer to it.

    Gao, Ma, Lin and Callan, ACL 2023, arXiv 2212.10496. Passages are encoded as documents. A stage dense of the same
    model takes the vectors; texts and candidates stay. Where the encoder gives vectors of length 1, so does this.

    passages  answers to each query

    model, query_model, query_prompt, document_prompt, pooling, normalise, dimensions, similarity, max_length, window,
    stride, fields, vectors
              of the encoder, see rankpipe.stages.encoding
    writer, endpoint, prompt, max_tokens, temperature, top_p, seed
              of the language model, see rankpipe.stages.rewriting
    """

    gives: ClassVar[frozenset[QueryPart]] = frozenset({"vectors"})
    keeps_scores: ClassVar[bool] = True

    prompt: PromptFile = "hyde"
    max_tokens: Annotated[int, Ge(1)] = 512
    temperature: Annotated[float, Ge(0)] = 0.7
    passages: Annotated[int, Ge(1)] = 8

    @model_validator(mode="after")
    def _draws(self) -> Hyde:
        if self.temperature == 0 and self.passages > 1:
            raise ValueError(
                f"at temperature 0 the {self.passages} passages of a query are all the same; choose a higher one, or "
                "one passage"
            )
        return self

    def __call__(self, run: Run) -> Run:
        """The run, its queries with vectors. Candidates stay."""
        vectors = self.query_vectors(run)
        answers = self.answered(run)
        passages = [one_line(text) for group in answers for text in group]
        documents, queries = self.encoders()
        if passages:
            owners = np.repeat(np.arange(len(answers)), [len(group) for group in answers])
            found = documents.documents(passages)
            sizes = np.diff(found.offsets)[:, None]
            means = (np.add.reduceat(found.vectors, found.offsets[:-1]) / sizes).astype(np.float32)  # over windows
            for row in np.unique(owners):
                vectors[row] = mean_with(vectors[row], means[owners == row])
            if queries.of_length_1:
                vectors = of_length_one(vectors)
        self._count_unchanged(run, [bool(group) for group in answers])
        return run.with_queries(run.queries.with_vectors(vectors, documents.space()))

    def prepare(self, corpus: Corpus) -> None:
        """Open both models."""
        super().prepare(corpus)
        self.encoders()

    def facts(self, corpus: Corpus) -> Mapping[str, Any]:
        """What makes the answers, and the encoder."""
        return {**Encoding.facts(self, corpus), **Rewriting.facts(self, corpus)}

    def counted(self, corpus: Corpus) -> Mapping[str, Any]:
        """What became of the answers, and which share of the queries was cut when they were encoded."""
        return {**Encoding.counted(self, corpus), **Rewriting.counted(self, corpus)}

    @property
    def _answers_each(self) -> int:
        return self.passages

    @property
    def _stop(self) -> tuple[str, ...]:
        return ("\n\n\n",)
