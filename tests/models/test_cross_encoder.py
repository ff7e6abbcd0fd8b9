"""Scores of cross-encoders against transformers, sentence-transformers and peft, on networks of a few thousand weights."""

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="needs the extra 'dense'")
pytest.importorskip("sentence_transformers", reason="needs the extra 'dense'")

from rankpipe.models.cross_encoder import CrossEncoderScorer
from rankpipe.models.pair_recipe import PairSettings
from rankpipe.models.runtime import Runtime

QUERIES = ["sweet fruit", "", "the road " * 40, "car?\n"]
FULL = Runtime(dtype="float32")
Texts = Sequence[str]


def opened(
    folder: Path, runtime: Runtime = FULL, *, adapter: Path | None = None, **settings: Any
) -> CrossEncoderScorer:
    return CrossEncoderScorer(
        str(folder), PairSettings(**settings), runtime, adapter=None if adapter is None else str(adapter)
    )


def every(queries: Texts, documents: Texts) -> NDArray[np.int64]:
    """(P, 2) rows of all pairs."""
    return np.stack(np.meshgrid(range(len(queries)), range(len(documents)), indexing="ij"), -1).reshape(-1, 2)


def scores(scorer: CrossEncoderScorer, documents: Texts, queries: Texts = QUERIES) -> NDArray[np.float32]:
    return scorer.score(queries, documents, every(queries, documents)).scores


def predicted(folder: Path, documents: Texts, *, queries: Texts = QUERIES, **settings: Any) -> NDArray[np.float32]:
    """Logits of sentence-transformers, of all classes where there are several."""
    import torch
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(folder), device="cpu", local_files_only=True, **settings)
    pairs = [(query, document) for query in queries for document in documents]
    return model.predict(pairs, activation_fn=torch.nn.Identity())


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SMALL = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "init_std": 0.2,
}
DECODER = {**SIZES, "num_key_value_heads": 2, "head_dim": 8}
NUMBERS = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}


def write(folder: Path, name: str, vocabulary: int = 96, **sizes: Any) -> Path:
    """Write a network of a class of transformers, beside a tokenizer that is there."""
    import torch
    import transformers

    config = getattr(transformers, f"{name.partition('For')[0]}Config")(
        vocab_size=vocabulary, **{"initializer_range": 0.2, "max_position_embeddings": 64, **NUMBERS, **sizes}
    )
    torch.manual_seed(0)
    getattr(transformers, name)(config).save_pretrained(folder)
    return folder


def of_class(name: str, folder: Path) -> Path:
    """The tiny BERT of a folder, or another class of network in its place, whose tokens have no types."""
    if name.startswith("Bert"):
        return folder
    told(folder, model_input_names=["input_ids", "attention_mask"])
    return write(folder, name, **SIZES, num_labels=1)


def told(folder: Path, name: str = "tokenizer_config.json", **changed: Any) -> None:
    """Change a JSON file of a folder."""
    path = folder / name
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**content, **changed}))


# -- classifiers ----------------------------------------------------------------------------------------------------------


def test_scores_equal_those_of_sentence_transformers(
    tmp_path: Path, tiny_cross_encoder: Callable[..., Path], texts: list[str]
) -> None:
    folder = tiny_cross_encoder(tmp_path)
    found, expected = scores(opened(folder), texts), predicted(folder, texts)
    assert np.abs(found - expected).max() < 1e-5
    assert found.std() > 0.1


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("RobertaForSequenceClassification", {**SIZES, "type_vocab_size": 1, "max_position_embeddings": 80}),
        ("DistilBertForSequenceClassification", SMALL),
        ("ElectraForSequenceClassification", {**SIZES, "embedding_size": 16}),
        ("ModernBertForSequenceClassification", {**SIZES, "global_attn_every_n_layers": 2}),
        ("DebertaV2ForSequenceClassification", {**SIZES, "type_vocab_size": 2}),
        ("BartForSequenceClassification", BART),
        ("Qwen3ForSequenceClassification", DECODER),
        ("GPT2ForSequenceClassification", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    ],
)
def test_other_networks_are_classifiers_too(
    tmp_path: Path, tiny_cross_encoder: Callable[..., Path], texts: list[str], name: str, sizes: dict[str, Any]
) -> None:
    folder = tiny_cross_encoder(tmp_path)  # of which the tokenizer stays
    if name.partition("For")[0] not in ("Electra", "DebertaV2"):
        told(folder, model_input_names=["input_ids", "attention_mask"])
    write(folder, name, **sizes, num_labels=1)
    found, expected = scores(opened(folder), texts), predicted(folder, texts)
    assert np.abs(found - expected).max() < 1e-5
    assert found.std() > 0.01


