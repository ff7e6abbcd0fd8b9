"""From stages to YAML: the settings that differ from their defaults, so that reading it gives equal stages."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from rankpipe.errors import PipelineError, Problem
from rankpipe.pipeline.registry import name_of
from rankpipe.pipeline.scalars import MAX_DIGITS, resolve_plain
from rankpipe.pipeline.settings import settings_of
from rankpipe.pipeline.source import NOT_TEXT
from rankpipe.stage import Chain, Stage

WIDTH = 100  # columns; what does not fit is written in block style
PLAIN = re.compile(r"[A-Za-z_/](?:[\w./ -]*[\w./-])?", re.ASCII)  # text that wants no quotes, wherever it stands
PLAIN_LINE = re.compile(r"[A-Za-z_/](?:[\w./, ()'-]*[\w./,()'-])?", re.ASCII)  # nor outside brackets


def to_yaml(stages: Iterable[Stage], *, description: str | None = None, folder: Path | None = None) -> str:
    """Write a pipeline file that reads back as equal stages. Paths under `folder` (the file's own) are made relative.

    Raises PipelineError for no stages and for a value that YAML cannot say, UsageError for an unregistered stage.
    """
    items = [_entry(stage, folder) for stage in stages]
    if not items:
        raise PipelineError([Problem("a pipeline needs at least one stage")])
    lines = [] if description is None else [f"description: {_scalar(description, PLAIN_LINE)}"]
    lines += ["stages:"]
    for item in items:
        lines += _item(item, 2)
    return "\n".join(lines) + "\n"


def in_one_line(value: Any) -> str:
    """A setting's value as YAML writes it. Raises PipelineError for a value that YAML cannot say."""
    return _flow(_plain(value, None, "the value"))


class _Branches(list[Any]):
    """Stages inside a stage: a line for each."""


def _entry(stage: Stage, folder: Path | None) -> Any:
    """A stage as YAML's lists, maps and scalars."""
    kind = Chain if isinstance(stage, Chain) else type(stage)  # a pipeline inside another is a chain of it
    label = name_of(kind)
    settings: dict[str, Any] = {}
    for setting in settings_of(kind).values():
        value = getattr(stage, setting.python_name)
        if not setting.field.is_required() and value == setting.field.get_default(call_default_factory=True):
            continue
        if setting.is_reference and isinstance(value, str) and folder is not None and Path(value).is_absolute():
            value = Path(value)
        plain = _plain(value, folder, f"'{label}' setting '{setting.yaml_name}'")
        settings[setting.yaml_name] = _Branches(plain) if setting.holds_stages else plain
    if stage.name is not None:
        return {label: settings, "name": stage.name}
    return {label: settings} if settings else label


def _plain(value: Any, folder: Path | None, what: str) -> Any:
    if isinstance(value, Stage):
        if isinstance(value, Chain) and value.name is None and len(value.stages) > 1:
            return [_entry(stage, folder) for stage in value.stages]
        return _entry(value, folder)
    if isinstance(value, (list, tuple)):
        return [_plain(item, folder, what) for item in value]
    if is_dataclass(value):  # settings inside a setting
        value = {one.name: getattr(value, one.name) for one in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item, folder, what) for key, item in value.items()}
    if isinstance(value, Path):
        inside = folder is not None and value.is_relative_to(folder.absolute())
        value = (value.relative_to(folder.absolute()) if folder is not None and inside else value).as_posix()
    if isinstance(value, str) and (bad := NOT_TEXT.search(value)):
        raise PipelineError([Problem(f"{what} holds the character U+{ord(bad.group()):04X}, which YAML cannot say")])
    if isinstance(value, int) and abs(value) >= 10 ** (MAX_DIGITS - 1):
        raise PipelineError([Problem(f"{what} is too long a number for YAML")])
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise PipelineError([Problem(f"{what} is a {type(value).__name__}, which YAML cannot say")])


def _item(value: Any, indent: int) -> list[str]:
    """Lines of a list item; those below the first stand right of its "- "."""
    first, *rest = _lines(value, indent + 2)
    return [" " * indent + "- " + first.lstrip(" "), *rest]


def _lines(value: Any, indent: int) -> list[str]:
    """Lines of a value in block style; lists in one line where they fit and hold no fusion."""
    if isinstance(value, dict) and value:
        return [line for key, inner in value.items() for line in _pair(key, inner, indent)]
    if isinstance(value, list) and value and (_is_tall(value) or len(_flow(value)) + indent > WIDTH):
        return [line for item in value for line in _item(item, indent)]
    return [" " * indent + _flow(value)]


def _pair(key: str, value: Any, indent: int) -> list[str]:
    head = f"{' ' * indent}{_scalar(key)}:"
    line = f"{head} {_flow(value)}"
    if isinstance(value, (dict, list)) and value and (_is_tall(value) or len(line) > WIDTH):
        return [head, *_lines(value, indent + 2)]
    return [line]


def _is_tall(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (isinstance(value, _Branches) and bool(value)) or any(map(_is_tall, inner))


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_scalar(key)}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):  # a map of one key needs no braces here
        items = (_flow(item) for item in value)
        bare = (isinstance(item, dict) and len(item) == 1 for item in value)
        return "[" + ", ".join(text[1:-1] if one else text for text, one in zip(items, bare, strict=True)) + "]"
    return _scalar(value)


def _scalar(value: str | int | float | bool | None, plain: re.Pattern[str] = PLAIN) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return float.__repr__(value) if math.isfinite(value) else _NOT_FINITE[float.__repr__(value)]
    if plain.fullmatch(value) and isinstance(resolve_plain(value), str) and value.lower() not in _OLD_BOOLEANS:
        return value
    escaped = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else _escape(ord(c)) for c in escaped)


_NOT_FINITE = {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}
_OLD_BOOLEANS = {"y", "n", "yes", "no", "on", "off"}  # text to us, but not to readers of YAML 1.1


def _escape(code: int) -> str:
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
