"""Dataset: documents, queries and judgements under one name, with the card that says how to measure on them."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from rankpipe.data import catalogue, irds
from rankpipe.data.catalogue import Card
from rankpipe.data.corpus import Corpus
from rankpipe.data.qrels import Qrels
from rankpipe.data.queries import Queries
from rankpipe.data.shipped import shipped
from rankpipe.data.sources import Archive, Files, Memory, PythonDocs, Source
from rankpipe.errors import UsageError

PYTHON_DOCS = "python-docs"
CORPUS_FILES = ("corpus.jsonl", "corpus.jsonl.gz")


class Dataset:
    """A data set: nothing of it is read before it is asked for.

    name   as it was loaded
    card   source, counts, measures and quirks
    notes  what was seen while looking for it and should be said, a sentence each
    """

    def __init__(self, name: str, card: Card, source: Source, notes: tuple[str, ...] = ()) -> None:
        """Internal: use Dataset.load or Dataset.of."""
        self.name = name
        self.card = card
        self.notes = notes
        self._source = source
        self._qrels: dict[str, Qrels] = {}
        self._queries: dict[str | None, Queries] = {}

    @classmethod
    def load(cls, name: str | Path) -> Dataset:
        """Find a data set: a folder in BEIR layout or a JSONL file of documents, a name, or an id of ir_datasets.

        A name is looked for in the folders of RANKPIPE_DATA, then among what is bundled, then among the zip archives
        that cards name with their checksum (fetched when something of them is asked for), then in ir_datasets. A folder
        there answers to its own name; to a name of the catalogue only if its counts are those of the card, and then it
        gets the card whichever of the two names was used. Any other folder has the default card.

        Raises UsageError for a name that nothing knows.
        """
        return _find(str(name))

    @classmethod
    def of(
        cls,
        corpus: Corpus,
        queries: Queries | Mapping[str, str],
        qrels: Qrels | Mapping[str, Mapping[str, int]],
        *,
        split: str = "test",
        card: Card | None = None,
    ) -> Dataset:
        """A data set of own objects, with one split."""
        card = card or Card(name="own")
        return cls(card.name, card, Memory(corpus, Queries.of(queries), {split: Qrels.of(qrels)}))

    @cached_property
    def corpus(self) -> Corpus:
        """The documents. The first time, they are built into the store; afterwards they are memory-mapped from it."""
        return self._source.corpus()

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have judgements, sorted."""
        return self._source.splits

    def queries(self, split: str | None = "test") -> Queries:
        """The queries that the split's judgements name, in the order of their file; for None, all there are.

        Raises UsageError for an unknown split, DataError for a judged query that has no text.
        """
        if split not in self._queries:
            if split is None:
                self._queries[None] = self._source.queries(None)
            else:
                judged, queries = self.qrels(split), self._source.queries(split)
                if missing := next((query_id for query_id in judged if query_id not in queries), None):
                    raise self._source.unknown_query(split, missing)
                self._queries[split] = queries.select([row for row, one in enumerate(queries) if one in judged])
        return self._queries[split]

    def qrels(self, split: str = "test") -> Qrels:
        """The judgements of a split. Raises UsageError for an unknown split."""
        if split not in self.splits:
            known = f"it has {', '.join(self.splits)}" if self.splits else "it has no judgements at all"
            raise UsageError(f"data set '{self.name}' has no split '{split}'; {known}")
        if split not in self._qrels:
            self._qrels[split] = self._source.qrels(split)
        return self._qrels[split]

    def unknown_judged(self, split: str = "test") -> int:
        """Number of judgements in a split whose document the corpus does not have."""
        judged = [doc_id for one in self.qrels(split).values() for doc_id in one]
        return int((self.corpus.rows(judged) < 0).sum())

    def unjudged_queries(self) -> list[str]:
        """Ids of the queries that no split judges: they are in no split, and are measured nowhere."""
        judged = {query_id for split in self.splits for query_id in self.qrels(split)}
        return [query_id for query_id in self.queries(None) if query_id not in judged]

    def __repr__(self) -> str:
        return f"Dataset('{self.name}', splits: {', '.join(self.splits) or 'none'})"


def data_folders() -> list[Path]:
    """The folders of RANKPIPE_DATA, in which data sets are looked for."""
    return [Path(os.path.expanduser(one)) for one in os.environ.get("RANKPIPE_DATA", "").split(os.pathsep) if one]


def found_folders() -> dict[str, Path]:
    """Data sets in BEIR layout under RANKPIPE_DATA by name, up to two folders deep; of two with one name the first."""
    found: dict[str, Path] = {}
    for root in data_folders():
        for pattern in ("*", "*/*"):
            for file in sorted(path for name in CORPUS_FILES for path in root.glob(f"{pattern}/{name}")):
                found.setdefault(file.parent.relative_to(root).as_posix(), file.parent)
    return found


