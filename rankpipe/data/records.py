"""Documents and queries as mappings, of a line of JSON or of a program: `_id` or `id`, `text`, and perhaps more.

`title` and further keys become text fields: texts as they are, anything else as compact JSON, and null, {} and [] not at
all. Ids are texts; a whole number is taken as its digits, since judgements name ids as text anyway.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any


def record_of(value: Mapping[str, Any], *, named: str = "id") -> dict[str, str]:
    """The fields of a mapping as texts, `id` and `text` always among them.

    named  what an id is called that is missing

    Raises ValueError for a mapping that lacks one of them, and for a value that is no text where one has to be.
    """
    record = {"id": _identifier(value, named)}
    if "text" not in value:
        raise ValueError(f"no 'text'; the keys are {', '.join(map(repr, value)) or 'none'}")
    for name, content in value.items():
        if name in ("_id", "id"):
            continue
        if isinstance(content, str):
            record[name] = str.__str__(content)
        elif name == "text" or (name == "title" and content is not None):
            raise ValueError(f"{name!r} is {kind(content)}, not a text")
        elif content is not None and not (isinstance(content, dict | list | tuple) and not content):
            record[name] = _as_text(name, content)
    return record


def is_plain(value: Mapping[str, Any]) -> bool:
    """Whether record_of would give the mapping as it is."""
    return "id" in value and "_id" not in value and "text" in value and all(type(one) is str for one in value.values())


def kind(value: object) -> str:
    """What a value of JSON is, in words."""
    names = {Mapping: "an object", list: "a list", str: "a text", bool: "true or false", Real: "a number"}
    if value is None:
        return "null"
    return next((words for one, words in names.items() if isinstance(value, one)), f"of type {type(value).__name__}")


def _identifier(value: Mapping[str, Any], named: str) -> str:
    name = "_id" if "_id" in value else "id"
    identifier = value.get(name)
    if name not in value:
        raise ValueError(f"no {named!r}; the keys are {', '.join(map(repr, value)) or 'none'}")
    if name == "_id" and value.get("id", identifier) != identifier:
        raise ValueError(f"'_id' is {identifier!r} and 'id' is {value['id']!r}: keep the one that names the document")
    if isinstance(identifier, Integral) and not isinstance(identifier, bool):
        return str(int(identifier))
    if not isinstance(identifier, str):
        raise ValueError(f"{name!r} is {kind(identifier)}, not a text")
    return str.__str__(identifier)


def _as_text(name: str, content: Any) -> str:
    try:
        return json.dumps(content, ensure_ascii=False, separators=(",", ":"), default=_plain)
    except (TypeError, ValueError, RecursionError):
        raise ValueError(f"{name!r} is {kind(content)}, neither a text nor what JSON can hold") from None


def _plain(value: object) -> int | float:
    """A number of another library as one of Python's."""
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise TypeError
