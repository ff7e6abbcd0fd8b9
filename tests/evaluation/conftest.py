"""Scripts of eval/, opened as modules."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

EVAL = Path(__file__).parents[2] / "eval"


@pytest.fixture(scope="module")
def eval_script() -> Iterator[Callable[[str], ModuleType]]:
    """`eval_script(name)` is eval/NAME.py as a module; those beside it can be imported as when the script is run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EVAL)

        def opened(name: str) -> ModuleType:
            spec = importlib.util.spec_from_file_location(f"rankpipe_eval_{name}", EVAL / f"{name}.py")
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            patch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
            spec.loader.exec_module(module)
            return module

        yield opened
