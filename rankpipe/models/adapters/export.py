"""Adapters on disk. Whatever was trained, what is saved is a plain LoRA with the head, where there is a low rank."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from peft import LoraConfig, PeftConfig, TaskType
from safetensors.torch import save_file
from torch import Tensor, nn

PREFIX = "base_model.model."
"""What peft puts before a name in a network, in its files and in its own view of the network."""

Factors = Mapping[str, tuple[Tensor, Tensor]]
"""By the name of a linear layer, B (D_out, r) and A (r, D_in): its weight's update is B A."""

METHOD = "method"
"""Key of the metadata of adapter_model.safetensors that names a method whose first ranks can be cut out."""


def write_lora(
    folder: Path, base: str, factors: Factors, head: Mapping[str, nn.Module], *, method: str | None = None
) -> None:
    """Write a plain LoRA, its scale being 1, with the modules of the head as they are.

    method  that is named in the file; None: none

    Layers may have different ranks; one of rank 0 is left out. Where all are, one stays, with an update of zero: peft
    opens no adapter that has none.
    """
    kept = {name: pair for name, pair in sorted(factors.items()) if pair[1].shape[0]}
    if not kept:
        name, (b, a) = min(factors.items())
        kept = {name: (b.new_zeros(b.shape[0], 1), a.new_zeros(1, a.shape[1]))}
    ranks = {name: a.shape[0] for name, (_, a) in kept.items()}
    ((usual, _),) = Counter(ranks.values()).most_common(1)
    others = {name: rank for name, rank in ranks.items() if rank != usual}
    config = LoraConfig(
        r=usual, lora_alpha=usual, rank_pattern=others, alpha_pattern=dict(others), target_modules=list(kept)
    )
    tensors = {}
    for name, (b, a) in kept.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = a
        tensors[f"{PREFIX}{name}.lora_B.weight"] = b
    write(folder, base, config, tensors, head, method=method)


def write(
    folder: Path,
    base: str,
    config: PeftConfig,
    tensors: Mapping[str, Tensor],
    head: Mapping[str, nn.Module],
    *,
    method: str | None = None,
) -> None:
    """Write an adapter in peft's format: its configuration, its tensors by peft's names for them, and the head."""
    folder.mkdir(parents=True, exist_ok=True)
    config.task_type = TaskType.SEQ_CLS
    config.base_model_name_or_path = base
    config.inference_mode = True
    config.modules_to_save = list(head)  # type: ignore[attr-defined]
    config.target_modules = sorted(config.target_modules)  # type: ignore[attr-defined] - a set has no order of its own
    config.save_pretrained(str(folder))
    weights = dict(tensors)
    for module, part in head.items():
        weights.update({f"{PREFIX}{module}.{name}": value for name, value in part.state_dict().items()})
    save_file(
        {name: value.detach().cpu().contiguous() for name, value in weights.items()},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt", **({} if method is None else {METHOD: method})},
    )
