"""Which queries say so little that it is unclear what is meant: rules on their words, and their clarity.

The rules know English. What they find is told with the rule that found it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rankpipe.index import analysis

if TYPE_CHECKING:
    from rankpipe.index.analysis import Analyzer
    from rankpipe.index.inverted import InvertedIndex

SHORT = 4
"""Words of a query that says little, at most."""
PERCENTILE = 30.0
"""Of all queries' clarity: those below say little."""
ACRONYM = re.compile(r"(?<!\w)(?=\w*[A-Z]\w*[A-Z])[A-Z][A-Z0-9]{1,5}s?(?!\w)")
"""Two to six capitals and digits, two capitals among them, perhaps in the plural: SRI, B2B, NSAIDs."""
DEFINITION = re.compile(
    r"\s*(?:what(?:'s|\s+is|\s+are|\s+was|\s+were)|define|(?:the\s+)?(?:definition|meaning)\s+of|what\s+does\b.*\bmean)\b",
    re.IGNORECASE,
)
"""How a query begins that asks what something is."""


def is_short(query: str) -> bool:
    """Whether it has no more than SHORT words, parted by white space."""
    return len(query.split()) <= SHORT


def has_acronym(query: str) -> bool:
    """Whether a word of it is an acronym; in a query all in capitals they say nothing."""
    return any(letter.islower() for letter in query) and ACRONYM.search(query) is not None


def asks_what_it_is(query: str) -> bool:
    """Whether it begins as one that asks for a definition."""
    return DEFINITION.match(query) is not None


def why_ambiguous(query: str, clarity: float, limit: float) -> str | None:
    """The first rule that finds a query ambiguous: "short", "acronym", "definition", "unclear"; None if none does.

    limit  clarity below which a query is unclear
    """
    if is_short(query):
        return "short"
    if has_acronym(query):
        return "acronym"
    if asks_what_it_is(query):
        return "definition"
    return "unclear" if clarity < limit else None


def clarity(counts: Sequence[float], collection: Sequence[float], tokens: int, terms: int) -> float:
    """KL divergence, in bits, of a query's words from the collection's: sum of P(w|Q) log2(P(w|Q) / P(w|C)).

    P(w|Q) is the share of a word in the query. P(w|C) = (frequency + 1) / (tokens + terms + 1): every term is counted once
    more (Laplace), and a further one stands for all that the collection does not have. A query without words has 0.

    counts      of the query's words, each once
    collection  how often the collection has each of them
    tokens      of the collection; terms: its different ones

    He and Ounis, 2004, 'Inferring Query Performance Using Pre-retrieval Predictors', SPIRE: the simplified clarity score.
    """
    if not len(counts):
        return 0.0
    query = np.asarray(counts, np.float64) / float(sum(counts))
    background = (np.asarray(collection, np.float64) + 1) / (tokens + terms + 1)
    return float((query * np.log2(query / background)).sum())


def clarities(index: InvertedIndex, analyzer: Analyzer, queries: Sequence[str]) -> NDArray[np.float64]:
    """(Q,) clarity of queries against the documents of an index of counts."""
    found = index.weighted_queries([Counter(analysis.terms(analyzer, query)) for query in queries])
    known = np.unique(found.terms[found.terms >= 0])
    frequencies = dict(zip(known.tolist(), index.collection_frequencies(known).tolist(), strict=True))
    values = np.zeros(len(queries))
    for row in range(len(queries)):
        span = slice(int(found.offsets[row]), int(found.offsets[row + 1]))
        collection = [frequencies.get(term, 0) for term in found.terms[span].tolist()]
        values[row] = clarity(found.weights[span].tolist(), collection, index.header.tokens, index.header.terms)
    return values


def clarity_limit(values: NDArray[np.float64]) -> float:
    """The percentile below which queries are unclear; 0 without any."""
    return float(np.percentile(values, PERCENTILE)) if len(values) else 0.0
