"""Stage, the one kind of thing a pipeline is made of; Chain, stages one after the other; the operator `>>`.

A stage is a frozen, keyword-only pydantic dataclass: its fields are its settings, the same ones YAML writes. Building
one is free; models and indexes open on first use (Stage.open_once).
"""

from __future__ import annotations

import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar, cast

import numpy as np
from annotated_types import MinLen
from numpy.typing import NDArray
from pydantic import AfterValidator, ConfigDict, Strict
from pydantic.dataclasses import dataclass

from rankpipe.errors import RankpipeError
from rankpipe.run import Pieces, Run

if TYPE_CHECKING:
    from rankpipe.data import Corpus
    from rankpipe.pipeline import Pipeline

T = TypeVar("T")

Part = Literal["candidates", "features"]
"""What a stage may need of the run it gets, or make."""

QueryPart = Literal["terms", "vectors"]
"""What a stage may give queries beside their texts, for a retriever to take."""

SETTINGS = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
"""The pydantic config of every stage: no unknown settings, no text for numbers, no NaN."""

BESIDE_FILE = "relative to the YAML file, where there is such a path"
"""Marks a text setting that may be a path: where the file's folder has such a path, that is what is meant."""

READ = "a file that has to be there, relative to the YAML file"
"""Marks a setting that is the path of a file: where there is none, the check of the YAML file says so."""

InputFile = Annotated[Path, READ, Strict(False)]
"""A setting that is the path of a file that is read."""

Reference = Annotated[str, BESIDE_FILE, MinLen(1)]
"""A setting that names something known (an analyzer, a model) or is the path of a file or folder."""


class Shipped(NamedTuple):
    """Marks a Reference that may be the name of something that comes with rankpipe: that goes before files."""

    names: Callable[[], Iterable[str]]


EARLIER = "the name of an earlier stage"
"""Marks a text setting that is the name of an earlier stage."""

StageName = Annotated[str, EARLIER]
"""A setting that names an earlier stage, whose scores it reads."""

if TYPE_CHECKING:
    Several = Sequence[T]
else:
    Several = Annotated[tuple[T, ...], Strict(False)]
"""A setting of several values: any sequence is taken, and kept as a tuple."""

OPENED_AT_ONCE = 4
"""How many indexes and models one stage keeps open; the oldest goes first."""

FEATURE = "feature:"
"""Before the names of columns that the stage `features` leaves, so that none is taken for the scores of a stage."""

_lock = threading.RLock()


def _free_name(name: str) -> str:
    if name.startswith(FEATURE):
        raise ValueError(f"must not begin with '{FEATURE}', as the columns of the stage 'features' do")
    return name


