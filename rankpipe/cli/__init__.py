"""The command line. Exit status: 0 done, 1 the work failed, 2 the command or a file is wrong, 130 interrupted.

Results go to standard output, everything else to standard error. Everything that takes time to import is imported inside the command that needs it.
"""

from __future__ import annotations

import io
import os
import shlex
import sys
import traceback
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from rankpipe import __version__
from rankpipe.errors import DataError, PipelineError, RankpipeError, UsageError

if TYPE_CHECKING:
    from rankpipe.data import Dataset
    from rankpipe.evaluation.experiment import Experiment
    from rankpipe.evaluation.result import Result
    from rankpipe.models.runtime import Runtime
    from rankpipe.pipeline import Pipeline
    from rankpipe.pipeline.order import Given
    from rankpipe.run import Run
    from rankpipe.trec import Ties

app = typer.Typer(
    name="rankpipe",
    help="Search systems as pipelines of stages, written in YAML, trained and measured.",
    add_completion=False,
    rich_markup_mode=None,  # rich takes as long to import as all the rest of --help
    pretty_exceptions_enable=False,
)

PipelineArgument = Annotated[str, typer.Argument(metavar="PIPELINE", help="A pipeline file, or a shipped one: bm25")]
DatasetOption = Annotated[
    str,
    typer.Option("--dataset", "-d", help="A name from the catalogue, an ir_datasets id, or a folder in BEIR layout."),
]
SplitOption = Annotated[str, typer.Option(help="Which queries and judgements of the data set.")]
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
INTERRUPTED = 130
"""Exit status after Ctrl-C, as of a program that the signal ended."""


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
        _say(context.get_help())
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

    loaded, data = _load_both(pipeline, dataset, _runtime(threads, device, dtype), output, force=force)
    if output is not None:
        check_ids(data.queries(split), data.corpus)
    _finish(run_experiment(loaded, data, split, measures=measure), output, force=force)


@app.command()
def check(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A pipeline file, a recipe for `train`, or a shipped one: bm25")
    ],
) -> None:
    """Check a pipeline file or a recipe. Every mistake at once, with its place. Loads no model."""
    from rankpipe.pipeline.pipeline import is_shipped
    from rankpipe.training.recipe_file import is_recipe, load_recipe

    of_recipe = is_recipe(file)
    if of_recipe:
        recipe = load_recipe(file)
        print(f"{file}: {recipe.summary}: no mistakes found")
    if not of_recipe or is_shipped(file):
        loaded = _load_pipeline(file, None)
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
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Search a data set for one query. Shows what is found, with every stage's score."""
    if k < 1:
        raise UsageError(f"-k is {k}, must be at least 1")
    loaded = _load_pipeline(pipeline, _runtime(threads, device, dtype)).on(_load_dataset(dataset).corpus)
    from rankpipe.evaluation.explanation import words_of

    found = loaded.search(query, k, explain=explain)
    if not found:
        print("nothing found")
    elif explain and not any(candidate.explained for candidate in found):
        print("no stage of this pipeline can say what made its scores\n")
    for candidate in found:
        scores = "  ".join(f"{name} {score:.4f}" for name, score in candidate.scores.items() if not isnan(score))
        print(f"{candidate.rank}. {_shortened(candidate.doc_id)}  {candidate.score:.4f}  ({scores})")
        if candidate.title:
            print(f"   {_shortened(candidate.title)}")
        print(f"   {_shortened(candidate.text)}")
        for name, pieces in candidate.explained.items():
            words = sorted(words_of(pieces), key=lambda one: -one[1])[:EXPLAINED]
            print(f"   {name}: {'  '.join(f'{_shortened(word)} {value:+.4f}' for word, value in words)}")
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

    loaded = _load_pipeline(pipeline, _runtime(threads, device, dtype))
    corpus = _load_dataset(dataset).corpus
    started = perf_counter()
    loaded.prepare(corpus)
    print(f"{corpus.size} documents indexed in {perf_counter() - started:.1f} s, in {home()}")


