"""Models that cannot be used, at the command line: one clear line for each stage, exit status 2 or 1, a usable store."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

for package in ("torch", "transformers", "sentence_transformers"):
    pytest.importorskip(package, reason="needs the extra 'dense'")

Command = Callable[..., Any]
STAGES = {
    "dense": "stages: [dense: {model: MODEL}]",
    "rescore": "stages: [bm25, rescore: {model: MODEL}]",
    "sparse": "stages: [sparse: {model: MODEL}]",
}
ASKING = {
    name: f"stages: [bm25, {name}: {{model: MODEL}}]"
    for name in ("attention", "likelihood", "listwise", "pointwise", "setwise")
}
"""Stages that ask a causal language model."""
WHAT = {"dense": "an encoder", "rescore": "an encoder", "sparse": "a masked language model"}
NETWORK = {"dense": "BertModel", "rescore": "BertModel", "sparse": "BertForMaskedLM"}
PREFIX = {"dense": "", "rescore": "", "sparse": "bert."}

every_stage = pytest.mark.parametrize("stage", STAGES)
every_asking_stage = pytest.mark.parametrize("stage", ASKING)
every_one = pytest.mark.parametrize("stage", [*STAGES, *ASKING])


@pytest.fixture
def write(
    tiny_encoder: Callable[..., Path], tiny_masked_lm: Callable[..., Path], tiny_causal_lm: Callable[..., Path]
) -> dict[str, Callable[..., Path]]:
    """What writes a model for each stage."""
    encoders = {"dense": tiny_encoder, "rescore": tiny_encoder, "sparse": tiny_masked_lm}
    return {**encoders, **dict.fromkeys(ASKING, tiny_causal_lm)}


@pytest.fixture
def refused(
    rankpipe: Command, pets: Path, store: Path, write: dict[str, Callable[..., Path]]
) -> Callable[[str, str | Path, str], None]:
    """`refused("dense", model, "error: ...")`: search, index and run all fail so, and a good model works afterwards."""

    def check(stage: str, model: str | Path, message: str, status: int = 2) -> None:
        file = pets.parent / "p.yaml"
        file.write_text({**STAGES, **ASKING}[stage].replace("MODEL", str(model)))
        assert rankpipe("check", file).status == 0  # it loads no model
        data = ("--dataset", pets)
        assert rankpipe("search", file, "cat", *data) == (status, "", f"{message}\n")
        assert rankpipe("index", file, *data) == (status, "", f"{message}\n")
        assert rankpipe("run", file, *data, "--output", pets.parent / "out") == (status, "", f"{message}\n")
        assert not (pets.parent / "out").exists()
        file.write_text({**STAGES, **ASKING}[stage].replace("MODEL", str(write[stage](pets.parent / "good"))))
        assert rankpipe("search", file, "cat", *data).status == 0
        assert [path.name for path in store.rglob(".building-*")] == []

    return check


def configured(folder: Path, **changed: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    return folder


@every_one
def test_a_folder_that_is_not_there(refused: Callable[..., None], tmp_path: Path, stage: str) -> None:
    refused(stage, tmp_path / "none", f"error: there is no model folder '{tmp_path / 'none'}'")


@every_one
def test_a_folder_that_is_no_model(refused: Callable[..., None], tmp_path: Path, pets: Path, stage: str) -> None:
    refused(stage, pets, f"error: model folder {pets} has no config.json")
    file = pets / "corpus.jsonl"
    is_file = f"error: model '{file}' is a file; a model is a folder with config.json and its weights, or a .gguf file"
    refused(stage, file, is_file)


@every_one
def test_a_name_that_nobody_knows(refused: Callable[..., None], monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read when it was imported
    refused(
        stage,
        "minilmm",
        "error: there is no model folder 'minilmm', and no alias of that name (minilm, smollm2); did you mean 'minilm'?; "
        "HF_HUB_OFFLINE is set, and its copy of the hub's 'minilmm' is not in the cache",
    )


@every_one
def test_truncated_weights(
    refused: Callable[..., None], tmp_path: Path, write: dict[str, Callable[..., Path]], stage: str
) -> None:
    weights = write[stage](tmp_path / "model") / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 100)
    refused(
        stage,
        weights.parent,
        f"error: {weights} is damaged or cut short: Error while deserializing header: incomplete metadata, file not "
        "fully covered",
    )
    weights.write_bytes(b"")
    cut = f"error: {weights} is damaged or cut short: Error while deserializing header: header too small"
    refused(stage, weights.parent, cut)
    weights.unlink()
    refused(stage, weights.parent, f"error: model folder {weights.parent} holds no weights (*.safetensors)")


@every_stage
def test_weights_of_another_architecture(
    refused: Callable[..., None], tmp_path: Path, write: dict[str, Callable[..., Path]], stage: str
) -> None:
    folder = configured(write[stage](tmp_path / "model"), num_hidden_layers=3)
    refused(
        stage,
        folder,
        f"error: model folder {folder}: 16 weights of a {NETWORK[stage]}, which its config.json describes, are not in "
        f"its safetensors; the first is {PREFIX[stage]}encoder.layer.2.attention.output.LayerNorm.bias",
    )
    configured(folder, num_hidden_layers=2, max_position_embeddings=32)
    refused(
        stage,
        folder,
        f"error: model folder {folder}: its config.json and its weights do not fit each other: "
        f"{PREFIX[stage]}embeddings.position_embeddings.weight has the shape (64, 32), and should have (32, 32)",
    )
    configured(folder, model_type="roberta")
    refused(
        stage,
        folder,
        f"error: {folder / 'config.json'} says model_type 'roberta' and architectures {NETWORK[stage]}, which is of "
        "the type 'bert'; one of the two is wrong",
    )
    configured(folder, model_type="bart", architectures=["BartModel"], is_encoder_decoder=True)
    refused(
        stage,
        folder,
        f"error: model folder {folder} is of the type 'bart', an encoder with a decoder, not an encoder",
    )
    configured(folder, model_type="no-such", architectures=["NoSuch"], is_encoder_decoder=False)
    refused(
        stage,
        folder,
        f"error: model folder {folder} cannot be opened as {WHAT[stage]}: The checkpoint you are trying to load has "
        "model type `no-such` but Transformers does not recognize this architecture. This could be because of an issue "
        "with the checkpoint, or because your version of Transformers is out of date.",
    )


@every_stage
def test_a_model_made_for_another_stage(
    refused: Callable[..., None], tmp_path: Path, write: dict[str, Callable[..., Path]], stage: str
) -> None:
    if stage == "sparse":
        folder = write["dense"](tmp_path / "model")
        said = (
            f"{folder / 'modules.json'}: the modules are Transformer, Pooling, Normalize; a sparse encoder is supported "
            "as a masked language model (MLMTransformer, or Transformer) and SpladePooling"
        )
    else:
        folder = write["sparse"](tmp_path / "model")
        said = (
            f"model folder {folder} is a plain BertForMaskedLM without modules.json, so it does not say how its tokens "
            "become one vector; choose the setting 'pooling' (cls, max, mean, mean_sqrt_len_tokens, weightedmean, "
            "lasttoken), or take a model made for retrieval"
        )
    refused(stage, folder, f"error: {said}")


@every_stage
def test_weights_that_are_no_numbers(
    rankpipe: Command, pets: Path, tmp_path: Path, write: dict[str, Callable[..., Path]], stage: str
) -> None:
    from safetensors.torch import load_file, save_file

    folder = write[stage](tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights[f"{PREFIX[stage]}encoder.layer.1.output.dense.bias"][:] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "p.yaml").write_text(STAGES[stage].replace("MODEL", str(folder)))
    search = ("search", tmp_path / "p.yaml", "cat", "--dataset", pets, "--dtype")
    what = "weights" if stage == "sparse" else "vectors"
    less = "choose dtype float32"
    for dtype, hint in (("float32", "its weights are damaged"), ("bfloat16", less), ("int8", less)):
        said = f"error: the network gave {what} that are not finite, in {dtype}; {hint}\n"
        assert rankpipe(*search, dtype) == (1, "", said)


@pytest.mark.parametrize("stage", ["dense", "rescore"])
def test_vectors_of_another_dimension(
    rankpipe: Command, pets: Path, tmp_path: Path, tiny_encoder: Callable[..., Path], stage: str
) -> None:
    model, small = tiny_encoder(tmp_path / "model"), tiny_encoder(tmp_path / "small", hidden=16)
    file = tmp_path / "p.yaml"

    def said(settings: str) -> Any:
        first = "" if stage == "dense" else "bm25, "
        file.write_text(f"stages: [{first}{stage}: {{model: {model}, {settings}}}]")
        return rankpipe("search", file, "cat", "--dataset", pets)

    assert said(f"query_model: {small}") == (
        2,
        "",
        f"error: query_model '{small}' gives vectors of 16 dimensions, model '{model}' of 32; they must fit each other\n",
    )
    assert said("dimensions: 33") == (2, "", f"error: dimensions is 33; the vectors of '{model}' have 32\n")
    weights = tiny_encoder(tmp_path / "model", dense=(24, "Tanh")) / "2_Dense" / "model.safetensors"
    tiny_encoder(tmp_path / "other", hidden=16, dense=(24, "Tanh"))
    (tmp_path / "other" / "2_Dense" / "model.safetensors").replace(weights)
    assert said("depth: 5" if stage == "rescore" else "k: 5") == (
        2,
        "",
        f"error: {weights} takes vectors of 16 dimensions, and is given 32\n",
    )


@pytest.mark.parametrize("stage", ["dense", "rescore"])
def test_a_router_with_other_routes(
    refused: Callable[..., None], tmp_path: Path, tiny_router: Callable[..., Path], stage: str
) -> None:
    path = tiny_router(tmp_path / "model") / "router_config.json"
    path.write_text(path.read_text().replace('"document"', '"passage"'))
    refused(stage, path.parent, f"error: {path}: the routes are query, passage; they must be query and document")


def test_terms_of_another_vocabulary(
    rankpipe: Command, pets: Path, tmp_path: Path, tiny_masked_lm: Callable[..., Path]
) -> None:
    model, other = tiny_masked_lm(tmp_path / "model"), tiny_masked_lm(tmp_path / "other", spare=3)
    (tmp_path / "p.yaml").write_text(f"stages: [sparse: {{model: {model}, query_model: {other}}}]")
    assert rankpipe("search", tmp_path / "p.yaml", "cat", "--dataset", pets) == (
        2,
        "",
        f"error: query_model '{other}' has another vocabulary than model '{model}'; their terms must be the same\n",
    )


@every_asking_stage
def test_a_model_that_is_no_causal_language_model(
    refused: Callable[..., None], tmp_path: Path, tiny_masked_lm: Callable[..., Path], stage: str
) -> None:
    folder = tiny_masked_lm(tmp_path / "model")
    refused(stage, folder, f"error: model folder {folder} is a BertForMaskedLM, which is no causal language model")


@every_asking_stage
def test_a_language_model_without_its_head(
    refused: Callable[..., None], tmp_path: Path, tiny_causal_lm: Callable[..., Path], stage: str
) -> None:
    from safetensors.torch import load_file, save_file

    path = tiny_causal_lm(tmp_path / "model") / "model.safetensors"
    weights = load_file(path)
    del weights["lm_head.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    refused(
        stage,
        path.parent,
        f"error: model folder {path.parent} has no language-model head: lm_head.weight is not in its safetensors; take a "
        "causal language model",
    )


@every_asking_stage
def test_a_language_model_whose_weights_are_no_numbers(
    rankpipe: Command, pets: Path, tmp_path: Path, tiny_causal_lm: Callable[..., Path], stage: str
) -> None:
    from safetensors.torch import load_file, save_file

    path = tiny_causal_lm(tmp_path / "model") / "model.safetensors"
    weights = load_file(path)
    weights["model.layers.0.input_layernorm.weight"][:] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    (tmp_path / "p.yaml").write_text(ASKING[stage].replace("MODEL", str(path.parent)))
    search = ("search", tmp_path / "p.yaml", "cat", "--dataset", pets, "--dtype")
    for dtype, hint in (("float32", "its weights are damaged"), ("bfloat16", "choose dtype float32")):
        what = "attention" if stage == "attention" else "logits"
        said = f"error: the network gave {what} that {'is' if stage == 'attention' else 'are'} not finite, in {dtype}; {hint}\n"
        assert rankpipe(*search, dtype) == (1, "", said)
