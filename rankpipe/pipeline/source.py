"""YAML with places: a small tree of nodes that know file, line and column.

PyYAML's scanner and parser do the reading, its constructors are never used, so a file can neither run code nor build
objects.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import yaml

from rankpipe.errors import PipelineError, Problem
from rankpipe.pipeline.scalars import resolve_plain

MAX_BYTES = 1_000_000
MAX_VALUES = 20_000  # of a file, every alias counted as often as it is used; bounds time and "billion laughs"
MAX_DEPTH = 100  # of nesting; about twenty fusions inside one another

NOT_YAML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
NOT_TEXT = re.compile("[\0\ud800-\udfff]")  # may be written as an escape, but no file or terminal takes it


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands; line and column count from 1, the column in characters. `file` None: not from a file."""

    file: str | None
    line: int
    column: int

    def problem(self, message: str) -> Problem:
        """Build the mistake that stands here."""
        return Problem(message, self.file, self.line, self.column)


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value. `text` is what was written (without its quotes), `value` what it means."""

    place: Place
    value: str | int | float | bool | None
    text: str


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    place: Place
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A key of a mapping with its value; `place` is the key's."""

    place: Place
    key: str
    value: Node


@dataclass(frozen=True, slots=True)
class Mapping:
    """A map with text keys, none twice, in the order of the file."""

    place: Place
    entries: tuple[Entry, ...]

    def get(self, key: str) -> Entry | None:
        """Find the entry of a key; None where there is none."""
        return next((entry for entry in self.entries if entry.key == key), None)


Node: TypeAlias = Scalar | Sequence | Mapping


@dataclass(frozen=True, slots=True)
class Source:
    """A file as read: its tree, and the mistakes that the tree was read around. `root` None: beyond reading."""

    root: Mapping | None
    problems: tuple[Problem, ...]


