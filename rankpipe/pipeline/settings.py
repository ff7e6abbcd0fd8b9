"""Settings of a stage: from YAML nodes to the values of its fields, and from pydantic's errors to ours."""

from __future__ import annotations

import math
import os
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from rankpipe.errors import Problem
from rankpipe.pipeline.registry import suggestion
from rankpipe.pipeline.source import Mapping, Node, Place, Scalar, kind_of, quoted, shortened
from rankpipe.pipeline.source import Sequence as SequenceNode
from rankpipe.stage import BESIDE_FILE, EARLIER, READ, Shipped, Stage

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

PHRASES = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "path_type": "must be a path",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a map",
    "dataclass_type": "must be a map",
    "model_attributes_type": "must be a map",
    "union_tag_invalid": "whose {discriminator} is '{tag}', must be one of {expected_tags}",
    "union_tag_not_found": "must have {discriminator}",
    "unexpected_keyword_argument": "which is no setting there",
    "finite_number": "must be finite",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "literal_error": "must be {expected}",
    "string_too_short": "must have {min_length} or more characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match the pattern {pattern}",
    "too_short": "must have at least {min_length}",
    "too_long": "must have at most {max_length}",
}
"""What would be right, by pydantic's type of error: https://docs.pydantic.dev/latest/errors/validation_errors/"""


class Setting(NamedTuple):
    """A field of a stage's class: its name in Python and what pydantic knows of it."""

    python_name: str
    field: FieldInfo

    @property
    def yaml_name(self) -> str:
        """The name in YAML: without the underscore of a reserved word (`with_`)."""
        return self.python_name.removesuffix("_")

    @property
    def holds_stages(self) -> bool:
        """Whether the values are stages: a branch, or several."""
        return _mentions(self.field.annotation, Stage)

    @property
    def is_reference(self) -> bool:
        """Whether it is text that may be a path (stage.Reference)."""
        return BESIDE_FILE in self.field.metadata or _mentions(self.field.annotation, BESIDE_FILE)

    @property
    def names_stages(self) -> bool:
        """Whether it names earlier stages (stage.StageName)."""
        return EARLIER in self.field.metadata or _mentions(self.field.annotation, EARLIER)

    @property
    def is_read(self) -> bool:
        """Whether it is the path of a file that has to be there (stage.InputFile)."""
        return READ in self.field.metadata or _mentions(self.field.annotation, READ)

    def value(self, node: Node, folder: Path | None) -> Any:
        """Python value of a node: lists become tuples. Relative paths stand in the folder, if there is one."""
        inside = _without_none(self.field.annotation)
        if isinstance(inside, type) and is_dataclass(inside) and isinstance(node, Mapping):
            inner = settings_of(inside)
            return {
                entry.key: inner[entry.key].value(entry.value, folder) if entry.key in inner else _value(entry.value)
                for entry in node.entries
            }
        if _mentions(self.field.annotation, Path) and not _mentions(self.field.annotation, str):
            return _value(node, (folder or Path()).__truediv__)
        if folder is not None and self.is_reference:
            words = self._words  # of the setting itself, whatever lies beside the file
            return _value(
                node,
                lambda text: (
                    str(folder / text) if text and text not in words and os.path.exists(folder / text) else text
                ),
            )
        return _value(node)

    @property
    def _words(self) -> set[Any]:
        """Values that mean themselves, whatever files there are."""
        shipped = [one.names() for one in self.field.metadata if isinstance(one, Shipped)]
        return _words(self.field.annotation).union(*shipped)


def _without_none(annotation: Any) -> Any:
    """Of a type that may be None as well, the type."""
    if get_origin(annotation) in (Union, types.UnionType):
        members = [one for one in get_args(annotation) if one is not types.NoneType]
        return members[0] if len(members) == 1 else annotation
    return annotation


def _words(annotation: Any) -> set[Any]:
    """Values that a type spells out (Literal)."""
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        return set(arguments)
    members = arguments[:1] if get_origin(annotation) is Annotated else arguments
    return set().union(*map(_words, members))


def _value(node: Node, read_text: Callable[[str], Any] = str) -> Any:
    if isinstance(node, SequenceNode):
        return tuple(_value(item, read_text) for item in node.items)
    if isinstance(node, Mapping):
        return {entry.key: _value(entry.value, read_text) for entry in node.entries}
    return read_text(node.value) if isinstance(node.value, str) else node.value


def settings_of(stage: type) -> dict[str, Setting]:
    """Settings of a stage, or of another class of settings, by their names in YAML.

    `name` is not among them: it stands beside the settings.
    """
    fields: dict[str, FieldInfo] = getattr(stage, "__pydantic_fields__", {})
    settings = [Setting(name, field) for name, field in fields.items() if name != "name" and field.init is not False]
    return {setting.yaml_name: setting for setting in settings}


def problems_of(
    error: ValidationError, stage: type, label: str, given: dict[str, Node], place: Place
) -> Iterator[Problem]:
    """Turn pydantic's errors about a stage, or another class of settings, into ours.

    label  the stage's name in YAML
    given  nodes of the settings, by their names in Python
    place  of the stage, for what is missing and for mistakes of settings taken together
    """
    wrong: dict[tuple[str, int], _Wrong] = {}  # by setting and node: an alias may stand in two settings
    for details in error.errors(include_url=False):
        first, *path = details["loc"] or (None,)
        if not isinstance(first, str):
            yield place.problem(f"'{label}': {_own_words(details)}")
        elif first in given:
            found = _found(given[first], path)
            steps = (f".{step}" if isinstance(step, str) else f"[{step}]" for step in found.path)
            shown = first.removesuffix("_") + "".join(steps)
            item = wrong.setdefault((first, id(found.node)), _Wrong(shown, found.node, found.ancestors, []))
            item.expected.append((details["type"], _expected(details, found, stage)))
        elif details["type"] == "missing":
            yield place.problem(f"'{label}' needs the setting '{first.removesuffix('_')}'")
        else:
            yield place.problem(f"'{label}' setting '{first.removesuffix('_')}': {_own_words(details)}")
    # of a union, the member that was understood furthest says best what is wrong
    outer = {(first, ancestor) for (first, _), item in wrong.items() for ancestor in item.ancestors}
    for key, item in wrong.items():
        if key not in outer:
            yield item.node.place.problem(f"'{label}' setting '{item.shown}'{item.complaint()}")


