"""The inverted index: memory-mapped postings, searched by BM25 as Lucene scores it, or by the dot product of impacts.

    build(folder, texts, analyzer)
    index = InvertedIndex.open(folder)
    ranking = index.search(index.queries(["aspirin"], analyzer), 10, corpus.tie_order)

k1 and b belong to the search: a posting holds a code for its frequency and its document's length, and a search makes
the table of what each code is worth. How the top is found: rankpipe/index/kernels.py; the files: layout.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from rankpipe.errors import StoreError, UsageError
from rankpipe.index import kernels
from rankpipe.index.bm25 import LENGTHS, check_parameters, inverse_document_frequency, saturation
from rankpipe.index.indexing import build, build_impacts
from rankpipe.index.layout import Arrays, Header, read
from rankpipe.index.ranking import Ranking
from rankpipe.index.vocabulary import Vocabulary

if TYPE_CHECKING:
    from rankpipe.index.analysis import Analyzer

__all__ = ["InvertedIndex", "Ranking", "TermQueries", "build", "build_impacts"]

REMEMBERED = 1 << 20  # surface words whose term numbers are kept; then all are forgotten
CHUNK = 64  # queries that a thread takes at once


class TermQueries(NamedTuple):
    """Q queries of T terms in all: query q owns offsets[q]:offsets[q + 1].

    offsets  (Q + 1,) int64
    terms    (T,) int32, terms' numbers in this index; -1 for terms it does not have, which match nothing
    weights  (T,) float32, above 0; terms that are repeated count with the sum of their weights
    """

    offsets: NDArray[np.int64]
    terms: NDArray[np.int32]
    weights: NDArray[np.float32]


class InvertedIndex:
    """An open index; any number of threads may search it at once."""

    def __init__(self, folder: Path, header: Header, arrays: Arrays) -> None:
        """Internal: use InvertedIndex.open."""
        self.folder = folder
        self.header = header
        self._arrays = arrays
        self._vocabulary = Vocabulary(arrays.letters, arrays.letter_starts)
        self._numbers: tuple[Analyzer, _TermNumbers] | None = None
        self._tables: tuple[float, float, NDArray[np.float32]] | None = None
        self._ties: tuple[NDArray[np.int32], NDArray[np.int32]] | None = None

    @classmethod
    def open(cls, folder: Path) -> InvertedIndex:
        """Open what build or build_impacts wrote; StoreError if it is damaged."""
        header, arrays = read(folder)
        return cls(folder, header, arrays)

    def queries(self, texts: Iterable[str], analyzer: Analyzer) -> TermQueries:
        """Texts as weighted terms, each occurrence of a term with weight 1; analyzer must be that of the index."""
        if analyzer.fingerprint != self.header.analyzer:
            raise UsageError(
                f"the index was built with analyzer '{self.header.analyzer}', not '{analyzer.fingerprint}'"
            )
        if self._numbers is None or self._numbers[0] is not analyzer:
            self._numbers = analyzer, _TermNumbers(analyzer, self._vocabulary)
        number = self._numbers[1].__getitem__
        terms: list[int] = []
        ends = [0]
        for words in map(analyzer.words, texts):
            terms.extend(map(number, words))
            ends.append(len(terms))
        return TermQueries(np.array(ends, np.int64), np.array(terms, np.int32), np.ones(len(terms), np.float32))

    def weighted_queries(self, queries: Iterable[Mapping[str, float]]) -> TermQueries:
        """Queries given as term of the index -> weight (finite, 0 or more; those of weight 0 match nothing)."""
        terms: list[int] = []
        weights: list[float] = []
        ends = [0]
        for query in queries:
            terms.extend(map(self._vocabulary.find, query))
            weights.extend(query.values())
            ends.append(len(terms))
        return TermQueries(np.array(ends, np.int64), np.array(terms, np.int32), np.array(weights, np.float32))

    def document_frequency(self, term: str) -> int:
        """Documents that have the term."""
        number = self._vocabulary.find(term)
        return 0 if number < 0 else int(self._arrays.starts[number + 1] - self._arrays.starts[number])

    def document_frequencies(self, terms: NDArray[np.integer]) -> NDArray[np.int64]:
        """(T,) documents that have each of some terms, by their numbers in this index."""
        return self._arrays.starts[terms + 1] - self._arrays.starts[terms]

    def collection_frequencies(self, terms: NDArray[np.integer]) -> NDArray[np.int64]:
        """(T,) how often all documents together have each of some terms. Of an index of counts only."""
        starts, book = self._arrays.starts, self._arrays.codebook
        codes = cast("NDArray[np.unsignedinteger]", self._arrays.payload)
        found = [int((book[codes[starts[one] : starts[one + 1]]] >> 8).sum(dtype=np.int64)) for one in terms.tolist()]
        return np.array(found, np.int64)

    def term(self, number: int) -> str:
        """The term of a number."""
        return self._vocabulary.term(number)

    def search(
        self,
        queries: TermQueries,
        k: int,
        tie_order: NDArray[np.int32],
        *,
        k1: float = 0.9,
        b: float = 0.4,
        threads: int = 1,
    ) -> Ranking:
        """The k best of the documents that have at least one of a query's terms, exactly, for each query.

        tie_order (rows,) is the corpus': of equal scores the smaller comes first, at the cut too. k1 and b are ignored
        for impacts. threads are threads of this call only. UsageError for k, k1, b, weights or an order that cannot be;
        StoreError if the postings turn out to be damaged.
        """
        if k <= 0:
            raise UsageError(f"k is {k}; it must be 1 or more")
        if threads <= 0:
            raise UsageError(f"threads is {threads}; it must be 1 or more")
        batch, postings = self._batch(queries), self._postings(k1, b)
        most = self._matches(batch)
        limits = np.minimum(most, min(k, self.header.rows))
        offsets = np.concatenate([[0], np.cumsum(limits)])
        order = self._order(tie_order, int(limits.max(initial=1)))
        answer = kernels.Answer(
            offsets, np.zeros_like(limits), np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.float32)
        )

        def work(first: int, last: int, scratch: kernels.Scratch) -> None:
            if kernels.search(first, last, batch, postings, order, scratch, answer) != kernels.DONE:
                raise self._damaged()

        longest = int(np.diff(batch.offsets).max(initial=1))
        _in_threads(work, lambda: kernels.new_scratch(longest, order.k), limits.size, threads)
        return _compacted(answer, limits)

    def score(
        self,
        queries: TermQueries,
        offsets: NDArray[np.int64],
        documents: NDArray[np.int32],
        *,
        k1: float = 0.9,
        b: float = 0.4,
    ) -> NDArray[np.float32]:
        """Scores (H,) of given candidates, query q's documents being those of its slice of offsets; 0 without a match.

        Equal to what search gives them.
        """
        same = offsets.size == queries.offsets.size and offsets[0] == 0 and offsets[-1] == documents.size
        if not same or np.any(np.diff(offsets) < 0):
            raise UsageError(
                f"offsets do not divide {documents.size} documents among {queries.offsets.size - 1} queries"
            )
        scores = np.zeros(documents.size, np.float32)
        batch, postings = self._batch(queries), self._postings(k1, b)
        scratch = kernels.new_scratch(int(np.diff(batch.offsets).max(initial=1)), 1)
        offsets, documents = np.ascontiguousarray(offsets, np.int64), np.ascontiguousarray(documents, np.int32)
        kernels.score(batch, postings, offsets, documents, scratch, scores)
        if not np.isfinite(scores).all():
            raise self._damaged()
        return scores

    def impacts(self, begin: int, end: int) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
        """Terms of the documents at rows begin to end - 1, as numbers of this index that rise, and their weights.

        The document at row begin + n owns offsets[n]:offsets[n + 1] of them: offsets (end - begin + 1,), terms and
        weights (P,). Of an index of impacts only.
        """
        arrays = self._arrays
        return kernels.terms_of(arrays.starts, arrays.documents, arrays.payload, begin, end)

    def _batch(self, queries: TermQueries) -> kernels.Queries:
        offsets = np.ascontiguousarray(queries.offsets, np.int64)
        terms = np.ascontiguousarray(queries.terms, np.int32)
        weights = np.ascontiguousarray(queries.weights, np.float32)
        if not (offsets.size and offsets[0] == 0 and offsets[-1] == terms.size == weights.size):
            raise UsageError(f"offsets to {offsets[-1:]} do not divide {terms.size} terms of {weights.size} weights")
        if np.any(np.diff(offsets) < 0) or np.any(terms >= self.header.terms):
            raise UsageError("offsets must rise, and terms be numbers of this index")
        if not (weights.min(initial=0) >= 0 and weights.max(initial=0) <= 1e30):  # their sums must be finite, too
            raise UsageError("weights of terms must lie between 0 and 1e30")
        owners = np.repeat(np.arange(offsets.size - 1), np.diff(offsets))
        known = (terms >= 0) & (weights > 0)
        places = owners[known] * self.header.terms + terms[known]
        distinct, inverse = np.unique(places, return_inverse=True)
        owners, terms = np.divmod(distinct, max(self.header.terms, 1))
        sums = np.bincount(inverse, weights[known], distinct.size).astype(np.float32)
        offsets = np.searchsorted(owners, np.arange(offsets.size))
        return kernels.Queries(*map(_read_only, (offsets, terms, sums * self._factors[terms])))

    @cached_property
    def _factors(self) -> NDArray[np.float32]:
        """Factor of each term's weight: its idf, or 1 for impacts."""
        if self.header.kind == "impacts":
            return np.ones(self.header.terms, np.float32)
        return inverse_document_frequency(np.diff(self._arrays.starts), self.header.documents)

    def _matches(self, batch: kernels.Queries) -> NDArray[np.int64]:
        """For each query an upper bound of the documents that match it."""
        sums = np.concatenate([[0], np.cumsum(self.document_frequencies(batch.terms))])[batch.offsets]
        return np.minimum(np.diff(sums), self.header.documents)

    def _postings(self, k1: float, b: float) -> kernels.Postings:
        arrays, header = self._arrays, self.header
        if header.kind == "impacts":
            return kernels.Postings(
                arrays.starts, arrays.documents, arrays.payload, _read_only(np.empty(0, np.float32))
            )
        tables = self._tables  # read once: another thread may put those of other parameters there
        if tables is None or tables[:2] != (k1, b):
            check_parameters(k1, b)
            frequencies, lengths = arrays.codebook >> 8, LENGTHS[arrays.codebook & 255]
            table = np.full(max(1 << 16, frequencies.size), np.nan, np.float32)  # nan betrays a code that is none
            table[: frequencies.size] = saturation(frequencies, lengths, self._average_length, k1, b)
            self._tables = tables = k1, b, _read_only(table)
        return kernels.Postings(arrays.starts, arrays.documents, arrays.payload, tables[2])

    @property
    def _average_length(self) -> float:
        return self.header.tokens / max(self.header.documents, 1)

    def _order(self, tie_order: NDArray[np.int32], k: int) -> kernels.Order:
        ties = self._ties  # read once, likewise
        if ties is None or ties[0] is not tie_order:
            size = tie_order.size
            if size < self.header.rows:
                raise UsageError(f"tie_order has {size} rows, the index {self.header.rows}")
            rows = np.full(size, -1, np.int32)
            inside = (tie_order >= 0) & (tie_order < size)
            rows[tie_order[inside]] = np.flatnonzero(inside)
            if rows.min(initial=0) < 0:
                raise UsageError(f"tie_order must hold each of 0 to {size - 1} once")
            self._ties = ties = tie_order, rows
        return kernels.Order(k, _read_only(np.ascontiguousarray(ties[0], np.int32)), _read_only(ties[1]))

    def _damaged(self) -> StoreError:
        return StoreError(f"{self.folder}: damaged index: its postings are out of order; build it again")


