"""The command line. Exit status: 0 done, 1 the work failed, 2 the command or a file is wrong, 130 interrupted.

Results go to standard output, everything else to standard error. Everything that takes time to import is imported inside the command that needs it.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from math import isnan
from pathlib import Path
from typing import Annotated

import typer

from rankpipe import __version__
from rankpipe.cli import listing
from rankpipe.cli.common import (
    command_line,
    common_dataset,
    excerpt,
    finish,
    json_line,
    load_both,
    load_dataset,
    load_pipeline,
    measured,
    print_result,
    read_tries,
    run_file_in,
    runtime_of,
    say,
    shortened,
    ties_of,
)
from rankpipe.cli.options import (
    DEFAULT_DATASET,
    DatasetOption,
    DeviceOption,
    DtypeOption,
    ForceOption,
    JudgedOption,
    JudgedSplitOption,
    MeasuresOption,
    OutputOption,
    PipelineArgument,
    QrelsOption,
    SplitOption,
    ThreadsOption,
    TiesOption,
)
from rankpipe.errors import PipelineError, RankpipeError, UsageError

app = typer.Typer(
    name="rankpipe",
    help="Search systems as pipelines of stages, written in YAML, trained and measured.",
    add_completion=False,
    rich_markup_mode=None,  # rich takes as long to import as all the rest of --help
    pretty_exceptions_enable=False,
)

INTERRUPTED = 130
"""Exit status after Ctrl-C, as of a program that the signal ended."""
EXPLAINED = 8
"""Words that are shown of those that made a score."""


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    del debug  # main looks for it before any command runs
    if version:
        print(f"rankpipe {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        say(context.get_help())
        raise typer.Exit(2)


@app.command()
def run(
    pipeline: PipelineArgument,
    dataset: DatasetOption = DEFAULT_DATASET,
    split: SplitOption = "test",
    output: OutputOption = None,
    force: ForceOption = False,
    measure: MeasuresOption = None,
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Run a pipeline over a data set's queries and measure it."""
    from rankpipe.evaluation.experiment import run_experiment
    from rankpipe.trec import check_ids

    loaded, data = load_both(pipeline, dataset, runtime_of(threads, device, dtype), output, force=force)
    if output is not None:
        check_ids(data.queries(split), data.corpus)
    finish(run_experiment(loaded, data, split, measures=measure), output, force=force)


@app.command()
def check(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A pipeline file, a recipe for `train`, or a shipped one: bm25")
    ],
    reranks: Annotated[
        bool, typer.Option("--rerank", help="The pipeline is for `rerank`: it is given a run, under the name run.")
    ] = False,
) -> None:
    """Check a pipeline file or a recipe. Every mistake at once, with its place. Loads no model."""
    from rankpipe.pipeline.pipeline import GIVEN_RUN, is_shipped
    from rankpipe.training.recipe_file import is_recipe, load_recipe

    of_recipe = is_recipe(file)
    if of_recipe:
        recipe = load_recipe(file)
        print(f"{file}: {recipe.summary}: no mistakes found")
    if not of_recipe or is_shipped(file):
        loaded = load_pipeline(file, None, given=GIVEN_RUN if reranks else None)
        print(f"{file}: {' >> '.join(stage.type_name() for stage in loaded.stages)}: no mistakes found")


@app.command()
def search(
    pipeline: PipelineArgument,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What to search for.")],
    dataset: DatasetOption = DEFAULT_DATASET,
    k: Annotated[int, typer.Option("-k", "--k", help="How many documents to show.")] = 5,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show which words made a score, where a stage can say it.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="A line of JSON for each, with the document and all of its fields.")
    ] = False,
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Search a data set for one query. Shows what is found, with every stage's score."""
    if k < 1:
        raise UsageError(f"-k is {k}, must be at least 1")
    loaded = load_pipeline(pipeline, runtime_of(threads, device, dtype)).on(load_dataset(dataset).corpus)
    from rankpipe.evaluation.explanation import words_of

    found = loaded.search(query, k, explain=explain)
    if as_json:
        print("".join(f"{json_line(candidate)}\n" for candidate in found), end="")
        return
    if not found:
        print("nothing found")
    elif explain and not any(candidate.explained for candidate in found):
        print("no stage of this pipeline can say what made its scores\n")
    for candidate in found:
        scores = "  ".join(f"{name} {score:.4f}" for name, score in candidate.scores.items() if not isnan(score))
        print(f"{candidate.rank}. {shortened(candidate.doc_id)}  {candidate.score:.4f}  ({scores})")
        if candidate.title:
            print(f"   {shortened(candidate.title)}")
        print(f"   {excerpt(candidate.text, query)}")
        for name, pieces in candidate.explained.items():
            words = sorted(words_of(pieces), key=lambda one: -one[1])[:EXPLAINED]
            shown = f"{name} ({candidate.remarks[name]})" if name in candidate.remarks else name
            print(f"   {shown}: {'  '.join(f'{shortened(word)} {value:+.4f}' for word, value in words)}")
        print()