def read_source(path: Path | str) -> Source:
    """Read a YAML file. A file that cannot be read is a problem of the source, never an OSError."""
    path, name = Path(path), str(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return _unreadable(name, "no such file")
    except IsADirectoryError:
        return _unreadable(name, "a folder; a YAML file is wanted")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        return _unreadable(name, f"cannot be read: {getattr(error, 'strerror', None) or error}")
    if len(content) > MAX_BYTES:
        return _unreadable(name, f"larger than {MAX_BYTES / 1e6:g} MB, the most that is read as YAML")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8-sig")
        problem = _place_after(before, name).problem(f"not UTF-8 text (byte 0x{content[error.start]:02x})")
        return Source(None, (problem,))
    return parse_source(text, name)


def parse_source(text: str, file: str | None = None) -> Source:
    """Read YAML text; `file` is the name that mistakes are reported under."""
    text = text.removeprefix("\ufeff")
    if len(text) > MAX_BYTES:
        return _unreadable(file, f"larger than {MAX_BYTES / 1e6:g} MB, the most that is read as YAML")
    if bad := NOT_YAML.search(text):
        place = _place_after(text[: bad.start()], file)
        return Source(None, (place.problem(f"the character U+{ord(bad.group()):04X} is not allowed in YAML"),))
    composer = _Composer(text, file)
    try:
        root = composer.document()
    except PipelineError as error:
        return Source(None, tuple(composer.problems) + error.problems)
    return Source(root, tuple(composer.problems))


def _unreadable(file: str | None, message: str) -> Source:
    return Source(None, (Problem(message, file),))


def _place_after(before: str, file: str | None) -> Place:
    lines = re.split("\r\n|[\n\r\x85\u2028\u2029]", before)  # the line breaks that PyYAML counts
    return Place(file, len(lines), len(lines[-1]) + 1)


@dataclass(slots=True)
class _Anchored:
    """A value that aliases may stand for. `node` None: still being read, so an alias to it would hold itself."""

    node: Node | None = None
    values: int = 0
    height: int = 0


@dataclass(slots=True)
class _Composer:
    """Builds the tree from PyYAML's events. Recursion is bounded by MAX_DEPTH."""

    text: str
    file: str | None
    problems: list[Problem] = field(default_factory=list)
    anchors: dict[str, _Anchored] = field(default_factory=dict)
    values: int = 0
    deepest: int = 0
    events: Iterator[Any] = field(init=False)

    def __post_init__(self) -> None:
        self.events = self._parsed()

    def _parsed(self) -> Iterator[Any]:
        """PyYAML's events; what it refuses becomes a PipelineError with the place."""
        loader = yaml.SafeLoader(self.text)  # the pure parser: libyaml words the same mistakes differently
        try:
            while loader.check_event():
                yield loader.get_event()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark or loader.get_mark()
            self._stop(mark, _syntax_message(error))
        except (ValueError, OverflowError):  # an escape such as "\UFFFFFFFF", or a %YAML version beyond int()
            self._stop(loader.get_mark(), "not YAML: an escape or a number out of range")
        finally:
            loader.dispose()

    def document(self) -> Mapping | None:
        """Read the one document of the text; None (and a problem) where it is no mapping."""
        root = None
        count = 0
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                count += 1
                if count > 1:
                    self._stop(event.start_mark, "a second document begins; a file holds one")
                root = self._node(next(self.events), depth=1)
        if root is None or (isinstance(root, Scalar) and root.value is None):
            self._stop(None, "empty; a map is wanted")
        if isinstance(root, Mapping):
            return root
        hint = "; put this list under 'stages:'" if isinstance(root, Sequence) else ""
        self._report(root.place, f"a map is wanted, not {kind_of(root)}{hint}")
        return None

    def _node(self, event: Any, depth: int) -> Node:
        place = self._place(event.start_mark)
        self.deepest = max(self.deepest, depth)
        self._count(place, 1, depth)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event.anchor, place, depth)
        if event.tag is not None:
            self._report(place, f"the tag {_tag_text(event.tag)} is not read; take it out")
        anchored = _Anchored()
        if event.anchor is not None:
            self.anchors[event.anchor] = anchored
        values, deepest, self.deepest = self.values, self.deepest, depth
        if isinstance(event, yaml.ScalarEvent):
            node: Node = self._scalar(event, place)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = Sequence(place, tuple(self._items(depth)))
        else:
            node = Mapping(place, tuple(self._entries(depth)))
        anchored.node, anchored.values, anchored.height = node, self.values - values, self.deepest - depth
        self.deepest = max(deepest, self.deepest)
        return node

    def _alias(self, name: str, place: Place, depth: int) -> Node:
        anchored = self.anchors.get(name)
        if anchored is not None and anchored.node is not None:
            self._count(place, anchored.values, depth + anchored.height)
            self.deepest = max(self.deepest, depth + anchored.height)
            return anchored.node
        self._report(
            place,
            f"*{name} stands inside &{name}, the value it names" if anchored else f"*{name} has no &{name} before it",
        )
        return Scalar(place, None, "")

    def _scalar(self, event: Any, place: Place) -> Scalar:
        value = event.value
        if event.style is not None:  # quoted, or a block of text
            if bad := NOT_TEXT.search(value):
                self._report(place, f"the character U+{ord(bad.group()):04X} cannot be used, even as an escape")
            return Scalar(place, value, value)
        try:
            return Scalar(place, resolve_plain(value), value)
        except ValueError as error:
            self._report(place, str(error))
            return Scalar(place, 0, value)

    def _items(self, depth: int) -> Iterator[Node]:
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            yield self._node(event, depth + 1)

    def _entries(self, depth: int) -> Iterator[Entry]:
        first: dict[str, Place] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            plain = isinstance(event, yaml.ScalarEvent) and event.style is None
            key = self._node(event, depth + 1)
            place = self._place(event.start_mark)
            value = self._node(next(self.events), depth + 1)
            if not isinstance(key, Scalar):
                self._report(place, f"a key must be a name, not {kind_of(key)}")
            elif plain and key.text == "<<":
                self._report(place, "merge keys ('<<') are not read; write the entries out")
            elif not isinstance(key.value, str):
                self._report(
                    place, f"a key must be a name, not {shortened(key.text) or 'nothing'}; quotes make it text"
                )
            elif key.value in first:
                self._report(place, f"{quoted(key.value)} is given twice; first on line {first[key.value].line}")
            else:
                first[key.value] = place
                yield Entry(place, key.value, value)

    def _count(self, place: Place, values: int, depth: int) -> None:
        self.values += values
        if self.values > MAX_VALUES:
            self._stop(place, f"more than {MAX_VALUES} values, each alias counted as often as it is used")
        if depth > MAX_DEPTH:
            self._stop(place, f"nested more than {MAX_DEPTH} deep")

    def _place(self, mark: Any) -> Place:
        return Place(self.file, mark.line + 1, mark.column + 1)

    def _report(self, place: Place, message: str) -> None:
        self.problems.append(place.problem(message))

    def _stop(self, where: Any, message: str) -> NoReturn:
        """Give up: what follows cannot be understood. `where` is a Place, a mark of PyYAML or None."""
        if where is None:
            raise PipelineError([Problem(message, self.file)])
        place = where if isinstance(where, Place) else self._place(where)
        raise PipelineError([place.problem(message)])


def kind_of(node: Node) -> str:
    """Name what a node is, for messages: 'a list', 'a map', 'text', 'a number', 'true or false', 'nothing'."""
    if isinstance(node, Sequence):
        return "a list"
    if isinstance(node, Mapping):
        return "a map"
    if node.value is None:
        return "nothing"
    if isinstance(node.value, bool):
        return "true or false"
    return "text" if isinstance(node.value, str) else "a number"


def quoted(text: str) -> str:
    """Text of a file in single quotes, fit for a message: one line, of bounded length."""
    return f"'{shortened(text)}'"


def shortened(text: str) -> str:
    """Text of a file fit for a message: unprintable characters escaped, cut after 60."""
    cut = text if len(text) <= 60 else text[:57] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)


def _syntax_message(error: yaml.MarkedYAMLError) -> str:
    problem = (error.problem or "cannot be read").replace("<", "").replace(">", "")
    if "'\\t'" in problem:
        return "a tab where YAML wants spaces"
    if "cannot start any token" in problem:
        return f"not YAML: {problem}; text that begins so wants quotes"
    if error.context is None:
        return f"not YAML: {problem}"
    begun, found = error.context_mark, error.problem_mark
    begun_on = f" begun on line {begun.line + 1}" if begun and found and begun.line != found.line else ""
    return f"not YAML: {problem} ({error.context}{begun_on})"


def _tag_text(tag: str) -> str:
    core = "tag:yaml.org,2002:"
    return shortened(f"!!{tag[len(core) :]}" if tag.startswith(core) else tag)