def test_a_folder_that_sentence_transformers_saved_is_read(
    tmp_path: Path, tiny_cross_encoder: Callable[..., Path], texts: list[str]
) -> None:
    from sentence_transformers import CrossEncoder

    plain, saved = tiny_cross_encoder(tmp_path / "plain"), tmp_path / "saved"
    model = CrossEncoder(str(plain), device="cpu", max_length=24, prompts={"p": "the tree "}, default_prompt_name="p")
    model.save_pretrained(str(saved), create_model_card=False)
    expected = predicted(saved, texts)
    assert np.abs(scores(opened(saved), texts) - expected).max() < 1e-5
    assert np.abs(expected - predicted(saved, texts, prompts={"p": ""})).max() > 0.01
    assert np.abs(scores(opened(saved, query_prompt="road"), texts) - expected).max() > 0.01
    assert opened(saved).key()["max_length"] == 24


def test_a_probability_is_the_sigmoid_of_the_logit(
    tmp_path: Path, tiny_cross_encoder: Callable[..., Path], texts: list[str]
) -> None:
    folder = tiny_cross_encoder(tmp_path)
    logits, probabilities = scores(opened(folder), texts), scores(opened(folder, scores="probability"), texts)
    assert np.allclose(probabilities, 1 / (1 + np.exp(-logits)), atol=1e-7)
    assert [opened(folder, scores=kind).key()["scores"] for kind in ("logit", "probability")] == [
        "logit",
        "probability",
    ]


@pytest.mark.parametrize("problem", ["regression", "multi_label_classification"])
def test_classes_that_do_not_exclude_each_other_are_scored_by_themselves(
    tmp_path: Path, tiny_cross_encoder: Callable[..., Path], texts: list[str], problem: str
) -> None:
    folder = tiny_cross_encoder(tmp_path, labels=("relevant", "fresh"))
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "problem_type": problem}))
    logits = predicted(folder, texts)[:, 0]
    assert np.abs(scores(opened(folder, label="relevant"), texts) - logits).max() < 1e-5
    sigmoid = 1 / (1 + np.exp(-logits.astype(np.float64)))
    assert np.abs(scores(opened(folder, label=0, scores="probability"), texts) - sigmoid).max() < 1e-5


@pytest.mark.parametrize("label", [1, "neutral"])
def test_of_several_classes_one_is_scored_by_its_odds(
    tmp_path: Path, tiny_cross_encoder: Callable[..., Path], texts: list[str], label: str | int
) -> None:
    folder = tiny_cross_encoder(tmp_path, labels=("contradiction", "neutral", "entailment"))
    logits = predicted(folder, texts).astype(np.float64)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = scores(opened(folder, label=label, scores="probability"), texts)
    assert np.abs(found - softmax[:, 1]).max() < 1e-5
    odds = np.log(softmax[:, 1] / (1 - softmax[:, 1]))
    assert np.abs(scores(opened(folder, label=label), texts) - odds).max() < 1e-5


