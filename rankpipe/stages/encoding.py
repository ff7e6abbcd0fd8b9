"""What the stages that use a bi-encoder have in common: how texts become vectors, and the vectors of a corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from annotated_types import Ge, MinLen
from numpy.typing import NDArray
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from rankpipe import store
from rankpipe.data import Corpus
from rankpipe.errors import UsageError
from rankpipe.models.references import need_extra
from rankpipe.models.runtime import current_runtime
from rankpipe.run import Run
from rankpipe.stage import SETTINGS, QueryPart, Reference, Several, Stage

if TYPE_CHECKING:
    from rankpipe.index.kept import Kept
    from rankpipe.index.vectors import Block, Vectors
    from rankpipe.models.bi_encoder import BiEncoder

NEEDS = ("torch", "transformers", "sentence_transformers")
"""What the extra 'dense' brings, as far as encoding needs it."""


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Encoding(Stage):
    """Settings of a bi-encoder; None is what the model's own folder says.

    model            folder, hub name, alias or package: reference of the encoder of documents, and of queries too, each
                     by their own route where it has a Router
    query_model      reference of another encoder for queries, for a pair that was trained apart
    query_prompt     stands before every query; "" for none
    document_prompt  stands before every document; "" for none
    pooling          how the tokens' vectors become one
    normalise        whether vectors get length 1; with similarity cosine they always do, so false takes similarity: dot
    dimensions       keep only so many dimensions, the first (models trained as Matryoshkas)
    similarity       "cosine" or "dot"
    max_length       tokens of a text that are read; what is longer is cut, and counted
    window           tokens of a window, at most max_length: longer documents are not cut but taken apart into windows,
                     and the best one counts
    stride           tokens from the beginning of one window to that of the next; by default half a window
    fields           the fields of a document, joined by a blank, that are encoded
    vectors          precision in which vectors are stored
    """

    takes: ClassVar[frozenset[QueryPart]] = frozenset({"vectors"})

    model: Reference
    query_model: Reference | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    pooling: Literal["mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"] | None = None
    normalise: bool | None = None
    dimensions: Annotated[int, Ge(1)] | None = None
    similarity: Literal["cosine", "dot"] | None = None
    max_length: Annotated[int, Ge(1)] | None = None
    window: Annotated[int, Ge(2)] | None = None
    stride: Annotated[int, Ge(1)] | None = None
    fields: Annotated[Several[str], MinLen(1)] = ("title", "text")
    vectors: Literal["float32", "float16"] = "float32"

    @model_validator(mode="after")
    def _fits(self) -> Encoding:
        if self.similarity == "cosine" and self.normalise is False:
            raise ValueError("'similarity: cosine' and 'normalise: false' contradict each other")
        if self.stride is not None and self.window is None:
            raise ValueError("'stride' needs 'window'")
        if self.window is not None and (self.stride or 1) > self.window:
            raise ValueError("'stride' is larger than 'window': it would leave text out")
        if self.window is not None and self.max_length is not None and self.window > self.max_length:
            raise ValueError("'window' is larger than 'max_length', the tokens of a text that are read")
        return self

    def encoders(self) -> tuple[BiEncoder, BiEncoder]:
        """The open encoders of documents and of queries, often one. Raises MissingExtraError, ModelError."""
        opened = self._opened_encoders()
        return opened.documents, opened.queries

    def encoded_queries(self, run: Run) -> NDArray[np.float32]:
        """(Q, D) vectors of a run's queries: those that it carries, else of their texts."""
        if run.queries.vectors is not None:
            run.queries.check_taken("vectors", self.type_name(), self.encoders()[0].space())
            return run.queries.vectors
        encoded = self.encoders()[1].queries(run.queries.texts)
        self._count(run.corpus, "queries", encoded.truncated)
        return encoded.vectors

    def query_vectors(self, run: Run) -> NDArray[np.float32]:
        """(Q, D) as encoded_queries, to write into; zero for a query without text, which matches nothing."""
        vectors = np.array(self.encoded_queries(run), np.float32)
        if run.queries.vectors is None:
            vectors[~said(run.queries.texts)] = 0
        return vectors

    def known_vectors(self, corpus: Corpus) -> Vectors | Kept:
        """The vectors of the whole corpus if the store has them, else those of the documents asked for so far."""
        from rankpipe.index.segments import KIND

        whole = store.has(KIND, self._key(corpus))  # perhaps only now: another stage may have encoded it
        return self.open_once(
            ("documents", whole, corpus.digest, current_runtime()),
            lambda: self.stored_vectors(corpus) or self.kept_vectors(corpus),
        )

    def candidate_vectors(self, run: Run) -> tuple[Vectors, NDArray[np.int64]]:
        """Vectors that have all candidates of a run among them, and (H,) the candidates' places there.

        What the store does not have is encoded now.
        """
        from rankpipe.index.vectors import Vectors

        known = self.known_vectors(run.corpus)
        vectors = known if isinstance(known, Vectors) else known.of(run.documents)
        places = vectors.places(run.documents)
        self._count(run.corpus, "documents", vectors.truncated[places])
        return vectors, places

    def encode_rows(
        self, corpus: Corpus, rows: NDArray[np.int32], advance: Callable[[int], None] = lambda _: None
    ) -> Block:
        """Vectors of the documents at rows of a corpus."""
        from rankpipe.index.vectors import Block

        return Block(*self.encoders()[0].documents(corpus.joined_texts(rows, self.fields), advance))

    def stored_vectors(self, corpus: Corpus) -> Vectors | None:
        """The vectors of a whole corpus, if the store has them."""
        from rankpipe.index.segments import KIND
        from rankpipe.index.vectors import Vectors

        folder = store.found(KIND, self._key(corpus))
        return None if folder is None else Vectors.open(folder)

    def all_vectors(self, corpus: Corpus) -> Vectors:
        """The vectors of a whole corpus; what the store does not have of them is encoded, shard after shard.

        It may have those of candidates, which are then kept here alone, and those of other corpora's documents: of
        segments that both have, and of equal texts.
        """
        from rankpipe.index import same_texts
        from rankpipe.index.kept import forget
        from rankpipe.index.segments import KIND
        from rankpipe.index.vectors import Vectors, build

        def texts(rows: NDArray[np.int32]) -> list[str]:
            return corpus.joined_texts(rows, self.fields)

        def make(folder: Path) -> None:
            rows, known = corpus.live_rows(), self.kept_vectors(corpus)
            known.take(same_texts.known(self._key(corpus), np.setdiff1d(rows, known.rows()), texts))
            build(
                folder,
                rows,
                known.block,
                dimensions=self.encoders()[0].dimensions,
                precision=self.vectors,
                known=known.rows(),
            )
            same_texts.save(folder, rows, texts)

        folder = store.resumable(KIND, self._key(corpus), make)
        forget(self._key(corpus))
        return Vectors.open(folder)

    def kept_vectors(self, corpus: Corpus) -> Kept:
        """The vectors of those documents that are asked for; what the store does not have of them is encoded."""
        from rankpipe.index.kept import Kept
        from rankpipe.index.segments import shared

        return Kept(
            self._key(corpus),
            lambda rows, advance: self.encode_rows(corpus, rows, advance),
            dimensions=self.encoders()[0].dimensions,
            precision=self.vectors,
            others=shared(self._key(corpus)),
        )

    def facts(self, corpus: Corpus) -> Mapping[str, Any]:
        """Digests and precision, for the manifest of a result."""
        documents, queries = self.encoders()
        return {**documents.key(), "query_model": queries.digest, "query_prompt": queries.recipe.query_prompt}

    def counted(self, corpus: Corpus) -> Mapping[str, Any]:
        """Which share of the candidates that were scored, and of the queries, was cut."""
        return truncated_shares(self._read(corpus))

    def _key(self, corpus: Corpus) -> dict[str, Any]:
        from rankpipe.index.vectors import FORMAT, SHARD

        return {
            "format": [FORMAT, SHARD],
            "corpus": corpus.digest,
            "segments": corpus.segments,
            "fields": self.fields,
            "stored": self.vectors,
            **self.encoders()[0].key(),
        }

    def _read(self, corpus: Corpus) -> Counter[str]:
        """How many documents and queries were read so far, as truncated_shares takes them."""
        return self._opened_encoders().counts.get(corpus.digest, Counter())

    def _count(self, corpus: Corpus, what: str, truncated: NDArray[np.bool_]) -> None:
        """Count documents or queries that were read, and those of them that were cut."""
        counts = self._opened_encoders().counts.setdefault(corpus.digest, Counter())
        counts.update({what: len(truncated), f"truncated_{what}": int(np.count_nonzero(truncated))})

    def _opened_encoders(self) -> _Opened:
        return self.open_once(("encoders", current_runtime()), self._open_encoders)

    def _open_encoders(self) -> _Opened:
        need_extra(f"stage '{self.type_name()}'", NEEDS, "sentence-transformers", "dense")
        from rankpipe.models.bi_encoder import BiEncoder, EncoderSettings  # brings torch, so not before it is needed
        from rankpipe.models.tokens import Windows

        windows = None
        if self.window is not None:
            windows = Windows(size=self.window, stride=self.stride or max(self.window // 2, 1))
        settings = EncoderSettings(
            query_prompt=self.query_prompt,
            document_prompt=self.document_prompt,
            pooling=self.pooling,
            normalise=self.normalise,
            dimensions=self.dimensions,
            similarity=self.similarity,
            max_length=self.max_length,
            windows=windows,
        )
        documents = BiEncoder(self.model, settings, current_runtime(), role="document")
        if self.query_model is None and not documents.recipe.routed:
            return _Opened(documents, documents, {})
        queries = BiEncoder(self.query_model or self.model, settings, current_runtime(), role="query")
        if queries.dimensions != documents.dimensions:
            names = (f"query_model {self.query_model!r}", f"model {self.model!r}")
            if self.query_model is None:
                names = (f"the query route of model {self.model!r}", "its document route")
            raise UsageError(
                f"{names[0]} gives vectors of {queries.dimensions} dimensions, {names[1]} of {documents.dimensions}; "
                "they must fit each other"
            )
        return _Opened(documents, queries, {})


class _Opened(NamedTuple):
    """The open encoders, and of every corpus, by its digest, how much of it and of its queries was read."""

    documents: BiEncoder
    queries: BiEncoder
    counts: dict[str, Counter[str]]


def truncated_shares(counts: Counter[str]) -> dict[str, float]:
    """Which share of documents and of queries was cut, as a manifest says it; nothing of what none was read of.

    counts  documents, truncated_documents, queries, truncated_queries
    """
    names = {"truncated_share": "documents", "truncated_query_share": "queries"}
    return {name: round(counts[f"truncated_{what}"] / counts[what], 6) for name, what in names.items() if counts[what]}


def said(texts: Sequence[str]) -> NDArray[np.bool_]:
    """(Q,) whether a query says anything: an empty one matches nothing."""
    return np.fromiter((not (text == "" or text.isspace()) for text in texts), bool, len(texts))
