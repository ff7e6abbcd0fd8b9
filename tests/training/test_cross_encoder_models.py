"""Models that the training of a cross-encoder begins with: which heads it goes on from, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'dense'")

from rankpipe.models.network import set_padding  # noqa: E402
from rankpipe.training.scoring import PairScorer  # noqa: E402

LABELS = "  - labels: {group: 4, steps: 2, learning_rate: 1.0e-3}"


@pytest.fixture
def train(garden: Path, recipe_file: Callable[..., Path], rankpipe: Callable[..., Any], tmp_path: Path) -> Any:
    """`train(model)` trains it for two steps into tmp_path / "out"."""

    def call(model: Path) -> Any:
        return rankpipe(
            "train", recipe_file(LABELS), "--dataset", garden, "--output", tmp_path / "out", "--model", model
        )

    return call


def qwen(**named: Any) -> Any:
    """A sequence classifier that is a decoder."""
    from transformers import Qwen3Config, Qwen3ForSequenceClassification

    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    more = {"vocab_size": 96, "intermediate_size": 64, "initializer_range": 0.2, "num_labels": 1}
    return Qwen3ForSequenceClassification(Qwen3Config(**{**sizes, **more, **named}))


def test_a_head_that_is_drawn_is_told(train: Any, tmp_path: Path) -> None:
    done = train(tmp_path / "encoder")
    assert done.status == 0, done.err
    told = f"{tmp_path / 'encoder'} has no classifier.bias, classifier.weight: drawn by the seed 0"
    assert told in done.err.splitlines()


def test_a_classifier_is_tuned_further_and_draws_nothing(
    train: Any, tiny_cross_encoder: Callable[..., Path], tmp_path: Path
) -> None:
    done = train(tiny_cross_encoder(tmp_path / "model"))
    assert done.status == 0, done.err
    assert "drawn by" not in done.err
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["drawn_weights"] == []


@pytest.mark.parametrize("kind", ["Dense", "LogitScore"])
def test_a_cross_encoder_that_would_lose_its_head_is_refused(
    kind: str, train: Any, tiny_encoder: Callable[..., Path], tiny_causal_lm: Callable[..., Path], tmp_path: Path
) -> None:
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling

    modules: list[Any]
    if kind == "Dense":
        body = Transformer(str(tiny_encoder(tmp_path / "body", pooling=None)))
        modules = [body, Pooling(32, "mean"), Dense(32, 1, module_output_name="scores")]
    else:
        body = Transformer(str(tiny_causal_lm(tmp_path / "body")), transformer_task="text-generation")
        modules = [body, LogitScore(5, 6)]
    model = tmp_path / "model"
    CrossEncoder(modules=modules, device="cpu").save_pretrained(str(model), create_model_card=False)
    done = train(model)
    assert done.status == 2
    assert done.err.splitlines()[-1] == (
        f"error: model folder {model} scores by {kind}, behind its Transformer; only a Transformer's own head can be "
        "tuned further: take a sequence classifier, or an encoder, which is given a new head"
    )
    assert not (tmp_path / "out").exists()


def test_a_head_over_several_classes_is_refused(
    train: Any, tiny_cross_encoder: Callable[..., Path], tmp_path: Path
) -> None:
    model = tiny_cross_encoder(tmp_path / "model", labels=("no", "maybe", "yes"))
    done = train(model)
    assert done.status == 2
    assert done.err.splitlines()[-1] == (
        f"error: model folder {model} is a classifier of 3 classes, and a head of one is trained; take a model with a "
        "single class, or an encoder without a head"
    )


@pytest.mark.parametrize("token", ["apple", "[SEP]"])
def test_a_tokenizer_of_another_model_is_refused(
    token: str, train: Any, tiny_cross_encoder: Callable[..., Path], tmp_path: Path
) -> None:
    model = tiny_cross_encoder(tmp_path / "model")
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"][token] = 96
    for added in tokenizer["added_tokens"]:
        added["id"] = tokenizer["model"]["vocab"][added["content"]]
    for name, special in tokenizer["post_processor"].get("special_tokens", {}).items():
        special["ids"] = [tokenizer["model"]["vocab"][name]]
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    done = train(model)
    assert done.status == 2
    assert done.err.splitlines()[-1] == (
        f"error: model folder {model}: its tokenizer gives tokens the numbers up to 96, and its network knows 96 tokens; "
        "they are not of one model"
    )


def test_a_decoder_whose_configuration_names_no_padding_gets_that_of_its_tokenizer(
    train: Any, tiny_cross_encoder: Callable[..., Path], tmp_path: Path
) -> None:
    model = tiny_cross_encoder(tmp_path / "model")  # whose tokenizer pads with the token 0
    (model / "model.safetensors").unlink()
    qwen(pad_token_id=None).save_pretrained(model)
    told = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(
        json.dumps({**told, "model_input_names": ["input_ids", "attention_mask"]})
    )
    assert "pad_token_id" not in {
        name for name, value in json.loads((model / "config.json").read_text()).items() if value is not None
    }
    done = train(model)
    assert done.status == 0, done.err
    assert json.loads((tmp_path / "out" / "config.json").read_text())["pad_token_id"] == 0


@pytest.mark.parametrize(
    ("stated", "pad", "end", "expected"), [(5, 6, 7, 5), (0, 6, 7, 0), (None, 6, 7, 6), (None, None, 7, 7)]
)
def test_a_token_of_a_text_is_not_taken_for_padding(stated: Any, pad: Any, end: Any, expected: int) -> None:
    network = qwen(pad_token_id=stated).eval()
    assert set_padding(network, SimpleNamespace(pad_token_id=pad, eos_token_id=end)) == expected
    last = 0 if expected else 1
    given = [(np.array([8] * length + [last]), np.zeros(length + 1, np.int64)) for length in (2, 5, 9)]
    scorer = PairScorer(network, device=torch.device("cpu"), dtype=torch.float32, batch_tokens=None)
    with torch.no_grad():
        alone = [float(network(input_ids=torch.tensor(ids)[None]).logits) for ids, _ in given]
        assert scorer(given).tolist() == pytest.approx(alone, abs=1e-5)
