"""DyLoRA cut to a rank: the adapter of that rank, as peft and the stage open it, and what cannot be cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra 'dense'")
pytest.importorskip("peft", reason="needs the extra 'train'")

from peft import PeftModel

from rankpipe.errors import ModelError, RankpipeError, UsageError
from rankpipe.models.adapter_folder import merged
from rankpipe.models.adapters.attached import attach
from rankpipe.models.adapters.cut import cut
from rankpipe.models.adapters.settings import DyLora, Lora


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # what peft asks of transformers
@pytest.mark.parametrize(("saved", "rank"), [(None, 1), (None, 4), (None, 6), (4, 3)])
def test_a_cut_adapter_is_the_first_ranks(
    opened: Callable[[], Any],
    classifier: Path,
    train: Callable[..., list[float]],
    pairs: Any,
    tmp_path: Path,
    saved: int | None,
    rank: int,
) -> None:
    attached = attach(opened(), DyLora(r=6, alpha=12, rank=saved), seed=0)
    train(attached, steps=10)
    attached.export(tmp_path / "whole", str(classifier))
    (tmp_path / "whole" / "sentence_bert_config.json").write_text('{"max_seq_length": 48}')
    whole = pairs.scores(attached.network)
    for _, layer in attached.layers():  # type: ignore[attr-defined]
        layer.kept = rank
    expected = pairs.scores(attached.network)
    assert (rank == 6) == bool((whole - expected).abs().max() < 1e-3)  # else the test would see nothing

    cut(tmp_path / "whole", rank=rank, output=tmp_path / "cut")
    told = json.loads((tmp_path / "cut" / "adapter_config.json").read_text())
    assert (told["peft_type"], told["r"], told["lora_alpha"]) == ("LORA", rank, rank)
    assert (tmp_path / "cut" / "sentence_bert_config.json").read_text() == '{"max_seq_length": 48}'
    by_peft = PeftModel.from_pretrained(opened(), tmp_path / "cut").eval()
    by_stage = merged(opened(), tmp_path / "cut", classifier, [])
    for network in (by_peft, by_stage):
        assert (pairs.scores(network) - expected).abs().max() < 1e-5


def test_what_cannot_be_cut_is_refused(opened: Callable[[], Any], classifier: Path, tmp_path: Path) -> None:
    def refused(kind: type[RankpipeError], name: str, rank: int = 1, output: str = "cut") -> str:
        with pytest.raises(kind) as caught:
            cut(tmp_path / name, rank=rank, output=tmp_path / output)
        assert not (tmp_path / "cut").exists()
        return str(caught.value)

    attach(opened(), DyLora(r=4), seed=0).export(tmp_path / "dylora", str(classifier))
    attach(opened(), Lora(r=4), seed=0).export(tmp_path / "lora", str(classifier))
    for rank in (0, 5):
        assert refused(UsageError, "dylora", rank) == (
            f"rank is {rank}, and the adapter {tmp_path / 'dylora'} has 4 ranks; choose one from 1 to 4"
        )
    assert refused(ModelError, "lora") == (
        f"adapter {tmp_path / 'lora'} was not trained by dylora, so its first ranks are no adapter by themselves; train "
        "one with `adapter: {method: dylora}`"
    )
    assert "exists already" in refused(UsageError, "dylora", output="lora")
    (tmp_path / "dylora" / "adapter_model.safetensors").write_bytes(b"no tensors")
    assert "is damaged or cut short" in refused(ModelError, "dylora")
