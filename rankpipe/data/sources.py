"""Where a data set's documents, queries and judgements are: files, an archive to fetch, the bundled collection, memory."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from rankpipe.data import corpus as corpus_module
from rankpipe.data import python_docs
from rankpipe.data.catalogue import Card, Counts, SplitCounts
from rankpipe.data.corpus import Corpus, Record
from rankpipe.data.download import DownloadError, download, unpack
from rankpipe.data.lines import Lines
from rankpipe.data.qrels import Qrels
from rankpipe.data.queries import NoQueriesError, Queries
from rankpipe.data.readers import READER_FORMAT, DocumentReader, judgement_line, read_qrels, read_queries
from rankpipe.errors import DataError, UsageError
from rankpipe.store import artefact, file_digest, home, resumable


class Source(Protocol):
    """What a Dataset reads from. Nothing is read before it is asked for."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have judgements, sorted."""
        ...

    def corpus(self) -> Corpus:
        """The documents."""
        ...

    def queries(self, split: str | None) -> Queries:
        """Queries, at least all that the split's judgements name; for None, all there are."""
        ...

    def qrels(self, split: str) -> Qrels:
        """The judgements of a split."""
        ...

    def unknown_query(self, split: str, query_id: str) -> DataError:
        """The error for a query that is judged and has no text."""
        ...


@dataclass(frozen=True)
class Files:
    """A data set in files: BEIR's layout, or any part of it.

    documents  JSONL
    questions  JSONL, if there are queries
    judged     file of judgements of every split
    """

    documents: Path
    questions: Path | None
    judged: Mapping[str, Path]

    @classmethod
    def in_folder(cls, folder: Path) -> Files:
        """The files of a folder in BEIR layout: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv, each plain or .gz."""
        documents = _either(folder / "corpus.jsonl")
        if documents is None:
            raise DataError(f"{folder}: no corpus.jsonl and no corpus.jsonl.gz in this folder, so it is no data set")
        splits = sorted({name.partition(".tsv")[0] for name in _names(folder / "qrels") if ".tsv" in name})
        found = {split: _either(folder / "qrels" / f"{split}.tsv") for split in splits}
        judged = {split: path for split, path in found.items() if path is not None}
        return cls(documents, _either(folder / "queries.jsonl"), judged)

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the files of judgements."""
        return tuple(self.judged)

    def corpus(self) -> Corpus:
        """The documents; built into the store the first time, opened from there afterwards."""
        key = {
            "corpus_format": corpus_module.FORMAT,
            "reader_format": READER_FORMAT,
            "sha256": file_digest(self.documents),
        }

        def make(folder: Path) -> None:
            _build(folder, DocumentReader(self.documents))
            _refuse_changed({self.documents: key["sha256"]})

        corpus = Corpus.open(artefact("corpora", key, make))
        if not corpus.size:
            raise DataError(f"{self.documents}: holds no documents")
        return corpus

    def queries(self, split: str | None) -> Queries:
        """All queries of the file."""
        if self.questions is None:
            raise NoQueriesError(f"{self.documents.parent}: no queries.jsonl and no queries.jsonl.gz in this folder")
        return read_queries(self.questions)

    def qrels(self, split: str) -> Qrels:
        """The judgements of a split."""
        return read_qrels(self.judged[split])

    def unknown_query(self, split: str, query_id: str) -> DataError:
        """The error for a query that is judged and has no text, with the line that judges it first."""
        path = self.judged[split]
        line = judgement_line(path, query_id)
        return DataError.at(path, line, f"query {query_id!r} has no text: it is not in {self.questions}")

    def counts(self) -> Counts:
        """How much there is. Counted once, then remembered in the store."""
        files = {"": self.documents, **self.judged}
        digests = {name: file_digest(path) for name, path in files.items()}
        key = {"reader_format": READER_FORMAT, "sha256": digests}

        def make(folder: Path) -> None:
            self._write_counts(folder)
            _refuse_changed({path: digests[name] for name, path in files.items()})

        folder = artefact("counts", key, make)
        described = json.loads((folder / "counts.json").read_text(encoding="utf-8"))
        splits = {split: SplitCounts(**counts) for split, counts in described["splits"].items()}
        return Counts(documents=described["documents"], splits=splits)

    def _write_counts(self, folder: Path) -> None:
        documents = sum(1 for _ in Lines(self.documents))
        every = {split: read_qrels(path) for split, path in self.judged.items()}
        splits = {split: SplitCounts(queries=len(qrels), judgements=qrels.size) for split, qrels in every.items()}
        text = json.dumps(asdict(Counts(documents=documents, splits=splits)))
        (folder / "counts.json").write_text(text, encoding="utf-8")


def _refuse_changed(read: Mapping[Path, str]) -> None:
    """Raise DataError for a file that is no longer what its digest says: the store would keep it under the wrong one."""
    for path, digest in read.items():
        if not path.exists() or file_digest(path) != digest:
            raise DataError(f"{path}: changed while it was read; try again when it is whole")


@dataclass(frozen=True)
class Archive:
    """A data set in BEIR layout inside a zip archive that its publisher serves; fetched when something of it is wanted.

    split      the one split to have; None for all
    help_text  what else a user can do where it cannot be fetched
    """

    card: Card
    split: str | None = None
    help_text: str = ""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of the card."""
        return tuple(sorted(self.card.splits)) if self.split is None else (self.split,)

    def corpus(self) -> Corpus:
        """The documents."""
        return self.files().corpus()

    def queries(self, split: str | None) -> Queries:
        """All queries of the archive."""
        return self.files().queries(split)

    def qrels(self, split: str) -> Qrels:
        """The judgements of a split."""
        return self.files().qrels(split)

    def unknown_query(self, split: str, query_id: str) -> DataError:
        """The error for a query that is judged and has no text."""
        return self.files().unknown_query(split, query_id)

    def files(self) -> Files:
        """The unpacked files, fetched into the store if they are not there, their counts compared with the card's.

        Raises DownloadError, or DataError for an archive that is damaged or holds another data set.
        """
        key = {"url": self.card.source, "md5": self.card.md5}
        try:
            folder = resumable("archives", key, self._fetch)
        except DownloadError as error:
            raise DownloadError(f"{error}; {self.help_text}" if self.help_text else str(error)) from error
        own = self.card.name.rpartition("/")[2]
        inside = [path.parent for path in folder.rglob("corpus.jsonl")]
        found = next((one for one in inside if one.name == own), inside[0] if len(inside) == 1 else None)
        if found is None:
            raise DataError(f"{self.card.source}: {len(inside)} data sets in this archive, and none is called '{own}'")
        files = Files.in_folder(found)
        if differences := self.card.differences(files.counts()):
            raise DataError(
                f"{self.card.source} is not the '{self.card.name}' of the catalogue: {', '.join(differences)}"
            )
        return files

    def _fetch(self, folder: Path) -> None:
        archive = home() / "downloads" / f"{self.card.md5}.zip"
        download(self.card.source or "", archive, md5=self.card.md5)
        files = folder / "files"
        shutil.rmtree(files, ignore_errors=True)  # of a process that was killed while it unpacked
        files.mkdir()
        try:
            unpack(archive, files)
        except BaseException:  # a full store, say, is not left full
            shutil.rmtree(files, ignore_errors=True)
            raise
        archive.unlink()


