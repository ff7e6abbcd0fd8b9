"""BM25: the retriever over an inverted index of our own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import AfterValidator, model_validator
from pydantic.dataclasses import dataclass

from rankpipe.data import Corpus, Queries
from rankpipe.errors import DataError, UsageError
from rankpipe.index.analysis import Analyzer, is_file, open_analyzer
from rankpipe.index.bm25 import LARGEST_K1
from rankpipe.index.layout import VERSION
from rankpipe.index.ranking import Ranking
from rankpipe.models.runtime import current_runtime
from rankpipe.progress import tracked
from rankpipe.run import Run
from rankpipe.stage import SETTINGS, Part, QueryPart, Reference, Several, Stage
from rankpipe.store import artefact, file_digest

if TYPE_CHECKING:
    from rankpipe.index.inverted import InvertedIndex, TermQueries
    from rankpipe.index.lucene import LuceneIndex

LUCENE_ANALYZERS = ("english", "whitespace")
"""Analyzers that Lucene has under our names."""


Analysis = Literal["english", "whitespace"] | Reference
"""The name of an analyzer, whatever lies beside the pipeline's file, or a tokenizer.json."""


def known_analyzer(analyzer: str) -> str:
    """The analyzer, if there is such a one; a validator of settings."""
    from rankpipe.index.analysis import analyzer_problem

    if problem := analyzer_problem(analyzer):
        raise ValueError(problem)
    return analyzer


