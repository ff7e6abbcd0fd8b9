"""Data sets of ir_datasets, read through its own classes. It is imported on first use, and downloads what it lacks.

Documents keep ir_datasets' own idea of their text: title and text, joined by a blank, are its default_text(). Further
fields of a document or query are kept as text fields, lists and numbers as JSON; markup and bytes are not.

MacAvaney, Yates, Feldman, Downey, Cohan, Goharian, "Simplified Data Wrangling with ir_datasets", SIGIR 2021.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from rankpipe.data import corpus as corpus_module
from rankpipe.data.corpus import Corpus, Record
from rankpipe.data.qrels import Qrels
from rankpipe.data.queries import NoQueriesError, Queries
from rankpipe.data.readers import queries_of_records
from rankpipe.errors import DataError, RankpipeError
from rankpipe.store import artefact

MAPPING_FORMAT = 1
"""Rises whenever the same document of ir_datasets gives another record than before."""
SPLIT_NAMES = ("train", "dev", "test", "validation", "valid", "val")
_MARKUP = "marked_up_doc"
_ADDRESS = re.compile(r"https?://[^\s'\")]+|host='[^']+'")
_NOISE = ("download error", "Download failed", "[starting]", "[finished]", "[error]", "If you have a local copy")


def find(name: str, help_text: str = "") -> IrDatasets | None:
    """The data set that ir_datasets has under this id, or None. `help_text` ends the error of a failed download."""
    import ir_datasets

    try:
        with _without_noise():
            found = ir_datasets.load(name)
    except KeyError:
        return None
    except Exception as error:  # some ids are patterns, whose loading may fail in any way
        raise DataError(f"ir_datasets cannot load '{name}': {_reason(error)}") from error
    if found.has_qrels():
        return IrDatasets(name, {_split_name(name): name}, help_text)
    if not found.has_docs():
        return None  # a family of data sets, such as "beir"
    inner = {one.rpartition("/")[2]: one for one in sorted(ir_datasets.registry) if one.rpartition("/")[0] == name}
    splits = {split: one for split, one in inner.items() if _is_split(one, name)}
    return IrDatasets(name, splits, help_text)


def _is_split(name: str, whole: str) -> bool:
    """Whether an id below another is a split of it: judgements of the same documents."""
    import ir_datasets

    found = ir_datasets.load(name)
    same = found.has_docs() and ir_datasets.docs_parent_id(name) == ir_datasets.docs_parent_id(whole)
    return same and found.has_qrels()


@dataclass(frozen=True)
class IrDatasets:
    """Documents, queries and judgements that ir_datasets provides.

    name       id of the documents, and of all the queries where there is more than one split
    split_ids  id of every split
    help_text  what else a user can do where a download fails
    """

    name: str
    split_ids: dict[str, str]
    help_text: str = ""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have judgements. An id that has them itself has one, named by the id, or else `test`."""
        return tuple(self.split_ids)

    def corpus(self) -> Corpus:
        """The documents, built into the store the first time. An official collection is known by its id and version."""
        import ir_datasets

        with self._providing():
            found = ir_datasets.load(self.name)
            if not found.has_docs():
                raise DataError(f"'{self.name}' of ir_datasets has no documents")
            official = "count" in found.docs_metadata()
            made_of = [ir_datasets.docs_parent_id(self.name), ir_datasets.__version__] if official else self._digest()
        key = {"corpus_format": corpus_module.FORMAT, "mapping_format": MAPPING_FORMAT, "ir_datasets": made_of}
        return Corpus.open(artefact("corpora", key, lambda folder: self._build(folder)))

    def queries(self, split: str | None) -> Queries:
        """All queries of the split, judged or not; for None, those of the whole, or where it has none, of all splits."""
        import ir_datasets

        with self._providing():
            found = ir_datasets.load(self.name if split is None else self.split_ids[split])
            if not found.has_queries():
                if split is None and self.split_ids:
                    return _joined({one: self.queries(one) for one in self.split_ids}, self.name)
                raise NoQueriesError(f"'{self.name}' of ir_datasets has no queries")
            return queries_of_records([_record(query, "query_id") for query in found.queries_iter()])

    def qrels(self, split: str) -> Qrels:
        """The judgements of a split. A pair that is judged twice must have one relevance."""
        import ir_datasets

        judgements: dict[str, dict[str, int]] = {}
        with self._providing():
            for one in ir_datasets.load(self.split_ids[split]).qrels_iter():
                judged = judgements.setdefault(one.query_id, {})
                if judged.setdefault(one.doc_id, one.relevance) != one.relevance:
                    raise DataError(
                        f"'{self.split_ids[split]}' of ir_datasets judges document {one.doc_id!r} for query "
                        f"{one.query_id!r} twice, as {judged[one.doc_id]} and {one.relevance}"
                    )
        return Qrels(judgements)

    def unknown_query(self, split: str, query_id: str) -> DataError:
        """The error for a query that is judged and has no text."""
        return DataError(f"query {query_id!r} is judged in '{self.split_ids[split]}' of ir_datasets and has no text")

    def _records(self) -> Iterator[Record]:
        import ir_datasets

        with self._providing():
            for document in ir_datasets.load(self.name).docs_iter():
                yield _record(document, "doc_id")

    def _build(self, folder: Path) -> None:
        Corpus.build(folder, _Documents(self.name, self._records))

    def _digest(self) -> str:
        """Digest of all documents: what a data set is known by that is not one of ir_datasets' own."""
        digest = hashlib.sha256()
        for record in self._records():
            digest.update(json.dumps(record).encode())
        return digest.hexdigest()

    @contextmanager
    def _providing(self) -> Iterator[None]:
        """Turn whatever ir_datasets raises into one clear line, and keep its chatter from hiding it."""
        with _without_noise():
            try:
                yield
            except RankpipeError:
                raise
            except Exception as error:  # a library over a hundred sources: what it raises is not foreseen
                advice = f"; {self.help_text}" if self.help_text else ""
                raise DataError(f"ir_datasets cannot provide '{self.name}': {_reason(error)}{advice}") from error


