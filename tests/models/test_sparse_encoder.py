"""Weighted terms against SPLADE's formula and against sentence-transformers, on networks of a few thousand weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="needs the extra 'dense'")
pytest.importorskip("transformers", reason="needs the extra 'dense'")
pytest.importorskip("sentence_transformers", reason="needs the extra 'dense'")

from rankpipe.models.runtime import Runtime
from rankpipe.models.sparse_encoder import SparseEncoder, WeightedTerms

MAX = {"pooling_strategy": "max", "activation_function": "relu"}


def opened(folder: Path, runtime: Runtime | None = None, **settings: Any) -> SparseEncoder:
    return SparseEncoder(str(folder), runtime or Runtime(dtype="float32"), **settings)


def dense(found: WeightedTerms, size: int) -> NDArray[np.float32]:
    """(N, V) weights, 0 for terms that a text has not."""
    weights = np.zeros((len(found.offsets) - 1, size), np.float32)
    for row in range(len(weights)):
        part = slice(found.offsets[row], found.offsets[row + 1])
        weights[row, found.terms[part]] = found.weights[part]
    return weights


def logits(folder: Path, text: str) -> NDArray[np.float32]:
    """(T, V) of the network for one text alone, [CLS] and [SEP] included."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    network = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    with torch.no_grad():
        read = tokenizer(text, return_tensors="pt", truncation=True, max_length=64)
        return network(**read).logits[0].numpy()


def test_weights_are_those_of_the_formula(
    tmp_path: Path, tiny_masked_lm: Callable[..., Path], texts: list[str]
) -> None:
    folder = tiny_masked_lm(tmp_path)
    found = dense(opened(folder).documents(texts), 96)
    for row, text in enumerate(texts):
        # SPLADE: the maximum over all positions, those of [CLS] and [SEP] too, of log(1 + relu(logit))
        expected = np.log(1 + np.maximum(logits(folder, text), 0)).max(axis=0)
        assert np.abs(found[row] - expected).max() < 1e-5
    assert 0 < (found > 0).mean() < 0.5


def test_as_many_terms_are_kept_as_the_folder_says(
    tmp_path: Path, tiny_masked_lm: Callable[..., Path], texts: list[str]
) -> None:
    from sentence_transformers import SparseEncoder as Reference

    folder = tiny_masked_lm(tmp_path, pooling={"pooling_strategy": "max"}, described={"max_active_dims": 3})
    found = dense(opened(folder).documents(texts), 96)
    expected = Reference(str(folder), device="cpu").encode_document(texts, convert_to_sparse_tensor=False).numpy()
    assert (found > 0).sum(axis=1).tolist() == [3] * len(texts)
    assert np.abs(found - expected[:, :96]).max() < 1e-5
    assert (dense(opened(folder).documents(texts, 5), 96) > 0).sum(axis=1).tolist() == [5] * len(texts)


def test_positions_of_special_tokens_count_as_in_the_authors_code(
    tmp_path: Path, tiny_masked_lm: Callable[..., Path], texts: list[str]
) -> None:
    folder = tiny_masked_lm(tmp_path)
    found = dense(opened(folder).documents(texts[:1]), 96)[0]
    inner = np.log(1 + np.maximum(logits(folder, texts[0])[1:-1], 0)).max(axis=0)
    assert (found >= inner - 1e-5).all()
    assert (found > inner + 0.01).any()