def is_default(settings: Any, name: str) -> bool:
    """Whether a setting has its default: of another value somebody wants something, and is to be told where it does nothing."""
    return getattr(settings, name) == type(settings).__pydantic_fields__[name].default


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Stage(ABC):
    """A step from a run to a run.

    A rewriter changes the queries; a retriever replaces the candidates; a re-ranker rescores them. A stage never
    writes to the run it gets, and gives equal answers for equal runs.

    needs       parts of the run that must be there before this stage
    makes       parts that are there after it; a stage that makes candidates without needing them replaces those of
                the run, and with them the scores that earlier stages left under their names
    gives, takes, drops  what queries have after it beside their texts; what of it this stage reads where they have it;
                what they have no longer
    keeps_scores  the stage leaves out candidates and changes no score
    in_turn     its parts run one after the other; otherwise they are branches of equal standing
    keeps_queries  whatever its parts do to queries, they are behind it as they were before
    references  names of earlier stages whose scores it reads from run.features

    name  under which later stages find this stage's scores, in run.features
    """

    needs: ClassVar[frozenset[Part]] = frozenset()
    makes: ClassVar[frozenset[Part]] = frozenset()
    gives: ClassVar[frozenset[QueryPart]] = frozenset()
    takes: ClassVar[frozenset[QueryPart]] = frozenset()
    drops: ClassVar[frozenset[QueryPart]] = frozenset()
    keeps_scores: ClassVar[bool] = False
    in_turn: ClassVar[bool] = False
    keeps_queries: ClassVar[bool] = False

    name: Annotated[str, MinLen(1), AfterValidator(_free_name)] | None = None

    @abstractmethod
    def __call__(self, run: Run) -> Run:
        """Give a new run. Shape, order and unit are the stage's to document."""

    def check_behind(self, earlier: Sequence[Stage]) -> None:  # noqa: B027 - most stages fit behind any
        """Raise UsageError where this stage was made for other settings than those of the stages before it have."""

    def prepare(self, corpus: Corpus) -> None:  # noqa: B027 - most stages have nothing to prepare
        """Build or open what this stage needs for a corpus, so that the first query does not wait for it."""

    def facts(self, corpus: Corpus) -> Mapping[str, Any]:
        """What a result's manifest should say of what this stage opened or built for a corpus, as JSON takes it."""
        return {}

    def counted(self, corpus: Corpus) -> Mapping[str, Any]:
        """What the manifest should say of what this stage has done so far, which makes no result another one."""
        return {}

    @property
    def references(self) -> tuple[str, ...]:
        """Names of earlier stages that this one reads the scores of."""
        return ()

    @property
    def shared(self) -> Mapping[str, Any]:
        """Settings that a stage that gives queries terms must have in common with one that takes them."""
        return {}

    @property
    def lowest_score(self) -> float | None:
        """The lowest score that this stage can give to any document; None if there is none, or it is not known."""
        return None

    @property
    def lowest_score_setting(self) -> str | None:
        """What can be stated of this stage, as YAML writes it, so that its lowest score is known; None for nothing."""
        return None

    @property
    def parts(self) -> tuple[Stage, ...]:
        """The stages inside this one, in the order they run; none for a plain stage."""
        return ()

    @classmethod
    def type_name(cls) -> str:
        """Class name as YAML writes it: words in lower case, joined by hyphens (CrossEncoder: cross-encoder)."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", cls.__name__).lower()

    def __rshift__(self, other: Stage) -> Chain:
        """`a >> b`: first a, then b."""
        if not isinstance(other, Stage):
            return NotImplemented
        return Chain(stages=(*_steps(self), *_steps(other)))

    def on(self, corpus: Corpus) -> Pipeline:
        """A pipeline of this stage over a corpus."""
        from rankpipe.pipeline import Pipeline  # the pipeline room stands below this one

        return Pipeline(stages=_steps(self), corpus=corpus)

    def open_once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` opens, made once for a key even when several threads ask; kept while the stage lives."""
        held = cast(dict[str, Any], self.__dict__)  # not a setting, so not a field; a frozen dataclass allows it here
        with _lock:
            opened: dict[Hashable, Any] = held.setdefault("_opened", {})
            lock: threading.RLock = held.setdefault("_opening", threading.RLock())
        with lock:
            if key not in opened:
                while len(opened) >= OPENED_AT_ONCE:
                    del opened[next(iter(opened))]
                opened[key] = make()
            return cast(T, opened[key])

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_opened", "_opening")}


def _steps(stage: Stage) -> tuple[Stage, ...]:
    """Stages that a chain is made of, or the one stage itself; a named chain stays whole, for its name's sake."""
    return tuple(stage.stages) if isinstance(stage, Chain) and stage.name is None else (stage,)


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Chain(Stage):
    """Stages one after the other, each given the run of the one before.

    stages  in their order
    """

    in_turn: ClassVar[bool] = True

    stages: Several[Stage]

    @property
    def parts(self) -> tuple[Stage, ...]:
        """The chain's stages."""
        return tuple(self.stages)

    @property
    def lowest_score(self) -> float | None:
        """That of the last stage which gives scores of its own."""
        last = self._scoring
        return None if last is None else last.lowest_score

    @property
    def lowest_score_setting(self) -> str | None:
        """That of the last stage which gives scores of its own."""
        last = self._scoring
        return None if last is None else last.lowest_score_setting

    @property
    def _scoring(self) -> Stage | None:
        """The last stage that gives scores of its own."""
        return next((stage for stage in reversed(self.stages) if not stage.keeps_scores), None)

    def __call__(self, run: Run) -> Run:
        """Run the stages in turn."""
        for stage in self.stages:
            run = apply(stage, run)
        return run


@dataclass(kw_only=True, config=SETTINGS)
class Trace:
    """What a run tells of itself: seconds of each stage and, on request, the scores of every stage.

    labels        a readable, unique label for each stage, by id()
    seconds       label -> wall seconds, over all batches; a stage that holds others includes theirs
    keep_scores   leave every stage's scores in run.features under its label
    explain       stages that can say what made a score say it
    explained     label -> (query id, row of the document) -> pieces of the text that the stage read, and what each
                  added to the document's score
    remarks       label -> query id -> what is to be said of its explanations, where they do not add up to the scores
    """

    labels: dict[int, str]
    keep_scores: bool = False
    explain: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    explained: dict[str, dict[tuple[str, int], Pieces]] = field(default_factory=dict)
    remarks: dict[str, dict[str, str]] = field(default_factory=dict)