def test_an_encoder_with_pooling_and_a_layer_of_scores_is_read(
    tmp_path: Path, tiny_encoder: Callable[..., Path], texts: list[str]
) -> None:
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer

    plain, saved = tiny_encoder(tmp_path / "plain", pooling=None), tmp_path / "saved"
    torch.manual_seed(0)
    layer = Dense(16, 1, activation_function=torch.nn.Identity(), module_output_name="scores")
    modules = [Transformer(str(plain)), Pooling(32, "cls"), Dense(32, 16), layer]
    CrossEncoder(modules=modules, device="cpu").save_pretrained(str(saved), create_model_card=False)
    found, expected = scores(opened(saved), texts), predicted(saved, texts)
    assert np.abs(found - expected).max() < 1e-5
    assert found.std() > 0.01


# -- a score depends on nothing else --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("name", ["BertForSequenceClassification", "RobertaForSequenceClassification"])
def test_a_pair_has_the_same_score_whatever_is_scored_with_it(
    tmp_path: Path, tiny_cross_encoder: Callable[..., Path], texts: list[str], name: str, dtype: Any
) -> None:
    folder = of_class(name, tiny_cross_encoder(tmp_path))
    pairs = every(QUERIES, texts)
    scorer = opened(folder, Runtime(dtype=dtype))
    together = scorer.score(QUERIES, texts, pairs).scores
    for runtime in (Runtime(dtype=dtype, batch_tokens=1), Runtime(dtype=dtype, batch_tokens=100, threads=1)):
        assert np.array_equal(opened(folder, runtime).score(QUERIES, texts, pairs).scores, together)
    order = np.random.default_rng(7).permutation(len(pairs))
    assert np.array_equal(scorer.score(QUERIES, texts, np.concatenate([pairs, pairs])[order]).scores, together[order])
    for place, (query, document) in enumerate(pairs):
        alone = scorer.score([QUERIES[query]], [texts[document]], np.zeros((1, 2), np.int64))
        assert np.array_equal(alone.scores, together[place : place + 1])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("name", ["BertForSequenceClassification", "RobertaForSequenceClassification"])
def test_a_pair_has_the_same_score_however_many_are_scored_with_it(
    tmp_path: Path, tiny_cross_encoder: Callable[..., Path], texts: list[str], name: str, dtype: Any
) -> None:
    folder = of_class(name, tiny_cross_encoder(tmp_path))
    scorer = opened(folder, Runtime(dtype=dtype, threads=1, batch_tokens=100_000))  # all of them are one batch
    alone = scores(scorer, texts[:1], QUERIES[:1])
    for count in (2, 3, 5, 17, 18, 19, 21, 22, 23, 37):
        assert np.array_equal(scores(scorer, texts[:1] * count, QUERIES[:1]), np.repeat(alone, count))


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "DistilBertForSequenceClassification"])
def test_few_pairs_are_shared_among_the_cores(
    tmp_path: Path, tiny_cross_encoder: Callable[..., Path], texts: list[str], name: str
) -> None:
    import torch
    from torch.nn.modules.module import register_module_forward_pre_hook

    folder = tiny_cross_encoder(tmp_path)
    if name.startswith("DistilBert"):
        told(folder, model_input_names=["input_ids", "attention_mask"])
        write(folder, name, **SMALL, num_labels=1)
    one, eight = (opened(folder, Runtime(dtype="float32", threads=threads)) for threads in (1, 8))
    computed: list[tuple[int, int]] = []

    def note(module: torch.nn.Module, _: Any) -> None:
        if isinstance(module, torch.nn.Embedding) and module.num_embeddings == 96:
            computed.append((threading.get_ident(), torch.get_num_threads()))

    with register_module_forward_pre_hook(note):
        found = scores(eight, texts, QUERIES[:1])
    assert 4 <= len(computed) <= 8
    assert threading.get_ident() not in [thread for thread, _ in computed]
    assert {threads for _, threads in computed} == {1}
    assert np.array_equal(found, scores(one, texts, QUERIES[:1]))


