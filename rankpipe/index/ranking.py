"""Ranking: what every index answers a batch of queries with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Ranking(NamedTuple):
    """The best documents of Q queries: query q owns offsets[q]:offsets[q + 1], the best first.

    offsets    (Q + 1,) int64, from 0 to H
    documents  (H,) int32, rows of the corpus
    scores     (H,) float32
    """

    offsets: NDArray[np.int64]
    documents: NDArray[np.int32]
    scores: NDArray[np.float32]