@app.command()
def index(
    pipeline: PipelineArgument,
    dataset: DatasetOption = DEFAULT_DATASET,
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Build every index that a pipeline needs for a data set. They stay in the store."""
    from time import perf_counter

    from rankpipe.store import home

    loaded = load_pipeline(pipeline, runtime_of(threads, device, dtype))
    corpus = load_dataset(dataset).corpus
    started = perf_counter()
    loaded.prepare(corpus)
    print(f"{corpus.size} documents indexed in {perf_counter() - started:.1f} s, in {home()}")


@app.command()
def rerank(
    pipeline: PipelineArgument,
    run_file: Annotated[
        Path,
        typer.Option("--run", metavar="RUN", help="The run to re-rank, plain or .gz, or a folder that `run` wrote."),
    ],
    dataset: DatasetOption = DEFAULT_DATASET,
    split: SplitOption = "test",
    ties: TiesOption = "doc_id",
    output: OutputOption = None,
    force: ForceOption = False,
    measure: MeasuresOption = None,
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Re-rank a given run with a pipeline of re-rankers. Measures both."""
    from rankpipe.evaluation.experiment import evaluate_on, given_run, run_experiment
    from rankpipe.pipeline.pipeline import GIVEN_RUN

    runtime = runtime_of(threads, device, dtype)
    loaded, data = load_both(pipeline, dataset, runtime, output, force=force, given=GIVEN_RUN)
    given = given_run(run_file_in(run_file), data, split, ties=ties_of(ties))
    experiment = run_experiment(loaded, data, split, measures=measure, given=given)
    before = evaluate_on(given, data, split, measures=measure)
    finish(experiment, output, force=force, before=before)


@app.command()
def evaluate(
    run_file: Annotated[
        Path, typer.Argument(metavar="RUN", help="A TREC run file, plain or .gz, or a folder that `run` wrote.")
    ],
    qrels: QrelsOption = None,
    dataset: JudgedOption = None,
    split: JudgedSplitOption = None,
    measure: MeasuresOption = None,
    ties: TiesOption = "doc_id",
) -> None:
    """Measure a run against judgements. They are those of a file, or of a data set, with its quirks; of a folder, its own."""
    from rankpipe.run import Run

    if qrels is None:
        dataset, split = common_dataset([run_file], dataset, split)
    print_result(measured(Run.read_trec(run_file_in(run_file), ties=ties_of(ties)), qrels, dataset, split, measure))


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run files, or folders that `run` wrote; the first is the baseline."),
    ],
    qrels: QrelsOption = None,
    dataset: JudgedOption = None,
    split: JudgedSplitOption = None,
    measure: MeasuresOption = None,
    ties: TiesOption = "doc_id",
) -> None:
    """Compare runs with the first. Shows differences, paired tests, queries won and lost."""
    from rankpipe.evaluation.comparison import compare as compare_results
    from rankpipe.evaluation.tables import comparison_table, notes_of
    from rankpipe.run import Run

    if len(set(runs)) < max(len(runs), 2):
        raise UsageError("compare takes two runs or more, each once")
    if qrels is None:
        dataset, split = common_dataset(runs, dataset, split)
    results = {}
    for path in runs:
        run = Run.read_trec(run_file_in(path), ties=ties_of(ties))
        results[str(path)] = measured(run, qrels, dataset, split, measure)
    comparison_table(compare_results(results), notes_of(results)).show()