@dataclass(frozen=True)
class PythonDocs:
    """The bundled collection: documents from the Python that is running, queries and judgements from our files."""

    folder: Path

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of the shipped judgements."""
        return self._files.splits

    def corpus(self) -> Corpus:
        """The docstrings; read once for every Python version, then opened from the store."""
        key = {"corpus_format": corpus_module.FORMAT, "python_docs": python_docs.fingerprint()}
        return Corpus.open(artefact("corpora", key, self._build))

    def queries(self, split: str | None) -> Queries:
        """The shipped queries."""
        return self._files.queries(split)

    def qrels(self, split: str) -> Qrels:
        """The shipped judgements of a split."""
        return self._files.qrels(split)

    def unknown_query(self, split: str, query_id: str) -> DataError:
        """The error for a query that is judged and has no text."""
        return self._files.unknown_query(split, query_id)

    @property
    def _files(self) -> Files:
        judged = {path.name.removesuffix(".tsv"): path for path in sorted((self.folder / "qrels").glob("*.tsv"))}
        return Files(self.folder / "corpus.jsonl", self.folder / "queries.jsonl", judged)

    def _build(self, folder: Path) -> None:
        _build(
            folder, ({"id": one.doc_id, "title": one.title, "text": one.text} for one in python_docs.fresh_records())
        )


@dataclass(frozen=True)
class Memory:
    """Own objects."""

    documents: Corpus
    questions: Queries
    judged: Mapping[str, Qrels]

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the judgements given."""
        return tuple(self.judged)

    def corpus(self) -> Corpus:
        """The corpus given."""
        return self.documents

    def queries(self, split: str | None) -> Queries:
        """The queries given."""
        return self.questions

    def qrels(self, split: str) -> Qrels:
        """The judgements given."""
        return self.judged[split]

    def unknown_query(self, split: str, query_id: str) -> DataError:
        """The error for a query that is judged and has no text."""
        return DataError(f"query {query_id!r} is judged in split '{split}' and is not among the queries")


def _build(folder: Path, records: Iterable[Record]) -> None:
    Corpus.build(folder, records)


def _names(folder: Path) -> list[str]:
    """Names in a folder, none where it is not there. Raises DataError where it cannot be read."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror or error}") from error


def _either(path: Path) -> Path | None:
    """A file, or it with .gz behind; None if there is neither."""
    packed = path.with_name(path.name + ".gz")
    plain, compressed = os.path.isfile(path), os.path.isfile(packed)
    if plain and compressed:
        raise UsageError(f"{path.parent}: both {path.name} and {packed.name} are there; keep one")
    return path if plain else packed if compressed else None
