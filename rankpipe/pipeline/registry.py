"""Names of stages, as YAML writes them, and the classes behind them. Listing imports none of them.

Ours stand in BUILT_IN. Other packages add theirs through the entry point group `rankpipe.stages`, name = "module:Class"; a
program adds one by `register`, for as long as it runs.
"""

from __future__ import annotations

import sys
from difflib import get_close_matches
from functools import lru_cache
from importlib import import_module, metadata
from inspect import isabstract
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from rankpipe.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rankpipe.stage import Stage

    S = TypeVar("S", bound=Stage)
else:
    S = TypeVar("S")

GROUP = "rankpipe.stages"

BUILT_IN = {
    "attention": "rankpipe.stages.attention:Attention",
    "bm25": "rankpipe.stages.bm25:BM25",
    "bo1": "rankpipe.stages.feedback:Bo1",
    "chain": "rankpipe.stage:Chain",
    "cross-encoder": "rankpipe.stages.cross_encoder:CrossEncoder",
    "cut": "rankpipe.stages.cut:Cut",
    "dense": "rankpipe.stages.dense:Dense",
    "features": "rankpipe.stages.features:Features",
    "fuse": "rankpipe.stages.fuse:Fuse",
    "hyde": "rankpipe.stages.hyde:Hyde",
    "interpolate": "rankpipe.stages.interpolate:Interpolate",
    "keywords": "rankpipe.stages.expansion:Keywords",
    "learned": "rankpipe.stages.learned:Learned",
    "likelihood": "rankpipe.stages.likelihood:Likelihood",
    "listwise": "rankpipe.stages.listwise:Listwise",
    "multi-query": "rankpipe.stages.multi_query:MultiQuery",
    "original": "rankpipe.stages.expansion:Original",
    "pointwise": "rankpipe.stages.pointwise:Pointwise",
    "query2doc": "rankpipe.stages.expansion:Query2doc",
    "rescore": "rankpipe.stages.rescore:Rescore",
    "rm3": "rankpipe.stages.feedback:RM3",
    "rocchio": "rankpipe.stages.feedback:Rocchio",
    "run-file": "rankpipe.stages.run_file:RunFile",
    "setwise": "rankpipe.stages.setwise:Setwise",
    "sparse": "rankpipe.stages.sparse:Sparse",
    "vector-feedback": "rankpipe.stages.vector_feedback:VectorFeedback",
}


_own: dict[str, type[Stage]] = {}
"""Stages that this program has registered, by their names."""


class Registered(NamedTuple):
    """A name's class, as "module:Class", and the package that gave the name."""

    reference: str
    package: str

    def __str__(self) -> str:
        return f"{self.reference} of package '{self.package}'"


def register(stage: type[S]) -> type[S]:
    """Make a stage known to YAML under its type_name, in this program alone; a decorator above the dataclass.

    A class of the same module and name takes the place of the one before, as when a cell of a notebook is run again.

    Raises UsageError for a name that another stage has, and for a class that is no stage or lacks a method.
    """
    from rankpipe.stage import Stage

    if not (isinstance(stage, type) and issubclass(stage, Stage)):
        raise UsageError(f"{stage!r:.100} is not a subclass of rankpipe.stage.Stage")
    if isabstract(stage):
        raise UsageError(f"{stage.__qualname__} does not define {', '.join(sorted(stage.__abstractmethods__))}")
    if unset := [one for one in vars(stage).get("__annotations__", {}) if not _is_setting(stage, one)]:
        raise UsageError(
            f"{stage.__qualname__}: {unset[0]!r} is no setting that is checked; put "
            "@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=SETTINGS) below @register"
        )
    name, before = stage.type_name(), _own.get(stage.type_name())
    if name in _registered() or (before and _told(before) != _told(stage)):
        raise UsageError(f"a stage '{name}' is there already; give class {stage.__qualname__} another name")
    _own[name] = stage
    return stage


