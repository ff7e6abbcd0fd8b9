"""The formulas of BM25 as Lucene computes them.

Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond, 2009, in the variant of Lucene's
BM25Similarity (Kamphuis, de Vries, Boytsov and Lin, Which BM25 Do You Mean?, ECIR 2020): idf is never negative, the
constant factor (k1 + 1) is left out, and a document's length is known to 1 part in 8 only, for it is kept in one byte.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rankpipe.errors import UsageError

LARGEST_K1 = 1e30
"""Far above any that ranks; beyond, scores are too small for a float32, and documents that have the terms would be lost."""


def _four_bit_floats() -> NDArray[np.int64]:
    """Value of every byte: 0..23 as they are, above a float of 4 significant bits. Lucene's SmallFloat.byte4ToInt."""
    codes = np.arange(256 - 24)
    mantissas, shifts = codes & 7, (codes >> 3) - 1
    values = np.where(shifts < 0, mantissas, (mantissas | 8) << np.maximum(shifts, 0))
    return np.concatenate([np.arange(24), 24 + values])


LENGTHS = _four_bit_floats()
"""(256,) int64, the length in tokens that Lucene reads from each byte; rising, exact from 0 to 39."""


def length_bytes(lengths: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Lucene's one byte for each length (tokens, 0 to 2^31 - 1): that of the greatest value not above it.

    Lucene's SmallFloat.intToByte4.
    """
    return (np.searchsorted(LENGTHS, lengths, side="right") - 1).astype(np.uint8)


def inverse_document_frequency(document_frequencies: NDArray[np.integer], documents: int) -> NDArray[np.float32]:
    """ln(1 + (N - df + 0.5) / (df + 0.5)); N counts the documents with at least one term. Always positive."""
    df = document_frequencies.astype(np.float64)
    return np.log1p((documents - df + 0.5) / (df + 0.5)).astype(np.float32)


def saturation(
    frequencies: NDArray[np.integer], lengths: NDArray[np.integer], average_length: float, k1: float, b: float
) -> NDArray[np.float32]:
    """tf / (tf + k1 (1 - b + b length / average)), elementwise, in (0, 1]: a term's part of the score before its idf."""
    norms = k1 * (1 - b + b * lengths / average_length)
    return (frequencies / (frequencies + norms)).astype(np.float32)


def check_parameters(k1: float, b: float) -> None:
    """Refuse what the formula has no meaning for (Lucene refuses the same), and a k1 that brings every score to 0."""
    if not 0 <= k1 <= LARGEST_K1:
        raise UsageError(f"k1 is {k1}; it must lie between 0 and {LARGEST_K1:g}")
    if not 0 <= b <= 1:
        raise UsageError(f"b is {b}; it must lie between 0 and 1")