_trace: ContextVar[Trace | None] = ContextVar("rankpipe_trace", default=None)


@contextmanager
def traced(stage: Stage, *, keep_scores: bool = False, explain: bool = False) -> Iterator[Trace]:
    """Within the block, every stage inside `stage` leaves its time, and what else is asked, in the trace."""
    trace = Trace(labels=stage_labels(stage), keep_scores=keep_scores, explain=explain)
    token = _trace.set(trace)
    try:
        yield trace
    finally:
        _trace.reset(token)


def note_explained(
    stage: Stage, query_id: str, explained: Callable[[], Iterable[tuple[int, Pieces]]], *, remark: str | None = None
) -> None:
    """Leave in the trace what made the scores of a query's documents, by their rows, if it is asked for.

    remark  what is to be said of it, where it does not add up to the scores
    """
    trace = _trace.get()
    if trace is not None and trace.explain and (label := trace.labels.get(id(stage))) is not None:
        kept = trace.explained.setdefault(label, {})
        kept.update({(query_id, row): pieces for row, pieces in explained()})
        if remark is not None:
            trace.remarks.setdefault(label, {})[query_id] = remark


def apply(stage: Stage, run: Run) -> Run:
    """`stage(run)`, its scores kept under its name. Stages that hold others call them through this."""
    trace = _trace.get()
    started = perf_counter()
    result = stage(run)
    if not type(stage).__module__.startswith("rankpipe."):
        _check_given(stage, run, result)
    name = stage.name
    if trace is not None and (label := trace.labels.get(id(stage))) is not None:
        trace.seconds[label] = trace.seconds.get(label, 0.0) + perf_counter() - started
        if trace.keep_scores and not isinstance(stage, Chain):
            name = label
    return result if name is None else result.with_feature(name, _given_scores(stage, result))


def _check_given(stage: Stage, run: Run, result: Run) -> None:
    """Raise RankpipeError where somebody's own stage gives what no other stage could go on from."""
    who = f"stage '{stage.type_name()}'"
    if not isinstance(result, Run):
        raise RankpipeError(f"{who} gave {result!r:.100} and no Run")
    if result.corpus.digest != run.corpus.digest:
        raise RankpipeError(f"{who} gave candidates of another corpus")
    if result.queries.ids != run.queries.ids and run.queries.parent is None and result.queries.parent is None:
        raise RankpipeError(
            f"{who} was given {len(run)} queries and gave {len(result)}, or in another order; one that finds nothing for a query "
            "leaves it without candidates"
        )
    try:
        result.check()
    except RankpipeError as error:
        raise RankpipeError(f"{who}: {error}") from None


def _given_scores(stage: Stage, result: Run) -> NDArray[np.float32]:
    """(H,) scores that a stage gave: NaN for candidates that a re-ranker left below those that it scored."""
    if isinstance(stage, Chain):
        last = next((one for one in reversed(stage.stages) if not one.keeps_scores), None)
        return result.scores if last is None else _given_scores(last, result)
    depth = getattr(stage, "depth", None)
    if depth is None or getattr(stage, "rest", None) != "keep":
        return result.scores
    return np.where(result.ranks <= depth, result.scores, np.float32(np.nan))


def stage_labels(stage: Stage) -> dict[int, str]:
    """A unique label for every stage inside `stage`: its name, or its type, numbered where that is taken (bm25-2)."""
    labels: dict[int, str] = {}
    taken = {inner.name for inner in walk(stage)}  # names come first, because later stages refer to them
    for inner in walk(stage):
        label, number = inner.name or inner.type_name(), 1
        while inner.name is None and label in taken:
            number += 1
            label = f"{inner.type_name()}-{number}"
        if id(inner) not in labels:  # one stage may stand in two places
            taken.add(label)
            labels[id(inner)] = label
    return labels


def walk(stage: Stage) -> Iterator[Stage]:
    """Every stage inside `stage`, chains left out, outer before inner, in the order of the file."""
    for part in stage.parts:
        if not isinstance(part, Chain):
            yield part
        yield from walk(part)