def test_a_network_that_pads_computes_no_more_than_its_lengths_rounded_up(
    tmp_path: Path, tiny_cross_encoder: Callable[..., Path]
) -> None:
    import torch
    from torch.nn.modules.module import register_module_forward_pre_hook

    folder = tiny_cross_encoder(tmp_path)
    told(folder, model_input_names=["input_ids", "attention_mask"])
    scorer = opened(write(folder, "DistilBertForSequenceClassification", **SMALL, num_labels=1))
    computed: list[int] = []

    def count(module: torch.nn.Module, given: tuple[Any, ...]) -> None:
        if isinstance(module, torch.nn.Embedding) and module.num_embeddings == 96:
            computed.append(given[0].numel())

    with register_module_forward_pre_hook(count):
        scores(scorer, ["car " * words for words in (1, 9, 11, 20, 30, 44, 60)], ["fruit"])
    # a word of the query and 3 tokens around; the last is cut to the 64 tokens that the network reads
    assert sum(computed) == sum((16, 16, 16, 32, 48, 48, 64))


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu"])
def test_less_precision_stays_close_to_float32(
    tmp_path: Path, tiny_cross_encoder: Callable[..., Path], texts: list[str], activation: str
) -> None:
    # the first three are computed by rankpipe.models.bert where the processor can, the last by transformers
    folder = tiny_cross_encoder(tmp_path)
    told(folder, "config.json", hidden_act=activation)
    dtypes: list[Any] = ["float32", "bfloat16", "int8"]
    full, half, eighth = (scores(opened(folder, Runtime(dtype=dtype)), texts) for dtype in dtypes)
    assert np.abs(full - predicted(folder, texts)).max() < 1e-5
    assert 0.999 < np.corrcoef(full, half)[0, 1] < 1
    assert 0.99 < np.corrcoef(full, eighth)[0, 1] < 1


def test_progress_counts_pairs(tmp_path: Path, tiny_cross_encoder: Callable[..., Path], texts: list[str]) -> None:
    scorer = opened(tiny_cross_encoder(tmp_path), Runtime(dtype="float32", batch_tokens=60), windows="max")
    done: list[int] = []
    pairs = every(QUERIES, texts)
    scorer.score(QUERIES, texts, pairs, done.append)
    assert sum(done) == len(pairs)
    assert len(done) > 1


# -- documents that are too long --------------------------------------------------------------------------------------------

# [CLS] and two [SEP] stand around; max_length 12 leaves 9 tokens, the query of 2 words 7 of them
LONG = "the apple road car tree the sweet fruit the apple"


def test_windows_are_documents_of_their_own_and_the_greatest_score_counts(
    tmp_path: Path, tiny_cross_encoder: Callable[..., Path]
) -> None:
    folder = tiny_cross_encoder(tmp_path)
    # stride 3: words 1 to 7, 4 to 10
    windows = ["the apple road car tree the sweet", "car tree the sweet fruit the apple"]
    alone = scores(opened(folder, max_length=12), windows, ["sweet car"])
    found = opened(folder, max_length=12, windows="max").score(["sweet car"], [LONG, "a car"], every("q", "ab"))
    assert abs(found.scores[0] - alone.max()) < 1e-6
    assert found.windows.tolist() == [int(alone.argmax()), 0]
    assert found.scores[1:] == scores(opened(folder, max_length=12), ["a car"], ["sweet car"])
    assert not found.truncated.any()


def test_every_beginning_of_a_window_is_a_stride_behind_the_one_before(
    tmp_path: Path, tiny_cross_encoder: Callable[..., Path]
) -> None:
    folder = tiny_cross_encoder(tmp_path)
    words = LONG.split()
    windows = [" ".join(words[begin : begin + 7]) for begin in (0, 1, 2, 3)]
    alone = scores(opened(folder, max_length=12), windows, ["sweet car"])
    found = opened(folder, max_length=12, windows="max", stride=1).score(["sweet car"], [LONG], every("q", "a"))
    assert abs(found.scores[0] - alone.max()) < 1e-6
    # a stride of more than a window leaves out nothing
    farther = opened(folder, max_length=12, windows="max", stride=99).score(["sweet car"], [LONG], every("q", "a"))
    apart = scores(opened(folder, max_length=12), [" ".join(words[:7]), " ".join(words[7:])], ["sweet car"])
    assert abs(farther.scores[0] - apart.max()) < 1e-6


