"""Kinds of approximate index on FAISS: their settings, how each is built, and how each proposes candidates.

What they keep of a vector is coarse, so what they propose is only a choice: rankpipe.index.ann scores it exactly.
They are built by one thread and from a seed, so the same vectors give the same index. Johnson, Douze and Jégou,
"Billion-scale similarity search with GPUs", arXiv:1702.08734; Douze et al., "The Faiss library", arXiv:2401.08281.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray
from pydantic import ConfigDict, Strict
from pydantic.dataclasses import dataclass

from rankpipe.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from rankpipe.index.vectors import Vectors

INDEX_SETTINGS = ConfigDict(extra="forbid", allow_inf_nan=False)
"""Not strict as a whole, so that a map becomes the settings; numbers in them are marked as Strict."""

ADDED = 1 << 15
"""Vectors that are handed to FAISS at once, in float32."""
CENTROIDS = 16
"""Of a product quantiser's code of four bits, for which FAISS keeps the tables in registers."""
POINTS = 39
"""Vectors per centroid that FAISS asks for at least (ClusteringParameters.min_points_per_centroid)."""
TRAINED = 64
"""Vectors per centroid that are trained on at most: more change little and take long."""
WIDE = 16
"""Candidates per wanted document while the number of lists to be searched is looked for."""
OVERSAMPLES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Candidates per wanted document that are tried, in turn."""

Whole = Annotated[int, Strict(), Ge(1)]


class Effort(NamedTuple):
    """What a search spends.

    oversample  candidates that are scored exactly, per wanted document
    probes      lists that are searched, of an index that has lists; else 0
    """

    oversample: int
    probes: int = 0


@dataclass(frozen=True, kw_only=True, config=INDEX_SETTINGS)
class Approximate(ABC):
    """What all kinds have in common.

    target_recall  share of the best 100 documents that a search is to find; search is made as thorough as it takes
    seed           of training, and of the queries that recall is measured with
    """

    target_recall: Annotated[float, Strict(), Gt(0), Le(1)] = 0.95
    seed: Annotated[int, Strict(), Ge(0), Le(2**31 - 1)] = 0

    @abstractmethod
    def build(self, vectors: Vectors) -> Any:
        """A FAISS index of vectors, at least one. Raises UsageError for too few."""

    @abstractmethod
    def candidates(self, index: Any, queries: NDArray[np.float32], count: int, effort: Effort) -> NDArray[np.int64]:
        """(Q, count) numbers of the vectors proposed for queries (Q, D); -1 where there is no further one."""

    def probes(self, index: Any) -> tuple[int, ...]:
        """Numbers of lists that may be searched, rising; (0,) for a kind that has no lists."""
        return (0,)

    def write(self, index: Any, path: str) -> None:
        """Write a FAISS index to a file; FAISS by itself does not notice a disk that is full at the end."""
        faiss = import_faiss()
        with open(path, "wb") as file:
            faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))

    def read(self, path: str) -> Any:
        """A FAISS index from a file, memory-mapped as far as FAISS can."""
        faiss = import_faiss()
        return faiss.read_index(path, _mapped(faiss))


@dataclass(frozen=True, kw_only=True, config=INDEX_SETTINGS)
class Sq8(Approximate):
    """All vectors, each dimension in 8 bits: a quarter of the memory of float32."""

    kind: Literal["sq8"] = "sq8"

    def build(self, vectors: Vectors) -> Any:
        """A scalar quantiser whose steps span each dimension's whole range."""
        faiss = import_faiss()
        index = faiss.IndexScalarQuantizer(
            vectors.dimensions, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
        )
        return _filled(index, vectors, _extremes(vectors))

    def candidates(self, index: Any, queries: NDArray[np.float32], count: int, effort: Effort) -> NDArray[np.int64]:
        """The best by the coarse vectors."""
        return index.search(queries, count)[1]


@dataclass(frozen=True, kw_only=True, config=INDEX_SETTINGS)
class Binary(Approximate):
    """All vectors, each dimension in one bit: 1/32 of the memory of float32. Made for vectors of length 1.

    A bit says whether the value is above zero. Candidates have the smallest Hamming distance.
    """

    kind: Literal["binary"] = "binary"

    def build(self, vectors: Vectors) -> Any:
        """A flat index of bits, filled up with zeros to whole bytes."""
        index = import_faiss().IndexBinaryFlat(8 * math.ceil(vectors.dimensions / 8))
        for block in _blocks(vectors):
            index.add(np.packbits(block > 0, axis=1))
        return index

    def candidates(self, index: Any, queries: NDArray[np.float32], count: int, effort: Effort) -> NDArray[np.int64]:
        """Those that differ in the fewest bits."""
        return index.search(np.packbits(queries > 0, axis=1), count)[1]

    def write(self, index: Any, path: str) -> None:
        """Write an index of bits to a file."""
        faiss = import_faiss()
        with open(path, "wb") as file:
            faiss.write_index_binary(index, faiss.PyCallbackIOWriter(file.write))

    def read(self, path: str) -> Any:
        """An index of bits from a file."""
        return import_faiss().read_index_binary(path)


