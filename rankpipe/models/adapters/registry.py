"""The registry of adapter methods: what there is, where it comes from, what it is for. Nothing here imports torch.

A method is listed when it works, or when there is a reason why it never will (tier N).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import BeforeValidator, Field

from rankpipe.errors import UsageError
from rankpipe.models.adapters import settings as of
from rankpipe.models.references import need_extra


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One method.

    tier      F: first class; X: experimental; N: listed for its reason only, and cannot be chosen
    source    where it was published
    code      what computes it: peft, or rankpipe itself; None for tier N
    settings  its class of settings; None for tier N
    build     "module:function" that puts it on a network; None for tier N
    export    what is saved: "lora", a plain LoRA whatever was trained; "peft", the method's own format in peft, since
              its update has no low rank; None for tier N
    reason    what it is for in ranking, or why it is for nothing there
    """

    name: str
    tier: Literal["F", "X", "N"]
    source: str
    code: Literal["peft", "rankpipe"] | None = None
    settings: type[of.Adapter] | None = None
    build: str | None = None
    export: Literal["lora", "peft"] | None = None
    reason: str

    def builder(self) -> Callable[..., Any]:
        """Import what puts the method on a network. Raises UsageError with the reason for tier N."""
        if self.build is None:
            raise UsageError(f"adapter method '{self.name}' cannot be chosen: {self.reason}")
        module, _, function = self.build.partition(":")
        return getattr(import_module(module), function)


METHODS = (
    Entry(
        name="lora",
        tier="F",
        source='Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, arXiv:2106.09685',
        code="peft",
        settings=of.Lora,
        build="rankpipe.models.adapters.library:lora",
        export="lora",
        reason="the one to begin with; `rslora` for ranks above 16 or so",
    ),
    Entry(
        name="dora",
        tier="F",
        source='Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", 2024, arXiv:2402.09353',
        code="peft",
        settings=of.Dora,
        build="rankpipe.models.adapters.library:dora",
        export="peft",
        reason="meant to come closer to full fine-tuning at small ranks; its steps are slower",
    ),
    Entry(
        name="pissa",
        tier="F",
        source='Meng et al., "PiSSA: Principal Singular Values and Singular Vectors Adaptation of Large Language Models", '
        "2024, arXiv:2404.02948",
        code="peft",
        settings=of.Pissa,
        build="rankpipe.models.adapters.library:pissa",
        export="lora",
        reason="meant to learn faster than LoRA; exported with twice the rank",
    ),
    Entry(
        name="olora",
        tier="F",
        source='Büyükakyüz, "OLoRA: Orthonormal Low-Rank Adaptation of Large Language Models", 2024, arXiv:2406.01775',
        code="peft",
        settings=of.Olora,
        build="rankpipe.models.adapters.library:olora",
        export="lora",
        reason="as pissa, by a cheaper decomposition; exported with twice the rank",
    ),
    Entry(
        name="eva",
        tier="F",
        source='Paischer et al., "One Initialization to Rule them All: Fine-tuning via Explained Variance Adaptation", '
        "2024, arXiv:2410.07170",
        code="rankpipe",
        settings=of.Eva,
        build="rankpipe.models.adapters.eva:eva",
        export="lora",
        reason="begins at what training pairs look like inside the network, and gives ranks where they vary most",
    ),
    Entry(
        name="adalora",
        tier="F",
        source='Zhang et al., "AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", 2023, arXiv:2303.10512',
        code="peft",
        settings=of.AdaLora,
        build="rankpipe.models.adapters.allocate:adalora",
        export="lora",
        reason="finds which layers need rank; seldom better than LoRA of as many parameters",
    ),
    Entry(
        name="sora",
        tier="F",
        source='Ding et al., "Sparse Low-rank Adaptation of Pre-trained Language Models", 2023, arXiv:2311.11696',
        code="rankpipe",
        settings=of.Sora,
        build="rankpipe.models.adapters.core:sora",
        export="lora",
        reason="finds each layer's rank while it learns: a small adapter without a search",
    ),
    Entry(
        name="dylora",
        tier="F",
        source='Valipour et al., "DyLoRA: Parameter-Efficient Tuning using Dynamic Search-Free Low-Rank Adaptation", 2022, '
        "arXiv:2210.07558",
        code="rankpipe",
        settings=of.DyLora,
        build="rankpipe.models.adapters.core:dylora",
        export="lora",
        reason="trained once, cut to any rank afterwards, as memory allows",
    ),
    Entry(
        name="randlora",
        tier="F",
        source='Albert et al., "RandLoRA: Full-rank parameter-efficient fine-tuning of large models", 2025, arXiv:2502.00987',
        code="peft",
        settings=of.RandLora,
        build="rankpipe.models.adapters.library:randlora",
        export="peft",
        reason="full rank by few parameters, for wide layers; those of small encoders are not wide",
    ),
    Entry(
        name="sltrain",
        tier="N",
        source='Han et al., "SLTrain: a sparse plus low-rank approach for parameter and memory efficient pretraining", '
        "2024, arXiv:2406.02214",
        reason="trains a network from nothing, and a ranker starts from a pretrained one",
    ),
    Entry(
        name="adadfq",
        tier="N",
        source='Qian et al., "Adaptive Data-Free Quantization", CVPR 2023, arXiv:2303.06869',
        reason="calibrates quantisation on generated images, and a ranker has texts to calibrate on",
    ),
    Entry(
        name="lora-limits",
        tier="N",
        source='Hu et al., "Computational Limits of Low-Rank Adaptation (LoRA) Fine-Tuning for Transformer Models", '
        "2024, arXiv:2406.03136",
        reason="proves what no algorithm can do, so there is nothing to run",
    ),
)
"""In the order of the table: what is closest to plain LoRA first, tier N last."""


def entry(name: str) -> Entry:
    """The method of a name. Raises UsageError for an unknown one, with names that are near it."""
    for one in METHODS:
        if one.name == name:
            return one
    raise UsageError(f"no adapter method is called '{name}'{_nearest(name)}")


def need_peft(settings: of.Adapter) -> None:
    """Raise MissingExtraError where peft, which puts every method on a network, is not installed."""
    need_extra(f"adapter method '{settings.method}'", ("peft",), "peft", "train")


def entry_of(settings: of.Adapter) -> Entry:
    """The method that settings belong to."""
    return entry(settings.method)


def _nearest(name: str) -> str:
    names = [one.name for one in METHODS if one.settings is not None]
    near = get_close_matches(name.lower(), names)
    if near:
        return f"; did you mean {' or '.join(map(repr, near))}?"
    return f"; there are: {', '.join(names)}"


def _check_method(given: Any) -> Any:
    """Refuse a method that there is not, or that cannot be chosen, before its settings are looked at."""
    name = given.get("method") if isinstance(given, dict) else None
    if not isinstance(name, str):
        return given
    try:
        found = entry(name)
        if found.settings is None:
            found.builder()
    except UsageError as error:
        raise ValueError(str(error)) from None
    return given


if TYPE_CHECKING:
    AdapterSettings = of.Adapter
else:
    AdapterSettings = Annotated[
        Union[tuple(one.settings for one in METHODS if one.settings is not None)],  # noqa: UP007
        Field(discriminator="method"),
        BeforeValidator(_check_method),
    ]
"""The setting `adapter` of a recipe: a map with `method` and the settings of that method's class."""