def test_the_best_window_holds_most_of_the_query(tmp_path: Path, tiny_cross_encoder: Callable[..., Path]) -> None:
    folder = tiny_cross_encoder(tmp_path)
    # of windows "the apple road car tree the sweet" and "car tree the sweet fruit the apple" only the second has fruit
    found = opened(folder, max_length=12, windows="best").score(["the fruit"], [LONG, "a car"], every("q", "ab"))
    alone = scores(opened(folder, max_length=12), ["car tree the sweet fruit the apple", "a car"], ["the fruit"])
    assert np.abs(found.scores - alone).max() < 1e-6
    assert found.windows.tolist() == [1, 0]
    assert found.truncated.sum() == 1


def test_a_prompt_before_the_query_does_not_choose_the_best_window(
    tmp_path: Path, tiny_cross_encoder: Callable[..., Path]
) -> None:
    # the same two windows: with the prompt's words, both would hold as much, and the first would be taken
    scorer = opened(tiny_cross_encoder(tmp_path), max_length=13, windows="best", query_prompt="apple road ")
    assert scorer.score(["fruit"], [LONG], every("q", "a")).windows.tolist() == [1]


def test_a_query_that_is_too_long_keeps_half_of_the_room(
    tmp_path: Path, tiny_cross_encoder: Callable[..., Path]
) -> None:
    folder = tiny_cross_encoder(tmp_path)
    # of 9 tokens 5 are for the query, and 4 for a window; two words apart
    words = LONG.split()
    windows = [" ".join(words[begin : begin + 4]) for begin in (0, 2, 4, 6)]
    alone = scores(opened(folder, max_length=12), windows, ["road car tree car road"])
    found = opened(folder, max_length=12, windows="max").score(["road car tree car road the"], [LONG], every("q", "a"))
    assert abs(found.scores[0] - alone.max()) < 1e-6
    assert found.truncated.sum() == 1


def test_pairs_that_are_cut_are_counted(tmp_path: Path, tiny_cross_encoder: Callable[..., Path]) -> None:
    # 59 words, 2 of the query and 3 tokens around are 64, the limit
    documents = ["car " * 59, "car " * 60, "car"]
    found = opened(tiny_cross_encoder(tmp_path)).score(["sweet fruit"], documents, every("q", "abc"))
    assert found.truncated.sum() == 1
    assert found.scores[0] == found.scores[1]


# -- what is refused ------------------------------------------------------------------------------------------------------


def test_a_tokenizer_that_is_larger_than_its_network_is_refused(
    tmp_path: Path, tiny_cross_encoder: Callable[..., Path], refused: Callable[[Callable[[], object]], str]
) -> None:
    from transformers import AutoTokenizer

    folder = tiny_cross_encoder(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    size = len(tokenizer)
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(folder)
    scorer = opened(folder)
    for query, document in (("zebra", "a car"), ("a car", "zebra")):
        assert refused(lambda query=query, document=document: scores(scorer, [document], [query])) == (
            f"model folder {folder}: its tokenizer gives tokens the numbers up to {size}, and its network knows {size} "
            "tokens; they are not of one model"
        )
    assert np.isfinite(scores(scorer, ["a car"], ["fruit"])).all()


@pytest.mark.parametrize(
    ("dtype", "remedy"), [("float32", "its weights are damaged"), ("bfloat16", "choose dtype float32")]
)
def test_scores_that_are_not_finite_name_the_model_and_what_to_do(
    tmp_path: Path,
    tiny_cross_encoder: Callable[..., Path],
    refused: Callable[[Callable[[], object]], str],
    dtype: Any,
    remedy: str,
) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny_cross_encoder(tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    scorer = opened(folder, Runtime(dtype=dtype))
    assert refused(lambda: scores(scorer, ["a car"], ["fruit"])) == (
        f"model '{folder}' gave scores that are not finite, in {dtype}; {remedy}"
    )