@pytest.mark.parametrize("pooling", ["max", "sum"])
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
@pytest.mark.parametrize("transformer", ["MLMTransformer", "Transformer"])
def test_weights_equal_those_of_sentence_transformers(
    tmp_path: Path,
    tiny_masked_lm: Callable[..., Path],
    pooling: str,
    activation: str,
    transformer: str,
    texts: list[str],
) -> None:
    from sentence_transformers import SparseEncoder as Reference

    folder = tiny_masked_lm(
        tmp_path,
        pooling={"pooling_strategy": pooling, "activation_function": activation},
        modules=(transformer, "SpladePooling"),
        described={"prompts": {"query": "query: ", "document": "passage: "}},
    )
    if transformer == "Transformer":
        settings = {"max_seq_length": 48, "do_lower_case": False, "transformer_task": "fill-mask"}
        (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    ours, theirs = opened(folder), Reference(str(folder), device="cpu")
    documents = theirs.encode_document(texts, convert_to_sparse_tensor=False).numpy()
    queries = theirs.encode_query(texts, convert_to_sparse_tensor=False).numpy()
    assert np.abs(dense(ours.documents(texts), 96) - documents).max() < 1e-5
    assert np.abs(dense(ours.queries(texts), 96) - queries).max() < 1e-5
    assert not np.array_equal(documents, queries)


@pytest.mark.parametrize("kind", ["DistilBert", "Roberta", "ModernBert"])
def test_other_networks_have_heads_as_well(
    tmp_path: Path, tiny_masked_lm: Callable[..., Path], kind: str, texts: list[str]
) -> None:
    import torch
    import transformers

    folder = tiny_masked_lm(tmp_path)  # of which the tokenizer stays
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    if kind == "DistilBert":
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    numbers = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    config = getattr(transformers, f"{kind}Config")(vocab_size=96, initializer_range=0.5, **sizes, **numbers)
    torch.manual_seed(0)
    getattr(transformers, f"{kind}ForMaskedLM")(config).save_pretrained(folder)
    found = dense(opened(folder).documents(texts), 96)
    for row, text in enumerate(texts):
        expected = np.log(1 + np.maximum(logits(folder, text), 0)).max(axis=0)
        assert np.abs(found[row] - expected).max() < 1e-4  # padded here and not there, with weights this large
    assert (found > 0).any()


@pytest.mark.parametrize("pooling", ["max", "sum"])
def test_padding_adds_nothing(tmp_path: Path, tiny_masked_lm: Callable[..., Path], pooling: str) -> None:
    encoder = opened(tiny_masked_lm(tmp_path, pooling={**MAX, "pooling_strategy": pooling}))
    together = dense(encoder.documents(["x", "car " * 40]), 96)
    assert np.abs(together[0] - dense(encoder.documents(["x"]), 96)[0]).max() < 1e-5


def test_terms_rise_and_weights_are_above_zero(
    tmp_path: Path, tiny_masked_lm: Callable[..., Path], texts: list[str]
) -> None:
    found = opened(tiny_masked_lm(tmp_path)).documents(texts)
    assert (found.weights > 0).all()
    for begin, end in zip(found.offsets, found.offsets[1:], strict=False):
        assert (np.diff(found.terms[begin:end]) > 0).all()


def test_the_greatest_weights_are_kept(tmp_path: Path, tiny_masked_lm: Callable[..., Path], texts: list[str]) -> None:
    encoder = opened(tiny_masked_lm(tmp_path))
    for encode in (encoder.documents, encoder.queries):
        whole, cut = dense(encode(texts), 96), dense(encode(texts, 3), 96)
        assert ((cut > 0).sum(axis=1) == np.minimum((whole > 0).sum(axis=1), 3)).all()
        for all_weights, kept in zip(whole, cut, strict=True):
            assert np.sort(kept)[-3:].tolist() == np.sort(all_weights)[-3:].tolist()
            assert kept[kept > 0].tolist() == all_weights[kept > 0].tolist()


def test_of_equal_weights_the_first_terms_are_kept(tmp_path: Path, tiny_masked_lm: Callable[..., Path]) -> None:
    folder = tiny_masked_lm(tmp_path)
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    for name in ("bert.embeddings.word_embeddings.weight", "cls.predictions.transform.LayerNorm.weight"):
        weights[name][:] = 0
    weights["cls.predictions.transform.LayerNorm.bias"][:] = 0
    weights["cls.predictions.bias"][:] = 1  # now every logit is 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    found = opened(folder).documents(["a road"], 4)
    assert found.terms.tolist() == [0, 1, 2, 3]
    assert found.weights.tolist() == [np.float32(np.log(2))] * 4


def test_bags_hold_every_token_once_and_no_special_ones(tmp_path: Path, tiny_masked_lm: Callable[..., Path]) -> None:
    encoder = opened(tiny_masked_lm(tmp_path))
    found = encoder.bags(["the tree the car", "", "∅ road [SEP]"])
    terms = [encoder.vocabulary[term] for term in found.terms]
    named = [set(terms[a:b]) for a, b in zip(found.offsets, found.offsets[1:], strict=False)]
    assert named == [{"the", "tree", "car"}, set(), {"[UNK]", "road"} | named[2] - {"[SEP]", "[CLS]"}]
    assert set(found.weights.tolist()) == {1.0}
    assert len(terms) == sum(map(len, named))


def test_bags_need_no_weights(tmp_path: Path, tiny_masked_lm: Callable[..., Path]) -> None:
    folder = tiny_masked_lm(tmp_path)
    (folder / "model.safetensors").unlink()
    assert len(opened(folder).bags(["a road"]).terms) == 2


def test_numbers_without_a_token_have_a_name(tmp_path: Path, tiny_masked_lm: Callable[..., Path]) -> None:
    vocabulary = opened(tiny_masked_lm(tmp_path, spare=2)).vocabulary
    assert vocabulary[:3] == ["[PAD]", "[UNK]", "[CLS]"]
    assert vocabulary[95:] == ["tree", "[number 96]", "[number 97]"]


def test_texts_that_are_cut_are_counted(tmp_path: Path, tiny_masked_lm: Callable[..., Path]) -> None:
    # 62 words are 64 tokens with [CLS] and [SEP], which is the limit of the tokenizer
    folder = tiny_masked_lm(tmp_path)
    assert opened(folder).documents(["car " * 62, "car " * 63, "car"]).truncated.tolist() == [False, True, False]
    shorter = opened(folder, max_length=8).documents(["car " * 6, "car " * 7, "car " * 62])
    assert shorter.truncated.tolist() == [False, True, True]


def test_bfloat16_keeps_the_direction_of_float32(
    tmp_path: Path, tiny_masked_lm: Callable[..., Path], texts: list[str]
) -> None:
    folder = tiny_masked_lm(tmp_path)
    full, half = (dense(opened(folder, Runtime(dtype=dtype)).documents(texts), 96) for dtype in ("float32", "bfloat16"))
    cosine = (full * half).sum(axis=1) / np.linalg.norm(full, axis=1) / np.linalg.norm(half, axis=1)
    assert cosine.min() > 0.99


# -- what cannot be opened ------------------------------------------------------------------------------------------------


@pytest.fixture
def message(refused: Callable[[Callable[[], object]], str]) -> Callable[..., str]:
    """`message(folder, **settings)`: why the folder is refused."""
    return lambda folder, **settings: refused(lambda: opened(folder, **settings).queries(["car"]))


def test_weights_without_a_head_are_refused_not_drawn_at_random(
    tmp_path: Path, tiny_encoder: Callable[..., Path], message: Callable[..., str]
) -> None:
    folder = tiny_encoder(tmp_path, pooling=None)
    assert message(folder) == (
        f"model folder {folder} has no masked-language-model head: cls.predictions.bias is not in its safetensors; "
        "take a model made for sparse retrieval, such as SPLADE"
    )


def test_a_network_without_a_masked_form_is_refused(
    tmp_path: Path, tiny_masked_lm: Callable[..., Path], message: Callable[..., str]
) -> None:
    folder = tiny_masked_lm(tmp_path)
    (folder / "config.json").write_text('{"model_type": "gpt2", "n_positions": 64}')
    assert message(folder).startswith(f"model folder {folder} cannot be opened as a masked language model: ")


def test_an_encoder_with_a_decoder_is_refused(
    tmp_path: Path, tiny_masked_lm: Callable[..., Path], message: Callable[..., str]
) -> None:
    folder = tiny_masked_lm(tmp_path)
    (folder / "config.json").write_text(
        '{"model_type": "bart", "is_encoder_decoder": true, "max_position_embeddings": 9}'
    )
    assert message(folder) == (
        f"model folder {folder} is of the type 'bart', an encoder with a decoder, not an encoder"
    )


def test_a_bi_encoder_is_refused_by_its_modules(
    tmp_path: Path, tiny_encoder: Callable[..., Path], message: Callable[..., str]
) -> None:
    folder = tiny_encoder(tmp_path)
    assert message(folder) == (
        f"{folder / 'modules.json'}: the modules are Transformer, Pooling, Normalize; a sparse encoder is supported as "
        "a masked language model (MLMTransformer, or Transformer) and SpladePooling"
    )


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_strategy": "mean"}, "pooling_strategy 'mean' is not known; there are max, sum"),
        ({"activation_function": "gelu"}, "activation_function 'gelu' is not known; there are relu, log1p_relu"),
    ],
)
def test_pooling_that_is_not_known_is_named(
    tmp_path: Path,
    tiny_masked_lm: Callable[..., Path],
    pooling: dict[str, str],
    expected: str,
    message: Callable[..., str],
) -> None:
    folder = tiny_masked_lm(tmp_path, pooling={**MAX, **pooling})
    assert message(folder) == f"{folder / '1_SpladePooling' / 'config.json'}: {expected}"


def test_a_transformer_of_another_task_is_refused(
    tmp_path: Path, tiny_masked_lm: Callable[..., Path], message: Callable[..., str]
) -> None:
    folder = tiny_masked_lm(tmp_path, pooling=MAX, modules=("Transformer", "SpladePooling"))
    (folder / "sentence_bert_config.json").write_text('{"transformer_task": "feature-extraction"}')
    assert message(folder) == (
        f"{folder / 'modules.json'}: the Transformer's task is 'feature-extraction'; before SpladePooling it must be "
        "'fill-mask'"
    )


def test_weights_that_are_not_finite_are_an_error(
    tmp_path: Path, tiny_masked_lm: Callable[..., Path], message: Callable[..., str]
) -> None:
    folder = tiny_masked_lm(tmp_path, bias=float("nan"))
    assert message(folder) == "the network gave weights that are not finite, in float32; its weights are damaged"