class _Found(NamedTuple):
    node: Node
    path: list[str | int]
    ancestors: list[int]
    beyond: int | None  # index that the list is too short for


class _Wrong(NamedTuple):
    shown: str
    node: Node
    ancestors: list[int]
    expected: list[tuple[str, str]]

    def complaint(self) -> str:
        node, kinds = self.node, dict(self.expected)
        if isinstance(node, Mapping) and kinds.keys() == {
            "value_error"
        }:  # it is a map, and its own check says the rest
            return f": {'; '.join(dict.fromkeys(kinds.values()))}"
        if isinstance(node, Scalar) and isinstance(node.value, float) and math.isnan(node.value):
            return " is not a number (nan)"
        if isinstance(node, SequenceNode) and kinds.keys() <= {"too_short", "too_long", "missing"}:
            count = len(node.items)
            return f" has {count} value{'s' * (count != 1)}, {list(kinds.values())[-1]}"
        wanted = [phrase for _, phrase in self.expected]
        joined = wanted[0]
        for phrase in dict.fromkeys(wanted[1:]):
            if phrase != wanted[0]:
                joined += " or " + phrase.removeprefix("must be ")
        return f" is {as_written(node)}, {joined}"


def as_written(node: Node) -> str:
    """Show a value in a message as it stands in the file: text in quotes, numbers as they are, the rest by kind."""
    if isinstance(node, Scalar) and node.value is not None:
        return quoted(node.value) if isinstance(node.value, str) else shortened(node.text)
    return kind_of(node)


def _found(node: Node, path: list[Any]) -> _Found:
    """Follow pydantic's location down a node. Steps that name a union's member or a missing item lead nowhere."""
    walked: list[str | int] = []
    ancestors: list[int] = []
    beyond = None
    for step in path:
        inner = None
        if isinstance(node, SequenceNode) and isinstance(step, int):
            inner = node.items[step] if step < len(node.items) else None
            beyond = step if inner is None else None
        elif isinstance(node, Mapping) and (entry := node.get(str(step))):
            inner = entry.value
        if inner is not None:
            ancestors.append(id(node))
            walked.append(step)
            node = inner
    return _Found(node, walked, ancestors, beyond)


def _expected(details: ErrorDetails, found: _Found, stage: type) -> str:
    if details["type"] == "missing" and found.beyond is not None:
        return f"must have at least {found.beyond + 1}"
    if details["type"] == "missing":
        return f"must have '{details['loc'][-1]}'"
    if details["type"] == "unexpected_keyword_argument":
        *path, name = details["loc"]
        return PHRASES["unexpected_keyword_argument"] + suggestion(str(name), _settings_at(stage, path))
    if details["type"] in PHRASES:
        limits = {key: _short(limit) for key, limit in details.get("ctx", {}).items()}
        return PHRASES[details["type"]].format(**limits)
    return _own_words(details)


def _settings_at(stage: type, path: Sequence[str | int]) -> set[str]:
    """Names of the settings of a map inside a stage's settings, where pydantic's location leads."""
    classes = {stage}
    for step in path:
        below = [settings_of(one)[step].field.annotation for one in classes if step in settings_of(one)]  # type: ignore[index]
        if below:
            classes = {one for annotation in below for one in _classes_in(annotation)}
        else:  # the member of a union, named by what tells its members apart
            tags = {one: [setting.field.default for setting in settings_of(one).values()] for one in classes}
            classes = {one for one in classes if isinstance(step, str) and step in tags[one]} or classes
    return {name for one in classes for name in settings_of(one)}


def _classes_in(annotation: Any) -> Iterator[type]:
    """Classes of settings that a type is, or is made of."""
    if isinstance(annotation, type) and is_dataclass(annotation):
        yield annotation
    for argument in get_args(annotation):
        yield from _classes_in(argument)


def _short(limit: Any) -> Any:
    """A float without its '.0': pydantic turns the 0 of Ge(0) into 0.0."""
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit


def _own_words(details: ErrorDetails) -> str:
    """What a stage's own check said, or pydantic where we have no words for it."""
    raised = details.get("ctx", {}).get("error")
    if raised is not None:
        return str(raised)
    return details["msg"].replace("Input should be", "must be").replace("Value error, ", "")


def plain_words(details: ErrorDetails) -> str:
    """What pydantic says of a mistake, as a sentence goes on that has said what it is about."""
    said = details["msg"].removeprefix("Value error, ")
    return f"{said[:1].lower()}{said[1:]}"


def _mentions(annotation: Any, wanted: type | str) -> bool:
    """Whether a type is, or is made of, `wanted` (a class, or a mark of Annotated); the keys of a map do not count."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return wanted in arguments[1:] or _mentions(arguments[0], wanted)
    if origin in (Union, types.UnionType, tuple, list):
        return any(_mentions(argument, wanted) for argument in arguments)
    if origin is dict:
        return _mentions(arguments[1], wanted)
    return isinstance(annotation, type) and isinstance(wanted, type) and issubclass(annotation, wanted)
