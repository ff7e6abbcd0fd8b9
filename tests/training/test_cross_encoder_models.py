"""Models that the training of a cross-encoder begins with: which heads it goes on from, and what it refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'dense'")

from rankpipe import Runtime  # noqa: E402
from rankpipe.models.cross_encoder import CrossEncoderScorer  # noqa: E402
from rankpipe.models.network import set_padding  # noqa: E402
from rankpipe.models.pair_recipe import PairSettings  # noqa: E402
from rankpipe.training.networks import set_dropout  # noqa: E402
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
        f"error: model folder {model} is a classifier of 3 classes, and a head of one class is trained over texts; take "
        "a model with a single class, or an encoder without a head"
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


def test_a_classifier_of_tokens_is_refused(train: Any, tiny_encoder: Callable[..., Path], tmp_path: Path) -> None:
    from transformers import BertForTokenClassification

    model = tiny_encoder(tmp_path / "model", pooling=None)
    BertForTokenClassification.from_pretrained(model, num_labels=9).save_pretrained(model)
    done = train(model)
    assert done.status == 2
    assert done.err.splitlines()[-1] == (
        f"error: model folder {model} is a classifier of tokens (BertForTokenClassification), and a head of one class is "
        "trained over texts; take a model with a single class, or an encoder without a head"
    )


def test_an_adapter_of_a_causal_language_model_brings_its_head(
    garden: Path,
    recipe_file: Callable[..., Path],
    rankpipe: Callable[..., Any],
    tiny_causal_lm: Callable[..., Path],
    tmp_path: Path,
) -> None:
    base, recipe = tiny_causal_lm(tmp_path / "base", kind="Qwen3"), recipe_file(LABELS, more="adapter: {method: lora}")
    done = rankpipe("train", recipe, "--dataset", garden, "--output", tmp_path / "out", "--model", base)
    assert done.status == 0, done.err
    pairs = np.array([(0, 0), (0, 1)])
    found = [
        CrossEncoderScorer(str(folder), PairSettings(), Runtime(dtype="float32"), adapter=adapter)
        .score(["apple"], ["the apple is sweet", "a road"], pairs)
        .scores.tolist()
        for folder, adapter in ((tmp_path / "out", None), (base, str(tmp_path / "out" / "adapter")))
    ]
    assert found[1] == pytest.approx(found[0], abs=1e-5)
    assert found[0][0] != found[0][1]


def test_a_missing_package_is_told_before_candidates_are_searched(
    garden: Path,
    recipe_file: Callable[..., Path],
    rankpipe: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    recipe = recipe_file(LABELS, more="adapter: {method: lora}")
    done = rankpipe("train", recipe, "--dataset", garden, "--output", tmp_path / "out")
    assert done.status == 1
    assert done.err.splitlines() == [
        "error: adapter method 'lora' needs peft: install rankpipe with its extra 'train', for example pip install "
        "'.[train]'"
    ]


SMALL = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}
NETWORKS: dict[str, dict[str, Any]] = {
    "Bert": {"intermediate_size": 64},
    "Longformer": {"intermediate_size": 64, "attention_window": 4},
    "ModernBert": {"intermediate_size": 64, "attention_dropout": 0.5, "mlp_dropout": 0.5},
    "OPT": {"ffn_dim": 64, "word_embed_proj_dim": 32, "attention_dropout": 0.5},
    "XLM": {"emb_dim": 32, "n_layers": 2, "n_heads": 4},
    "Falcon": {"attention_dropout": 0.5, "hidden_dropout": 0.5},
    "GPTNeo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global"], 2]], "attention_dropout": 0.5},
    "GPTJ": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "attn_pdrop": 0.5},
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_dropout_is_the_share_that_is_asked_for_wherever_a_network_keeps_it(kind: str) -> None:
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SMALL, **NETWORKS[kind], num_labels=1)
    network = getattr(transformers, f"{kind}ForSequenceClassification")(config).train()
    ids = torch.arange(1, 13)[None]

    def differ() -> bool:
        with torch.no_grad():
            return not torch.equal(network(input_ids=ids).logits, network(input_ids=ids).logits)

    set_dropout(network, 0.3)
    assert differ()
    set_dropout(network, 0.0)
    assert not differ()
