"""Static check of the order of stages: who needs candidates that nobody makes, who refers to a name nobody has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rankpipe.errors import PipelineError, Problem
from rankpipe.pipeline.registry import suggestion
from rankpipe.pipeline.source import Place, quoted
from rankpipe.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Step:
    """What the check knows of a stage, also of one whose settings are wrong.

    label       the stage's type, for messages
    known       False: the type is unknown; it may make whatever later stages need
    gives, takes, drops, shared  see Stage
    in_turn     the parts run one after the other (a chain); otherwise they are branches of equal standing
    keeps_queries  see Stage
    places      where each name that the stage refers to is written
    """

    label: str
    name: str | None = None
    needs: frozenset[str] = frozenset()
    makes: frozenset[str] = frozenset()
    gives: frozenset[str] = frozenset()
    takes: frozenset[str] = frozenset()
    drops: frozenset[str] = frozenset()
    shared: Mapping[str, Any] = field(default_factory=dict)
    references: tuple[str, ...] = ()
    parts: tuple[Step, ...] = ()
    known: bool = True
    in_turn: bool = False
    keeps_queries: bool = False
    place: Place | None = None
    places: Mapping[str, Place] = field(default_factory=dict)

    def problem(self, message: str, place: Place | None = None) -> Problem:
        """Build a mistake of this stage, at the stage unless a place is given."""
        place = place or self.place
        return place.problem(message) if place else Problem(message)

    def __str__(self) -> str:
        return f"'{self.label}'" + (f" on line {self.place.line}" if self.place else "")


def steps_of(stages: Iterable[Stage]) -> tuple[Step, ...]:
    """What the check needs to know of stages that were built in Python."""
    return tuple(
        Step(
            label=stage.type_name(),
            name=stage.name,
            needs=stage.needs,
            makes=stage.makes,
            gives=stage.gives,
            takes=stage.takes,
            drops=stage.drops,
            shared=stage.shared,
            references=stage.references,
            parts=steps_of(stage.parts),
            in_turn=stage.in_turn,
            keeps_queries=stage.keeps_queries,
        )
        for stage in stages
    )


@dataclass(frozen=True, kw_only=True)
class Given:
    """What the run has that a pipeline is given: parts, and names whose scores it bears."""

    parts: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()


MAKERS = {"candidates": "a retriever such as 'bm25'", "features": "the stage 'features'"}
"""Who makes what a stage may need, for messages."""
TAKERS = {"terms": ("weighted terms", "a 'bm25'"), "vectors": ("vectors", "a 'dense' of its model")}
"""What queries are given, and who takes it, for messages."""
NOTHING = Given()
"""What a pipeline is given that begins with queries alone."""
CANDIDATES = Given(parts=frozenset({"candidates"}))
"""What a pipeline is given that scores candidates whose own scores say nothing."""


def check_stages(stages: Sequence[Stage], given: Given = NOTHING) -> None:
    """Raise PipelineError with all mistakes in the order of stages built in Python, if there are any."""
    if problems := order_problems(steps_of(stages), given):
        raise PipelineError(problems)


def order_problems(steps: Sequence[Step], given: Given = NOTHING) -> list[Problem]:
    """Find all mistakes in the order of a pipeline's stages, in that order."""
    if not steps:
        return [Problem("a pipeline needs at least one stage")]
    named = [step.name for step in _walk(steps) if step.name]
    state = _State(all_names=[*given.names, *named], present=given.parts, names=given.names)
    state.heard = "candidates" in given.parts
    found = [*_repeated_names(steps, given), *_in_turn(steps, state)]
    if "candidates" in given.parts and not (state.heard or state.anything) and state.deaf is not None:
        found.append(
            state.deaf.problem(
                f"'{state.deaf.label}' replaces the candidates of the given run, which then count for nothing; "
                "re-ranking begins with a re-ranker"
            )
        )
    return found + [_untaken(part, state.unread[part]) for part in sorted(state.searched)]


def parts_after(stages: Sequence[Stage], given: Given = NOTHING) -> frozenset[str]:
    """Parts of the run that are there after stages that are in order."""
    state = _State(all_names=[], present=given.parts, names=given.names)
    list(_in_turn(steps_of(stages), state))
    return state.present


@dataclass
class _State:
    """What is there when a stage begins.

    present   parts of the run that were made
    names     names whose scores are there
    replaced  names whose scores are gone, and the step that replaced them
    givers    who gave what queries have beside their texts
    unread    of these, those whose gift no step has taken
    searched  what of it there was when a retriever that does not take it searched
    heard     the candidates depend on those of the run that the pipeline was given
    asked     so does what queries ask for
    deaf      the step that put others in their place
    anything  a stage of unknown type went before
    lost      the step behind which features were gone
    """

    all_names: list[str]
    present: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    replaced: Mapping[str, Step] = field(default_factory=dict)
    givers: Mapping[str, Step] = field(default_factory=dict)
    unread: Mapping[str, Step] = field(default_factory=dict)
    searched: frozenset[str] = frozenset()
    heard: bool = False
    asked: bool = False
    deaf: Step | None = None
    anything: bool = False
    lost: Step | None = None

    def copy(self) -> _State:
        return replace(self)

    def lose_features(self, step: Step) -> None:
        """Features that are there are gone behind a step."""
        if "features" in self.present:
            self.present, self.lost = self.present - {"features"}, step


def _walk(steps: Iterable[Step]) -> Iterator[Step]:
    for step in steps:
        yield from _walk(step.parts)
        yield step


