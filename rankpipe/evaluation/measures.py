"""Measures by their names, as ir_measures writes them: nDCG@10, R@100, RR@10, AP, Judged@10, P(rel=2)@5.

The names are read here and not by ir_measures.parse_measure, which asks the `ast` module for classes that Python 3.14
no longer has, and whose errors do not say what would be right.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable
from typing import Any

import ir_measures
from ir_measures import Measure

from rankpipe.data.catalogue import DEFAULT_MEASURES
from rankpipe.errors import UsageError

__all__ = ["DEFAULT_MEASURES", "is_binary", "read_measures", "with_relevance_cut"]


LARGEST_RELEVANCE = 1_000_000
"""trec_eval sets up a table as long as the largest relevance, or gain, for every query."""
LARGEST_CUTOFF = 1_000_000_000
"""More documents than any ranking has; far larger ones do not survive their way through C."""


def read_measures(measures: Iterable[str | Measure] | str | Measure) -> dict[str, Measure]:
    """Measures by the names they were asked for, in that order.

    Raises UsageError for an unknown measure or parameter, a cutoff below 1, and for no measure at all.
    """
    wanted = [measures] if isinstance(measures, (str, Measure)) else list(measures)
    if not wanted:
        raise UsageError(f"no measure is named; the usual ones are {', '.join(DEFAULT_MEASURES)}")
    return {str(measure): _checked(str(measure), _read(measure)) for measure in wanted}


def is_binary(measure: Measure) -> bool:
    """Whether the measure only asks if a document is relevant, and so from which relevance on."""
    parameter = measure.SUPPORTED_PARAMS.get("rel")
    return parameter is not None and isinstance(parameter.default, int)


def with_relevance_cut(measure: Measure, cut: int) -> Measure:
    """The measure with `cut` as its lowest relevance, if it is binary and does not say one itself."""
    return measure(rel=cut) if is_binary(measure) and "rel" not in measure.params else measure


def _read(measure: str | Measure) -> Measure:
    if isinstance(measure, Measure):
        return measure
    try:
        node: ast.AST = ast.parse(str(measure).strip(), mode="eval").body
        at = None
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            node, at = node.left, ast.literal_eval(node.right)
        parameters: dict[str, Any] = {}
        if isinstance(node, ast.Call) and not node.args:
            parameters = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
            node = node.func
        if not isinstance(node, ast.Name):
            raise ValueError
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise UsageError(_unknown(str(measure))) from None
    if node.id not in _registry():
        raise UsageError(_unknown(str(measure)))
    kind = _registry()[node.id]
    return kind(**parameters) if at is None else kind(**{**parameters, kind.AT_PARAM: at})


def _checked(name: str, measure: Measure) -> Measure:
    """The measure itself, once its parameters are known to be right."""
    known = measure.SUPPORTED_PARAMS
    for parameter, value in measure.params.items():
        if parameter not in known:
            close = difflib.get_close_matches(parameter, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known) or 'none'}"
            raise UsageError(f"measure {name!r} has no parameter {parameter!r}; {hint}")
        if not known[parameter].validate(value) or isinstance(value, bool) != (known[parameter].dtype is bool):
            raise UsageError(f"measure {name!r}: {parameter} cannot be {value!r} ({known[parameter].desc})")
        if problem := _out_of_range(parameter, value):
            raise UsageError(f"measure {name!r}: {problem}")
    for parameter, described in known.items():
        if described.required and parameter not in measure.params:
            example = f"{name}@100" if parameter == measure.AT_PARAM else f"{name}({parameter}=...)"
            raise UsageError(f"measure {name!r} needs its {parameter}: {example}, for example")
    return measure


def _out_of_range(parameter: str, value: Any) -> str | None:
    """Why a value of the right type is still no right one; ir_measures would pass it on, and trec_eval fall over it."""
    if parameter == "cutoff" and not 1 <= value <= LARGEST_CUTOFF:
        return f"the cutoff must be 1 to {LARGEST_CUTOFF}, not {value}"
    if parameter == "rel" and not 1 <= value <= LARGEST_RELEVANCE:
        return f"rel must be 1 to {LARGEST_RELEVANCE}, not {value}"
    if parameter == "gains":
        for relevance, gain in value.items():
            if not all(type(one) is int for one in (relevance, gain)) or not 0 <= gain <= LARGEST_RELEVANCE:
                return f"a gain must be a whole number, 0 to {LARGEST_RELEVANCE}, for a relevance; {relevance!r}: {gain!r} is not"
            if relevance < -1:
                return f"grades below -1 are measured as -1, so {relevance} has no gain of its own"
    return None


def _unknown(name: str) -> str:
    """What to say of a name that is no measure."""
    suggestion = _suggestion(name)
    hint = f"did you mean {suggestion!r}?" if suggestion else f"the usual ones are {', '.join(DEFAULT_MEASURES)}"
    return f"there is no measure {name!r}; {hint}"


def _suggestion(name: str) -> str | None:
    """The measure that a misspelt name, or one of trec_eval's (ndcg_cut_10, recall_100, map), may mean."""
    stem, at, cutoff = name.partition("@")
    if not at:
        try:
            return str(ir_measures.parse_trec_measure(name)[0])
        except (ValueError, TypeError, IndexError):
            pass  # not one of trec_eval's either
    if at and not cutoff.strip().isdecimal():
        cutoff = "10"
    by_lower_case = {known.lower(): known for known in reversed(_registry())}
    close = difflib.get_close_matches(stem.strip().lower(), by_lower_case, 1)
    return f"{by_lower_case[close[0]]}{at}{cutoff}" if close else None


def _registry() -> dict[str, type[Measure]]:
    return ir_measures.measures.registry
