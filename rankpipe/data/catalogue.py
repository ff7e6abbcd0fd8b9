"""The catalogue: one card for each known data set, a YAML file under datasets/cards that has the data set's name.

A card says what the documents cannot: where the data come from, how many there must be, and what a measurement has to
mind. The names are the files' names, so listing them reads no file, and loading one data set reads one card.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from rankpipe.data.shipped import shipped
from rankpipe.errors import DataError, UsageError

DEFAULT_MEASURES = ("nDCG@10", "R@100", "RR@10", "AP", "Judged@10")
"""What is measured unless something else is asked for."""


@dataclass(frozen=True, kw_only=True)
class SplitCounts:
    """How much a split holds: queries that have judgements, and judgements."""

    queries: int
    judgements: int


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How much a data set holds: documents, and of every split its queries and judgements."""

    documents: int
    splits: Mapping[str, SplitCounts]


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known of a data set. None: not known, or not checked.

    name           as Dataset.load takes it
    title          one line
    source         address of the official data, or where they are described
    md5            of the file at `source`, as its publisher gives it
    ir_datasets    id under which ir_datasets serves the data
    licence        as the publisher states it
    language       of the documents, ISO 639-1
    documents      number of documents
    splits         queries and judgements of every split
    titles         "joined": documents have titles, and are searched as (title + ' ' + text).strip(); "none": they have none
    measures       what is measured unless something else is asked for, as ir_measures writes it
    relevance_cut  smallest grade that counts as relevant in binary measures (R, RR, AP)
    self_match     queries are documents of the corpus under the same id: that document is no answer, and leaves the
                   ranking before it is measured
    notes          further quirks, one sentence each
    """

    name: str
    title: str = ""
    source: str | None = None
    md5: str | None = None
    ir_datasets: str | None = None
    licence: str | None = None
    language: str | None = None
    documents: int | None = None
    splits: Mapping[str, SplitCounts] = field(default_factory=dict)
    titles: str | None = None
    measures: tuple[str, ...] = DEFAULT_MEASURES
    relevance_cut: int = 1
    self_match: bool = False
    notes: tuple[str, ...] = ()

    @property
    def has_archive(self) -> bool:
        """Whether `source` is a zip archive with a checksum: such are in BEIR layout, and fetched by us."""
        return self.md5 is not None and self.source is not None and self.source.endswith(".zip")

    def differences(self, counts: Counts) -> list[str]:
        """How a folder's counts differ from this card's, a phrase each; splits that the folder lacks are no difference."""
        if self.documents is None:
            return ["the card states no counts to check it by"]
        found = []
        if counts.documents != self.documents:
            found.append(f"{counts.documents:,} documents, not {self.documents:,}")
        for split, has in counts.splits.items():
            expected = self.splits.get(split)
            if expected is None:
                found.append(f"a split '{split}', which the card does not know")
            elif has != expected:
                found.append(
                    f"{has.queries:,} queries and {has.judgements:,} judgements in '{split}', "
                    f"not {expected.queries:,} and {expected.judgements:,}"
                )
        return found


def names() -> list[str]:
    """The names of all cards, sorted."""
    root = shipped("datasets") / "cards"
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def card(name: str) -> Card:
    """The card of a data set. Raises UsageError where there is none, DataError where it is not a right one."""
    path = shipped("datasets") / "cards" / f"{name}.yaml"
    if name not in names():
        raise UsageError(f"there is no card '{name}'")
    return read_card(path, name)


def read_card(path: Path, name: str) -> Card:
    """A card from its file. Unknown, repeated and missing keys and values of a wrong type raise DataError."""
    values = _mapping(path)
    known = {one.name for one in fields(Card)}
    if wrong := next((key for key in values if key not in known), None):
        raise DataError(f"{path}: a card has no key {wrong!r}; its keys are {', '.join(sorted(known))}")
    if values.get("name") != name:
        raise DataError(f"{path}: 'name' is {values.get('name')!r}; by the file's place it should be {name!r}")
    for key, value in values.items():
        values[key] = _checked(path, key, value)
    return Card(**values)


def _mapping(path: Path) -> dict[str, Any]:
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value]
            if repeated := next((key for place, key in enumerate(keys) if key in keys[:place]), None):
                raise DataError.at(path, node.start_mark.line + 1, f"key {repeated!r} occurs twice")
            return super().construct_mapping(node, deep=deep)

    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader)  # noqa: S506 - it is a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DataError.at(path, line, f"not YAML: {error.problem}") from None
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a card: {error}") from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: a card is a mapping of keys to values")
    return values


_INTEGERS = ("documents", "relevance_cut")
_LISTS = ("measures", "notes")


def _checked(path: Path, key: str, value: Any) -> Any:
    """The value of one key as Card holds it."""
    if key == "splits":
        return _splits(path, value)
    if key in _LISTS:
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            return tuple(value)
        raise DataError(f"{path}: {key!r} is {value!r}, not a list of texts")
    if key in _INTEGERS:
        if type(value) is int and value >= 0:
            return value
        raise DataError(f"{path}: {key!r} is {value!r}, not a whole number")
    if key == "self_match":
        if type(value) is bool:
            return value
        raise DataError(f"{path}: {key!r} is {value!r}, not true or false")
    if not isinstance(value, str) or not value:
        raise DataError(f"{path}: {key!r} is {value!r}, not a text")
    if key == "titles" and value not in ("joined", "none"):
        raise DataError(f"{path}: 'titles' is {value!r}, not 'joined' or 'none'")
    return value


def _splits(path: Path, value: Any) -> dict[str, SplitCounts]:
    expected = {one.name for one in fields(SplitCounts) if one.default is MISSING}
    if not isinstance(value, dict):
        raise DataError(f"{path}: 'splits' is {value!r}, not a mapping of splits to their counts")
    for split, counts in value.items():
        whole = isinstance(counts, dict) and set(counts) == expected
        if not isinstance(split, str) or not whole or not all(type(one) is int for one in counts.values()):
            raise DataError(f"{path}: split {split!r} is {counts!r}, not like {{queries: 300, judgements: 339}}")
    return {split: SplitCounts(**counts) for split, counts in value.items()}