@app.command()
def tune(
    pipeline: PipelineArgument,
    dataset: Annotated[list[str], typer.Option("--dataset", "-d", help="May be repeated: one setting for all.")],
    split: Annotated[list[str] | None, typer.Option(help="dev by default; one, or one for each data set.")] = None,
    measure: Annotated[str, typer.Option("--measure", "-m", help="What to choose by.")] = "nDCG@10",
    tries: Annotated[
        list[str] | None,
        typer.Option(
            "--try", metavar="STAGE.SETTING=A,B", help="Values of a setting, in place of how scores are joined."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="File for the tuned pipeline; without it, it is shown.")] = None,
    force: ForceOption = False,
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Choose settings on dev or train queries. They are how scores are joined, or those that --try names.

    Writes the choice down with the evidence.
    """
    from rankpipe.evaluation.grid import tune_settings
    from rankpipe.evaluation.tuning import Judged, settings_text
    from rankpipe.evaluation.tuning import tune as tune_pipeline
    from rankpipe.writing import check_writable, replacing

    splits = split or ["dev"]
    if len(splits) not in (1, len(dataset)):
        raise UsageError(f"{len(splits)} splits for {len(dataset)} data sets; give one, or one for each")
    if output is not None:
        check_writable(output)
        if output.is_dir():
            raise UsageError(f"{output} is a folder; choose a file")
        if output.exists() and not force:
            raise UsageError(f"{output} exists already; choose another file, or replace it with --force")
    judged = [
        Judged(dataset=load_dataset(name), split=one)
        for name, one in zip(dataset, splits * (len(dataset) // len(splits)), strict=True)
    ]
    loaded = load_pipeline(pipeline, runtime_of(threads, device, dtype))
    if tries:
        tuning = tune_settings(loaded, judged, read_tries(tries), measure=measure, notify=say)
        chosen = str(tuning.tried[0])
    else:
        tuning = tune_pipeline(loaded, judged, measure=measure, notify=say)
        chosen = settings_text(tuning.tried[0].stage)
    text = tuning.to_yaml(command_line())
    say(f"{chosen}: {measure} {tuning.tried[0].mean:.4f}, before {tuning.before.mean:.4f}")
    if output is None:
        print(text, end="")
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        with replacing(output) as file:
            file.write(text)
        say(f"written: {output}")


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or a shipped one: cross-encoder")],
    dataset: DatasetOption,
    output: Annotated[Path, typer.Option(help="Folder for what is trained.")],
    model: Annotated[str | None, typer.Option(help="To begin with, instead of the recipe's.")] = None,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Compute activations twice, for less memory (gradient checkpointing).")
    ] = False,
    force: ForceOption = False,
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Train a model by a recipe. The same command goes on with what was killed."""
    from rankpipe.cli.train import train_recipe

    runtime = runtime_of(threads, device, dtype)
    train_recipe(
        recipe, dataset, output, runtime, model=model, recompute=recompute, command=command_line(), force=force, say=say
    )


@app.command()
def clicks(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="A click log, .jsonl, .jsonl.gz or .parquet.")],
    dataset: DatasetOption,
    pipeline: Annotated[
        str, typer.Option(help="Whose features tell relevance; ends with the stage features.")
    ] = "features",
    without: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN", help="Features that are not looked at; by default reciprocal-rank, '' for none."
        ),
    ] = None,
    depth: Annotated[int, typer.Option(min=2, help="Candidates of the pipeline that have features.")] = 100,
    positions: Annotated[int, typer.Option(min=2, help="That are looked at, from the first on.")] = 10,
    draws: Annotated[int, typer.Option(min=2, help="Of lists with replacement, for the band.")] = 20,
    truth: Annotated[
        str | None, typer.Option(help="Propensities where they are known, as in a simulation: 1,0.9,0.7")
    ] = None,
    output: OutputOption = None,
    force: ForceOption = False,
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Tell from a click log which positions people look at."""
    from rankpipe.cli.clicks import diagnose_log, read_truth

    diagnose_log(
        log,
        dataset,
        output,
        runtime_of(threads, device, "auto"),
        pipeline=pipeline,
        without=None if without is None else [one for one in without if one],
        depth=depth,
        positions=positions,
        draws=draws,
        truth=None if truth is None else read_truth(truth),
        command=command_line(),
        force=force,
        say=say,
    )


@app.command()
def doc2query(
    dataset: DatasetOption,
    output: Annotated[Path, typer.Option(help="Folder for the data set with queries.")],
    writer: Annotated[str, typer.Option(help="The language model; with --endpoint, its name there.")] = "smollm2",
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="A server of OpenAI's interface: http://localhost:8000/v1, or its settings in YAML."
        ),
    ] = None,
    prompt: Annotated[str, typer.Option(help="A prompt file, or a shipped one.")] = "doc2query",
    queries: Annotated[int, typer.Option(min=1, help="Written for each document.")] = 5,
    temperature: Annotated[float, typer.Option(min=0.0, help="The higher, the more various.")] = 1.0,
    top_p: Annotated[float, typer.Option(max=1.0, help="Share of the most probable tokens to draw from.")] = 0.95,
    max_words: Annotated[int, typer.Option(min=1, help="Of a document that are read.")] = 200,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of a query.")] = 64,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of what is drawn.")] = 0,
    keep: Annotated[
        str | None,
        typer.Option(metavar="PIPELINE", help="Keep only queries by which this finds their document: bm25"),
    ] = None,
    depth: Annotated[
        int | None, typer.Option(min=1, help="With --keep: among how many candidates; by default 10.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Expand only so many documents, to try it.")] = None,
    force: ForceOption = False,
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Expand documents with queries that a language model writes. The same command goes on with what was killed."""
    from rankpipe.cli.doc2query import Asked, expand_dataset, open_filter, open_settings

    settings = open_settings(
        endpoint,
        writer=writer,
        prompt=prompt,
        queries=queries,
        max_words=max_words,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
    )
    runtime = runtime_of(threads, device, dtype)
    asked = Asked(
        dataset=dataset,
        output=output,
        settings=settings,
        keep=open_filter(keep, depth, runtime),
        limit=limit,
        runtime=runtime,
        command=command_line(),
        force=force,
        say=say,
    )
    expand_dataset(asked)