def _repeated_names(steps: Sequence[Step], given: Given) -> Iterator[Problem]:
    first: dict[str, Step] = {}
    for step in _walk(steps):
        if step.name is None:
            continue
        if step.name in given.names:
            yield step.problem(f"the name {quoted(step.name)} is that of the given run's scores; choose another one")
        elif step.name in first:
            yield step.problem(f"the name {quoted(step.name)} is taken by {first[step.name]}; names are given once")
        else:
            first[step.name] = step


def _in_turn(steps: Sequence[Step], state: _State) -> Iterator[Problem]:
    """Mistakes of steps that run one after the other; `state` becomes what is there after the last."""
    for step in steps:
        yield from _missing_parts(step, state)
        yield from _missing_names(step, state)
        yield from _foreign_terms(step, state)
        _take(step, state)
        if step.in_turn and step.keeps_queries:
            inside = Step(label="chain", parts=step.parts, in_turn=True, place=step.place)
            yield from _branches(replace(step, parts=(inside,)), state)
        elif step.in_turn:
            yield from _in_turn(step.parts, state)
        elif step.parts:
            yield from _branches(step, state)
        elif "candidates" in step.makes - step.needs:
            state.replaced = {**state.replaced, **dict.fromkeys(state.names, step)}
            state.names = frozenset()
            state.lose_features(step)
            state.searched |= state.unread.keys()
            state.heard, state.deaf = state.asked, step
        if step.gives and "candidates" in step.needs:
            state.asked |= state.heard
        yield from _give(step, state)
        state.present |= step.makes | step.needs  # what was missing is said once
        state.anything |= not step.known
        if step.name is not None:
            state.names |= {step.name}


def _branches(step: Step, state: _State) -> Iterator[Problem]:
    """Mistakes inside branches. Afterwards the names are there that any branch brings."""
    ends = [state.copy() for _ in step.parts]
    own = [
        _untaken(part, giver) for part, giver in state.unread.items()
    ]  # a branch may drop them: others have them still
    for part, end in zip(step.parts, ends, strict=True):
        yield from (problem for problem in _in_turn([part], end) if problem not in own)
        for name, giver in end.unread.items():
            if state.unread.get(name) is not giver:  # what queries were given in a branch is gone behind it
                yield _untaken(name, giver)
        if "candidates" in step.makes - end.present and not end.anything:
            yield part.problem(f"this branch of {step} makes no candidates; a retriever such as 'bm25' does")
    there = ["features" in one.present for one in (state, *ends)]
    if any(there) and not all(there):
        state.present |= {"features"}
        state.lose_features(step)  # a branch's are of what it found, by the scores that it gave
    state.names = frozenset().union(*(end.names for end in ends))
    state.replaced = {name: by for end in ends for name, by in end.replaced.items()}
    unread = frozenset(name for name in state.unread if all(name in end.unread for end in ends))
    state.searched = unread & frozenset().union(*(end.searched for end in ends))
    state.unread = {name: state.unread[name] for name in unread}
    state.heard = any(end.heard for end in ends)
    state.deaf = next((end.deaf for end in ends if end.deaf), None)
    state.anything |= any(end.anything for end in ends)


def _take(step: Step, state: _State) -> None:
    """Note what a step reads of what queries were given; one of unknown type may read all of it."""
    taken = step.takes if step.known else frozenset(state.unread)
    state.unread = {part: giver for part, giver in state.unread.items() if part not in taken}
    state.searched -= taken


def _give(step: Step, state: _State) -> Iterator[Problem]:
    """Note what queries have behind a step; what it drops unread was given in vain."""
    yield from (_untaken(part, giver) for part, giver in state.unread.items() if part in step.drops)
    left = {part: giver for part, giver in state.unread.items() if part not in step.drops}
    state.searched -= step.drops
    state.unread = {**left, **dict.fromkeys(step.gives, step)}
    kept = {part: giver for part, giver in state.givers.items() if part not in step.drops}
    state.givers = {**kept, **dict.fromkeys(step.gives, step)}


def _untaken(part: str, giver: Step) -> Problem:
    what, who = TAKERS[part]
    return giver.problem(f"'{giver.label}' gives queries {what}, and no later stage takes them; put {who} behind it")


def _foreign_terms(step: Step, state: _State) -> Iterator[Problem]:
    giver = state.givers.get("terms")
    if giver is None or "terms" not in step.takes:
        return
    for name, value in step.shared.items():
        if giver.shared.get(name, value) != value:
            yield step.problem(
                f"'{step.label}' takes terms that {giver} gave with '{name}: {giver.shared[name]}', and here it is "
                f"'{name}: {value}'; give both the same"
            )


def _missing_parts(step: Step, state: _State) -> Iterator[Problem]:
    for part in sorted(step.needs - state.present):
        if not state.anything and part == "features" and state.lost is not None:
            yield step.problem(
                f"'{step.label}' needs features, and those before {state.lost} are gone behind it; put {MAKERS[part]} there"
            )
        elif not state.anything:
            yield step.problem(
                f"'{step.label}' needs {part}, and no stage before it makes any; put {MAKERS[part]} first"
            )


def _missing_names(step: Step, state: _State) -> Iterator[Problem]:
    for name in step.references:
        if name in state.names:
            continue
        refers = f"'{step.label}' refers to {quoted(name)}"
        if name in state.replaced:
            message = f"{refers}, whose scores {state.replaced[name]} replaced"
        elif name in state.all_names:
            message = f"{refers}, which is not an earlier stage on the way to it"
        elif state.names:
            message = f"{refers}, a name that no earlier stage has{suggestion(name, state.names)}"
        else:
            message = f"{refers}, and no earlier stage has a name; give one a 'name'"
        yield step.problem(message, step.places.get(name))
