"""The registry, and the messages about an adapter in a recipe."""

from importlib import import_module

import pytest
from pydantic import ValidationError
from pydantic.dataclasses import dataclass

from rankpipe.errors import UsageError
from rankpipe.models.adapters.registry import METHODS, AdapterSettings, entry
from rankpipe.models.adapters.settings import AdaLora, DyLora, Lora
from rankpipe.pipeline.settings import Setting, problems_of
from rankpipe.pipeline.source import parse_source
from rankpipe.stage import SETTINGS


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Tuning:
    """Settings with an adapter among them, as a recipe has them."""

    adapter: AdapterSettings | None = None


def told(written: str) -> list[str]:
    """What is said of `adapter: written` at the top of a file."""
    root = parse_source(f"adapter: {written}\n").root
    assert root is not None
    node = root.entries[0].value
    field = Tuning.__pydantic_fields__["adapter"]  # type: ignore[attr-defined]
    with pytest.raises(ValidationError) as caught:
        Tuning(adapter=Setting("adapter", field).value(node, None))
    return [str(problem) for problem in problems_of(caught.value, Tuning, "recipe", {"adapter": node}, root.place)]


def test_names_are_unique_and_what_is_listed_is_there() -> None:
    names = [one.name for one in METHODS]
    assert len(set(names)) == len(names)
    for one in METHODS:
        assert (one.settings is None) == (one.build is None) == (one.export is None) == (one.tier == "N")
        if one.settings is not None:
            assert one.settings().method == one.name


def test_what_builds_a_method_can_be_imported() -> None:
    pytest.importorskip("peft", reason="needs the extra 'train'")
    for one in METHODS:
        if one.build is not None:
            module, _, function = one.build.partition(":")
            assert one.builder() is getattr(import_module(module), function)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("lorra", "did you mean 'lora' or 'olora' or 'dylora'?"),
        ("AdaLoRA", "did you mean 'adalora' or 'randlora' or 'dylora'?"),
        ("pisa", "did you mean 'pissa'?"),
        ("x", "there are: lora, dora, pissa, olora, eva, adalora, sora, dylora, randlora"),
    ],
)
def test_an_unknown_method_is_told_the_names_near_it(name: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        entry(name)
    assert str(caught.value) == f"no adapter method is called '{name}'; {hint}"


def test_a_method_that_is_nothing_for_ranking_says_why() -> None:
    with pytest.raises(UsageError) as caught:
        entry("sltrain").builder()
    assert str(caught.value) == (
        "adapter method 'sltrain' cannot be chosen: trains a network from nothing, and a ranker starts from a "
        "pretrained one"
    )


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            "{method: dorra}",
            "1:10: 'recipe' setting 'adapter': no adapter method is called 'dorra'; did you mean 'dora' or 'dylora' or 'sora'?",
        ),
        ("{r: 4}", "1:10: 'recipe' setting 'adapter' is a map, must have 'method'"),
        ("lora", "1:10: 'recipe' setting 'adapter' is 'lora', must be a map"),
        ("{method: lora, r: 0}", "1:28: 'recipe' setting 'adapter.r' is 0, must be at least 1"),
        (
            "{method: lora, rank: 4}",
            "1:31: 'recipe' setting 'adapter.rank' is 4, which is no setting there; there are: alpha, dropout, method, r, "
            "rslora, targets",
        ),
        (
            "{method: sora, aplha: 4}",
            "1:32: 'recipe' setting 'adapter.aplha' is 4, which is no setting there; did you mean 'alpha'?",
        ),
        (
            "{method: lora, thresholds: 1}",  # a setting of another method is no suggestion
            "1:37: 'recipe' setting 'adapter.thresholds' is 1, which is no setting there; there are: alpha, dropout, "
            "method, r, rslora, targets",
        ),
        ("{method: lora, dropout: 1}", "1:34: 'recipe' setting 'adapter.dropout' is 1, must be below 1"),
        ("{method: sora, r: 2.5}", "1:28: 'recipe' setting 'adapter.r' is 2.5, must be a whole number"),
        (
            "{method: lora, targets: []}",
            "1:34: 'recipe' setting 'adapter.targets' is a list, must be 'auto' or must have at least 1",
        ),
        (
            "{method: adadfq}",
            "1:10: 'recipe' setting 'adapter': adapter method 'adadfq' cannot be chosen: calibrates "
            "quantisation on generated images, and a ranker has texts to calibrate on",
        ),
        (
            "{method: dylora, rank: 20}",
            "1:10: 'recipe' setting 'adapter': rank is 20, must be at most r, which is 16",
        ),
        (
            "{method: adalora, start: 0.5, end: 0.5}",
            "1:10: 'recipe' setting 'adapter': end is 0.5, must be above start, which is 0.5",
        ),
        (
            "{method: adalora, init_r: 16}",
            "1:10: 'recipe' setting 'adapter': init_r is 16, must be above r, which is 16",
        ),
    ],
)
def test_a_wrong_adapter_is_pointed_at(written: str, message: str) -> None:
    assert told(written) == [message]


def test_what_a_setting_leaves_open_follows_from_the_others() -> None:
    assert (AdaLora(r=8).first_rank, AdaLora(r=5).first_rank, AdaLora(r=8, init_r=20).first_rank) == (12, 8, 20)
    assert (DyLora(r=8).kept_rank, DyLora(r=8, rank=3).kept_rank) == (8, 3)


def test_lists_become_tuples_and_text_is_no_list() -> None:
    assert Lora(targets=["query", "value"]).targets == ("query", "value")  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        Lora(targets="query")  # type: ignore[arg-type]
