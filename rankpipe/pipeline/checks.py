"""From a YAML file to stages, or to the complete list of what is wrong with it, in the order of the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rankpipe.errors import RankpipeError
from rankpipe.pipeline.order import NOTHING, Given, Step, order_problems
from rankpipe.pipeline.reading import Reading
from rankpipe.pipeline.registry import closest, load_stage
from rankpipe.pipeline.settings import Setting, as_written, settings_of
from rankpipe.pipeline.source import (
    Entry,
    Mapping,
    Node,
    Place,
    Scalar,
    Sequence,
    Source,
    parse_source,
    quoted,
    read_source,
)
from rankpipe.stage import Chain, Stage

TOP = ("description", "stages")


@dataclass(frozen=True)
class PipelineFile:
    """What a file says: its stages, at least one, and where each stands (by `id(stage)`, branches included)."""

    stages: tuple[Stage, ...]
    description: str | None
    places: dict[int, Place]


def load_file(path: Path | str, *, given: Given = NOTHING) -> PipelineFile:
    """Read and check a pipeline file; relative paths in it stand in its folder. Raises PipelineError, never OSError.

    given  what the run has that the pipeline will be given
    """
    return _checked(read_source(path), str(path), _Builder(Path(path).parent.absolute(), given=given))


def load_text(
    text: str, *, file: str | None = None, folder: Path | None = None, given: Given = NOTHING
) -> PipelineFile:
    """Read and check a pipeline's YAML; `file` is its name in messages. Raises PipelineError.

    Without a folder, relative paths stay as they are.
    """
    return _checked(parse_source(text, file), file, _Builder(folder, given=given))


def _checked(source: Source, file: str | None, builder: _Builder) -> PipelineFile:
    description, stages = builder.document(source.root) if source.root is not None else (None, ())
    builder.refuse(source, file)
    return PipelineFile(stages, description, builder.places)


@dataclass(frozen=True)
class _Built:
    """A stage, or None where it could not be built, and what the check of the order knows of it."""

    stage: Stage | None
    step: Step


UNKNOWN = _Built(None, Step(label="", known=False))


class _StandIn(Chain):
    """For a branch that could not be built, so that the others' count is right; nothing is known against it."""

    @property
    def lowest_score(self) -> float | None:
        return 0.0


STAND_IN = _StandIn(stages=())


