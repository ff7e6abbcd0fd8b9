"""A data set that has features itself: a folder of SVMlight files, as those of learning to rank come, or one file.

FOLDER/
    train.txt   lists to learn from
    vali.txt    lists to decide by (also valid, validation, dev); without, a share of the training queries is held out
    test.txt    lists to report on: read by nothing that trains

Plain or .gz, with the ending .txt, .svm, .svmlight or .dat. The column f is called f, as its index in the file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rankpipe.data import Corpus, Dataset, Qrels, Queries
from rankpipe.data.catalogue import Card
from rankpipe.data.dataset import CORPUS_FILES, data_folders
from rankpipe.data.sources import Memory
from rankpipe.data.svmlight import FeatureLists, read_svmlight
from rankpipe.errors import DataError
from rankpipe.run import Run
from rankpipe.stage import FEATURE
from rankpipe.store import file_digest

SPLITS = {"train": ("train",), "dev": ("vali", "valid", "validation", "dev"), "test": ("test",)}
"""Of each split the names of its file, without ending."""
ENDINGS = tuple(f".{one}{packed}" for one in ("txt", "svm", "svmlight", "dat") for packed in ("", ".gz"))


@dataclass(frozen=True, eq=False)
class FeatureDataset:
    """Lists of all splits but test.

    dataset  queries, whose texts are their ids; documents, whose ids are QUERY:NUMBER, from 1; grades as judgements
    run      documents of every query in the order of the file, with their features
    files    digest of every file that was read, by its name
    """

    dataset: Dataset
    run: Run
    files: Mapping[str, str]


def feature_files(name: str) -> dict[str, Path] | None:
    """Files by split, if that is what `name` stands for: a folder, also one in RANKPIPE_DATA, or a file; else None."""
    path = Path(os.path.expanduser(name))
    if os.path.isfile(path) and path.name.endswith(ENDINGS):
        return {"train": path}
    inside = [] if path.is_absolute() or ".." in path.parts else [root / path for root in data_folders()]
    folder = next((one for one in (path, *inside) if os.path.isdir(one)), None)
    if folder is None or any(os.path.isfile(folder / file) for file in CORPUS_FILES):
        return None
    found = {
        split: there[0]
        for split, stems in SPLITS.items()
        if (there := [file for stem in stems for end in ENDINGS if os.path.isfile(file := folder / f"{stem}{end}")])
    }
    return found if "train" in found else None


def read_feature_dataset(name: str, files: Mapping[str, Path]) -> FeatureDataset:
    """Read the files of all splits but test; lists that end early are widened with zeros.

    Raises DataError for a query in two files, a grade that is no whole number, and whatever read_svmlight raises.
    """
    read = {split: path for split, path in files.items() if split != "test"}
    lists = {split: read_svmlight(path) for split, path in read.items()}
    width = max(one.features.shape[1] for one in lists.values())
    lists = {split: one.widened(width) for split, one in lists.items()}
    seen: dict[str, Path] = {}
    for split, one in lists.items():
        if (wrong := one.grades != np.round(one.grades)).any():
            at = int(np.argmax(wrong))
            query = one.query_ids[int(np.searchsorted(one.offsets, at, side="right")) - 1]
            raise DataError(
                f"{read[split]}: a document of query {query!r} has the grade {one.grades[at]:g}, which is no whole number"
            )
        if (both := next((query for query in one.query_ids if query in seen), None)) is not None:
            raise DataError(
                f"{read[split]}: query {both!r} is in {seen[both]} as well: what is learnt and what decides must be apart"
            )
        seen.update(dict.fromkeys(one.query_ids, read[split]))
    ids = {split: _ids(one) for split, one in lists.items()}
    queries = Queries(tuple(seen), tuple(seen))
    corpus = Corpus.of_ids(doc_id for one in ids.values() for doc_id in one)
    qrels = {split: _qrels(one, ids[split]) for split, one in lists.items()}
    dataset = Dataset(name, Card(name=Path(name).name), Memory(corpus, queries, qrels))
    counts = np.concatenate([one.counts for one in lists.values()])
    return FeatureDataset(
        dataset,
        _run(queries, corpus, counts, np.concatenate([one.features for one in lists.values()])),
        {path.name: file_digest(path) for path in read.values()},
    )


def _run(queries: Queries, corpus: Corpus, counts: np.ndarray, features: np.ndarray) -> Run:
    """Documents in the order of the corpus, scored so that they stay in it."""
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    places = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
    documents = np.arange(offsets[-1], dtype=np.int32)
    run = Run(queries, corpus, offsets, documents, -places.astype(np.float32))
    return run.with_features({f"{FEATURE}{column + 1}": features[:, column] for column in range(features.shape[1])})


def _ids(lists: FeatureLists) -> list[str]:
    return [
        f"{query}:{number}"
        for query, count in zip(lists.query_ids, lists.counts.tolist(), strict=True)
        for number in range(1, count + 1)
    ]


def _qrels(lists: FeatureLists, ids: list[str]) -> Qrels:
    grades = lists.grades.astype(int).tolist()
    return Qrels(
        {
            query: dict(zip(ids[begin:end], grades[begin:end], strict=True))
            for query, begin, end in zip(
                lists.query_ids, lists.offsets[:-1].tolist(), lists.offsets[1:].tolist(), strict=True
            )
        }
    )