@app.command()
def rerank(
    pipeline: PipelineArgument,
    run_file: Annotated[Path, typer.Option("--run", metavar="RUN.trec", help="The run to re-rank, plain or .gz.")],
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

    runtime = _runtime(threads, device, dtype)
    loaded, data = _load_both(pipeline, dataset, runtime, output, force=force, given=GIVEN_RUN)
    given = given_run(run_file, data, split, ties=_ties(ties))
    experiment = run_experiment(loaded, data, split, measures=measure, given=given)
    before = evaluate_on(given, data, split, measures=measure)
    _finish(experiment, output, force=force, before=before)


@app.command()
def evaluate(
    run_file: Annotated[Path, typer.Argument(metavar="RUN.trec", help="A TREC run file, plain or .gz.")],
    qrels: QrelsOption = None,
    dataset: JudgedOption = None,
    split: SplitOption = "test",
    measure: MeasuresOption = None,
    ties: TiesOption = "doc_id",
) -> None:
    """Measure a run file against judgements. They are those of a file, or of a data set, with its quirks."""
    from rankpipe.run import Run

    _print_result(_measured(Run.read_trec(run_file, ties=_ties(ties)), qrels, dataset, split, measure))


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run files, or folders that `run` wrote; the first is the baseline."),
    ],
    qrels: QrelsOption = None,
    dataset: JudgedOption = None,
    split: SplitOption = "test",
    measure: MeasuresOption = None,
    ties: TiesOption = "doc_id",
) -> None:
    """Compare runs with the first. Shows differences, paired tests, queries won and lost."""
    from rankpipe.evaluation.comparison import compare as compare_results
    from rankpipe.evaluation.tables import comparison_table
    from rankpipe.run import Run

    if len(set(runs)) < max(len(runs), 2):
        raise UsageError("compare takes two runs or more, each once")
    if qrels is None and dataset is None:
        dataset, split = _common_dataset(runs)
    results = {}
    for path in runs:
        run_file = path / "run.trec" if path.is_dir() else path
        results[str(path)] = _measured(Run.read_trec(run_file, ties=_ties(ties)), qrels, dataset, split, measure)
    comparison_table(compare_results(results)).show()


