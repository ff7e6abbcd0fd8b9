"""RunFile: the candidates that another system has found, from its TREC run file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
from annotated_types import Ge
from pydantic.dataclasses import dataclass

from rankpipe.data import Corpus
from rankpipe.errors import UsageError
from rankpipe.run import Run
from rankpipe.stage import SETTINGS, InputFile, Part, Stage
from rankpipe.store import file_digest
from rankpipe.trec import Ties, read_run


class _Read(NamedTuple):
    """The file's rankings as rows of a corpus, its digest, and what was left out."""

    run: Run
    digest: str
    counts: Counter[str]


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class RunFile(Stage):
    """Take the candidates of every query from a TREC run file, their scores as they stand there.

    Queries are looked up by their ids, whatever their texts are by now.

    file    the run file, plain or .gz
    k       candidates per query, the first ones
    ties    what orders equal scores: doc_id, falling, as everywhere; or rank, for scores that were rounded
    strict  every query must be in the file, and every document of the file in the corpus. Without it, a query that is not
            there has no candidates, a document that is not there is left out, and `counted` says how many
    """

    makes: ClassVar[frozenset[Part]] = frozenset({"candidates"})

    file: InputFile
    k: Annotated[int, Ge(1)] = 1000
    ties: Ties = "doc_id"
    strict: bool = True

    def __call__(self, run: Run) -> Run:
        """The candidates that the file has. Raises DataError for a wrong line, UsageError for a query that is not there."""
        read = self._read(run.corpus)
        there = np.array([query_id in read.run.queries for query_id in run.queries.ids], bool)
        if self.strict and not there.all():
            query_id = run.queries.ids[int(np.argmin(there))]
            raise UsageError(
                f"'run-file': {self.file} has no query {query_id!r}; 'strict: false' leaves those that it does not have without "
                "candidates"
            )
        known = [query_id for query_id, has in zip(run.queries.ids, there, strict=True) if has]
        found = read.run.select([read.run.queries.row(query_id) for query_id in known]).top(self.k)
        counts = np.zeros(len(run), np.int64)
        counts[there] = found.counts
        read.counts.update(queries=len(run), queries_not_in_file=int((~there).sum()))
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return Run(run.queries, run.corpus, offsets, found.documents, found.scores)

    def prepare(self, corpus: Corpus) -> None:
        """Read the file."""
        self._read(corpus)

    def facts(self, corpus: Corpus) -> Mapping[str, Any]:
        """Digest of the file, as it was when it was read."""
        return {"file": self._read(corpus).digest}

    def counted(self, corpus: Corpus) -> Mapping[str, Any]:
        """Queries, those that the file does not have, and documents of the file that the corpus does not have."""
        return dict(self._read(corpus).counts)

    def _read(self, corpus: Corpus) -> _Read:
        return self.open_once(corpus.digest, lambda: self._open(corpus))

    def _open(self, corpus: Corpus) -> _Read:
        try:
            digest = file_digest(self.file)
        except OSError as error:
            raise UsageError(f"'run-file': {self.file} cannot be read: {error.strerror}") from None
        if self.strict:
            return _Read(read_run(self.file, corpus=corpus, ties=self.ties), digest, Counter())
        alone = read_run(self.file, ties=self.ties)
        rows = corpus.rows(alone.corpus.ids(np.arange(len(alone.corpus))))
        kept = alone.keep(rows[alone.documents] >= 0)
        run = Run(kept.queries, corpus, kept.offsets, rows[kept.documents], kept.scores)
        return _Read(run, digest, Counter(documents_not_in_corpus=int((rows < 0).sum())))
