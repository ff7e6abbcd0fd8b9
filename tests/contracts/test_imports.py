"""The rooms of the package: who may import whom, and what an import may bring."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import rankpipe

PACKAGE = Path(rankpipe.__file__).parent

ROOMS = [
    {"errors"},
    {"machine"},
    {"progress"},
    {"writing"},
    {"store", "npy", "compiled"},
    {"data"},
    {"index"},
    {"run", "trec"},
    {"models"},
    {"stage"},
    {"stages"},
    {"pipeline"},
    {"evaluation"},
    {"training"},
    {"cli", "__main__"},
]
"""From top to bottom: a room imports only itself and rooms above it."""

LEVEL = {name: level for level, names in enumerate(ROOMS) for name in names}

DOWNWARD = {("stage", "pipeline")}
"""The one way down: `stage.on(corpus)` gives a Pipeline, which is a stage itself. Never when the module is imported."""

HEAVY = {"torch", "lightgbm", "transformers", "peft", "sentence_transformers", "datasets", "faiss", "tokenizers"}


class Import(NamedTuple):
    """One module that a file imports.

    deferred  inside a function, or for the type checker only
    """

    file: str
    line: int
    module: str
    deferred: bool

    @property
    def room(self) -> str:
        """The room of the importing file."""
        return Path(self.file).parts[0].removesuffix(".py")

    def __str__(self) -> str:
        return f"rankpipe/{self.file}:{self.line} imports {self.module}"


class Collector(ast.NodeVisitor):
    """Collects the imports of a file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.found: list[Import] = []
        self._deferred = 0

    def visit_FunctionDef(self, node: ast.AST) -> None:
        """Imports in a function happen when it is called."""
        self._deferred += 1
        self.generic_visit(node)
        self._deferred -= 1

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_If(self, node: ast.If) -> None:
        """Imports under TYPE_CHECKING never happen."""
        typing_only = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        self._deferred += typing_only
        for statement in node.body:
            self.visit(statement)
        self._deferred -= typing_only
        for statement in node.orelse:
            self.visit(statement)

    def visit_Import(self, node: ast.Import) -> None:
        """Collect `import a.b`."""
        self._add(node, [alias.name for alias in node.names])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Collect `from a import b`; b may be a module of a."""
        assert node.level == 0, f"rankpipe/{self.file}:{node.lineno}: imports are written in full"
        names = [f"{node.module}.{alias.name}" for alias in node.names]
        self._add(node, names if node.module == "rankpipe" else [node.module or ""])

    def _add(self, node: ast.stmt, modules: list[str]) -> None:
        self.found += [Import(self.file, node.lineno, module, self._deferred > 0) for module in modules]


def imports() -> Iterator[Import]:
    """Every import of every file of the package, but for the lazy names of rankpipe/__init__.py."""
    for path in sorted(PACKAGE.rglob("*.py")):
        file = path.relative_to(PACKAGE).as_posix()
        if file != "__init__.py":
            collector = Collector(file)
            collector.visit(ast.parse(path.read_text(encoding="utf-8"), filename=file))
            yield from collector.found


def inner_room(module: str) -> str | None:
    """The room of a module of ours; None for a foreign module, and for rankpipe itself with its __version__."""
    first, _, rest = module.partition(".")
    room = rest.partition(".")[0]
    return room if first == "rankpipe" and not room.startswith("__version") and room else None


def test_every_file_stands_in_a_room() -> None:
    files = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    assert files - {"__init__"} - set(LEVEL) == set()


def test_a_room_imports_only_rooms_above_it() -> None:
    wrong = []
    for one in imports():
        room = inner_room(one.module)
        if room is None or LEVEL.get(room, 99) <= LEVEL[one.room]:
            continue
        if not ((one.room, room) in DOWNWARD and one.deferred):
            wrong.append(str(one))
    assert wrong == []


def test_the_walk_finds_imports_of_every_kind() -> None:
    collector = Collector("stage.py")
    source = """
import torch
from rankpipe import cli
from rankpipe.pipeline import Pipeline
if TYPE_CHECKING:
    import rankpipe.evaluation
else:
    import a
def function():
    from b import c
class Class:
    import d
try:
    import e
except ImportError:
    pass
"""
    collector.visit(ast.parse(source))
    assert [(one.module, one.deferred) for one in collector.found] == [
        ("torch", False),
        ("rankpipe.cli", False),
        ("rankpipe.pipeline", False),
        ("rankpipe.evaluation", True),
        ("a", False),
        ("b", True),
        ("d", False),
        ("e", False),
    ]
    assert [inner_room(one.module) for one in collector.found[:4]] == [None, "cli", "pipeline", "evaluation"]


def test_only_the_command_line_imports_training() -> None:
    wrong = [
        str(one) for one in imports() if inner_room(one.module) == "training" and one.room not in ("training", "cli")
    ]
    assert wrong == []


def test_networks_are_imported_in_models_and_training_only() -> None:
    wrong = [
        str(one)
        for one in imports()
        if one.module.partition(".")[0] in HEAVY and not one.deferred and one.room not in ("models", "training")
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import rankpipe", {"numba", "pyarrow", "pydantic", "numpy", "yaml", *HEAVY}),
        ("from rankpipe.pipeline.registry import stage_names; stage_names()", {"numba", "pyarrow", *HEAVY}),
        ("from rankpipe.models.adapters.registry import METHODS", {"numba", "pyarrow", *HEAVY}),
        ("from rankpipe import *", {"numba", "pyarrow", *HEAVY}),
        ("import rankpipe.cli", {"numba", "pyarrow", "pydantic", "numpy", *HEAVY}),
    ],
)
def test_an_import_brings_nothing_heavy(statement: str, unwanted: set[str]) -> None:
    program = f"import sys\n{statement}\nprint(*sorted({unwanted!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_what_is_offered_at_the_top_can_be_imported() -> None:
    for name in rankpipe.__all__:
        assert getattr(rankpipe, name) is not None
    assert set(rankpipe.__all__) <= set(dir(rankpipe))
    with pytest.raises(AttributeError, match=r"^module 'rankpipe' has no attribute 'BM26'$"):
        rankpipe.BM26  # type: ignore[attr-defined]  # noqa: B018