@app.command()
def tune(
    pipeline: PipelineArgument,
    dataset: Annotated[list[str], typer.Option("--dataset", "-d", help="May be repeated: one setting for all.")],
    split: Annotated[list[str] | None, typer.Option(help="dev by default; one, or one for each data set.")] = None,
    measure: Annotated[str, typer.Option("--measure", "-m", help="What to choose by.")] = "nDCG@10",
    output: Annotated[Path | None, typer.Option(help="File for the tuned pipeline; without it, it is shown.")] = None,
    force: ForceOption = False,
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Choose how scores are joined, on dev or train queries. Writes the choice down with the evidence."""
    from rankpipe.evaluation.tuning import Judged, settings_text
    from rankpipe.evaluation.tuning import tune as tune_pipeline
    from rankpipe.store import replacing

    splits = split or ["dev"]
    if len(splits) not in (1, len(dataset)):
        raise UsageError(f"{len(splits)} splits for {len(dataset)} data sets; give one, or one for each")
    if output is not None and output.exists() and not force:
        raise UsageError(f"{output} exists already; choose another file, or replace it with --force")
    judged = [
        Judged(dataset=_load_dataset(name), split=one)
        for name, one in zip(dataset, splits * (len(dataset) // len(splits)), strict=True)
    ]
    loaded = _load_pipeline(pipeline, _runtime(threads, device, dtype))
    tuning = tune_pipeline(loaded, judged, measure=measure, notify=_say)
    text = tuning.to_yaml(_command())
    best = tuning.tried[0]
    _say(f"{settings_text(best.stage)}: {measure} {best.mean:.4f}, before {tuning.before.mean:.4f}")
    if output is None:
        print(text, end="")
    else:
        with replacing(output) as file:
            file.write(text)
        _say(f"written: {output}")


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

    runtime = _runtime(threads, device, dtype)
    train_recipe(
        recipe, dataset, output, runtime, model=model, recompute=recompute, command=_command(), force=force, say=_say
    )


@app.command()
def clicks(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="A click log, .jsonl, .jsonl.gz or .parquet.")],
    dataset: DatasetOption,
    pipeline: Annotated[
        str, typer.Option(help="Whose features tell relevance; ends with the stage features.")
    ] = "features",
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
        _runtime(threads, device, "auto"),
        pipeline=pipeline,
        depth=depth,
        positions=positions,
        draws=draws,
        truth=None if truth is None else read_truth(truth),
        command=_command(),
        force=force,
        say=_say,
    )


@app.command()
def doc2query(
    dataset: DatasetOption,
    output: Annotated[Path, typer.Option(help="Folder for the data set with queries.")],
    writer: Annotated[str, typer.Option(help="The language model; with --endpoint, its name there.")] = "smollm2",
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="A server of OpenAI's interface: http://localhost:8000/v1")
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
    runtime = _runtime(threads, device, dtype)
    asked = Asked(
        dataset=dataset,
        output=output,
        settings=settings,
        keep=open_filter(keep, depth, runtime),
        limit=limit,
        runtime=runtime,
        command=_command(),
        force=force,
        say=_say,
    )
    expand_dataset(asked)


@app.command()
def datasets() -> None:
    """List the data sets of the catalogue and of RANKPIPE_DATA."""
    from rankpipe.data import catalogue
    from rankpipe.data.dataset import PYTHON_DOCS, found_folders

    found = found_folders()
    rows = [("name", "documents", "splits", "where")]
    for name in catalogue.names():
        card = catalogue.card(name)
        own = name.rpartition("/")[2]
        if name == PYTHON_DOCS:
            where = "bundled"
        elif own in found and _is_that_of_card(name, found[own]):
            where = str(found.pop(own))
        else:
            where = f"ir_datasets: {card.ir_datasets}" if card.ir_datasets else card.source or ""
        rows.append((name, f"{card.documents:,}" if card.documents else "", " ".join(card.splits), where))
    rows += [(name, "", "", str(folder)) for name, folder in sorted(found.items())]
    names, documents, splits, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    for name, count, of_splits, where in rows:
        print(f"{name:<{names}}  {count:>{documents}}  {of_splits:<{splits}}  {where}".rstrip())


@app.command()
def stages() -> None:
    """List the stages and their settings. Defaults stand as YAML writes them."""
    from rankpipe.pipeline.registry import load_stage, stage_names
    from rankpipe.pipeline.settings import settings_of
    from rankpipe.pipeline.writer import in_one_line

    for name in stage_names():
        try:
            stage = load_stage(name)
        except RankpipeError as error:  # of another package: no reason not to list the others
            print(f"{name}: {error}")
            continue
        print(f"{name}: {(stage.__doc__ or '').strip().splitlines()[0]}")
        for setting, described in settings_of(stage).items():
            field = described.field
            required = field.is_required()
            print(
                f"    {setting}: {'required' if required else in_one_line(field.get_default(call_default_factory=True))}"
            )


@app.command()
def adapters() -> None:
    """List the methods of adapters. Settings stand as a recipe writes them."""
    from rankpipe.models.adapters.registry import METHODS
    from rankpipe.pipeline.writer import in_one_line

    tiers = {"F": "first class", "X": "experimental", "N": "not for ranking"}
    saved = {"lora": "saved as plain LoRA", "peft": "saved in peft's format of it"}
    for one in METHODS:
        facts = [tiers[one.tier]]
        if one.code is not None and one.export is not None:
            facts += [f"computed by {one.code}", saved[one.export]]
        print(f"{one.name}: {one.reason}")
        print(f"    {', '.join(facts)}")
        print(f"    {one.source}")
        if one.settings is not None:
            print(f"    adapter: {in_one_line(one.settings())}")


def _common_dataset(folders: list[Path]) -> tuple[str | None, str]:
    """Data set and split that all folders of results say they were made on; None where that is not one."""
    made_on = {_made_on(folder) for folder in folders}
    name, split = made_on.pop() if len(made_on) == 1 else (None, None)
    return name, split or "test"


def _made_on(folder: Path) -> tuple[str | None, str | None]:
    import json

    try:
        described = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["dataset"]
        return str(described["name"]), str(described["split"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, None  # no folder of ours: then the judgements have to be named


def _measured(ranked: Run, qrels: Path | None, dataset: str | None, split: str, measures: list[str] | None) -> Result:
    """A run measured by a file of judgements, or by a data set with its quirks."""
    if (qrels is None) == (dataset is None):
        raise UsageError("give the judgements by one of --qrels FILE and --dataset NAME")
    if qrels is not None:
        from rankpipe.data.readers import read_qrels
        from rankpipe.evaluation import DEFAULT_MEASURES, evaluate

        return evaluate(ranked, read_qrels(qrels), measures or DEFAULT_MEASURES)
    from rankpipe.evaluation.experiment import evaluate_on

    return evaluate_on(ranked, _load_dataset(dataset or ""), split, measures=measures)


def _finish(experiment: Experiment, output: Path | None, *, force: bool, before: Result | None = None) -> None:
    """Show the measures of an experiment and write its results, if they have a place."""
    _print_result(experiment.result, before)
    if output is None:
        _say("nothing is written; --output FOLDER keeps the results")
        return
    from rankpipe.evaluation.report import write_results

    write_results(experiment, output, command=_command(), force=force)
    _say(f"results: {output}")


def _print_result(result: Result, before: Result | None = None) -> None:
    """Measures on standard output, a line each; what was assumed on standard error."""
    width = max(map(len, result))
    for name, value in result.items():
        print(f"{name:<{width}}  {value:.4f}" + ("" if before is None else f"  (given: {before[name]:.4f})"))
    for sentence in result.assumed:
        _say(f"note: {sentence}")


def _is_that_of_card(name: str, folder: Path) -> bool:
    """Whether a folder has the counts of a card. One that cannot be read has not, and is no reason to list nothing."""
    from rankpipe.data import catalogue
    from rankpipe.data.sources import Files

    try:
        return not catalogue.card(name).differences(Files.in_folder(folder).counts())
    except DataError as error:
        _say(f"note: {error}")
        return False


def _command() -> str:
    """The command line that was given."""
    return shlex.join(["rankpipe", *sys.argv[1:]])


def _load_both(
    pipeline: str, dataset: str, runtime: Runtime, output: Path | None, *, force: bool, given: Given | None = None
) -> tuple[Pipeline, Dataset]:
    """Pipeline and data set of an experiment, if its results can be written."""
    from rankpipe.store import check_replaceable

    if output is not None:
        check_replaceable(output, force=force)
    return _load_pipeline(pipeline, runtime, given), _load_dataset(dataset)


def _load_pipeline(path: str, runtime: Runtime | None, given: Given | None = None) -> Pipeline:
    from rankpipe.pipeline import Pipeline
    from rankpipe.pipeline.order import NOTHING

    return Pipeline.load(path, runtime=runtime, given=given or NOTHING)


def _load_dataset(name: str) -> Dataset:
    from rankpipe.data import Dataset

    dataset = Dataset.load(name)
    for note in dataset.notes:
        _say(note)
    return dataset


def _runtime(threads: int | None, device: str, dtype: str) -> Runtime:
    from rankpipe.models.runtime import Dtype, Runtime

    return Runtime(threads=threads, device=device, dtype=cast(Dtype, dtype))


def _ties(name: str) -> Ties:
    if name not in ("doc_id", "rank"):
        raise UsageError(f"--ties is {name!r}, must be doc_id or rank")
    return name  # type: ignore[return-value]


def _say(text: str) -> None:
    """Tell the person at the terminal, apart from the results on standard output."""
    print(text, file=sys.stderr)


EXPLAINED = 8
"""Words that are shown of those that made a score."""


def _shortened(text: str, width: int = 160) -> str:
    """Text on one line, with what is cut off shown as an ellipsis, and what a terminal would obey as a mark."""
    line = "".join(sign if sign.isprintable() else "\ufffd" for sign in " ".join(text.split()))
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


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
        _say("interrupted")
    _give_up_output()
    sys.exit(status)


def _told(error: Exception) -> int:
    """Say an error, in one line where one line says it; give the exit status."""
    text = " ".join(str(error).split())
    if isinstance(error, PipelineError):
        _say(str(error))  # a line for each mistake, the place first
        return error.exit_status
    if isinstance(error, RankpipeError):
        _say(f"error: {error}")
        return error.exit_status
    if isinstance(error, typer.Abort):
        return INTERRUPTED
    if (read := getattr(error, "format_message", None)) is not None:  # a command line that typer cannot read
        said, context = str(read()).rstrip("."), getattr(error, "ctx", None)
        _say(f"error: {said[:1].lower()}{said[1:]}; see {context.command_path if context else 'rankpipe'} --help")
        return 2
    if isinstance(error, BrokenPipeError):
        return 1  # the reader has gone; nothing more to say
    if isinstance(error, OSError):
        _say(f"error: {error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
    elif isinstance(error, MemoryError):
        _say(f"error: out of memory{': ' if text else ''}{text}")
    else:
        name = type(error).__name__
        _say(f"error: a fault of rankpipe itself, please report it: {name}: {text} (--debug shows where)")
    return 1


def _give_up_output() -> None:
    """Where standard output takes nothing more, drop what waits for it, or Python complains once more at its end."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
