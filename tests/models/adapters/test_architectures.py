"""Networks that are built otherwise than BERT: what their head is, and that it comes back with the adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra 'dense'")
pytest.importorskip("peft", reason="needs the extra 'train'")

import torch
import transformers
from transformers import AutoModelForSequenceClassification

from rankpipe.models.adapters.attached import attach
from rankpipe.models.adapters.settings import Lora

SMALL = {"vocab_size": 80, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_labels": 1}
WIDE = {**SMALL, "intermediate_size": 64, "max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("kind", "described", "head"),
    [
        ("Roberta", WIDE, ("classifier",)),
        ("Electra", {**WIDE, "embedding_size": 32}, ("classifier",)),
        ("DebertaV2", WIDE, ("pooler", "classifier")),
        (
            "DistilBert",
            {"vocab_size": 80, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "num_labels": 1},
            ("pre_classifier", "classifier"),
        ),
        ("ModernBert", {**WIDE, "pad_token_id": 0}, ("head", "classifier")),
        ("Qwen3", {**WIDE, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}, ("score",)),
    ],
)
def test_the_head_comes_back_with_the_adapter(
    tmp_path: Path, kind: str, described: dict[str, Any], head: tuple[str, ...]
) -> None:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**described)
    base = AutoModelForSequenceClassification.from_config(config)
    base.save_pretrained(tmp_path / "base")
    attached = attach(base, Lora(r=2), seed=0)
    assert attached.head == head
    for value in attached.state_dict().values():
        value.normal_(std=0.1)
    ids = torch.randint(5, 80, (3, 10), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    attached.export(tmp_path / "adapter", str(tmp_path / "base"))
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path / "adapter", num_labels=1).eval()
    with torch.no_grad():
        scores = attached.network.eval()(**inputs).logits
        assert (opened(**inputs).logits - scores).abs().max() < 1e-5
        assert (attached.merged()(**inputs).logits - scores).abs().max() < 1e-5
        assert (scores[0] - scores[1]).abs() > 1e-3
