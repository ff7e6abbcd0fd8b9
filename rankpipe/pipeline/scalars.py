"""What unquoted YAML scalars mean: the core schema of YAML 1.2, https://yaml.org/spec/1.2.2/#103-core-schema

PyYAML's own rules are those of YAML 1.1: `1e-5` is text, `no` a boolean, `010` eight, `1:30` ninety.
"""

from __future__ import annotations

import re

MAX_DIGITS = 400  # of a number: more than the longest float written without an exponent

INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def resolve_plain(text: str) -> str | int | float | bool | None:
    """Meaning of an unquoted scalar in YAML 1.2's core schema; text where it is nothing else.

    Raises ValueError for a number of more than MAX_DIGITS characters.
    """
    if text in CONSTANTS:
        return CONSTANTS[text]
    if INTEGER.fullmatch(text):
        _check_length(text)
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text, base)
    if FLOAT.fullmatch(text):
        _check_length(text)
        if text[-1] in "fFnN":  # .inf, -.INF, .nan: Python's float() wants them without the dot
            return float(text.lower().replace(".", ""))
        return float(text)
    return text


def _check_length(text: str) -> None:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} characters; at most {MAX_DIGITS} are read")