def what_analyses(analyzer: str) -> str:
    """What makes the terms of an analyzer: its name, or of a tokenizer.json its content, wherever it lies."""
    return f"tokenizer.json of sha256 {file_digest(Path(analyzer))[:16]}" if is_file(analyzer) else analyzer


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class BM25(Stage):
    """Retrieve the documents that score best by BM25, as Lucene computes it.

    A document that shares no term with the query is not a candidate, so there may be fewer than k, or none.
    Robertson and Zaragoza 2009, in the variant of Lucene's BM25Similarity; see rankpipe.index.bm25.

    k         candidates kept per query
    k1, b     saturation of term frequency, and how much length counts. The defaults are Anserini's, of which the
              published BEIR figures are made
    analyzer  how text becomes terms: "english" (Lucene's), "snowball:LANGUAGE", "whitespace", or the path of a
              Hugging Face tokenizer.json
    fields    the fields of a document, joined by a blank, that are indexed
    engine    "rankpipe", or for comparison "rank-bm25", the package of that name, or "lucene", through Pyserini
    lucene_index  for engine "lucene", an index there is already: its folder, or the name of one of Pyserini's.
                  analyzer is then that of the queries; fields are not stated beside it, as the index has its own
    """

    makes: ClassVar[frozenset[Part]] = frozenset({"candidates"})
    takes: ClassVar[frozenset[QueryPart]] = frozenset({"terms"})

    k: Annotated[int, Gt(0)] = 1000
    k1: Annotated[float, Ge(0), Le(LARGEST_K1)] = 0.9
    b: Annotated[float, Ge(0), Le(1)] = 0.4
    analyzer: Annotated[Analysis, AfterValidator(known_analyzer)] = "english"
    fields: Annotated[Several[str], MinLen(1)] = ("title", "text")
    engine: Literal["rankpipe", "rank-bm25", "lucene"] = "rankpipe"
    lucene_index: Reference | None = None

    @model_validator(mode="after")
    def _fits(self) -> BM25:
        if self.engine == "lucene" and self.analyzer not in LUCENE_ANALYZERS:
            known = " and ".join(f"'{name}'" for name in LUCENE_ANALYZERS)
            raise ValueError(f"engine 'lucene' has the analyzers {known}, not '{self.analyzer}'")
        if self.engine != "lucene" and self.lucene_index is not None:
            raise ValueError("'lucene_index' needs 'engine: lucene'")
        if self.lucene_index is not None and self.fields != ("title", "text"):
            raise ValueError("'fields' are those of the index that rankpipe builds; 'lucene_index' has its own")
        return self

    @property
    def shared(self) -> Mapping[str, Any]:
        """The analyzer, whose terms queries have to have."""
        return {"analyzer": what_analyses(self.analyzer)}

    @property
    def lowest_score(self) -> float | None:
        """0, as no idf is negative; rank_bm25 knows no bound."""
        return None if self.engine == "rank-bm25" else 0.0

    def __call__(self, run: Run) -> Run:
        """Replace the candidates. Weighted terms of the queries are taken before their texts."""
        search = {"rankpipe": self._search, "rank-bm25": self._search_rank_bm25, "lucene": self._search_lucene}
        found = search[self.engine](run)
        return Run(run.queries, run.corpus, found.offsets, found.documents, found.scores)

    def facts(self, corpus: Corpus) -> Mapping[str, Any]:
        """How many documents an index has that was there already."""
        if self.lucene_index is None:
            return {}
        return {"index_documents": self._lucene(corpus).documents, "corpus_documents": corpus.size}

    def prepare(self, corpus: Corpus) -> None:
        """Build the index if the store does not have it, open it, and load the compiled loops by a first search."""
        self(Run.empty(Queries.of(""), corpus))

    def index(self, corpus: Corpus) -> tuple[InvertedIndex, Analyzer]:
        """The open index of a corpus and its analyzer; built into the store if it is not there."""
        return self.open_once(corpus.digest, lambda: self._build_or_open(corpus))

    def index_and_terms(self, run: Run) -> tuple[InvertedIndex, TermQueries]:
        """The open index, and the terms of a run's queries in it: their weighted ones before those of their texts."""
        index, analyzer = self.index(run.corpus)
        queries = run.queries
        if queries.terms is None:
            return index, index.queries(queries.texts, analyzer)
        queries.check_taken("terms", self.type_name(), self.shared)
        return index, index.weighted_queries(queries.terms)

    def _search(self, run: Run) -> Ranking:
        index, terms = self.index_and_terms(run)
        threads = current_runtime().thread_count
        return index.search(terms, self.k, run.corpus.tie_order, k1=self.k1, b=self.b, threads=threads)

    def _search_rank_bm25(self, run: Run) -> Ranking:
        from rankpipe.index.rank_bm25 import RankBM25

        self._refuse_weighted_terms(run)
        corpus = run.corpus
        engine = self.open_once(
            corpus.digest,
            lambda: RankBM25(
                self._texts(corpus), open_analyzer(self.analyzer), rows=corpus.live_rows(), k1=self.k1, b=self.b
            ),
        )
        return engine.search(run.queries.texts, self.k, corpus.tie_order)

    def _search_lucene(self, run: Run) -> Ranking:
        self._refuse_weighted_terms(run)
        engine = self._lucene(run.corpus)
        return engine.search(run.queries.texts, self.k, k1=self.k1, b=self.b, threads=current_runtime().thread_count)

    def _lucene(self, corpus: Corpus) -> LuceneIndex:
        return self.open_once(corpus.digest, lambda: self._build_or_open_lucene(corpus))

    def _refuse_weighted_terms(self, run: Run) -> None:
        if run.queries.terms is not None:
            raise UsageError(f"engine '{self.engine}' takes no weighted terms; engine 'rankpipe' does")

    def _build_or_open(self, corpus: Corpus) -> tuple[InvertedIndex, Analyzer]:
        from rankpipe.index.inverted import InvertedIndex, build  # brings numba, so not before it is needed

        analyzer = open_analyzer(self.analyzer)
        key = {"format": VERSION, "corpus": corpus.digest, "analyzer": analyzer.fingerprint, "fields": self.fields}
        folder = artefact(
            "inverted", key, lambda folder: build(folder, self._texts(corpus), analyzer, rows=corpus.live_rows())
        )
        return InvertedIndex.open(folder), analyzer

    def _build_or_open_lucene(self, corpus: Corpus) -> LuceneIndex:
        from rankpipe.index import lucene

        key = {"format": lucene.FORMAT, "corpus": corpus.digest, "analyzer": self.analyzer, "fields": self.fields}
        key |= lucene.versions()
        server = lucene.LuceneServer()
        folder = self.lucene_index
        if folder is None:
            blocks = (
                (corpus.ids(rows), corpus.joined_texts(rows, self.fields))
                for rows in tracked(corpus.blocks(lucene.DOCUMENTS), corpus.size, "documents")
            )
            folder = artefact("lucene", key, lambda folder: lucene.build(server, folder, blocks, self.analyzer))
        index = lucene.LuceneIndex(folder, corpus, self.analyzer, server)
        if self.lucene_index is not None and not index.documents and corpus.size:
            server.close()
            raise DataError(f"{folder}: the index has no documents, and the corpus has {corpus.size:,}")
        return index

    def _texts(self, corpus: Corpus) -> Iterator[str]:
        for rows in tracked(corpus.blocks(), corpus.size, "documents"):
            yield from corpus.joined_texts(rows, self.fields)