def _find(name: str) -> Dataset:
    path = Path(os.path.expanduser(name))  # os.path, here and below: it takes any text for a name, and just says no
    if _is_dataset(path):
        return _of_folder(name, path)
    if os.path.isfile(path) and path.name.endswith((".jsonl", ".jsonl.gz")):
        return Dataset(name, Card(name=path.name.partition(".jsonl")[0]), Files(path, None, {}))
    notes = [f"{path} is a folder without {' or '.join(CORPUS_FILES)}"] if os.path.isdir(path) else []
    if os.path.isfile(path):
        notes.append(
            f"{path} is a file; of files, those that end in .jsonl or .jsonl.gz are read, with a document a line"
        )
    known = catalogue.names()
    if name not in known and (folder := next(_candidates(name, every_part=False), None)):
        return _of_folder(name, folder)
    card, split = _card_for(name, known)
    if card and (files := _official_files(card, split, notes)):
        return Dataset(name, card, files)
    if name == PYTHON_DOCS and card:
        return Dataset(name, card, PythonDocs(shipped("datasets") / PYTHON_DOCS), tuple(notes))
    advice = "; ".join([*notes, _advice(card)])
    if card and card.has_archive and (split is None or split in card.splits):
        return Dataset(name, card, Archive(card, split, advice), tuple(notes))
    found = irds.find(name if split or not card else card.ir_datasets or name, advice)
    if not found:
        raise UsageError(f"data set '{name}' is not here; {advice}") if name in known else _unknown(name, notes)
    return Dataset(name, card or Card(name=name), found, tuple(notes))


def _card_for(name: str, known: Sequence[str]) -> tuple[Card | None, str | None]:
    """The card of this name; for an id below that of a card, such as beir/quora/test, that card and the rest of the id."""
    parts = name.split("/")
    for end in range(len(parts), 0, -1):
        if (parent := "/".join(parts[:end])) in known:
            return catalogue.card(parent), "/".join(parts[end:]) or None
    return None, None


def _official_files(card: Card, split: str | None, notes: list[str]) -> Files | None:
    """The folder that is the data set of this card, or of one split of it; what is wrong with others goes into notes."""
    if split and split not in card.splits:
        return None
    for folder in _candidates(card.name, every_part=True):
        files = Files.in_folder(folder)
        if differences := card.differences(files.counts()):
            notes.append(f"{folder} is not the '{card.name}' of the catalogue: {', '.join(differences)}")
        elif split is None:
            return files
        elif split in files.judged:
            return replace(files, judged={split: files.judged[split]})
    return None


def _advice(card: Card | None) -> str:
    """How to provide a data set that cannot be fetched."""
    source = f" (its source: {card.source})" if card and card.source else ""
    return f"bring it as a folder in BEIR layout{source}, by its path or inside a folder that RANKPIPE_DATA names"


def _is_dataset(folder: Path) -> bool:
    return any(os.path.isfile(folder / file) for file in CORPUS_FILES)


def _candidates(name: str, *, every_part: bool) -> Iterator[Path]:
    """Data sets under RANKPIPE_DATA that may be meant: NAME/, and with `every_part` for a/b also b/ and a/."""
    parts = Path(name).parts
    if Path(name).is_absolute() or ".." in parts:
        return
    tails = [parts[first:] for first in range(len(parts))] + [(part,) for part in reversed(parts[:-1])]
    for root in data_folders():
        for tail in tails if every_part else [parts]:
            if _is_dataset(folder := root.joinpath(*tail)):
                yield folder


def _of_folder(name: str, folder: Path) -> Dataset:
    """A folder under its own name: with a card of the catalogue if that has this name and these counts."""
    files = Files.in_folder(folder)
    own = folder.resolve().name
    for known in catalogue.names():
        if own in known.split("/") and not (card := catalogue.card(known)).differences(files.counts()):
            return Dataset(name, card, files)
    return Dataset(name, Card(name=own), files)


def _unknown(name: str, notes: list[str]) -> UsageError:
    known = {one.lower(): one for one in (*catalogue.names(), *found_folders())}
    close = difflib.get_close_matches(name.lower(), known, n=1)
    searched = ", ".join(map(str, data_folders())) or "not set"
    places = f"the folders of RANKPIPE_DATA ({searched}), the catalogue and ir_datasets do not have it"
    guess = f"did you mean '{known[close[0]]}'? " if close else ""
    return UsageError(f"there is no data set '{name}'; {guess}{'; '.join([*notes, places])}")