class _TermNumbers(dict[str, int]):
    """Surface word -> number of its term in the index, -1 for none; found once for each word."""

    def __init__(self, analyzer: Analyzer, vocabulary: Vocabulary) -> None:
        super().__init__()
        self._analyzer, self._vocabulary = analyzer, vocabulary

    def __missing__(self, word: str) -> int:
        if len(self) >= REMEMBERED:
            self.clear()
        term = self._analyzer.term(word)
        number = -1 if term is None else self._vocabulary.find(term)
        self[word] = number
        return number


def _in_threads(
    work: Callable[[int, int, kernels.Scratch], None], scratch: Callable[[], kernels.Scratch], size: int, threads: int
) -> None:
    """Call work(first, last, scratch) for chunks of 0..size, in this thread and `threads` - 1 more."""
    chunks = -(-size // CHUNK)
    following = count()
    failures: list[BaseException] = []

    def take() -> None:
        try:
            room = scratch()
            while not failures and (chunk := next(following)) < chunks:
                work(chunk * CHUNK, min((chunk + 1) * CHUNK, size), room)
        except BaseException as failure:  # raised again below, in the caller's thread
            failures.append(failure)

    helpers = [threading.Thread(target=take) for _ in range(min(threads, chunks) - 1)]
    for helper in helpers:
        helper.start()
    take()
    for helper in helpers:
        helper.join()
    if failures:
        raise failures[0]


def _read_only(array: NDArray) -> NDArray:
    """A view that compiled code sees as the same type whether or not its owner may write to it."""
    view = array.view()
    view.flags.writeable = False
    return view


def _compacted(answer: kernels.Answer, limits: NDArray[np.int64]) -> Ranking:
    """The answer without the room that was not needed."""
    short = np.flatnonzero(answer.counts < limits)
    if not short.size:
        return Ranking(answer.offsets, answer.documents, answer.scores)
    used = np.ones(answer.documents.size, bool)
    for query in short.tolist():
        used[answer.offsets[query] + answer.counts[query] : answer.offsets[query + 1]] = False
    offsets = np.concatenate([[0], np.cumsum(answer.counts)])
    return Ranking(offsets, answer.documents[used], answer.scores[used])
