"""Commands that list what there is: data sets, stages, adapters."""

from __future__ import annotations

from pathlib import Path

from rankpipe.cli.common import say
from rankpipe.errors import DataError, RankpipeError, UsageError


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
        elif known := next((one for one in (name, own) if one in found and _is_that_of_card(name, found[one])), None):
            where = str(found.pop(known))
        else:
            by_ir_datasets = card.ir_datasets and not card.has_archive
            where = f"ir_datasets: {card.ir_datasets}" if by_ir_datasets else card.source or ""
        rows.append((name, f"{card.documents:,}" if card.documents else "", " ".join(card.splits), where))
    rows += [(name, "", "", str(folder)) for name, folder in sorted(found.items())]
    names, documents, splits, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    for name, count, of_splits, where in rows:
        print(f"{name:<{names}}  {count:>{documents}}  {of_splits:<{splits}}  {where}".rstrip())


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
        print(f"{name}: {next(iter((stage.__doc__ or '').strip().splitlines()), '')}")
        for setting, described in settings_of(stage).items():
            field = described.field
            required = field.is_required()
            print(
                f"    {setting}: {'required' if required else in_one_line(field.get_default(call_default_factory=True))}"
            )


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


def _is_that_of_card(name: str, folder: Path) -> bool:
    """Whether a folder has the counts of a card. One that cannot be read has not, and is no reason to list nothing."""
    from rankpipe.data import catalogue
    from rankpipe.data.sources import Files

    try:
        return not catalogue.card(name).differences(Files.in_folder(folder).counts())
    except (DataError, UsageError) as error:
        say(f"note: {error}")
        return False
