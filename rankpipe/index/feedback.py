"""Pseudo-relevance feedback: the first documents of a ranking say which terms its query should have, and how much of each.

n feedback documents, V terms; counts (n, V) say how often each document has each term. The sums are over all terms that
are given: which of them are taken is first_terms' part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rankpipe.index.analysis import Analyzer
from rankpipe.index.inverted import InvertedIndex

Terms: TypeAlias = Mapping[str, float]
"""Terms and their weights."""

LENGTHS = (2, 20)
"""Characters, from and to, of a term that a query is given: Anserini's."""


class Counts(NamedTuple):
    """Terms of n texts, once each: text i owns offsets[i]:offsets[i + 1].

    offsets  (n + 1,) int64
    terms    (T,) int64, terms' numbers in the index, rising for each text
    counts   (T,) float64, how often the text has the term
    """

    offsets: NDArray[np.int64]
    terms: NDArray[np.int64]
    counts: NDArray[np.float64]

    def of(self, text: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Terms of a text, and how often it has each."""
        span = slice(int(self.offsets[text]), int(self.offsets[text + 1]))
        return self.terms[span], self.counts[span]

    def keep(self, mask: NDArray[np.bool_]) -> Counts:
        """Those where `mask` (T,) is true."""
        kept = np.concatenate([[0], np.cumsum(mask)])
        return Counts(kept[self.offsets], self.terms[mask], self.counts[mask])

    def table(self, texts: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(V,) the terms of some texts together, rising, and (n, V) how often each text has them."""
        parts = [self.of(text) for text in texts]
        terms, places = np.unique(np.concatenate([one for one, _ in parts]), return_inverse=True)
        table = np.zeros((len(parts), len(terms)))
        rows = np.repeat(np.arange(len(parts)), [len(one) for one, _ in parts])
        table[rows, places.reshape(-1)] = np.concatenate([counts for _, counts in parts])
        return terms, table


def counted_terms(index: InvertedIndex, analyzer: Analyzer, texts: Sequence[str]) -> Counts:
    """Terms of texts; those that the index does not have are left out."""
    found = index.queries(texts, analyzer)
    owners = np.repeat(np.arange(len(texts)), np.diff(found.offsets))
    known = found.terms >= 0
    size = max(index.header.terms, 1)
    distinct, counts = np.unique(owners[known] * size + found.terms[known], return_counts=True)
    owners, terms = np.divmod(distinct, size)
    return Counts(np.searchsorted(owners, np.arange(len(texts) + 1)), terms, counts.astype(np.float64))


def may_expand(index: InvertedIndex, terms: NDArray[np.int64], most: float, *, plain: bool) -> NDArray[np.bool_]:
    """(V,) whether a query may be given each of some terms: of a length within LENGTHS, in few enough documents.

    most   largest share of the documents that may have it
    plain  whether it has to be of letters and digits alone
    """
    shortest, longest = LENGTHS
    share = index.document_frequencies(terms) / max(index.header.documents, 1)
    texts = [_unmarked(index.term(number)) for number in terms.tolist()]
    fit = [shortest <= len(text) <= longest and (not plain or text.isalnum()) for text in texts]
    return np.array(fit, bool) & (share <= most)


def _unmarked(term: str) -> str:
    """A term without the marks by which pieces of tokenizers say whether they begin a word, or go on with one."""
    return term.removeprefix("##").lstrip("\u2581\u0120").removesuffix("</w>")


def first_terms(weights: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Places of the greatest weights, `count` at most and none that is 0; of equal ones the first."""
    places = np.lexsort((np.arange(len(weights)), -weights))[:count]
    return np.sort(places[weights[places] > 0])


def relevance_model(
    counts: NDArray[np.float64], lengths: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(V,) P(w|R), up to a factor: the sum over documents of P(D) count / length.

    lengths  (n,); a document of length 0 has no part in it
    weights  (n,) P(D), none negative

    Lavrenko and Croft, SIGIR 2001, 'Relevance-Based Language Models', with the query's likelihood as P(D).
    """
    share = np.divide(weights, lengths, out=np.zeros(len(weights)), where=lengths > 0)
    return share @ counts


def mean_direction(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """(V,) mean of the documents' counts, each document's made to have length 1; one without terms counts as zeros."""
    norms = np.linalg.norm(counts, axis=1, keepdims=True)
    return np.divide(counts, norms, out=np.zeros_like(counts), where=norms > 0).mean(axis=0)


def bose_einstein(
    frequencies: NDArray[np.float64], collection: NDArray[np.float64], documents: int
) -> NDArray[np.float64]:
    """(V,) Bo1: tf_x log2((1 + f) / f) + log2(1 + f), f = F / N.

    frequencies  (V,) tf_x, how often the feedback documents together have the term
    collection   (V,) F, how often all documents have it, above 0
    documents    N, their number

    Amati, 2003, 'Probabilistic Models for Information Retrieval based on Divergence from Randomness'.
    """
    expected = collection / documents
    return frequencies * np.log2((1 + expected) / expected) + np.log2(1 + expected)


# -- a query's own terms and those of feedback, as one ------------------------------------------------------------------


def summing_to_one(weights: Terms) -> Terms:
    """Weights divided by their sum."""
    total = sum(weights.values())
    return {term: weight / total for term, weight in weights.items()} if total > 0 else weights


def of_unit_length(weights: Terms) -> Terms:
    """Weights divided by the root of the sum of their squares."""
    norm = math.sqrt(sum(weight**2 for weight in weights.values()))
    return {term: weight / norm for term, weight in weights.items()} if norm > 0 else weights


def with_highest_one(weights: Terms) -> Terms:
    """Weights divided by the highest one."""
    highest = max(weights.values(), default=0)
    return {term: weight / highest for term, weight in weights.items()} if highest > 0 else weights


def added(*parts: tuple[float, Terms]) -> dict[str, float]:
    """Sum of weights, each part's multiplied by its factor; terms whose sum is not above 0 are left out."""
    terms = dict.fromkeys(term for _, weights in parts for term in weights)
    sums = {term: sum(factor * weights.get(term, 0) for factor, weights in parts) for term in terms}
    return {term: weight for term, weight in sums.items() if weight > 0}
