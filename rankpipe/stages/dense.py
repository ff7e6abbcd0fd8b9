"""Dense: the retriever by vectors of a bi-encoder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from annotated_types import Gt
from pydantic.dataclasses import dataclass

from rankpipe.data import Corpus
from rankpipe.models.runtime import current_runtime
from rankpipe.run import Run
from rankpipe.stage import SETTINGS, Part
from rankpipe.stages.dense_index import DenseKind, Flat
from rankpipe.stages.encoding import Encoding, said

if TYPE_CHECKING:
    from rankpipe.index.dense import DenseIndex


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Dense(Encoding):
    """Retrieve the documents whose vectors have the largest dot product with the query's.

    The vectors of the corpus are encoded once, into the store; a run that is killed goes on where it stopped. A query
    without text, or whose vector that an earlier stage made is zero, has no candidates. Scores: the dot product, from -1 to 1 where similarity is cosine. The best window
    of a document that has several stands in run.passages.

    k      candidates kept per query
    index  how they are found: {kind: flat}, exact; or {kind: hnsw | ivf-pq | sq8 | binary}, see rankpipe.index.ann_kinds:
           candidates of an approximate index, scored exactly; there can be fewer than k

    model, query_model, query_prompt, document_prompt, pooling, normalise, dimensions, similarity, max_length, window,
    stride, fields, vectors
           see rankpipe.stages.encoding
    """

    makes: ClassVar[frozenset[Part]] = frozenset({"candidates"})

    k: Annotated[int, Gt(0)] = 1000
    index: DenseKind = Flat()

    @property
    def lowest_score(self) -> float | None:
        """-1 where `similarity: cosine` is stated; what a model's own folder says is not known before it is read."""
        return -1.0 if self.similarity == "cosine" else None

    @property
    def lowest_score_setting(self) -> str | None:
        """Of a model whose folder says cosine, stating it changes no score."""
        return "similarity: cosine" if self.similarity is None else None

    def __call__(self, run: Run) -> Run:
        """Replace the candidates. Vectors that the queries carry are taken before their texts."""
        index = self.open_index(run.corpus)
        queries = run.queries
        asked = said(queries.texts) if queries.vectors is None else queries.vectors.any(axis=1)
        rows = np.flatnonzero(asked)
        vectors = self.encoded_queries(run if asked.all() else run.select(rows))
        k = min(self.k, max(run.corpus.size, 1))
        found = index.search(vectors, k, run.corpus.tie_order, threads=current_runtime().thread_count)
        counts = np.zeros(len(queries), np.int64)
        counts[rows] = np.diff(found.offsets)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return Run(queries, run.corpus, offsets, found.documents, found.scores, passages=found.passages)

    def prepare(self, corpus: Corpus) -> None:
        """Encode the documents that the store does not have, and open the index."""
        self.open_index(corpus)

    def open_index(self, corpus: Corpus) -> DenseIndex:
        """The open index of a corpus; its vectors are encoded into the store if they are not there."""
        return self.open_once((corpus.digest, current_runtime()), lambda: self._open_index(corpus))

    def facts(self, corpus: Corpus) -> Mapping[str, Any]:
        """Those of the encoder, and of an approximate index its effort and the recall that was measured with it."""
        facts = super().facts(corpus)
        if isinstance(self.index, Flat):
            return facts
        header = getattr(self.open_index(corpus), "header", None)
        return facts if header is None else {**facts, "index": header.as_json()}

    def _read(self, corpus: Corpus) -> Counter[str]:
        """All documents of the corpus: any of them can be found."""
        vectors = self.stored_vectors(corpus)
        documents = (0, 0) if vectors is None else (len(vectors.rows), int(vectors.truncated.sum()))
        return super()._read(corpus) + Counter(documents=documents[0], truncated_documents=documents[1])

    def _open_index(self, corpus: Corpus) -> DenseIndex:
        vectors = self.all_vectors(corpus)
        if isinstance(self.index, Flat):
            from rankpipe.index.dense import FlatIndex  # brings numba, so not before it is needed

            return FlatIndex(vectors)
        from rankpipe.index.ann import open_ann

        return open_ann(self.index, vectors, self._key(corpus), threads=current_runtime().thread_count)
