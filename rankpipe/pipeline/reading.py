"""From YAML nodes to objects that are made of settings, noting every mistake on the way: stages, and parts of recipes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from rankpipe.errors import PipelineError, Problem, RankpipeError
from rankpipe.pipeline.registry import closest, suggestion
from rankpipe.pipeline.settings import Setting, as_written, problems_of, settings_of
from rankpipe.pipeline.source import Entry, Node, Place, Scalar, Source, quoted
from rankpipe.pipeline.source import Mapping as MappingNode

T = TypeVar("T")


@dataclass
class Reading:
    """What is read from a file, and what is wrong with it.

    folder  in which relative paths stand; None: they stay as they are
    """

    folder: Path | None
    problems: list[Problem] = field(default_factory=list)

    def note(self, place: Place, message: str) -> None:
        """Note a mistake."""
        self.problems.append(place.problem(message))

    def refuse(self, source: Source, file: str | None) -> None:
        """Raise PipelineError with all mistakes, the reader's own included, in the order of the file; if there are any."""
        # what the reader refused stands in the tree as something else; only the reader's own words about it are right
        refused = {(problem.line, problem.column) for problem in source.problems}
        found = [one for one in self.problems if one.file != file or (one.line, one.column) not in refused]
        problems = sorted({*source.problems, *found}, key=lambda p: (p.line or 0, p.column or 0, p.message))
        if problems or source.root is None:
            raise PipelineError(problems or [Problem("cannot be read", file)])

    def top(self, root: MappingNode, known: Iterable[str], what: str) -> dict[str, Node]:
        """Values of the file's own keys; a misspelt one counts as the one it was meant to be. `what` is the file."""
        known = tuple(known)
        entries = {entry.key: entry.value for entry in root.entries if entry.key in known}
        for entry in root.entries:
            if entry.key not in known:
                self.note(entry.place, f"{what} has no {quoted(entry.key)}{suggestion(entry.key, known)}")
                if meant := closest(entry.key, known):
                    entries.setdefault(meant, entry.value)
        return entries

    def text(self, node: Node, what: str) -> str | None:
        """The text that a node is."""
        if isinstance(node, Scalar) and isinstance(node.value, str) and node.value:
            return node.value
        self.note(node.place, f"{what} is {as_written(node)}, must be text")
        return None

    def given_settings(
        self, entry: Entry, settings: Mapping[str, Setting], elsewhere: Mapping[str, str] | None = None
    ) -> dict[str, tuple[Setting, Node]]:
        """Settings that are written, by python names; a misspelt one counts as the one it was meant to be.

        elsewhere  what to say of a key that belongs to another place
        """
        node, label = entry.value, entry.key
        if isinstance(node, Scalar) and node.value is None:
            return {}
        if not isinstance(node, MappingNode):
            self.note(node.place, f"the settings of '{label}' are {as_written(node)}, must be a map")
            return {}
        given = {one.key: one.value for one in node.entries if one.key in settings}
        for one in node.entries:
            if elsewhere and one.key in elsewhere:
                self.note(one.place, elsewhere[one.key])
            elif one.key not in settings:
                self.note(one.place, f"'{label}' has no setting {quoted(one.key)}{suggestion(one.key, settings)}")
                if meant := closest(one.key, settings):
                    given.setdefault(meant, one.value)
        for key, value in given.items():
            if settings[key].is_read and isinstance(value, Scalar) and isinstance(value.value, str):
                path = settings[key].value(value, self.folder)
                if not os.path.isfile(path):
                    self.note(
                        value.place, f"'{label}' setting '{key}' is {as_written(value)}, and there is no file {path}"
                    )
        return {settings[key].python_name: (settings[key], value) for key, value in given.items()}

    def construct(
        self, cls: type[T], entry: Entry, values: Mapping[str, Any], given: Mapping[str, tuple[Setting, Node]]
    ) -> T | None:
        """Make the object, and note what its class says is wrong with the values; None if it cannot be made at all."""
        try:
            return cls(**values)
        except ValidationError as error:
            nodes = {name: node for name, (_, node) in given.items()}
            self.problems += problems_of(error, cls, entry.key, nodes, entry.place)
            wrong = {details["loc"][0] for details in error.errors(include_url=False) if details["loc"]}
            names = {one.yaml_name for one in settings_of(cls).values() if one.python_name in wrong}
            right = {name: value for name, value in values.items() if name not in wrong}
            optional = {one.python_name for one in settings_of(cls).values() if not one.field.is_required()}
            if wrong and wrong <= optional & set(values):
                # With the wrong ones at their defaults, the rest can be checked as well; but what is said of these
                # defaults, nobody wrote.
                noted = len(self.problems)
                made = self.construct(cls, entry, right, {name: given[name] for name in right if name in given})
                of_defaults = [one for one in self.problems[noted:] if any(f"'{name}" in one.message for name in names)]
                self.problems = [one for one in self.problems if one not in of_defaults]
                return made
        except RankpipeError as error:  # a class's own check of its settings taken together
            self.note(entry.place, f"'{entry.key}': {error}")
        return None
