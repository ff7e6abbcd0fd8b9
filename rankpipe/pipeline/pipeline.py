"""Pipeline: stages over a corpus, read from YAML or built with operators, run over batches of queries."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated

from annotated_types import MinLen
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from rankpipe.data import Corpus, Queries
from rankpipe.data.shipped import shipped
from rankpipe.errors import UsageError
from rankpipe.models.runtime import Runtime
from rankpipe.pipeline.checks import load_file, load_text
from rankpipe.pipeline.order import NOTHING, Given, check_stages
from rankpipe.pipeline.writer import to_yaml
from rankpipe.progress import tracked
from rankpipe.run import Candidate, Run
from rankpipe.stage import SETTINGS, Chain, Stage, traced, walk

BATCH = 1024
"""Queries that are on their way through the stages at once."""


RUN = "run"
"""Name of the scores that a given run came with."""
GIVEN_RUN = Given(parts=frozenset({"candidates"}), names=frozenset({RUN}))
"""What a pipeline has that re-ranks a given run."""


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Pipeline(Chain):
    """Stages one after the other, the corpus they search and the machine they run on.

    description  one line for people
    corpus       the documents; needed to run, not to check or to write as YAML
    runtime      device, precision, threads; by default what the machine has
    """

    description: Annotated[str, MinLen(1)] | None = None
    corpus: Corpus | None = field(default=None, compare=False, repr=False)
    runtime: Runtime = field(default_factory=Runtime, compare=False, repr=False)

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        corpus: Corpus | None = None,
        runtime: Runtime | None = None,
        given: Given = NOTHING,
    ) -> Pipeline:
        """Read a pipeline file, or one that rankpipe ships by its name ("bm25").

        given  GIVEN_RUN for one that re-ranks runs, and may begin with a re-ranker

        Raises PipelineError with all mistakes of the file.
        """
        read = load_file(find_file(path), given=given)
        return cls(stages=read.stages, description=read.description, corpus=corpus, runtime=runtime or Runtime())

    @classmethod
    def from_yaml(
        cls,
        text: str,
        *,
        corpus: Corpus | None = None,
        runtime: Runtime | None = None,
        given: Given = NOTHING,
    ) -> Pipeline:
        """Read a pipeline from YAML text; relative paths in it stand in the working folder."""
        read = load_text(text, given=given)
        return cls(stages=read.stages, description=read.description, corpus=corpus, runtime=runtime or Runtime())

    @model_validator(mode="after")
    def _unnamed(self) -> Pipeline:
        if self.name is not None:
            raise ValueError("a pipeline has no 'name', which YAML could not say; name its last stage, or a Chain")
        return self

    def __rshift__(self, other: Stage) -> Pipeline:
        """`pipeline >> stage`: the stage behind the others; corpus, runtime and description stay."""
        chain = super().__rshift__(other)
        return replace(self, stages=chain.stages) if isinstance(chain, Chain) else NotImplemented

    def to_yaml(self) -> str:
        """The YAML that gives this pipeline again."""
        return to_yaml(self.stages, description=self.description)

    def on(self, corpus: Corpus) -> Pipeline:
        """The same pipeline over another corpus."""
        return replace(self, corpus=corpus)

    def check(self) -> None:
        """Raise PipelineError with every mistake in the order of the stages, if there is any."""
        check_stages(self.stages)

    def prepare(self, corpus: Corpus | None = None) -> None:
        """Build or open every index and model, so that the first query does not wait for them."""
        corpus = self._corpus() if corpus is None else corpus
        with self.runtime.active():
            stages = list(walk(self))
            for place, stage in enumerate(stages):
                stage.check_behind(stages[:place])
                stage.prepare(corpus)

    def run(
        self,
        queries: Queries | Mapping[str, str] | Sequence[str] | str,
        *,
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> Run:
        """Rank documents for queries, in their order: one ranking each, empty where nothing matches.

        queries     Queries, {query_id: text}, texts (ids q1, q2, ...), or one text
        batch_size  queries that are on their way at once: bounds the memory that stages need between them. By default
                    1,024, or all where there is one stage only, for then nothing stands between stages
        progress    show a bar; by default only on a terminal
        """
        self.check()
        corpus, queries = self._corpus(), Queries.of(queries)
        self.prepare(corpus)
        return self._in_batches(Run.empty(queries, corpus), batch_size, progress)

    def rerank(self, run: Run, *, batch_size: int | None = None, progress: bool | None = None) -> Run:
        """Rank the candidates of a given run anew; its scores can be referred to by the name "run".

        Raises PipelineError for a pipeline in whose answers the run's candidates count for nothing.
        """
        check_stages(self.stages, GIVEN_RUN)
        self.prepare(run.corpus)
        return self._in_batches(run.with_feature(RUN, run.scores), batch_size, progress)

    def _in_batches(self, run: Run, batch_size: int | None, progress: bool | None) -> Run:
        if batch_size is None:
            batch_size = BATCH if len(list(walk(self))) > 1 else max(len(run), 1)
        if batch_size < 1:
            raise UsageError(f"batch_size is {batch_size}, must be at least 1")
        with self.runtime.active():
            starts = range(0, max(len(run), 1), batch_size)
            batches = [run.between(start, start + batch_size) for start in starts]
            # A batch counts as done when the next one is asked for, so after its run.
            runs = [self(batch) for batch in tracked(batches, len(run), "queries", show=progress)]
        unchanged = all(one.queries is batch.queries for one, batch in zip(runs, batches, strict=True))
        return Run.concatenate(runs, run.queries if unchanged else None)

    def search(self, query: str, k: int = 10, *, explain: bool = False) -> list[Candidate]:
        """The first k candidates for one query, each with the score of every stage.

        explain  and with what made them, by stages that can say it
        """
        with traced(self, keep_scores=True, explain=explain) as trace:
            run = self.run(query, progress=False).top(k)
        remarks = {label: told["q1"] for label, told in trace.remarks.items()}
        return [
            replace(
                candidate,
                explained={label: one["q1", row] for label, one in trace.explained.items() if ("q1", row) in one},
                remarks=remarks,
            )
            for candidate, row in zip(run["q1"], run.documents.tolist(), strict=True)
        ]

    def _corpus(self) -> Corpus:
        if self.corpus is None:
            raise UsageError(
                "the pipeline has no corpus; give it one with pipeline.on(corpus) or Pipeline.load(..., corpus=)"
            )
        return self.corpus


def is_shipped(name: str) -> bool:
    """Whether rankpipe ships a pipeline of that name."""
    return len(Path(name).parts) == 1 and (shipped("pipelines") / f"{name}.yaml").is_file()


def find_file(path: Path | str) -> Path:
    """The file at `path`, or the shipped pipeline of that name."""
    path = Path(path)
    if os.path.isfile(path) or path.suffix in (".yaml", ".yml") or len(path.parts) != 1:
        return path
    folder = shipped("pipelines")
    file = folder / f"{path.name}.yaml"
    if not file.is_file():
        names = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise UsageError(
            f"there is no pipeline file {str(path)!r}, and rankpipe ships none of that name; it ships {names}"
        )
    return file
