"""From a recipe's YAML to its settings, or to the complete list of what is wrong with it, in the order of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rankpipe.data.shipped import shipped
from rankpipe.errors import PipelineError, UsageError
from rankpipe.pipeline import Pipeline
from rankpipe.pipeline.order import CANDIDATES, MAKERS, NOTHING, parts_after
from rankpipe.pipeline.reading import Reading
from rankpipe.pipeline.registry import closest, suggestion
from rankpipe.pipeline.settings import as_written, settings_of
from rankpipe.pipeline.source import Entry, Mapping, Node, Scalar, Sequence, quoted, read_source
from rankpipe.stage import Part
from rankpipe.training.recipe import AnyPhase, AnyRecipe
from rankpipe.training.recipes import RECIPES


def load_recipe(path: Path | str) -> AnyRecipe:
    """Read and check a recipe file, or one that rankpipe ships by its name ("cross-encoder").

    The pipeline that gives the candidates is checked as well. Raises PipelineError with all mistakes, never OSError;
    UsageError for a name that nothing has.
    """
    file = find_recipe(path)
    source, reading = read_source(file), _RecipeReading(file.parent.absolute())
    recipe = reading.recipe(source.root) if source.root is not None else None
    reading.refuse(source, str(file))
    if recipe is None:
        raise UsageError(f"{file} holds no recipe")
    return recipe


def find_recipe(path: Path | str) -> Path:
    """The file at `path`, or the shipped recipe of that name."""
    path = Path(path)
    if not _is_name(path):
        return path
    if (file := _shipped(path.name)) is None:
        names = ", ".join(sorted(file.stem for file in _folder().glob("*.yaml")))
        raise UsageError(
            f"there is no recipe file {str(path)!r}, and rankpipe ships none of that name; it ships {names}"
        )
    return file


def is_recipe(path: Path | str) -> bool:
    """Whether a file says what is trained, and so is no pipeline; of a name, whether a recipe of it is shipped."""
    path = Path(path)
    if _is_name(path):
        return _shipped(path.name) is not None
    root = read_source(path).root
    return root is not None and root.get("stages") is None and (root.get("train") or root.get("phases")) is not None


def _is_name(path: Path) -> bool:
    return not path.is_file() and path.suffix not in (".yaml", ".yml") and len(path.parts) == 1


def _shipped(name: str) -> Path | None:
    file = _folder() / f"{name}.yaml"
    return file if file.is_file() else None


def _folder() -> Path:
    return shipped("pipelines") / "training"


class _RecipeReading(Reading):
    """Builds a recipe from nodes, noting every problem on the way."""

    def recipe(self, root: Mapping) -> AnyRecipe | None:
        """Build everything. What it returns is complete only if no problem was noted."""
        if (train := self._train(root)) is None:
            return None
        cls = RECIPES[train.key]
        settings = settings_of(cls)
        given = self.given_settings(train, settings)
        values: dict[str, Any] = {}
        for name, (setting, node) in given.items():
            values[name] = self._phases(cls, node) if name == "phases" else setting.value(node, self.folder)
        if "candidates" in given:
            candidates = given["candidates"][1]
            self._check_pipeline(candidates, leaves=cls.learns_from)
            if isinstance(candidates, Mapping) and (guard := candidates.get("guard")) is not None:
                self._check_pipeline(guard.value, reranks=True)
        if values.get("phases") == ():
            del values["phases"], given["phases"]  # said already
            before = len(self.problems)
            self.construct(cls, train, values, given)
            missing = f"'{train.key}' needs the setting 'phases'"
            self.problems[before:] = [one for one in self.problems[before:] if one.message != missing]
            return None
        return self.construct(cls, train, values, given)

    def _train(self, root: Mapping) -> Entry | None:
        """What is trained, as an entry: its name, and all other keys of the file as its settings."""
        entry = root.get("train")
        if entry is None:
            misspelt = next((one for one in root.entries if closest(one.key, ("train",))), None)
            if misspelt is not None:
                self.note(misspelt.place, f"a recipe has no {quoted(misspelt.key)}; did you mean 'train'?")
            else:
                self.note(root.place, f"a recipe needs 'train', what is trained{suggestion('', RECIPES)}")
            return None
        kind = self.text(entry.value, "'train'")
        if kind is None:
            return None
        if kind not in RECIPES:
            self.note(entry.value.place, f"no training is called {quoted(kind)}{suggestion(kind, RECIPES)}")
            return None
        rest = tuple(one for one in root.entries if one.key != "train")
        return Entry(entry.place, kind, Mapping(root.place, rest))

    def _phases(self, cls: type[AnyRecipe], node: Node) -> tuple[AnyPhase, ...]:
        """The phases; none of them where the list itself is wrong."""
        if not isinstance(node, Sequence):
            self.note(node.place, f"'phases' is {as_written(node)}, must be a list of phases")
            return ()
        if not node.items:
            self.note(node.place, "a recipe needs at least one phase")
        return tuple(phase for item in node.items if (phase := self._phase(cls, item)) is not None)

    def _phase(self, cls: type[AnyRecipe], node: Node) -> AnyPhase | None:
        """A phase: a map of its name to its settings."""
        if isinstance(node, Scalar) and isinstance(node.value, str):
            entry = Entry(node.place, node.value, Scalar(node.place, None, ""))
        elif isinstance(node, Mapping) and node.entries:
            entry = node.entries[0]
            for extra in node.entries[1:]:
                self.note(extra.place, self._beside(cls, entry.key, extra.key))
        else:
            self.note(node.place, f"a phase is wanted (its name and settings), not {as_written(node)}")
            return None
        if entry.key not in cls.phase_kinds:
            self.note(entry.place, f"no phase is called {quoted(entry.key)}{suggestion(entry.key, cls.phase_kinds)}")
            return None
        kind = cls.phase_kinds[entry.key]
        given = self.given_settings(entry, settings_of(kind))
        values = {name: setting.value(inner, self.folder) for name, (setting, inner) in given.items()}
        return self.construct(kind, entry, values, given)

    def _beside(self, cls: type[AnyRecipe], first: str, extra: str) -> str:
        kind = cls.phase_kinds.get(first)
        if kind is not None and extra in settings_of(kind):
            return f"'{extra}' stands beside '{first}'; as one of its settings it is indented further"
        return f"{quoted(extra)} stands beside {quoted(first)}; each phase is an item of its own, begun by '- '"

    def _check_pipeline(self, setting: Node, *, reranks: bool = False, leaves: Part = "candidates") -> None:
        """Note what is wrong with the pipeline that a setting names, in its own file; where it leaves no such part, here."""
        entry = setting.get("pipeline") if isinstance(setting, Mapping) else None
        if entry is None or not isinstance(entry.value, Scalar) or not isinstance(entry.value.value, str):
            return
        name = entry.value.value
        beside = self.folder / name if self.folder is not None else Path(name)
        file = beside if beside.is_file() else Path(name)
        if file.suffix in (".yaml", ".yml") and not file.is_file():
            self.note(entry.value.place, f"there is no pipeline file {name!r} beside this one or here")
            return
        try:
            pipeline = Pipeline.load(file, given=CANDIDATES if reranks else NOTHING)
            if not reranks and leaves not in parts_after(pipeline.stages):
                self.note(entry.value.place, f"pipeline {name!r} leaves no {leaves}; put {MAKERS[leaves]} into it")
        except PipelineError as error:
            self.problems += error.problems
        except UsageError as error:
            self.note(entry.value.place, str(error))
