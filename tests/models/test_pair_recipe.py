"""What cannot be opened as a cross-encoder, and what is said of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra 'dense'")
pytest.importorskip("transformers", reason="needs the extra 'dense'")

from rankpipe.models.cross_encoder import CrossEncoderScorer
from rankpipe.models.pair_recipe import PairSettings
from rankpipe.models.runtime import Runtime

Refused = Callable[[Callable[[], object]], str]
Write = Callable[..., Path]


@pytest.fixture
def message(refused: Refused) -> Callable[..., str]:
    """`message(folder, label=1)`: what is said where it is opened with these settings."""

    def call(folder: Path, **settings: Any) -> str:
        return refused(lambda: CrossEncoderScorer(str(folder), PairSettings(**settings), Runtime()))

    return call


def told(folder: Path, name: str, **changed: Any) -> None:
    path = folder / name
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**content, **changed}))


def test_a_network_without_a_head_is_refused_not_drawn_at_random(
    tmp_path: Path, tiny_encoder: Write, message: Callable[..., str]
) -> None:
    folder = tiny_encoder(tmp_path, pooling=None)
    assert message(folder) == (
        f"model folder {folder} has no head of a sequence classifier: classifier.bias is not in its safetensors; take a "
        "model that was trained to re-rank, or an adapter with a head"
    )


def test_half_a_head_is_refused_too(tmp_path: Path, tiny_cross_encoder: Write, message: Callable[..., str]) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny_cross_encoder(tmp_path)
    weights = load_file(folder / "model.safetensors")
    without = {name: value for name, value in weights.items() if name != "bert.pooler.dense.weight"}
    save_file(without, folder / "model.safetensors", metadata={"format": "pt"})
    assert message(folder) == (
        f"model folder {folder}: 1 weights of a BertForSequenceClassification, which its config.json describes, are not "
        "in its safetensors; the first is bert.pooler.dense.weight"
    )


def test_a_bi_encoder_is_refused_by_its_modules(
    tmp_path: Path, tiny_encoder: Write, message: Callable[..., str]
) -> None:
    folder = tiny_encoder(tmp_path)
    assert message(folder) == (
        f"{folder / 'modules.json'}: the modules are Transformer, Pooling, Normalize, a bi-encoder, which makes vectors of "
        "texts and no scores of pairs; the stage 'rescore' takes it, or 'cross-encoder' with an adapter that was "
        "trained on it"
    )


def test_other_modules_are_refused_by_name(tmp_path: Path, tiny_masked_lm: Write, message: Callable[..., str]) -> None:
    folder = tiny_masked_lm(tmp_path, pooling={"pooling_strategy": "max"})
    assert message(folder) == (
        f"{folder / 'modules.json'}: the modules are MLMTransformer, SpladePooling; they must begin with Transformer"
    )
    told(folder, "sentence_bert_config.json", transformer_task="fill-mask")
    path = folder / "modules.json"
    path.write_text(path.read_text().replace("MLMTransformer", "Transformer"))
    assert message(folder) == (
        f"{folder / 'modules.json'}: the modules are Transformer, SpladePooling, the Transformer's task fill-mask; a "
        "cross-encoder is supported as a Transformer for sequence-classification, one for text-generation with "
        "LogitScore, or one for feature-extraction with Pooling and Dense layers that give scores"
    )


def test_weights_of_another_architecture_are_refused(
    tmp_path: Path, tiny_cross_encoder: Write, message: Callable[..., str]
) -> None:
    folder = tiny_cross_encoder(tmp_path)
    told(folder, "config.json", num_hidden_layers=3)
    assert message(folder).startswith(
        f"model folder {folder}: 16 weights of a BertForSequenceClassification, which its config.json describes, "
    )
    told(folder, "config.json", num_hidden_layers=2, hidden_size=64)
    assert message(folder).startswith(f"model folder {folder}: its config.json and its weights do not fit each other: ")
    told(folder, "config.json", hidden_size=32, model_type="roberta")
    assert message(folder) == (
        f"{folder / 'config.json'} says model_type 'roberta' and architectures BertForSequenceClassification, which is "
        "of the type 'bert'; one of the two is wrong"
    )


def test_a_network_without_a_classifier_is_refused(
    tmp_path: Path, tiny_cross_encoder: Write, message: Callable[..., str]
) -> None:
    folder = tiny_cross_encoder(tmp_path)
    (folder / "config.json").write_text('{"model_type": "swin", "max_position_embeddings": 64}')
    assert message(folder).startswith(f"model folder {folder} cannot be opened as a sequence classifier: ")


def test_weights_that_are_cut_short_or_pickled_are_refused(
    tmp_path: Path, tiny_cross_encoder: Write, message: Callable[..., str]
) -> None:
    folder = tiny_cross_encoder(tmp_path)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert message(folder).startswith(f"{path} is damaged or cut short: ")
    path.rename(folder / "pytorch_model.bin")
    assert message(folder) == (
        f"model folder {folder} has its weights only as a pickle (pytorch_model.bin), which can run code when it is "
        "loaded; convert them to safetensors"
    )


def test_a_folder_that_is_not_there_or_empty_is_said(
    tmp_path: Path, tiny_cross_encoder: Write, message: Callable[..., str]
) -> None:
    assert message(tmp_path / "nowhere") == f"there is no model folder '{tmp_path / 'nowhere'}'"
    assert message(tmp_path) == f"model folder {tmp_path} has no config.json"
    folder = tiny_cross_encoder(tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert message(folder, max_length=32).startswith(f"model folder {folder} has no tokenizer: none of ")


def test_which_of_several_classes_is_meant_has_to_be_said(
    tmp_path: Path, tiny_cross_encoder: Write, message: Callable[..., str]
) -> None:
    folder = tiny_cross_encoder(tmp_path, labels=("no", "yes"))
    assert message(folder) == f"model '{folder}' has 2 classes; choose the setting 'label': 0 (no), 1 (yes)"
    assert message(folder, label="maybe") == f"label is 'maybe'; model '{folder}' has 0 (no), 1 (yes)"
    assert message(folder, label=2) == f"label is 2; model '{folder}' has 0 (no), 1 (yes)"


def test_a_length_beyond_the_networks_positions_is_refused(
    tmp_path: Path, tiny_cross_encoder: Write, message: Callable[..., str]
) -> None:
    folder = tiny_cross_encoder(tmp_path)
    assert message(folder, max_length=65) == f"max_length is 65; the network {folder} reads 64 tokens"


def test_settings_of_another_kind_of_model_are_refused(
    tmp_path: Path, tiny_cross_encoder: Write, message: Callable[..., str]
) -> None:
    folder = tiny_cross_encoder(tmp_path)
    assert message(folder, answers=("yes",)) == (
        f"'answers' are those of a causal language model, and {folder} is none"
    )
    told(folder, "config.json", architectures=["BertLMHeadModel"])
    assert message(folder, prompt="{query} {document}", label=0) == (
        f"'label' is that of a classifier; {folder} is a causal language model"
    )


def test_types_that_the_network_does_not_know_are_refused(
    tmp_path: Path, tiny_cross_encoder: Write, message: Callable[..., str]
) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny_cross_encoder(tmp_path)
    told(folder, "config.json", type_vocab_size=1)
    weights = load_file(folder / "model.safetensors")
    name = "bert.embeddings.token_type_embeddings.weight"
    weights[name] = weights[name][:1].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert message(folder) == (
        f"model folder {folder}: its tokenizer tells the texts of a pair apart by token types, and its network knows but "
        "one (type_vocab_size 1)"
    )


@pytest.mark.parametrize("prompt", ["{query}", "{document}", "{query} {document} {document}", "query document"])
def test_a_prompt_has_places_for_both_texts(
    tmp_path: Path, tiny_cross_encoder: Write, message: Callable[..., str], prompt: str
) -> None:
    folder = tiny_cross_encoder(tmp_path)
    assert message(folder, prompt=prompt) == "the prompt must hold {query}, and {document} once"


def test_an_adapter_that_names_no_network_asks_for_it(tmp_path: Path, message: Callable[..., str]) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    assert message(tmp_path) == (
        f"{tmp_path / 'adapter_config.json'} names no network (base_model_name_or_path); choose 'model' and 'adapter'"
    )
