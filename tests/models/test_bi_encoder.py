"""Vectors of bi-encoders against those of sentence-transformers, on networks of a few thousand weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'dense'")
pytest.importorskip("sentence_transformers", reason="needs the extra 'dense'")

from rankpipe.errors import RankpipeError, UsageError
from rankpipe.models.bi_encoder import BiEncoder, EncoderSettings, encoder_recipe
from rankpipe.models.recipe import OFFSET_POSITIONS, longest
from rankpipe.models.runtime import Runtime
from rankpipe.models.tokens import Windows

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
    tmp_path: Path, tiny_encoder: Callable[..., Path], made: dict[str, Any], texts: list[str]
) -> None:
    folder = tiny_encoder(tmp_path, **made)
    ours, theirs = opened(folder, similarity="dot"), reference(folder)
    assert np.abs(ours.documents(texts).vectors - theirs.encode_document(texts)).max() < 1e-5
    assert np.abs(ours.queries(texts).vectors - theirs.encode_query(texts)).max() < 1e-5


def test_the_first_dimensions_are_kept_and_then_normalised(
    tmp_path: Path, tiny_encoder: Callable[..., Path], texts: list[str]
) -> None:
    folder = tiny_encoder(tmp_path)
    ours = opened(folder, dimensions=8)
    expected = reference(folder, truncate_dim=8).encode(texts, normalize_embeddings=True)
    assert np.abs(ours.documents(texts).vectors - expected).max() < 1e-5
    assert ours.dimensions == 8


def test_prompts_of_the_pipeline_stand_above_those_of_the_folder(
    tmp_path: Path, tiny_encoder: Callable[..., Path], texts: list[str]
) -> None:
    folder = tiny_encoder(tmp_path, described=PROMPTS)
    ours = opened(folder, query_prompt="the road ", document_prompt="")
    theirs = reference(folder)
    assert np.abs(ours.queries(texts).vectors - theirs.encode(texts, prompt="the road ")).max() < 1e-5
    assert np.abs(ours.documents(texts).vectors - theirs.encode(texts, prompt="")).max() < 1e-5


def test_pooling_of_the_pipeline_stands_above_that_of_the_folder(
    tmp_path: Path, tiny_encoder: Callable[..., Path], texts: list[str]
) -> None:
    ours = opened(tiny_encoder(tmp_path / "a"), pooling="cls")
    other = opened(tiny_encoder(tmp_path / "b", pooling="cls"))
    assert np.array_equal(ours.queries(texts).vectors, other.queries(texts).vectors)


def test_similarity_decides_whether_vectors_are_normalised(
    tmp_path: Path, tiny_encoder: Callable[..., Path], texts: list[str]
) -> None:
    raw = tiny_encoder(tmp_path / "raw", normalise=False, described={"similarity_fn_name": "dot"})

    def lengths(encoder: BiEncoder) -> np.ndarray:
        return np.linalg.norm(encoder.documents(texts).vectors, axis=1)

    assert np.allclose(lengths(opened(raw, similarity="cosine")), 1)
    assert np.allclose(lengths(opened(raw, normalise=True)), 1)
    assert not np.allclose(lengths(opened(raw)), 1)
    unit = tiny_encoder(tmp_path / "unit", described={"similarity_fn_name": "dot"})
    assert np.allclose(lengths(opened(unit)), 1)
    assert not np.allclose(lengths(opened(unit, normalise=False)), 1)


def test_vectors_have_length_1_where_the_folder_makes_them_so_and_their_space_is_another_one(
    tmp_path: Path, tiny_encoder: Callable[..., Path]
) -> None:
    folder = tiny_encoder(tmp_path, described={"similarity_fn_name": "dot"})
    unit, raw, cut = opened(folder), opened(folder, normalise=False), opened(folder, dimensions=8)
    assert [one.of_length_1 for one in (unit, raw, cut)] == [True, False, False]
    for encoder in (unit, raw, cut):
        lengths = np.linalg.norm(encoder.queries(["a car", "sweet fruit"]).vectors, axis=1)
        assert np.allclose(lengths, 1) == encoder.of_length_1
    spaces = [json.dumps(one.space()) for one in (unit, raw, cut)]
    assert len(set(spaces)) == 3
    assert opened(folder, normalise=True).space() == {**unit.space()}


@pytest.mark.parametrize("described", [{}, {"similarity_fn_name": "cosine"}], ids=["states none", "states cosine"])
def test_vectors_of_a_cosine_cannot_be_left_as_they_are(
    tmp_path: Path, tiny_encoder: Callable[..., Path], described: dict[str, str]
) -> None:
    folder = tiny_encoder(tmp_path, normalise=False, described=described)
    with pytest.raises(UsageError) as caught:
        opened(folder, normalise=False)
    assert str(caught.value) == (
        f"normalise is false, but the similarity of model folder {folder} is cosine, as it is where none is stated, and "
        "its vectors always get length 1; choose similarity: dot"
    )
    lengths = np.linalg.norm(opened(folder, normalise=False, similarity="dot").documents(["a road"]).vectors, axis=1)
    assert not np.allclose(lengths, 1)


def test_texts_that_are_cut_are_told(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    # 46 words are 48 tokens with [CLS] and [SEP], which is the limit
    encoder = opened(tiny_encoder(tmp_path))
    texts = ["car " * 46, "car " * 47, "car"]
    encoded = encoder.documents(texts)
    assert encoded.truncated.tolist() == encoder.queries(texts).truncated.tolist() == [False, True, False]
    assert np.array_equal(encoded.vectors[0], encoded.vectors[1])


def test_max_length_moves_the_limit_within_the_networks_positions(
    tmp_path: Path, tiny_encoder: Callable[..., Path]
) -> None:
    folder = tiny_encoder(tmp_path)
    assert opened(folder, max_length=50).documents(["car " * 47]).truncated.tolist() == [False]
    with pytest.raises(UsageError, match=r"max_length is 65; the network .* reads 64 tokens"):
        opened(folder, max_length=65)


def test_a_folder_that_states_no_length_takes_the_pipelines(
    tmp_path: Path, tiny_encoder: Callable[..., Path], refused: Callable[[Callable[[], object]], str]
) -> None:
    folder = tiny_encoder(tmp_path, pooling=None)
    for name, key in (("config.json", "max_position_embeddings"), ("tokenizer_config.json", "model_max_length")):
        told = json.loads((folder / name).read_text())
        told.pop(key, None)
        (folder / name).write_text(json.dumps(told))
    assert refused(lambda: encoder_recipe(folder, "query", EncoderSettings(pooling="mean"))) == (
        f"model folder {folder} sets no limit of length; choose the setting 'max_length'"
    )
    assert encoder_recipe(folder, "query", EncoderSettings(pooling="mean", max_length=9)).max_length == 9


@pytest.mark.parametrize("kind", ["gpt2", "gpt_bigcode", "gptj", "codegen", "openai-gpt", "ctrl", "llama", "gemma3"])
def test_networks_have_as_many_positions_as_transformers_says(kind: str) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model(kind)
    assert longest(config.to_dict()) == config.get_text_config().max_position_embeddings


@pytest.mark.parametrize("kind", OFFSET_POSITIONS)
def test_positions_that_begin_behind_the_padding_are_as_many_fewer(kind: str) -> None:
    import torch
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModel

    if kind not in CONFIG_MAPPING:
        pytest.skip(f"this version of transformers has no {kind}")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    config = AutoConfig.for_model(kind, **sizes, max_position_embeddings=66, pad_token_id=1, vocab_size=40)
    if kind == "longformer":
        config.attention_window = [4]
    if kind == "xmod":
        config.languages, config.default_language = ["en_XX"], "en_XX"
    network = AutoModel.from_config(config).eval()
    read = longest(config.to_dict())
    assert read == 64
    with torch.no_grad():
        assert network(input_ids=torch.full((1, read), 5)).last_hidden_state.shape[1] == read
        with pytest.raises((IndexError, RuntimeError)):
            network(input_ids=torch.full((1, read + 1), 5))


def test_windows_are_texts_of_their_own(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    # a window of 6 has room for 4 words between [CLS] and [SEP]; windows begin 3 words apart, the last ends the text
    encoder = opened(tiny_encoder(tmp_path), windows=Windows(size=6, stride=3))
    encoded = encoder.documents(["the apple road car tree the sweet", "the apple road car", ""])
    assert encoded.offsets.tolist() == [0, 2, 3, 4]
    assert not encoded.truncated.any()
    alone = opened(tmp_path).documents(["the apple road car", "car tree the sweet", "the apple road car", ""])
    assert np.abs(encoded.vectors - alone.vectors).max() < 1e-6


def test_every_window_has_the_prompt(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    # room for 4 tokens: "passage" and ":", then 2 words
    encoder = opened(tiny_encoder(tmp_path, described=PROMPTS), windows=Windows(size=6, stride=1))
    encoded = encoder.documents(["apple road car"])
    alone = opened(tmp_path).documents(["apple road", "road car"])
    assert np.abs(encoded.vectors - alone.vectors).max() < 1e-6


def test_a_window_is_no_longer_than_what_is_read_of_a_text(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    folder = tiny_encoder(tmp_path)  # says 48 itself
    settings: dict[str, Any]
    for settings, limit in (({}, 48), ({"max_length": 20}, 20)):
        with pytest.raises(UsageError) as caught:
            opened(folder, windows=Windows(size=50, stride=25), **settings)
        assert str(caught.value) == (
            f"window is 50, but {limit} tokens of a text are read; choose a smaller window, or a max_length of at least 50"
        )
    longer = opened(folder, windows=Windows(size=50, stride=25), max_length=50)
    assert longer.documents(["car " * 48]).offsets.tolist() == [0, 1]  # 48 words, [CLS] and [SEP]


def test_a_stride_that_would_leave_text_out_is_refused(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    encoder = opened(tiny_encoder(tmp_path), windows=Windows(size=6, stride=5))
    with pytest.raises(UsageError, match="a window of 6 tokens has room for 4 of a text, so a stride of 5"):
        encoder.documents(["car"])


def test_a_prompt_that_leaves_no_room_is_refused(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    encoder = opened(tiny_encoder(tmp_path), query_prompt="car " * 46)
    with pytest.raises(UsageError) as caught:
        encoder.queries(["car"])
    assert str(caught.value) == (
        "a text may have 48 tokens, and 2 special ones and the 46 of the prompt 'car car car car car car car car car "
        "car ...' leave no room for what it says"
    )
    with pytest.raises(UsageError, match=r"^a text may have 2 tokens, and 2 special ones leave no room for what it "):
        opened(tmp_path, max_length=2).queries(["car"])
    with pytest.raises(
        UsageError, match=r"^a window has 3 tokens, and 2 special ones and the 2 of the prompt 'car: ' "
    ):
        opened(tmp_path, document_prompt="car: ", windows=Windows(size=3, stride=1)).documents(["car"])


def test_shuffled_documents_have_the_same_vectors(
    tmp_path: Path, tiny_encoder: Callable[..., Path], texts: list[str]
) -> None:
    encoder = opened(tiny_encoder(tmp_path), Runtime(dtype="float32", batch_tokens=100))
    order = np.random.default_rng(7).permutation(len(texts))
    shuffled = encoder.documents([texts[place] for place in order]).vectors
    assert np.array_equal(shuffled, encoder.documents(texts).vectors[order])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_equal_texts_have_equal_vectors(
    tmp_path: Path, tiny_encoder: Callable[..., Path], dtype: Any, texts: list[str]
) -> None:
    encoder = opened(tiny_encoder(tmp_path), Runtime(dtype=dtype), windows=Windows(size=6, stride=3))
    done: list[int] = []
    encoded = encoder.documents([*texts, *texts[::-1], *texts[::2]], done.append)
    of_text = [encoded.vectors[a:b] for a, b in zip(encoded.offsets, encoded.offsets[1:], strict=False)]
    for place, text in enumerate([*texts[::-1], *texts[::2]], start=len(texts)):
        assert np.array_equal(of_text[place], of_text[texts.index(text)])
    assert sum(done) == len(of_text) == 20


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu"])
def test_float32_equals_the_reference_and_less_keeps_its_direction(
    tmp_path: Path, tiny_encoder: Callable[..., Path], activation: str, texts: list[str]
) -> None:
    # the first three are computed by rankpipe.models.bert, the last by transformers
    folder = tiny_encoder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": activation}))
    dtypes: list[Any] = ["float32", "bfloat16", "int8"]
    full, half, eighth = (opened(folder, Runtime(dtype=dtype)).documents(texts).vectors for dtype in dtypes)
    theirs = reference(folder).encode(texts)
    assert np.allclose(theirs, full, atol=1e-5)
    assert (theirs * half).sum(axis=1).min() > 0.999
    assert 0.99 < (theirs * eighth).sum(axis=1).min() < 0.999999


def test_progress_counts_texts_not_windows(tmp_path: Path, tiny_encoder: Callable[..., Path], texts: list[str]) -> None:
    encoder = opened(
        tiny_encoder(tmp_path), Runtime(dtype="float32", batch_tokens=20), windows=Windows(size=6, stride=3)
    )
    done: list[int] = []
    encoder.documents(texts, done.append)
    assert sum(done) == len(texts)
    assert len(done) > 1


# -- what cannot be opened ------------------------------------------------------------------------------------------------


@pytest.fixture
def message(refused: Callable[[Callable[[], object]], str]) -> Callable[..., str]:
    """`message(folder, **settings)`: why the folder is refused."""
    return lambda folder, **settings: refused(lambda: opened(folder, **settings))


def test_a_folder_without_pooling_asks_for_it(
    tmp_path: Path, tiny_encoder: Callable[..., Path], message: Callable[..., str]
) -> None:
    folder = tiny_encoder(tmp_path, pooling=None)
    assert message(folder) == (
        f"model folder {folder} is a plain BertModel without modules.json, so it does not say how its tokens become one "
        "vector; choose the setting 'pooling' (cls, max, mean, mean_sqrt_len_tokens, weightedmean, lasttoken), "
        "or take a model made for retrieval"
    )
    assert opened(folder, pooling="mean").queries(["car"]).vectors.shape == (1, 32)


def test_a_causal_language_model_is_no_encoder(
    tmp_path: Path, tiny_encoder: Callable[..., Path], message: Callable[..., str]
) -> None:
    folder = tiny_encoder(tmp_path, pooling=None)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForCausalLM"]}))
    assert f"model folder {folder} is a causal language model without modules.json" in message(folder)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        (
            "config_sentence_transformers.json",
            {"prompts": {"query": "the ", "document": ""}, "default_prompt_name": "query"},
        ),
        (
            "config_sentence_transformers.json",
            {"prompts": {"road": "the ", "query": "", "document": ""}, "default_prompt_name": "road"},
        ),
        ("config_sentence_transformers.json", {"truncate_dim": 8}),
        ("sentence_bert_config.json", {"processing_kwargs": {"text": {"max_length": 6}}}),
        ("sentence_bert_config.json", {"processor_kwargs": {"model_max_length": 6}, "max_seq_length": None}),
    ],
    ids=["empty document prompt", "empty query prompt", "truncate_dim", "length of a call", "length of the tokenizer"],
)
def test_what_sentence_transformers_was_told_besides_is_done(
    tmp_path: Path, tiny_encoder: Callable[..., Path], texts: list[str], name: str, changes: dict[str, Any]
) -> None:
    folder = tiny_encoder(tmp_path, normalise=False)
    content = {**json.loads((folder / name).read_text()), **changes}
    (folder / name).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    ours, theirs = opened(folder, similarity="dot"), reference(folder)
    assert np.abs(ours.documents(texts).vectors - theirs.encode_document(texts)).max() < 1e-5
    assert np.abs(ours.queries(texts).vectors - theirs.encode_query(texts)).max() < 1e-5


def test_a_settings_file_of_an_older_name_is_read(
    tmp_path: Path, tiny_encoder: Callable[..., Path], texts: list[str]
) -> None:
    folder = tiny_encoder(tmp_path, max_length=6)
    (folder / "sentence_bert_config.json").rename(folder / "sentence_distilbert_config.json")
    assert np.abs(opened(folder).documents(texts).vectors - reference(folder).encode(texts)).max() < 1e-5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"modality_config": {"text": {"method": "forward"}, "message": {"format": "flat"}}},
            "modality_config.message writes texts into a chat template, which is not supported here",
        ),
        ({"tokenizer_args": {"truncation_side": "left"}}, "tokenizer_args.truncation_side is not supported"),
        ({"query_length": 8}, "query_length is not supported"),
        (
            {"modality_config": {"text": {"method_output_name": "pooler_output"}}},
            "modality_config.text asks the network for 'pooler_output': not supported",
        ),
        (
            {"processing_kwargs": {"text": {"truncation": "only_second"}}},
            "processing_kwargs.text.truncation is 'only_second': not supported",
        ),
    ],
)
def test_a_setting_that_would_make_other_vectors_is_refused(
    tmp_path: Path, tiny_encoder: Callable[..., Path], changes: dict[str, Any], said: str, message: Callable[..., str]
) -> None:
    path = tiny_encoder(tmp_path) / "sentence_bert_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    assert message(tmp_path) == f"{path}: the setting {said}"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"type": "custom_st.Pooling"},
            "the module custom_st.Pooling is none of sentence-transformers; its code is not run",
        ),
        (
            {"path": "models/pooling"},
            "the module sentence_transformers.models.Pooling stands in 'models/pooling'; it must stand right inside the folder",
        ),
        (
            {"path": "../pooling"},
            "the module sentence_transformers.models.Pooling stands in '../pooling'; it must stand right inside the folder",
        ),
    ],
)
def test_modules_of_others_and_elsewhere_are_refused(
    tmp_path: Path, tiny_encoder: Callable[..., Path], changes: dict[str, str], said: str, message: Callable[..., str]
) -> None:
    path = tiny_encoder(tmp_path) / "modules.json"
    modules = json.loads(path.read_text())
    modules[1] |= changes
    path.write_text(json.dumps(modules))
    assert message(tmp_path) == f"{path}: {said}"


@pytest.mark.parametrize("pooling", ["mean", "max", "cls", "weightedmean"])
def test_a_text_without_any_token_has_no_direction(
    tmp_path: Path, tiny_encoder: Callable[..., Path], pooling: str
) -> None:
    folder = tiny_encoder(tmp_path, pooling=pooling)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**tokenizer, "post_processor": None}))
    encoder = opened(folder)
    for encode in (encoder.documents, encoder.queries):
        vectors = encode(["the apple", "", "car"]).vectors
        assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 0, 1])
        assert encode([""]).vectors.tolist() == [[0] * 32]


def test_an_adapter_alone_is_no_encoder(
    tmp_path: Path, tiny_encoder: Callable[..., Path], message: Callable[..., str]
) -> None:
    folder = tiny_encoder(tmp_path, pooling=None)
    (folder / "config.json").rename(folder / "adapter_config.json")
    assert message(folder, pooling="mean") == (
        f"model folder {folder} has no config.json, it holds an adapter; name its network as the model, where the stage takes "
        "an 'adapter'"
    )


def test_an_unknown_module_is_named(
    tmp_path: Path, tiny_encoder: Callable[..., Path], message: Callable[..., str]
) -> None:
    folder = tiny_encoder(tmp_path)
    text = (folder / "modules.json").read_text().replace("models.Normalize", "models.CNN")
    (folder / "modules.json").write_text(text)
    assert message(folder) == (
        f"{folder / 'modules.json'}: modules of the kind CNN are not supported; "
        "only Dense, Normalize, Pooling, Transformer"
    )


@pytest.mark.parametrize("name", ["config.json", "modules.json", "1_Pooling/config.json", "tokenizer.json"])
def test_a_file_that_is_no_json_is_named(
    tmp_path: Path, tiny_encoder: Callable[..., Path], name: str, message: Callable[..., str]
) -> None:
    folder = tiny_encoder(tmp_path)
    (folder / name).write_text("{")
    assert str(folder) in message(folder)


@pytest.mark.parametrize(
    ("name", "changes", "message_end"),
    [
        (
            "1_Pooling/config.json",
            {"pooling_mode": 3},
            ": pooling '3' is not known; there are cls, max, mean, mean_sqrt",
        ),
        (
            "config_sentence_transformers.json",
            {"prompts": ["a"]},
            ": the prompts are ['a'], must be texts by their names",
        ),
        (
            "config_sentence_transformers.json",
            {"prompts": {"query": 3}},
            ": the prompts are {'query': 3}, must be texts by their names",
        ),
        (
            "sentence_bert_config.json",
            {"max_seq_length": "long"},
            " says that it reads 'long' tokens, must be a number",
        ),
    ],
)
def test_what_the_folder_says_has_to_make_sense(
    tmp_path: Path,
    tiny_encoder: Callable[..., Path],
    name: str,
    changes: dict[str, Any],
    message_end: str,
    message: Callable[..., str],
) -> None:
    folder = tiny_encoder(tmp_path)
    (folder / name).write_text(json.dumps({**json.loads((folder / name).read_text()), **changes}))
    assert message_end in message(folder)


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        (
            {"linear.weight": (24,)},
            " cannot be read as the weights of a Dense layer: not enough values to unpack (expected 2, got 1)",
        ),
        ({"weight": (24, 32)}, " cannot be read as the weights of a Dense layer: KeyError: 'linear.weight'"),
        ({"linear.weight": (24, 16)}, " takes vectors of 16 dimensions, and is given 32"),
        (
            {"linear.weight": (24, 32), "linear.bias": (7,)},
            ": linear.bias has the shape (7,), must be (24,)",
        ),
    ],
)
def test_a_dense_layer_that_does_not_fit_is_refused(
    tmp_path: Path,
    tiny_encoder: Callable[..., Path],
    weights: dict[str, tuple[int, ...]],
    reason: str,
    message: Callable[..., str],
) -> None:
    import torch
    from safetensors.torch import save_file

    folder = tiny_encoder(tmp_path, dense=(24, "Tanh"))
    path = folder / "2_Dense" / "model.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in weights.items()}, path)
    assert message(folder) == f"{path}{reason}"


def test_a_window_beyond_the_networks_positions_is_refused(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    folder = tiny_encoder(tmp_path)
    with pytest.raises(UsageError) as caught:
        opened(folder, windows=Windows(size=65, stride=10))
    assert str(caught.value) == f"window is 65; the network {folder} reads 64 tokens"


def test_vectors_that_are_not_finite_are_an_error(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    from safetensors.torch import load_file, save_file

    path = tiny_encoder(tmp_path) / "model.safetensors"
    weights = load_file(path)
    weights["encoder.layer.1.output.dense.bias"][:] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    less = "choose dtype float32"
    hints: dict[Any, str] = {"float32": "its weights are damaged", "bfloat16": less, "int8": less}
    for dtype, hint in hints.items():
        with pytest.raises(RankpipeError) as caught:
            opened(tmp_path, Runtime(dtype=dtype)).documents(["car"])
        assert str(caught.value) == f"the network gave vectors that are not finite, in {dtype}; {hint}"


def test_more_dimensions_than_there_are_are_refused(
    tmp_path: Path, tiny_encoder: Callable[..., Path], message: Callable[..., str]
) -> None:
    folder = tiny_encoder(tmp_path)
    assert message(folder, dimensions=33) == f"dimensions is 33; the vectors of '{folder}' have 32"


def test_a_similarity_that_is_no_dot_product_asks_for_another(
    tmp_path: Path, tiny_encoder: Callable[..., Path], message: Callable[..., str]
) -> None:
    folder = tiny_encoder(tmp_path, described={"similarity_fn_name": "euclidean"})
    assert "similarity 'euclidean' is not supported; choose the setting 'similarity': cosine or dot" in message(folder)
    opened(folder, similarity="cosine")


def test_a_device_that_is_not_there_is_one_line(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="device 'cuda:77' cannot be used"):
        opened(tiny_encoder(tmp_path), Runtime(device="cuda:77"))
