"""Vectors of bi-encoders against those of sentence-transformers, on networks of a few thousand weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'dense'")
pytest.importorskip("sentence_transformers", reason="needs the extra 'dense'")

from rankpipe.errors import ModelError, RankpipeError, UsageError
from rankpipe.models.batching import batches, distinct
from rankpipe.models.bi_encoder import BiEncoder, EncoderSettings
from rankpipe.models.runtime import Runtime
from rankpipe.models.tokens import Windows

TEXTS = [
    "The apple is a sweet fruit.",
    "",
    "a road",
    "car " * 100,  # longer than the limit
    "Trees, roads: sweet-ness? 12.5",
    "the tree the tree the apple the car",
    "∅ \x00",
    "x",
]
PROMPTS = {"prompts": {"query": "query: ", "document": "passage: "}}


def opened(folder: Path, runtime: Runtime | None = None, **settings: Any) -> BiEncoder:
    return BiEncoder(str(folder), EncoderSettings(**settings), runtime or Runtime(dtype="float32"))


def reference(folder: Path, **settings: Any) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", **settings)


@pytest.mark.parametrize(
    "made",
    [
        {},
        {"normalise": False},
        {"pooling": "cls"},
        {"pooling": "max", "normalise": False},
        {"pooling": "mean_sqrt_len_tokens", "normalise": False},
        {"pooling": "weightedmean"},
        {"pooling": "lasttoken"},
        {"pooling": ["cls", "mean"]},
        {"dense": (24, "Tanh")},
        {"dense": (40, "GELU"), "normalise": False},
        {"described": PROMPTS},
        {"described": PROMPTS, "include_prompt": False},
        {"described": PROMPTS, "include_prompt": False, "pooling": ["cls", "weightedmean"]},
    ],
    ids=str,
)
def test_vectors_equal_those_of_sentence_transformers(
    tmp_path: Path, tiny_encoder: Callable[..., Path], made: dict[str, Any]
) -> None:
    folder = tiny_encoder(tmp_path, **made)
    ours, theirs = opened(folder, similarity="dot"), reference(folder)
    assert np.abs(ours.documents(TEXTS).vectors - theirs.encode_document(TEXTS)).max() < 1e-5
    assert np.abs(ours.queries(TEXTS) - theirs.encode_query(TEXTS)).max() < 1e-5


def test_the_first_dimensions_are_kept_and_then_normalised(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    folder = tiny_encoder(tmp_path)
    ours = opened(folder, dimensions=8)
    expected = reference(folder, truncate_dim=8).encode(TEXTS, normalize_embeddings=True)
    assert np.abs(ours.documents(TEXTS).vectors - expected).max() < 1e-5
    assert ours.dimensions == 8


def test_prompts_of_the_pipeline_stand_above_those_of_the_folder(
    tmp_path: Path, tiny_encoder: Callable[..., Path]
) -> None:
    folder = tiny_encoder(tmp_path, described=PROMPTS)
    ours = opened(folder, query_prompt="the road ", document_prompt="")
    theirs = reference(folder)
    assert np.abs(ours.queries(TEXTS) - theirs.encode(TEXTS, prompt="the road ")).max() < 1e-5
    assert np.abs(ours.documents(TEXTS).vectors - theirs.encode(TEXTS, prompt="")).max() < 1e-5


def test_pooling_of_the_pipeline_stands_above_that_of_the_folder(
    tmp_path: Path, tiny_encoder: Callable[..., Path]
) -> None:
    ours = opened(tiny_encoder(tmp_path / "a"), pooling="cls")
    other = opened(tiny_encoder(tmp_path / "b", pooling="cls"))
    assert np.array_equal(ours.queries(TEXTS), other.queries(TEXTS))


def test_similarity_decides_whether_vectors_are_normalised(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    raw = tiny_encoder(tmp_path / "raw", normalise=False, described={"similarity_fn_name": "dot"})

    def lengths(encoder: BiEncoder) -> np.ndarray:
        return np.linalg.norm(encoder.documents(TEXTS).vectors, axis=1)

    assert np.allclose(lengths(opened(raw, similarity="cosine")), 1)
    assert np.allclose(lengths(opened(raw, normalise=True)), 1)
    assert not np.allclose(lengths(opened(raw)), 1)
    unit = tiny_encoder(tmp_path / "unit", described={"similarity_fn_name": "dot"})
    assert np.allclose(lengths(opened(unit)), 1)
    assert not np.allclose(lengths(opened(unit, normalise=False)), 1)


def test_texts_that_are_cut_are_counted(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    # 46 words are 48 tokens with [CLS] and [SEP], which is the limit
    encoded = opened(tiny_encoder(tmp_path)).documents(["car " * 46, "car " * 47, "car"])
    assert encoded.truncated == 1
    assert np.array_equal(encoded.vectors[0], encoded.vectors[1])


def test_max_length_moves_the_limit_within_the_networks_positions(
    tmp_path: Path, tiny_encoder: Callable[..., Path]
) -> None:
    folder = tiny_encoder(tmp_path)
    assert opened(folder, max_length=50).documents(["car " * 47]).truncated == 0
    with pytest.raises(UsageError, match=r"max_length is 65; the network .* reads 64 tokens"):
        opened(folder, max_length=65)


def test_windows_are_texts_of_their_own(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    # a window of 6 has room for 4 words between [CLS] and [SEP]; windows begin 3 words apart, the last ends the text
    encoder = opened(tiny_encoder(tmp_path), windows=Windows(size=6, stride=3))
    encoded = encoder.documents(["the apple road car tree the sweet", "the apple road car", ""])
    assert encoded.offsets.tolist() == [0, 2, 3, 4]
    assert encoded.truncated == 0
    alone = opened(tmp_path).documents(["the apple road car", "car tree the sweet", "the apple road car", ""])
    assert np.abs(encoded.vectors - alone.vectors).max() < 1e-6


def test_every_window_has_the_prompt(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    # room for 4 tokens: "passage" and ":", then 2 words
    encoder = opened(tiny_encoder(tmp_path, described=PROMPTS), windows=Windows(size=6, stride=1))
    encoded = encoder.documents(["apple road car"])
    alone = opened(tmp_path).documents(["apple road", "road car"])
    assert np.abs(encoded.vectors - alone.vectors).max() < 1e-6


def test_a_stride_that_would_leave_text_out_is_refused(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    encoder = opened(tiny_encoder(tmp_path), windows=Windows(size=6, stride=5))
    with pytest.raises(UsageError, match="a window of 6 tokens has room for 4 of a text, so a stride of 5"):
        encoder.documents(["car"])


def test_a_prompt_that_leaves_no_room_is_refused(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    encoder = opened(tiny_encoder(tmp_path), query_prompt="car " * 46)
    with pytest.raises(UsageError, match="has 46 tokens, and leaves no room for a text of 46 tokens"):
        encoder.queries(["car"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_query_has_the_same_vector_whatever_is_asked_with_it(
    tmp_path: Path, tiny_encoder: Callable[..., Path], dtype: Any
) -> None:
    encoder = opened(tiny_encoder(tmp_path), Runtime(dtype=dtype))
    together = encoder.queries(TEXTS * 3)
    for place, text in enumerate(TEXTS):
        assert np.array_equal(encoder.queries([text])[0], together[place])


def test_shuffled_documents_have_the_same_vectors(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    encoder = opened(tiny_encoder(tmp_path), Runtime(dtype="float32", batch_tokens=100))
    order = np.random.default_rng(7).permutation(len(TEXTS))
    shuffled = encoder.documents([TEXTS[place] for place in order]).vectors
    assert np.array_equal(shuffled, encoder.documents(TEXTS).vectors[order])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_equal_texts_have_equal_vectors(tmp_path: Path, tiny_encoder: Callable[..., Path], dtype: Any) -> None:
    encoder = opened(tiny_encoder(tmp_path), Runtime(dtype=dtype), windows=Windows(size=6, stride=3))
    done: list[int] = []
    encoded = encoder.documents([*TEXTS, *TEXTS[::-1], *TEXTS[::2]], done.append)
    of_text = [encoded.vectors[a:b] for a, b in zip(encoded.offsets, encoded.offsets[1:], strict=False)]
    for place, text in enumerate([*TEXTS[::-1], *TEXTS[::2]], start=len(TEXTS)):
        assert np.array_equal(of_text[place], of_text[TEXTS.index(text)])
    assert sum(done) == len(of_text) == 20


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu"])
def test_bfloat16_keeps_the_direction_of_float32(
    tmp_path: Path, tiny_encoder: Callable[..., Path], activation: str
) -> None:
    # the first three are computed by rankpipe.models.bert, the last by transformers
    folder = tiny_encoder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": activation}))
    full, half = (opened(folder, Runtime(dtype=dtype)).documents(TEXTS).vectors for dtype in ("float32", "bfloat16"))
    assert (full * half).sum(axis=1).min() > 0.999
    theirs = reference(folder).encode(TEXTS)
    assert (theirs * half).sum(axis=1).min() > 0.999


def test_batches_hold_the_budget_and_put_equal_lengths_together() -> None:
    tokens = [np.zeros(size, np.int64) for size in (3, 9, 3, 1, 2, 30)]
    found = [[len(tokens[row]) for row in rows] for rows in batches(tokens, 12)]
    # 30 is over the budget, and alone; two of 9 would be 18; four of 3 are 12
    assert found == [[30], [9], [3, 3, 2, 1]]


def test_distinct_sequences_are_the_first_of_their_kind() -> None:
    tokens = [np.array(one, np.int64) for one in ([1, 2], [3], [1, 2], [], [3], [2, 1])]
    firsts, which = distinct(tokens)
    assert (firsts.tolist(), which.tolist()) == ([0, 1, 3, 5], [0, 1, 0, 2, 1, 3])
    assert [part.tolist() for part in distinct([])] == [[], []]


def test_progress_counts_texts_not_windows(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    encoder = opened(
        tiny_encoder(tmp_path), Runtime(dtype="float32", batch_tokens=20), windows=Windows(size=6, stride=3)
    )
    done: list[int] = []
    encoder.documents(TEXTS, done.append)
    assert sum(done) == len(TEXTS)
    assert len(done) > 1


# -- what cannot be opened ------------------------------------------------------------------------------------------------


def message(folder: Path, **settings: Any) -> str:
    with pytest.raises(RankpipeError) as caught:
        opened(folder, **settings)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_folder_without_pooling_asks_for_it(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    folder = tiny_encoder(tmp_path, pooling=None)
    assert message(folder) == (
        f"model folder {folder} is a plain BertModel without modules.json, so it does not say how its tokens become one "
        "vector; choose the setting 'pooling' (cls, max, mean, mean_sqrt_len_tokens, weightedmean, lasttoken), "
        "or take a model made for retrieval"
    )
    assert opened(folder, pooling="mean").queries(["car"]).shape == (1, 32)


def test_a_causal_language_model_is_no_encoder(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    folder = tiny_encoder(tmp_path, pooling=None)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForCausalLM"]}))
    assert f"model folder {folder} is a causal language model without modules.json" in message(folder)


def test_weights_of_another_architecture_are_refused_not_drawn_at_random(
    tmp_path: Path, tiny_encoder: Callable[..., Path]
) -> None:
    folder = tiny_encoder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    assert message(folder) == (
        f"model folder {folder}: 16 weights of a BertModel are not in its safetensors, or have another shape; "
        "the first is encoder.layer.2.attention.output.LayerNorm.bias"
    )


def test_an_unknown_model_type_is_one_line(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    folder = tiny_encoder(tmp_path)
    (folder / "config.json").write_text('{"model_type": "no-such-network", "max_position_embeddings": 64}')
    assert message(folder).startswith(f"model folder {folder} cannot be opened as an encoder: ")


def test_an_unknown_module_is_named(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    folder = tiny_encoder(tmp_path)
    text = (folder / "modules.json").read_text().replace("models.Normalize", "models.CNN")
    (folder / "modules.json").write_text(text)
    assert message(folder) == (
        f"{folder / 'modules.json'}: modules of the kind CNN are not supported; "
        "only Dense, Normalize, Pooling, Transformer"
    )


@pytest.mark.parametrize("name", ["config.json", "modules.json", "1_Pooling/config.json", "tokenizer.json"])
def test_a_file_that_is_no_json_is_named(tmp_path: Path, tiny_encoder: Callable[..., Path], name: str) -> None:
    folder = tiny_encoder(tmp_path)
    (folder / name).write_text("{")
    assert str(folder) in message(folder)


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    assert message(tmp_path) == f"model folder {tmp_path} has no config.json"


def test_more_dimensions_than_there_are_are_refused(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    folder = tiny_encoder(tmp_path)
    assert message(folder, dimensions=33) == f"dimensions is 33; the vectors of '{folder}' have 32"


def test_a_similarity_that_is_no_dot_product_asks_for_another(
    tmp_path: Path, tiny_encoder: Callable[..., Path]
) -> None:
    folder = tiny_encoder(tmp_path, described={"similarity_fn_name": "euclidean"})
    assert "similarity 'euclidean' is not supported; choose the setting 'similarity': cosine or dot" in message(folder)
    opened(folder, similarity="cosine")


def test_a_device_that_is_not_there_is_one_line(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="device 'cuda:77' cannot be used"):
        opened(tiny_encoder(tmp_path), Runtime(device="cuda:77"))


def test_errors_of_models_are_errors_of_the_file(tmp_path: Path) -> None:
    assert ModelError("x").exit_status == 2
