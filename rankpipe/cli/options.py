"""What several commands take on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PipelineArgument = Annotated[str, typer.Argument(metavar="PIPELINE", help="A pipeline file, or a shipped one: bm25")]
DatasetOption = Annotated[
    str,
    typer.Option("--dataset", "-d", help="A name from the catalogue, an ir_datasets id, or a folder in BEIR layout."),
]
SplitOption = Annotated[str, typer.Option(help="Which queries and judgements of the data set.")]
JudgedSplitOption = Annotated[
    str | None,
    typer.Option("--split", help="Which judgements of the data set; by default those of the runs' folders, or test."),
]
OutputOption = Annotated[Path | None, typer.Option(help="Folder for the results; without it they are only shown.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace results that are there already.")]
ThreadsOption = Annotated[int | None, typer.Option(help="Threads; by default the cores there are.")]
DeviceOption = Annotated[str, typer.Option(help="Where networks run: auto, cpu, cuda, mps.")]
DtypeOption = Annotated[str, typer.Option(help="Precision of networks: auto, float32, bfloat16, float16, int8.")]
MeasuresOption = Annotated[
    list[str] | None, typer.Option("--measure", "-m", metavar="MEASURE", help="As nDCG@10; may be repeated.")
]
TiesOption = Annotated[
    str, typer.Option(help="What orders equal scores of a run file: doc_id, as trec_eval has it, or the file's rank.")
]
QrelsOption = Annotated[Path | None, typer.Option(help="A file of judgements, TREC or BEIR layout.")]
JudgedOption = Annotated[str | None, typer.Option("--dataset", "-d", help="A data set with judgements.")]
DEFAULT_DATASET = "python-docs"