@dataclass
class _Builder(Reading):
    """Builds stages from nodes, noting every problem on the way."""

    given: Given = NOTHING
    places: dict[int, Place] = field(default_factory=dict)

    def document(self, root: Mapping) -> tuple[str | None, tuple[Stage, ...]]:
        """Build everything. What it returns is complete only if no problem was noted."""
        entries = self.top(root, TOP, "a pipeline")
        description = None
        if (node := entries.get("description")) is not None:
            description = self.text(node, "the description")
        if (node := entries.get("stages")) is None:
            self.note(root.place, "a pipeline needs 'stages', a list of stages")
            return description, ()
        built = self._stages(node)
        if built:
            self.problems += order_problems([one.step for one in built], self.given)
        return description, tuple(one.stage for one in built if one.stage is not None)

    def _stages(self, node: Node) -> list[_Built]:
        if not isinstance(node, Sequence):
            self.note(node.place, f"'stages' is {as_written(node)}, must be a list of stages")
            return []
        if not node.items:
            self.note(node.place, "a pipeline needs at least one stage")
        return [self._entry(item) for item in node.items]

    def _branch(self, node: Node) -> _Built:
        """One stage, or a list of stages that run one after the other; a list of one is that one."""
        if not isinstance(node, Sequence):
            return self._entry(node)
        if not node.items:
            self.note(node.place, "an empty branch; it needs at least one stage")
            return UNKNOWN
        built = [self._entry(item) for item in node.items]
        if len(built) == 1:
            return built[0]
        step = Step(label="chain", parts=tuple(one.step for one in built), in_turn=True, place=node.place)
        stages = tuple(one.stage for one in built if one.stage is not None)
        if len(stages) < len(built):
            return _Built(None, step)
        chain = Chain(stages=stages)
        self.places[id(chain)] = node.place
        return _Built(chain, step)

    def _entry(self, node: Node) -> _Built:
        """A stage: its bare name, or a map of its name to its settings with `name` beside."""
        if isinstance(node, Scalar) and isinstance(node.value, str):
            return self._stage(Entry(node.place, node.value, Scalar(node.place, None, "")), None)
        if not isinstance(node, Mapping):
            self.note(node.place, f"a stage is wanted (its name, or its name and settings), not {as_written(node)}")
            return UNKNOWN
        name = self._name(node.get("name"))
        entries = [entry for entry in node.entries if entry.key != "name"]
        if not entries:
            self.note(node.place, "a stage is missing; write its name, such as 'bm25', and then its settings")
            return UNKNOWN
        built = self._stage(entries[0], name)
        for extra in entries[1:]:
            self.note(extra.place, self._beside(entries[0].key, extra.key, built))
        return built

    def _beside(self, first: str, extra: str, built: _Built) -> str:
        try:
            if extra in settings_of(load_stage(first)):
                return f"'{extra}' stands beside '{first}'; as one of its settings it is indented further"
        except RankpipeError:
            pass  # the unknown stage was noted already
        if closest(extra, ("name",)):
            return f"{quoted(extra)} stands beside {quoted(first)}; did you mean 'name'?"
        return f"{quoted(extra)} stands beside {quoted(first)}; each stage is an item of its own, begun by '- '"

    def _name(self, entry: Entry | None) -> str | None:
        return None if entry is None else self.text(entry.value, "a name")

    def _stage(self, entry: Entry, name: str | None) -> _Built:
        """Build the stage that an entry names, with the settings that are its value."""
        try:
            cls = load_stage(entry.key)
        except RankpipeError as error:
            self.note(entry.place, str(error))
            inside = tuple(_names_inside(entry.value))
            return _Built(
                None,
                Step(label=entry.key, name=name, parts=inside, in_turn=True, known=False, place=entry.place),
            )
        before = len(self.problems)
        elsewhere = {"name": f"'name' stands among the settings of '{entry.key}', must stand beside '{entry.key}'"}
        given = self.given_settings(entry, settings_of(cls), elsewhere)
        values, parts = self._values(given)
        stage = self.construct(cls, entry, values | {"name": name}, given)
        step = Step(
            label=entry.key,
            name=name,
            needs=cls.needs,
            makes=cls.makes,
            gives=cls.gives,
            takes=cls.takes,
            drops=cls.drops,
            shared=stage.shared if stage is not None else {},
            references=stage.references if stage is not None else (),
            parts=parts,
            in_turn=cls.in_turn,
            keeps_queries=cls.keeps_queries,
            place=entry.place,
            places=_places_of_names(given.values()),
        )
        if stage is None or len(self.problems) > before:
            return _Built(None, step)
        self.places[id(stage)] = entry.place
        return _Built(stage, step)

    def _values(self, given: dict[str, tuple[Setting, Node]]) -> tuple[dict[str, Any], tuple[Step, ...]]:
        """Values of settings by python names, and the steps inside them."""
        values: dict[str, Any] = {}
        steps: list[Step] = []
        for name, (setting, node) in given.items():
            if setting.holds_stages and isinstance(node, Sequence):
                built = [self._branch(item) for item in node.items]
                values[name] = tuple(STAND_IN if one.stage is None else one.stage for one in built)
                steps += [one.step for one in built]
            else:
                values[name] = setting.value(node, self.folder)
        return values, tuple(steps)


def _names_inside(node: Node) -> Iterator[Step]:
    """Named stages among the settings of a stage of unknown type, so that later ones may refer to them."""
    if isinstance(node, Sequence):
        for item in node.items:
            yield from _names_inside(item)
    elif isinstance(node, Mapping):
        for entry in node.entries:
            if entry.key == "name" and isinstance(entry.value, Scalar) and isinstance(entry.value.value, str):
                yield Step(label="stage", name=entry.value.value, known=False, place=entry.place)
            yield from _names_inside(entry.value)


def _places_of_names(given: Iterable[tuple[Setting, Node]]) -> dict[str, Place]:
    """Where names of earlier stages are written: in settings that are marked so (StageName), or where none is, in any."""
    settings = [(setting, node) for setting, node in given if not setting.holds_stages]
    marked = [node for setting, node in settings if setting.names_stages]
    return _texts(marked or (node for _, node in settings))


def _texts(nodes: Iterable[Node]) -> dict[str, Place]:
    """Where each text among the values stands, the first of equal ones."""
    found: dict[str, Place] = {}
    for node in nodes:
        if isinstance(node, Scalar) and isinstance(node.value, str):
            found.setdefault(node.value, node.place)
        elif isinstance(node, Sequence):
            found = {**_texts(node.items), **found}
    return found
