"""Sparse: the retriever by weighted terms that a masked language model makes of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from annotated_types import Ge, Gt, MinLen
from numpy.typing import NDArray
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from rankpipe import store
from rankpipe.data import Corpus
from rankpipe.errors import UsageError
from rankpipe.models.references import need_extra
from rankpipe.models.runtime import current_runtime
from rankpipe.run import Run
from rankpipe.stage import SETTINGS, Part, Reference, Several, Stage
from rankpipe.stages.encoding import said, truncated_shares

if TYPE_CHECKING:
    from collections.abc import Callable

    from rankpipe.index.inverted import InvertedIndex
    from rankpipe.index.sparse import SparseBlock
    from rankpipe.models.sparse_encoder import SparseEncoder

NEEDS = ("torch", "transformers")
"""What the extra 'dense' brings, as far as this needs it."""


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Sparse(Stage):
    """Retrieve the documents whose weighted terms have the largest dot product with the query's.

    Terms are tokens of the model's tokenizer, weighted by a masked language model as SPLADE does (Formal, Piwowarski
    and Clinchant, SIGIR 2021, arXiv 2107.05720). The documents are encoded once, into the store; a run that is killed
    goes on where it stopped. A document that shares no term with the query is not a candidate, and a text that is
    empty has no terms. Scores: the dot product, above 0.

    k                candidates kept per query
    model            folder, hub name or package: reference of the encoder of documents, and of queries too
    query_model      reference of another encoder for queries, of the same vocabulary
    queries          "model": they are encoded; "tokens": their own tokens, each with weight 1 (SPLADE-doc), which
                     takes no network at all
    max_terms        terms kept of a document, those of the greatest weights; by default all
    max_query_terms  terms kept of a query that is encoded
    max_length       tokens of a text that are read; what is longer is cut, and counted
    fields           the fields of a document, joined by a blank, that are encoded
    """

    makes: ClassVar[frozenset[Part]] = frozenset({"candidates"})

    model: Reference
    query_model: Reference | None = None
    queries: Literal["model", "tokens"] = "model"
    k: Annotated[int, Gt(0)] = 1000
    max_terms: Annotated[int, Ge(1)] | None = None
    max_query_terms: Annotated[int, Ge(1)] | None = None
    max_length: Annotated[int, Ge(1)] | None = None
    fields: Annotated[Several[str], MinLen(1)] = ("title", "text")

    @model_validator(mode="after")
    def _fits(self) -> Sparse:
        if self.queries == "tokens":
            for name in ("query_model", "max_query_terms"):
                if getattr(self, name) is not None:
                    raise ValueError(f"'queries: tokens' encodes no queries, so it takes no '{name}'")
        return self

    @property
    def lowest_score(self) -> float | None:
        """0, as no weight is negative."""
        return 0.0

    def __call__(self, run: Run) -> Run:
        """Replace the candidates. Weighted terms that the queries carry are not read: they are those of an analyzer."""
        index = self.open_index(run.corpus)
        terms = index.weighted_queries(self.encoded_queries(run))
        found = index.search(terms, self.k, run.corpus.tie_order, threads=current_runtime().thread_count)
        return Run(run.queries, run.corpus, found.offsets, found.documents, found.scores)

    def prepare(self, corpus: Corpus) -> None:
        """Encode the documents that the store does not have, and open the index."""
        self.open_index(corpus)

    def encoders(self) -> tuple[SparseEncoder, SparseEncoder]:
        """The encoders of documents and of queries, often one. Raises MissingExtraError, ModelError."""
        opened = self._opened_encoders()
        return opened.documents, opened.queries

    def encoded_queries(self, run: Run) -> list[Mapping[str, float]]:
        """Term -> weight of a run's queries; none for one without text."""
        from rankpipe.index.sparse import SparseBlock, as_mappings

        encoder = self.encoders()[1]
        rows = np.flatnonzero(said(run.queries.texts)).tolist()
        texts = [run.queries.texts[row] for row in rows]
        found = encoder.bags(texts) if self.queries == "tokens" else encoder.queries(texts, self.max_query_terms)
        counts = self._opened_encoders().counts.setdefault(run.corpus.digest, Counter())
        counts.update(queries=len(texts), truncated_queries=int(found.truncated.sum()))
        terms: list[Mapping[str, float]] = [{}] * len(run.queries)
        for row, weighted in zip(rows, as_mappings(SparseBlock(*found), encoder.vocabulary), strict=True):
            terms[row] = weighted
        return terms

    def open_index(self, corpus: Corpus) -> InvertedIndex:
        """The open index of a corpus; its documents are encoded into the store if they are not there."""
        return self.open_once((corpus.digest, current_runtime()), lambda: self._open_index(corpus))

    def facts(self, corpus: Corpus) -> Mapping[str, Any]:
        """Digests and precision, for the manifest of a result."""
        documents, queries = self.encoders()
        return {**documents.key(), "query_model": queries.digest, "query_prompt": queries.recipe.query_prompt}

    def counted(self, corpus: Corpus) -> Mapping[str, Any]:
        """Which share of the documents of the corpus, and of queries, was cut."""
        from rankpipe.index.sparse import KIND, read_documents

        folder = store.found(KIND, self._key(corpus))
        documents, truncated = (0, 0) if folder is None else read_documents(folder)
        counts = self._opened_encoders().counts.get(corpus.digest, Counter())
        return truncated_shares(counts + Counter(documents=documents, truncated_documents=truncated))

    def _open_index(self, corpus: Corpus) -> InvertedIndex:
        from rankpipe.index.inverted import InvertedIndex  # brings numba, so not before it is needed
        from rankpipe.index.sparse import KIND, build, shared

        encoder = self.encoders()[0]

        def make(folder: Path) -> None:
            build(
                folder,
                corpus.live_rows(),
                lambda rows, advance: self._encode(corpus, rows, advance),
                lambda: encoder.vocabulary,
                known=shared(self._key(corpus)),
            )

        return InvertedIndex.open(store.resumable(KIND, self._key(corpus), make))

    def _encode(self, corpus: Corpus, rows: NDArray[np.int32], advance: Callable[[int], None]) -> SparseBlock:
        """Terms of the documents at rows of a corpus."""
        from rankpipe.index.sparse import SparseBlock

        texts = corpus.joined_texts(rows, self.fields)
        filled = np.flatnonzero(said(texts))
        found = self.encoders()[0].documents([texts[place] for place in filled], self.max_terms, advance)
        advance(len(texts) - len(filled))
        counts, truncated = np.zeros(len(texts), np.int64), np.zeros(len(texts), bool)
        counts[filled], truncated[filled] = np.diff(found.offsets), found.truncated
        return SparseBlock(
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), found.terms, found.weights, truncated
        )

    def _key(self, corpus: Corpus) -> dict[str, Any]:
        from rankpipe.index.sparse import FORMAT, SHARD

        return {
            "format": [*FORMAT, SHARD],
            "corpus": corpus.digest,
            "segments": corpus.segments,
            "fields": self.fields,
            "max_terms": self.max_terms,
            **self.encoders()[0].key(),
        }

    def _opened_encoders(self) -> _Opened:
        return self.open_once(("encoders", current_runtime()), self._open_encoders)

    def _open_encoders(self) -> _Opened:
        need_extra(f"stage '{self.type_name()}'", NEEDS, "transformers", "dense")
        from rankpipe.models.sparse_encoder import SparseEncoder  # brings torch, so not before it is needed

        documents = SparseEncoder(self.model, current_runtime(), max_length=self.max_length)
        if self.query_model is None:
            return _Opened(documents, documents, {})
        queries = SparseEncoder(self.query_model, current_runtime(), max_length=self.max_length)
        if queries.vocabulary != documents.vocabulary:
            raise UsageError(
                f"query_model {self.query_model!r} has another vocabulary than model {self.model!r}; "
                "their terms must be the same"
            )
        return _Opened(documents, queries, {})


class _Opened(NamedTuple):
    """The open encoders, and of every corpus, by its digest, how many of its queries were read."""

    documents: SparseEncoder
    queries: SparseEncoder
    counts: dict[str, Counter[str]]