@dataclass(frozen=True)
class _Documents:
    """Records that say where they are from."""

    name: str
    records: Callable[[], Iterator[Record]]

    def __iter__(self) -> Iterator[Record]:
        return self.records()

    def located(self, error: DataError) -> DataError:
        return DataError(f"'{self.name}' of ir_datasets: {error}")


def _split_name(name: str) -> str:
    parts = reversed(name.split("/"))
    return next((part for part in parts if part in SPLIT_NAMES), "test")


def _record(entry: Any, id_field: str) -> dict[str, str]:
    """A document or query of ir_datasets as texts."""
    values: dict[str, Any] = entry._asdict()
    text = _default_text(entry, values)
    record = {"id": values.pop(id_field)}
    title = values.pop("title", None)
    if isinstance(title, str) and id_field == "doc_id" and text.startswith(title):
        record["title"], text = title, text[len(title) :].strip()
    elif isinstance(title, str) and title not in text:
        record["title"] = title
    record["text"] = text
    for name, value in values.items():
        if name not in ("text", "body", _MARKUP) and value not in (None, "", [], (), {}) and type(value) is not bytes:
            record[name] = value if type(value) is str else json.dumps(value, ensure_ascii=False, default=str)
    return record


def _default_text(entry: Any, values: dict[str, Any]) -> str:
    main = {name: values[name] for name in ("title", "text", "body", "query") if name in values}
    if hasattr(entry, "default_text") and None not in main.values():  # it would spell out a missing title as "None"
        return entry.default_text().strip()
    return " ".join(part for part in main.values() if isinstance(part, str)).strip()


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if address := _ADDRESS.search(text):
        return f"the download from {address[0].removeprefix('host=').strip(chr(39))} failed"
    return f"{type(error).__name__}: {text[:500]}"


@contextmanager
def _without_noise() -> Iterator[None]:
    """Keep progress and retries of ir_datasets off the error stream: bars unless it is a terminal, messages always."""
    logger, terminal = logging.getLogger("ir_datasets"), sys.stderr

    def passes(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if terminal and not message.startswith(_NOISE):  # conditions of use, and where to get what cannot be downloaded
            print(message, file=terminal)
        return False

    logger.addFilter(passes)
    try:
        if terminal and terminal.isatty():
            yield
        else:
            with redirect_stderr(StringIO()):
                yield
    finally:
        logger.removeFilter(passes)


def _joined(of_splits: Mapping[str, Queries], name: str) -> Queries:
    """The queries of all splits. Raises DataError for an id that two splits give to different queries."""
    found: dict[str, str] = {}
    for split, queries in of_splits.items():
        for query_id, text in zip(queries.ids, queries.texts, strict=True):
            if found.setdefault(query_id, text) != text:
                raise DataError(
                    f"'{name}' of ir_datasets: query {query_id!r} of split '{split}' is another in another split"
                )
    return Queries.of(found)