for _command in (listing.datasets, listing.stages, listing.adapters):
    app.command()(_command)


def main() -> None:
    """Entry point: run the command line. An error is a line on standard error; with --debug, after its traceback."""
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    debug = "--debug" in sys.argv[:end]
    sys.argv[:end] = [argument for argument in sys.argv[:end] if argument != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # any title can be shown in any terminal
    try:
        status = app(prog_name="rankpipe", standalone_mode=False) or 0
        print(end="", flush=True)
    except Exception as error:
        if debug:
            traceback.print_exc()
        status = _told(error)
    if status == INTERRUPTED:
        say("interrupted")
    _give_up_output()
    sys.exit(status)


def _told(error: Exception) -> int:
    """Say an error, in one line where one line says it; give the exit status."""
    text = " ".join(str(error).split())
    if isinstance(error, PipelineError):
        say(str(error))  # a line for each mistake, the place first
        return error.exit_status
    if isinstance(error, RankpipeError):
        say(f"error: {error}")
        return error.exit_status
    if isinstance(error, typer.Abort):
        return INTERRUPTED
    if (read := getattr(error, "format_message", None)) is not None:  # a command line that typer cannot read
        said, context = str(read()).rstrip("."), getattr(error, "ctx", None)
        say(f"error: {said[:1].lower()}{said[1:]}; see {context.command_path if context else 'rankpipe'} --help")
        return 2
    if isinstance(error, BrokenPipeError):
        return 1  # the reader has gone; nothing more to say
    if isinstance(error, OSError):
        say(f"error: {error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
    elif isinstance(error, MemoryError):
        say(f"error: out of memory{': ' if text else ''}{text}")
    else:
        name = type(error).__name__
        say(f"error: a fault of rankpipe itself, please report it: {name}: {text} (--debug shows where)")
    return 1


def _give_up_output() -> None:
    """Where standard output takes nothing more, drop what waits for it, or Python complains once more at its end."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