@dataclass(frozen=True, kw_only=True, config=INDEX_SETTINGS)
class Hnsw(Approximate):
    """A graph of neighbours over vectors in 8 bits, searched from afar to near.

    As many vectors are kept in sight (efSearch) as are scored exactly after it. Malkov and Yashunin, "Efficient and
    robust approximate nearest neighbor search using hierarchical navigable small world graphs", arXiv:1603.09320.

    links    neighbours per vector, twice as many in the lowest layer: M of the paper
    breadth  vectors kept in sight while the graph is built: efConstruction of the paper
    """

    kind: Literal["hnsw"] = "hnsw"
    links: Annotated[int, Strict(), Ge(2)] = 16
    breadth: Whole = 80

    def build(self, vectors: Vectors) -> Any:
        """The graph, linked in an order that the seed decides."""
        faiss = import_faiss()
        quantiser = faiss.ScalarQuantizer.QT_8bit
        index = faiss.IndexHNSWSQ(vectors.dimensions, quantiser, self.links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = self.breadth
        index.hnsw.rng = faiss.RandomGenerator(self.seed)
        return _filled(index, vectors, _extremes(vectors))

    def candidates(self, index: Any, queries: NDArray[np.float32], count: int, effort: Effort) -> NDArray[np.int64]:
        """All vectors kept in sight."""
        parameters = import_faiss().SearchParametersHNSW(efSearch=count)
        return index.search(queries, count, params=parameters)[1]


@dataclass(frozen=True, kw_only=True, config=INDEX_SETTINGS)
class IvfPq(Approximate):
    """Lists of near vectors, of which the nearest to the query are searched; vectors in a few bits per dimension.

    Jégou, Douze and Schmid, "Product quantization for nearest neighbor search", PAMI 2011; with codes of four bits,
    André, Kermarrec and Le Scouarnec, "Quicker ADC", arXiv:1812.09162.

    lists  default: the power of two at or below 4 sqrt(W) for W vectors, and never more than W / 39
    bytes  of a vector's code; default: one for 4 dimensions. A code of four bits stands for as many dimensions as
           every other; the vectors are filled up with zeros to that end
    """

    kind: Literal["ivf-pq"] = "ivf-pq"
    lists: Whole | None = None
    bytes: Whole | None = None

    def build(self, vectors: Vectors) -> Any:
        """Lists and codes, trained on a sample of the vectors. Raises UsageError for fewer than 16."""
        faiss = import_faiss()
        count, lists = len(vectors.values), self._lists(len(vectors.values))
        codes = 2 * (self.bytes or math.ceil(vectors.dimensions / 4))
        dimensions = codes * math.ceil(vectors.dimensions / codes)
        quantiser = faiss.IndexFlatIP(dimensions)
        index = faiss.IndexIVFPQFastScan(quantiser, dimensions, lists, codes, 4, faiss.METRIC_INNER_PRODUCT)
        for clustering in (index.cp, index.pq.cp):
            clustering.seed = self.seed
            clustering.min_points_per_centroid = 1  # silences FAISS; what is too few is said here
            clustering.max_points_per_centroid = TRAINED
        wanted = min(count, TRAINED * max(lists, CENTROIDS))
        chosen = np.sort(np.random.default_rng(self.seed).choice(count, wanted, replace=False))
        return _filled(index, vectors, vectors.values[chosen].astype(np.float32))

    def candidates(self, index: Any, queries: NDArray[np.float32], count: int, effort: Effort) -> NDArray[np.int64]:
        """The best by their codes, in the lists nearest to each query."""
        parameters = import_faiss().SearchParametersIVF(nprobe=min(effort.probes, index.nlist))
        return index.search(_padded(queries, index.d), count, params=parameters)[1]

    def probes(self, index: Any) -> tuple[int, ...]:
        """Powers of two, and all lists."""
        return (*(2**power for power in range(math.ceil(math.log2(index.nlist)))), index.nlist)

    def _lists(self, count: int) -> int:
        if count < CENTROIDS:
            raise UsageError(
                f"an index of the kind 'ivf-pq' is trained on at least {CENTROIDS} vectors, and there are {count}; "
                "take {kind: flat}, which is exact, and fast for so few"
            )
        most = max(count // POINTS, 1)
        if self.lists is None:
            return min(2 ** int(math.log2(4 * math.sqrt(count))), most)
        if self.lists > most:
            raise UsageError(
                f"'lists' of an index of the kind 'ivf-pq' is {self.lists}, must be at most {most} "
                f"for {count} vectors: each list is trained on at least {POINTS}"
            )
        return self.lists


def import_faiss() -> Any:
    """The module faiss. Raises MissingExtraError where it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError("a dense index of another kind than 'flat'", "faiss-cpu", "dense") from error
    return faiss


@contextmanager
def faiss_threads(count: int) -> Iterator[None]:
    """Within the block, FAISS works with so many threads for the thread that calls it."""
    faiss = import_faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _mapped(faiss: Any) -> int:
    """The flag by which FAISS maps a file; older versions know only one that maps inverted lists."""
    return getattr(faiss, "IO_FLAG_MMAP_IFC", faiss.IO_FLAG_MMAP)


def _filled(index: Any, vectors: Vectors, training: NDArray[np.float32]) -> Any:
    """Train an index, and add all vectors; by one thread, as the sums and graphs of several differ from run to run."""
    with faiss_threads(1):
        index.train(_padded(training, index.d))
        for block in _blocks(vectors):
            index.add(_padded(block, index.d))
    return index


def _blocks(vectors: Vectors) -> Iterator[NDArray[np.float32]]:
    for begin in range(0, len(vectors.values), ADDED):
        yield vectors.values[begin : begin + ADDED].astype(np.float32)


def _extremes(vectors: Vectors) -> NDArray[np.float32]:
    """(2, D) the least and the largest value of each dimension: all that a scalar quantiser is trained on."""
    ranges = [(block.min(axis=0), block.max(axis=0)) for block in _blocks(vectors)]
    lows, highs = zip(*ranges, strict=True)
    return np.stack([np.min(lows, axis=0), np.max(highs, axis=0)])


def _padded(values: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
    """Vectors (n, D) with zeros behind, which change no dot product."""
    missing = dimensions - values.shape[1]
    return np.ascontiguousarray(np.pad(values, ((0, 0), (0, missing))) if missing else values)
