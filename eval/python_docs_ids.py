"""Check that every document judged for python-docs exists under other Pythons, by the same id.

    python eval/python_docs_ids.py python3.10 python3.11 python3.12 python3.13
    python eval/python_docs_ids.py --stubs .../typeshed-fallback/stdlib --version 3.14

Each interpreter reads rankpipe/data/python_docs.py alone, so it needs no packages, and lists its ids. Where there is no
interpreter, --stubs looks a version's names up in typeshed (pyright carries a copy) for Linux, macOS and Windows; that
shows that a name exists, not which of several names a merged document is kept under. Exit status 1 if an id is missing.
"""

from __future__ import annotations

import argparse
import ast
import functools
import operator
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from rankpipe.data import python_docs

QRELS = Path(__file__).parents[1] / "datasets" / "python-docs" / "qrels"
PLATFORMS = ("linux", "darwin", "win32")
PROGRAM = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("python_docs", sys.argv[1])
python_docs = sys.modules["python_docs"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(python_docs)
for record in python_docs.records():
    print(record.doc_id)
"""
COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}

Place = tuple[str, ast.stmt | ast.alias]
"""Where a name comes from: the module, and the statement there that binds it or the import that brings it."""
Owner = tuple[str, ast.ClassDef]
"""A class and the module it stands in."""


def judged_ids() -> set[str]:
    """The documents of all three splits, whatever their grade."""
    lines = [line for path in sorted(QRELS.glob("*.tsv")) for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    return {line.split("\t")[1] for line in lines}


def ids_under(interpreter: str) -> set[str]:
    """The ids that another Python gives to the records."""
    command = [interpreter, "-c", PROGRAM, python_docs.__file__]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


class Stubs:
    """The names that typeshed promises for one version and platform."""

    def __init__(self, folder: Path, version: tuple[int, int], platform: str) -> None:
        self.folder, self.version, self.platform = folder, version, platform
        self.names = functools.cache(self._names)

    def __contains__(self, doc_id: str) -> bool:
        module = max((m for m in python_docs.MODULES if doc_id.startswith(f"{m}.")), key=len, default="builtins")
        first, *parts = doc_id.removeprefix(f"{module}.").split(".")
        if not parts:
            return self._find(module, first) is not None
        owner = self._class(module, first)
        return owner is not None and len(parts) == 1 and self._has_member(owner, parts[0])

    def _names(self, module: str) -> dict[str, Place]:
        """The names of a module -> where they are defined or imported."""
        base = self.folder.joinpath(*module.split("."))
        path = base / "__init__.pyi" if base.is_dir() else base.with_suffix(".pyi")
        if not path.exists():  # what an import calls `sax` may be called otherwise outside its stub
            return {}
        package = module if base.is_dir() else module.rpartition(".")[0]
        names: dict[str, Place] = {}
        for node in self._statements(ast.parse(path.read_text(encoding="utf-8")).body):
            if isinstance(node, ast.ImportFrom):
                above = package.split(".")[: 1 - node.level or None] if node.level else []
                source = ".".join([*above, *([node.module] if node.module else [])])
                for alias in node.names:
                    if alias.name == "*":
                        names.update({n: v for n, v in self.names(source).items() if not n.startswith("_")})
                    else:
                        names[alias.asname or alias.name] = (source, alias)
            else:
                names.update(dict.fromkeys(bound_names(node), (module, node)))
        return names

    def _find(self, module: str, name: str) -> Place | None:
        """A definition, followed through imports."""
        found = self.names(module).get(name)
        if found is None or not isinstance(found[1], ast.alias):
            return found
        source, original = found[0], found[1].name
        if (source, original) == (module, name):  # `from . import part as part`: a submodule
            return None
        return self._find(source, original)

    def _class(self, module: str, name: str) -> Owner | None:
        """A class, followed through imports and through aliases such as `Bytes = bytes`."""
        found = self._find(module, name) or self._find("builtins", name)
        if found and isinstance(found[1], ast.ClassDef):
            return found[0], found[1]
        if found and isinstance(found[1], ast.Assign | ast.AnnAssign) and isinstance(found[1].value, ast.Name):
            return self._class(found[0], found[1].value.id)
        return None

    def _has_member(self, owner: Owner, name: str) -> bool:
        module, node = owner
        if any(name in bound_names(statement) for statement in self._statements(node.body)):
            return True
        bases = [self._base(module, base) for base in node.bases]
        return any(self._has_member(base, name) for base in bases if base)

    def _base(self, module: str, base: ast.expr) -> Owner | None:
        """A base class as the stub writes it: `socket`, `Generic[T]`, `_socket.socket`."""
        if isinstance(base, ast.Subscript):
            base = base.value
        if isinstance(base, ast.Attribute):
            module, base = ast.unparse(base.value), ast.Name(base.attr)
        return self._class(module, base.id) if isinstance(base, ast.Name) else None

    def _statements(self, body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
        for node in body:
            if isinstance(node, ast.If):
                yield from self._statements(node.body if self._holds(node.test) else node.orelse)
            else:
                yield node

    def _holds(self, test: ast.expr) -> bool:
        """Whether a condition on version or platform is met; stubs know no others."""
        if isinstance(test, ast.BoolOp):
            return (all if isinstance(test.op, ast.And) else any)(self._holds(value) for value in test.values)
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            return not self._holds(test.operand)
        if isinstance(test, ast.Compare):
            subject = ast.unparse(test.left)
            if subject in ("sys.version_info", "sys.platform"):
                actual = self.version if subject == "sys.version_info" else self.platform
                return COMPARISONS[type(test.ops[0])](actual, ast.literal_eval(test.comparators[0]))
        return ast.unparse(test) == "TYPE_CHECKING"


def bound_names(node: ast.stmt) -> list[str]:
    """The names that a statement of a stub gives to something."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [node.name]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return []


def report(place: str, missing: Iterable[str], judged: int) -> bool:
    """Print what is missing; True if nothing is."""
    ids = sorted(missing)
    print(f"{place}: " + (f"{len(ids)} judged ids are missing: {' '.join(ids)}" if ids else f"all {judged} judged ids"))
    return not ids


def main() -> None:
    parser = argparse.ArgumentParser(description="Check the judged ids of python-docs under other Pythons.")
    parser.add_argument("interpreters", nargs="*", help="commands that start a Python")
    parser.add_argument("--stubs", type=Path, help="typeshed's folder stdlib")
    parser.add_argument("--version", default="3.14", help="version to look up in the stubs (3.14)")
    arguments = parser.parse_args()

    judged = judged_ids()
    complete = [report(command, judged - ids_under(command), len(judged)) for command in arguments.interpreters]
    if arguments.stubs:
        major, minor = map(int, arguments.version.split("."))
        for platform in PLATFORMS:
            stubs = Stubs(arguments.stubs, (major, minor), platform)
            missing = [doc_id for doc_id in judged if doc_id not in stubs]
            complete.append(report(f"stubs {arguments.version} {platform}", missing, len(judged)))
    sys.exit(not all(complete))


if __name__ == "__main__":
    main()
