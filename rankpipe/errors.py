"""Every exception that rankpipe raises on purpose.

All derive from RankpipeError, so `except RankpipeError` catches them and nothing else. (A setting that is wrong where
a stage is built in Python, as in BM25(k=0), is pydantic's ValidationError, a ValueError; from YAML it is PipelineError.) Each says where (file:line where
there is one), which value, and what would be right. `exit_status` is what the command line returns for it:
1 the work failed, 2 the command or a file is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


class RankpipeError(Exception):
    """The root of all of ours."""

    exit_status = 1


class UsageError(RankpipeError):
    """A call or a command that cannot be right as given: an unknown name, a value out of range."""

    exit_status = 2


class DataError(RankpipeError):
    """A file of documents, queries, judgements or results that cannot be read as what it should be."""

    exit_status = 2

    @classmethod
    def at(cls, path: Path | str, line: int, message: str) -> DataError:
        """Error at a line of a file; lines count from 1."""
        return cls(f"{path}:{line}: {message}")


class WriteError(RankpipeError):
    """A file or folder that cannot be written; its cause is what the operating system said."""


class StoreError(RankpipeError):
    """An artefact of the store that is damaged, or a store that cannot be written."""


class ModelError(RankpipeError):
    """A model that cannot be loaded, or that is not what its stage needs."""

    exit_status = 2


class MissingExtraError(RankpipeError, ImportError):
    """An optional dependency that a stage needs is not installed."""

    def __init__(self, user: str, needs: str, extra: str) -> None:
        super().__init__(
            f"{user} needs {needs}: install rankpipe with its extra '{extra}', for example pip install '.[{extra}]'"
        )


@dataclass(frozen=True)
class Problem:
    """One mistake in a pipeline file. Line and column count from 1; None where the pipeline was not read from a file."""

    message: str
    file: str | None = None
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        place = [str(part) for part in (self.file, self.line, self.column) if part is not None]
        return f"{':'.join(place)}: {self.message}" if place else self.message


class PipelineError(RankpipeError):
    """A pipeline that cannot be built: all its mistakes at once, in the order of the file."""

    exit_status = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


@contextmanager
def told_of_a_setting() -> Iterator[None]:
    """Turn an error of ours into the ValueError by which a validator refuses a setting; pydantic adds which one."""
    try:
        yield
    except RankpipeError as error:
        raise ValueError(str(error)) from None
