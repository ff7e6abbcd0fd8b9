"""Features: numbers about every candidate, for a ranker that has learnt what they are worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray
from pydantic import AfterValidator, model_validator
from pydantic.dataclasses import dataclass

from rankpipe.data import Corpus
from rankpipe.errors import UsageError
from rankpipe.index.bm25 import LARGEST_K1
from rankpipe.models.references import model_digest, resolve
from rankpipe.run import Run
from rankpipe.stage import FEATURE, SETTINGS, InputFile, Part, QueryPart, Reference, Several, Stage, StageName
from rankpipe.stages.bm25 import BM25, Analysis, known_analyzer, what_analyses
from rankpipe.stages.feature_files import read_columns, read_texts
from rankpipe.stages.normalise import normalised, of_earlier
from rankpipe.stages.rescore import Rescore
from rankpipe.store import file_digest

if TYPE_CHECKING:
    from rankpipe.index.inverted import InvertedIndex, TermQueries


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Features(Stage):
    """Leave columns of numbers about every candidate; scores and order stay as they are.

    Columns, each with "feature:" before its name:

    score, reciprocal-rank   the present score, and 1 over the present rank
    NAME                     the score of an earlier stage of that name; what it did not score has the lowest that it
                             gave the query, or 0 if that is less
    FIELD.bm25               BM25 of that field alone
    FIELD.idf                sum of the idf of the query's terms that the field has
    FIELD.coverage           that sum as a share of that of all terms of the query that any document has, from 0 to 1
    FIELD.length             ln(1 + words of the field, parted by blanks)
    similarity               of the vectors of query and document, by a bi-encoder
    COLUMN                   a number of the document that a file gives
    TEXT.bm25, TEXT.idf, ... as of a field, of a text of the document that a file gives: queries that led to it

    scores     names of earlier stages
    fields     of a document, that are looked at each by itself
    model      bi-encoder of `similarity`; null: there is none
    columns    file of JSON lines, {"_id": "doc-7", "clicks": 12, ...}: one for every document that is a candidate
    texts      file of JSON lines, {"_id": "doc-7", "clicked": "words"}; a document that is not in it has an empty text
    normalise  of scores, BM25, idf and similarity, query by query: a ranker then sees the same unit everywhere
    k1, b, analyzer  as the stage bm25 has them
    """

    needs: ClassVar[frozenset[Part]] = frozenset({"candidates"})
    makes: ClassVar[frozenset[Part]] = frozenset({"candidates", "features"})
    takes: ClassVar[frozenset[QueryPart]] = frozenset({"terms", "vectors"})
    keeps_scores: ClassVar[bool] = True

    scores: Several[StageName] = ()
    fields: Several[str] = ("title", "text")
    model: Reference | None = None
    columns: InputFile | None = None
    texts: InputFile | None = None
    normalise: Literal["min-max", "z-score", "none"] = "min-max"
    k1: Annotated[float, Ge(0), Le(LARGEST_K1)] = 0.9
    b: Annotated[float, Ge(0), Le(1)] = 0.4
    analyzer: Annotated[Analysis, AfterValidator(known_analyzer)] = "english"

    @model_validator(mode="after")
    def _fits(self) -> Features:
        for name, values in (("scores", self.scores), ("fields", self.fields)):
            if len(set(values)) < len(values):
                raise ValueError(f"'{name}' names one twice")
        return self

    @property
    def references(self) -> tuple[str, ...]:
        """The earlier stages' names."""
        return tuple(self.scores)

    @property
    def shared(self) -> Mapping[str, Any]:
        """The analyzer, whose terms queries have to have."""
        return {"analyzer": what_analyses(self.analyzer)}

    def __call__(self, run: Run) -> Run:
        """The run with the columns. Raises UsageError for a name without scores, a document without its columns."""
        found: dict[str, NDArray[np.floating]] = {}
        for name, values in self._columns(run):
            if FEATURE + name in found:
                raise UsageError(
                    f"features has two columns of the name {name!r}; give the stage, or the key in {self.columns or self.texts}, another name"
                )
            found[FEATURE + name] = values
        return run.with_features(found)

    def deciding(self) -> dict[str, Any]:
        """What the values of columns depend on beside their names; of the encoder the digest, as JSON takes it."""
        settings = {name: getattr(self, name) for name in ("normalise", "k1", "b")}
        settings["analyzer"] = what_analyses(self.analyzer)
        return {**settings, "model": None if self.model is None else model_digest(resolve(self.model))}

    def prepare(self, corpus: Corpus) -> None:
        """Build or open what the columns come from."""
        there = ", ".join(corpus.fields)
        if there and (missing := [one for one in self.fields if one not in corpus.fields]):
            raise UsageError(
                f"'features' looks at the fields {', '.join(self.fields)}, and no document has {', '.join(missing)}; name "
                f"those that there are: 'fields: [{there}]'"
            )
        for _, stage in self._by_field:
            stage.prepare(corpus)
        if (beside := self._beside(corpus)) is not None:
            for name in beside.fields:
                self._of(name).prepare(beside)
        if self._similarity is not None:
            self._similarity.prepare(corpus)
        self._given(corpus)

    def facts(self, corpus: Corpus) -> Mapping[str, Any]:
        """Digests of the encoder and of the files, as they were when they were read."""
        found = {} if self._similarity is None else self._similarity.facts(corpus)
        return {**found, **self._files(corpus).digests}

    def counted(self, corpus: Corpus) -> Mapping[str, Any]:
        """Which share of what the encoder read was cut."""
        return {} if self._similarity is None else self._similarity.counted(corpus)

    def _columns(self, run: Run) -> Iterator[tuple[str, NDArray[np.floating]]]:
        yield "score", self._normalised(run, run.scores)
        yield RECIPROCAL_RANK, 1 / run.ranks
        for name in self.scores:
            yield name, of_earlier(run, name, self.type_name(), self.normalise)
        for field, stage in self._by_field:
            yield from ((f"{field}.{kind}", values) for kind, values in self._of_field(run, field, stage))
        if (beside := self._beside(run.corpus)) is not None:
            rows = beside.rows(run.corpus.ids(run.documents)).astype(np.int32)
            moved = replace(run, corpus=beside, documents=rows)
            for name in beside.fields:
                yield from ((f"{name}.{kind}", values) for kind, values in self._of_field(moved, name, self._of(name)))
        if self._similarity is not None:
            yield "similarity", self._normalised(run, self._similarity.scores(run))
        for name, values in self._given(run.corpus).items():
            found = values[run.documents]
            if np.isnan(found).any():
                doc_id = run.corpus.ids([int(run.documents[int(np.argmax(np.isnan(found)))])])[0]
                raise UsageError(
                    f"{self.columns} says nothing of {name!r} of document {doc_id!r}, which is a candidate"
                )
            yield name, found

    def _of_field(self, run: Run, field: str, stage: BM25) -> Iterator[tuple[str, NDArray[np.floating]]]:
        index, terms = stage.index_and_terms(run)
        scored = index.score(terms, run.offsets, run.documents, k1=self.k1, b=self.b)
        yield "bm25", self._normalised(run, scored)
        idf = index.score(terms, run.offsets, run.documents, k1=0.0, b=0.0)  # then a term counts its idf, however often
        yield "idf", self._normalised(run, idf)
        most = np.repeat(_most_idf(index, terms), run.counts)
        share = np.divide(idf, most, out=np.zeros(len(idf)), where=most > 0)
        yield "coverage", np.minimum(share, 1.0)  # of sums that were rounded differently
        rows, places = np.unique(run.documents, return_inverse=True)
        words = np.array([len(text.split()) for text in run.corpus.texts(rows, field)], np.float64)
        yield "length", np.log1p(words)[places.reshape(-1)]

    def _normalised(self, run: Run, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        return normalised(scores, run.offsets, self.normalise, None)

    @cached_property
    def _by_field(self) -> tuple[tuple[str, BM25], ...]:
        return tuple((field, self._of(field)) for field in self.fields)

    def _of(self, field: str) -> BM25:
        made = BM25(k=1, k1=self.k1, b=self.b, analyzer=self.analyzer, fields=(field,))
        return self._of_fields.setdefault(field, made)

    @cached_property
    def _of_fields(self) -> dict[str, BM25]:
        """By field, what opens its index; each keeps open what it opened."""
        return {}

    @cached_property
    def _similarity(self) -> Rescore | None:
        return None if self.model is None else Rescore(model=self.model)

    def _given(self, corpus: Corpus) -> Mapping[str, NDArray[np.float32]]:
        """By column of the file, a value for every row of the corpus; NaN where the file says nothing."""
        return self._files(corpus).columns

    def _beside(self, corpus: Corpus) -> Corpus | None:
        """The documents with the texts of the file for fields."""
        return self._files(corpus).texts

    def _files(self, corpus: Corpus) -> _Files:
        """What the files say: read once, as a model is opened once, whatever becomes of them."""
        return self.open_once(("files", corpus.digest), lambda: self._read_files(corpus))

    def _read_files(self, corpus: Corpus) -> _Files:
        columns = {} if self.columns is None else read_columns(self.columns, corpus)
        texts = None if self.texts is None else read_texts(self.texts, corpus)
        files = {"columns": self.columns, "texts": self.texts}
        return _Files(columns, texts, {name: file_digest(path) for name, path in files.items() if path is not None})


class _Files(NamedTuple):
    """What the files say of the documents of a corpus, and the files' digests."""

    columns: Mapping[str, NDArray[np.float32]]
    texts: Corpus | None
    digests: Mapping[str, str]


def feature_matrix(run: Run, columns: Sequence[str]) -> NDArray[np.float32]:
    """(H, F) columns of a run, by the names without the prefix. Each has to be there."""
    return np.stack([run.features[FEATURE + name] for name in columns], axis=1)


RECIPROCAL_RANK = "reciprocal-rank"
"""The column that is the position in disguise: from a log of the same pipeline, nobody can tell them apart."""


def feature_columns(run: Run) -> tuple[str, ...]:
    """Names of the columns that the stage left in a run, without the prefix."""
    return tuple(name.removeprefix(FEATURE) for name in run.features if name.startswith(FEATURE))


def _most_idf(index: InvertedIndex, terms: TermQueries) -> NDArray[np.float64]:
    """(Q,) weighted sum of the idf of all of a query's terms that the index has."""
    from rankpipe.index.bm25 import inverse_document_frequency

    known = terms.terms >= 0
    owners = np.repeat(np.arange(len(terms.offsets) - 1), np.diff(terms.offsets))[known]
    idf = inverse_document_frequency(index.document_frequencies(terms.terms[known]), index.header.documents)
    weights = idf * terms.weights[known].astype(np.float64)
    return np.bincount(owners, weights, len(terms.offsets) - 1).astype(np.float64)