def _is_setting(stage: type[Stage], name: str) -> bool:
    """Whether an annotation is a setting, or is meant to be none."""
    return name in vars(stage).get("__pydantic_fields__", {}) or "ClassVar" in str(vars(stage)["__annotations__"][name])


def _told(stage: type[Stage]) -> tuple[str, str]:
    return stage.__module__, stage.__qualname__


def stage_names() -> tuple[str, ...]:
    """Names of all stages, sorted. Raises UsageError where two packages give one name."""
    return tuple(sorted([*(name for name in _registered() if _the_one(name)), *_own]))


def load_stage(name: str) -> type[Stage]:
    """Import the class behind a name.

    Raises UsageError for an unknown name, one that two packages give, and a class that cannot be imported.
    """
    if name in _own:
        return _own[name]
    found = _the_one(name)
    module, _, attribute = found.reference.partition(":")
    try:
        loaded = getattr(import_module(module), attribute)
    except MissingExtraError:
        raise
    except Exception as error:  # another package's import may fail in any way
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"stage '{name}' ({found}) cannot be imported: {reason}") from error
    from rankpipe.stage import Stage

    if not (isinstance(loaded, type) and issubclass(loaded, Stage)):
        raise UsageError(f"stage '{name}' ({found}) is not a subclass of rankpipe.stage.Stage")
    if isabstract(loaded):
        raise UsageError(f"stage '{name}' ({found}) does not define {', '.join(sorted(loaded.__abstractmethods__))}")
    return loaded


def name_of(stage: type[Stage]) -> str:
    """Name under which a class is registered. Raises UsageError for a class that is not."""
    if _own.get(stage.type_name()) is stage:
        return stage.type_name()
    if (later := _own.get(stage.type_name())) is not None and _told(later) == _told(stage):
        raise UsageError(
            f"{stage.__module__}.{stage.__qualname__} was defined anew; make the pipeline again, of the class that there is now"
        )
    for name, candidates in _registered().items():
        module, _, attribute = candidates[0].reference.partition(":")
        if getattr(sys.modules.get(module), attribute, None) is stage:
            return name
    raise UsageError(
        f"{stage.__module__}.{stage.__qualname__} is not registered as a stage; "
        f"a program registers it by rankpipe.register, a package names it in the entry point group '{GROUP}'"
    )


def closest(word: str, known: Iterable[str]) -> str | None:
    """Which known word an unknown one was probably meant to be; K1 is k1."""
    words = {one.lower(): one for one in sorted(known, reverse=True)}
    return next((words[one] for one in get_close_matches(word.lower(), sorted(words), n=1)), None)


def suggestion(word: str, known: Iterable[str]) -> str:
    """End of a message about an unknown word: "; did you mean 'this'?", or else the words there are."""
    known = sorted(known)
    if meant := closest(word, known):
        return f"; did you mean '{meant}'?"
    return f"; there are: {', '.join(known)}" if known else ""


def _the_one(name: str) -> Registered:
    """What a name stands for; UsageError where it stands for nothing, or for two things."""
    candidates = _registered().get(name)
    if not candidates:
        raise UsageError(f"no stage is called '{name}'{suggestion(name, [*_registered(), *_own])}")
    first, *others = candidates
    if others:
        raise UsageError(
            f"stage '{name}' is given twice: {' and '.join(map(str, candidates))}; one of the packages has to go"
        )
    return first


def _registered() -> dict[str, tuple[Registered, ...]]:
    return _found(tuple(sys.path))


@lru_cache(maxsize=1)
def _found(_path: tuple[str, ...]) -> dict[str, tuple[Registered, ...]]:
    """All names, from here and from the packages on `_path`; more than one candidate is a clash."""
    found: dict[str, tuple[Registered, ...]] = {
        name: (Registered(reference, "rankpipe"),) for name, reference in BUILT_IN.items()
    }
    for point in metadata.entry_points(group=GROUP):
        package = point.dist.name if point.dist is not None else "unknown"
        found[point.name] = (*found.get(point.name, ()), Registered(point.value, package))
    return found
