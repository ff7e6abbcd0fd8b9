"""A stage that stops in the middle of its work, to be interrupted or killed there."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import ClassVar, Literal

from pydantic.dataclasses import dataclass

from rankpipe.data import Corpus
from rankpipe.run import Run
from rankpipe.stage import SETTINGS, Part, Stage
from rankpipe.store import artefact


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Wait(Stage):
    """Gives the run it gets, once the file that the environment names by WAIT has been made and nobody came.

    at  where it waits: with an artefact half written, or with the queries on their way
    """

    needs: ClassVar[frozenset[Part]] = frozenset({"candidates"})
    makes: ClassVar[frozenset[Part]] = frozenset({"candidates"})

    at: Literal["build", "run"]

    def prepare(self, corpus: Corpus) -> None:
        """Build an artefact."""
        artefact("waiting", {"corpus": corpus.digest}, self._build)

    def __call__(self, run: Run) -> Run:
        """The same run."""
        self._wait("run")
        return run

    def _build(self, folder: Path) -> None:
        (folder / "first.txt").write_text("half of it")
        self._wait("build")
        (folder / "second.txt").write_text("the other half")

    def _wait(self, at: str) -> None:
        if at == self.at and (marker := os.environ.get("WAIT")):
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent in the background has it ignored
            Path(marker).touch()
            time.sleep(300)
