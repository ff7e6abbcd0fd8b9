"""Settings of adapters: one class per method, told apart in a recipe by `method`. Nothing here imports torch."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt, MinLen
from pydantic import ConfigDict, Strict, model_validator
from pydantic.dataclasses import dataclass

ADAPTER_SETTINGS = ConfigDict(extra="forbid", allow_inf_nan=False)
"""Not strict as a whole, so that a map becomes the settings; numbers in them are marked as Strict."""

Whole = Annotated[int, Strict(), Ge(1)]
Positive = Annotated[float, Strict(), Gt(0)]
NotNegative = Annotated[float, Strict(), Ge(0)]
Share = Annotated[float, Strict(), Ge(0), Lt(1)]
Smoothing = Annotated[float, Strict(), Gt(0), Lt(1)]
Switch = Annotated[bool, Strict()]
Name = Annotated[str, Strict(), MinLen(1)]


@dataclass(frozen=True, kw_only=True, config=ADAPTER_SETTINGS)
class Adapter:
    """What the methods have in common: the weight of a layer, (D_out, D_in), is updated by a product of small factors.

    r        rank of the update
    alpha    the update is scaled by alpha / r
    dropout  share of a layer's inputs that the update does not get, in training
    targets  the linear layers that are updated: auto, all but the head's, or names, or the ends of names: query
    """

    method: str = ""
    r: Whole = 16
    alpha: Positive = 32.0
    dropout: Share = 0.0
    targets: Literal["auto"] | Annotated[tuple[Name, ...], MinLen(1)] = "auto"


@dataclass(frozen=True, kw_only=True, config=ADAPTER_SETTINGS)
class Lora(Adapter):
    """Two factors, the first drawn, the second zero at first.

    rslora  scale by alpha / sqrt(r), so that high ranks learn as fast as low ones. Kalajdzievski, "A Rank Stabilization
            Scaling Factor for Fine-Tuning with LoRA", 2023, arXiv:2312.03732
    """

    method: Literal["lora"] = "lora"
    rslora: Switch = False


@dataclass(frozen=True, kw_only=True, config=ADAPTER_SETTINGS)
class Dora(Adapter):
    """LoRA on the direction of each row of a weight, and the rows' lengths trained beside it."""

    method: Literal["dora"] = "dora"


@dataclass(frozen=True, kw_only=True, config=ADAPTER_SETTINGS)
class Pissa(Adapter):
    """LoRA that begins at the largest singular values of the weight, which are taken out of the frozen part."""

    method: Literal["pissa"] = "pissa"


@dataclass(frozen=True, kw_only=True, config=ADAPTER_SETTINGS)
class Olora(Adapter):
    """LoRA that begins at the first columns of the weight's QR decomposition, taken out of the frozen part."""

    method: Literal["olora"] = "olora"


@dataclass(frozen=True, kw_only=True, config=ADAPTER_SETTINGS)
class Eva(Adapter):
    """LoRA whose first factor begins at the principal components of what a layer sees of the training pairs.

    The ranks are shared out, r for each layer on average: more where more components explain the inputs.

    rho    a layer gets at most rho * r ranks
    pairs  training pairs that are looked at
    """

    method: Literal["eva"] = "eva"
    rho: Annotated[float, Strict(), Ge(1)] = 2.0
    pairs: Whole = 256


@dataclass(frozen=True, kw_only=True, config=ADAPTER_SETTINGS)
class AdaLora(Adapter):
    """Two factors and a diagonal between them, whose least important entries become zero as training goes on.

    Weights from before the end of that are not kept, however good they are.

    r              rank of a layer at the end, on average over the layers
    init_r         rank of every layer at first; by default half as much again
    alpha          the update is scaled by alpha / init_r
    start, end     shares of training between which the ranks fall
    every          steps between two decisions
    beta1, beta2   smoothing of an entry's importance, and of its uncertainty
    orthogonality  weight of a penalty that keeps both factors orthogonal
    """

    method: Literal["adalora"] = "adalora"
    init_r: Whole | None = None
    start: Share = 0.1
    end: Annotated[float, Strict(), Gt(0), Lt(1)] = 0.7
    every: Whole = 1
    beta1: Smoothing = 0.85
    beta2: Smoothing = 0.85
    orthogonality: NotNegative = 0.5

    @model_validator(mode="after")
    def _check(self) -> AdaLora:
        if self.first_rank <= self.r:
            raise ValueError(f"init_r is {self.init_r}, must be above r, which is {self.r}")
        if self.end <= self.start:
            raise ValueError(f"end is {self.end}, must be above start, which is {self.start}")
        return self

    @property
    def first_rank(self) -> int:
        """Rank of every layer at first."""
        return self.r + (self.r + 1) // 2 if self.init_r is None else self.init_r


@dataclass(frozen=True, kw_only=True, config=ADAPTER_SETTINGS)
class RandLora(Adapter):
    """A sum of random products, of which only the scales of their rows and columns are trained: full rank.

    r      rank of one product; the smaller it is, the more products and the more parameters there are
    alpha  the update is scaled by alpha / r
    """

    method: Literal["randlora"] = "randlora"
    r: Whole = 32
    alpha: Positive = 640.0


@dataclass(frozen=True, kw_only=True, config=ADAPTER_SETTINGS)
class DyLora(Adapter):
    """LoRA of which every step trains the first b ranks only, b drawn anew, so that any rank can be cut out at the end.

    alpha   the update is scaled by alpha / b
    rank    how many ranks are evaluated and exported; by default all r
    frozen  of the first b ranks, a step trains the last one alone
    """

    method: Literal["dylora"] = "dylora"
    rank: Whole | None = None
    frozen: Switch = False

    @model_validator(mode="after")
    def _check(self) -> DyLora:
        if self.rank is not None and self.rank > self.r:
            raise ValueError(f"rank is {self.rank}, must be at most r, which is {self.r}")
        return self

    @property
    def kept_rank(self) -> int:
        """Ranks that are evaluated and exported."""
        return self.r if self.rank is None else self.rank


@dataclass(frozen=True, kw_only=True, config=ADAPTER_SETTINGS)
class Sora(Adapter):
    """LoRA with a gate for every rank, drawn towards zero: what a layer does not need closes, and is not exported.

    threshold  by how much every step draws a gate towards zero
    l1         weight of the mean size of the gates in the loss
    """

    method: Literal["sora"] = "sora"
    threshold: NotNegative = 3e-4
    l1: NotNegative = 0.0
