"""What the encoders of dense and of sparse vectors both promise, on networks of a few thousand weights."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="needs the extra 'dense'")
pytest.importorskip("sentence_transformers", reason="needs the extra 'dense'")

from rankpipe.errors import ModelError, UsageError
from rankpipe.models.batching import batches, distinct
from rankpipe.models.bi_encoder import BiEncoder, EncoderSettings
from rankpipe.models.runtime import Runtime
from rankpipe.models.sparse_encoder import SparseEncoder, WeightedTerms

FULL = Runtime(dtype="float32")
Refused = Callable[[Callable[[], object]], str]


class Kind(NamedTuple):
    """How an encoder is written, opened and asked; both give (N, D) arrays for N texts.

    stated  of what is opened, as errors call it
    """

    write: Callable[..., Path]
    open: Callable[..., Any]
    queries: Callable[[Any, Sequence[str]], NDArray[np.float32]]
    documents: Callable[..., NDArray[np.float32]]
    stated: dict[str, str]


def whole(found: WeightedTerms) -> NDArray[np.float32]:
    """(N, V) weights, 0 for terms that a text has not."""
    weights = np.zeros((len(found.offsets) - 1, 96), np.float32)
    for row in range(len(weights)):
        part = slice(found.offsets[row], found.offsets[row + 1])
        weights[row, found.terms[part]] = found.weights[part]
    return weights


@pytest.fixture(params=["dense", "sparse"])
def kind(
    request: pytest.FixtureRequest, tiny_encoder: Callable[..., Path], tiny_masked_lm: Callable[..., Path]
) -> Kind:
    if request.param == "dense":
        return Kind(
            tiny_encoder,
            lambda folder, runtime=FULL, **settings: BiEncoder(str(folder), EncoderSettings(**settings), runtime),
            lambda encoder, texts: encoder.queries(texts).vectors,
            lambda encoder, texts, *more: encoder.documents(texts, *more).vectors,
            {"class": "BertModel", "prefix": "", "what": "an encoder"},
        )
    return Kind(
        tiny_masked_lm,
        lambda folder, runtime=FULL, **settings: SparseEncoder(str(folder), runtime, **settings),
        lambda encoder, texts: whole(encoder.queries(texts)),
        lambda encoder, texts, *more: whole(encoder.documents(texts, None, *more)),
        {"class": "BertForMaskedLM", "prefix": "bert.", "what": "a masked language model"},
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_query_is_encoded_the_same_whatever_is_asked_with_it(
    tmp_path: Path, kind: Kind, dtype: Any, texts: list[str]
) -> None:
    encoder = kind.open(kind.write(tmp_path), Runtime(dtype=dtype))
    together = kind.queries(encoder, texts * 3)
    for place, text in enumerate(texts):
        assert np.array_equal(kind.queries(encoder, [text])[0], together[place])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_equal_texts_are_encoded_the_same(tmp_path: Path, kind: Kind, dtype: Any, texts: list[str]) -> None:
    encoder = kind.open(kind.write(tmp_path), Runtime(dtype=dtype))
    found = kind.documents(encoder, [*texts, *texts[::-1], *texts[::2]])
    for place, text in enumerate([*texts[::-1], *texts[::2]], start=len(texts)):
        assert np.array_equal(found[place], found[texts.index(text)])


def test_no_texts_are_no_error(tmp_path: Path, kind: Kind) -> None:
    encoder = kind.open(kind.write(tmp_path))
    assert len(kind.queries(encoder, [])) == len(kind.documents(encoder, [])) == 0


def test_progress_counts_texts_equal_ones_too(tmp_path: Path, kind: Kind, texts: list[str]) -> None:
    done: list[int] = []
    encoder = kind.open(kind.write(tmp_path), Runtime(dtype="float32", batch_tokens=20))
    kind.documents(encoder, [*texts, *texts[:3]], done.append)
    assert sum(done) == len(texts) + 3
    assert len(done) > 1


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


# -- what cannot be opened ------------------------------------------------------------------------------------------------


def changed(folder: Path, **configured: Any) -> Path:
    """The folder, its config.json changed."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **configured}))
    return folder


def test_an_empty_folder_is_no_model(tmp_path: Path, kind: Kind) -> None:
    with pytest.raises(ModelError) as caught:
        kind.open(tmp_path)
    assert str(caught.value) == f"model folder {tmp_path} has no config.json"
    assert caught.value.exit_status == 2


def test_truncated_weights_are_one_line(tmp_path: Path, kind: Kind, refused: Refused) -> None:
    path = kind.write(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    said = refused(lambda: kind.queries(kind.open(tmp_path), ["car"]))
    assert said.startswith(f"{path} is damaged or cut short: ")


def test_weights_that_are_missing_are_not_drawn_at_random(tmp_path: Path, kind: Kind, refused: Refused) -> None:
    folder = changed(kind.write(tmp_path), num_hidden_layers=3)
    assert refused(lambda: kind.queries(kind.open(folder), ["car"])) == (
        f"model folder {folder}: 16 weights of a {kind.stated['class']}, which its config.json describes, are not in its "
        f"safetensors; the first is {kind.stated['prefix']}encoder.layer.2.attention.output.LayerNorm.bias"
    )


def test_layers_that_the_configuration_leaves_out_are_refused(tmp_path: Path, kind: Kind, refused: Refused) -> None:
    folder = changed(kind.write(tmp_path), num_hidden_layers=1)
    assert refused(lambda: kind.queries(kind.open(folder), ["car"])) == (
        f"model folder {folder}: its config.json and its weights do not fit each other: {kind.stated['prefix']}encoder."
        "layer.1.attention.output.LayerNorm.bias is of a layer that config.json does not count"
    )


@pytest.mark.parametrize(
    ("setting", "value", "name", "has", "described"),
    [
        ("vocab_size", 100, "embeddings.word_embeddings.weight", (96, 32), (100, 32)),
        ("max_position_embeddings", 32, "embeddings.position_embeddings.weight", (64, 32), (32, 32)),
        ("intermediate_size", 16, "encoder.layer.0.intermediate.dense.bias", (64,), (16,)),
    ],
)
def test_weights_of_another_shape_are_named(
    tmp_path: Path,
    kind: Kind,
    refused: Refused,
    setting: str,
    value: int,
    name: str,
    has: tuple[int, ...],
    described: tuple[int, ...],
) -> None:
    folder = changed(kind.write(tmp_path), **{setting: value})
    said = refused(lambda: kind.queries(kind.open(folder), ["car"]))
    assert said.startswith(f"model folder {folder}: its config.json and its weights do not fit each other: ")
    if setting != "vocab_size" or not kind.stated["prefix"]:  # else the head's comes first
        assert said.endswith(f": {kind.stated['prefix']}{name} has the shape {has}, and should have {described}")


def test_an_architecture_of_another_type_is_refused(tmp_path: Path, kind: Kind, refused: Refused) -> None:
    folder = changed(kind.write(tmp_path), model_type="roberta")
    assert refused(lambda: kind.queries(kind.open(folder, max_length=16), ["car"])) == (
        f"{folder / 'config.json'} says model_type 'roberta' and architectures {kind.stated['class']}, which is of the "
        "type 'bert'; one of the two is wrong"
    )


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("hidden_act", "nope", "KeyError: 'nope'"),
        (
            "hidden_size",
            "wide",
            "Validation error for field 'hidden_size': TypeError: Field 'hidden_size' expected int, got str "
            "(value: 'wide')",
        ),
        ("num_attention_heads", 5, "The hidden size (32) is not a multiple of the number of attention heads (5)"),
    ],
)
def test_a_configuration_that_cannot_be_is_one_line(
    tmp_path: Path, kind: Kind, refused: Refused, setting: str, value: object, reason: str
) -> None:
    folder = changed(kind.write(tmp_path), **{setting: value})
    said = refused(lambda: kind.queries(kind.open(folder), ["car"]))
    assert said.startswith(f"model folder {folder}")  # its network, or its tokenizer, which reads the file as well
    stopped = (f" cannot be opened as {kind.stated['what']}: ", ": its tokenizer cannot be opened: ")
    assert said.endswith(tuple(place + reason for place in stopped))


def test_a_model_with_code_of_its_own_is_told_so(tmp_path: Path, kind: Kind, refused: Refused) -> None:
    folder = changed(kind.write(tmp_path), model_type="mine", auto_map={"AutoModel": "mine.Mine"}, architectures=["M"])
    said = refused(lambda: kind.queries(kind.open(folder), ["car"]))
    assert said.endswith("; it needs code of its own, which is not run")


def test_code_of_its_own_that_a_known_model_names_is_told(
    tmp_path: Path, kind: Kind, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = changed(kind.write(tmp_path), auto_map={"AutoModel": "mine.Mine"})
    kind.queries(kind.open(folder), ["car"])
    assert (
        f"note: model folder {folder} names code of its own (AutoModel), which is never run" in capsys.readouterr().err
    )


def test_an_adapter_beside_the_network_is_refused(tmp_path: Path, kind: Kind, refused: Refused) -> None:
    folder = kind.write(tmp_path)
    (folder / "adapter_config.json").write_text("{}")
    said = refused(lambda: kind.queries(kind.open(folder), ["car"]))
    assert said.startswith(f"model folder {folder} holds a network and an adapter beside it (adapter_config.json)")


def test_weights_within_a_layer_that_the_network_has_no_place_for_are_refused(
    tmp_path: Path, kind: Kind, refused: Refused
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = kind.write(tmp_path)
    weights = load_file(folder / "model.safetensors")
    name = f"{kind.stated['prefix']}encoder.layer.0.attention.self.distance_embedding.weight"
    save_file({**weights, name: torch.ones(3, 8)}, folder / "model.safetensors", {"format": "pt"})
    said = refused(lambda: kind.queries(kind.open(folder), ["car"]))
    assert said.endswith(f" has no place for {name}, and would leave it out")


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path, kind: Kind, refused: Refused) -> None:
    folder = kind.write(tmp_path)
    (folder / "tokenizer.json").unlink()
    assert refused(lambda: kind.open(folder)) == (
        f"model folder {folder} has no tokenizer: none of tokenizer.json, vocab.*, *.model, *.tiktoken"
    )


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path, kind: Kind, refused: Refused) -> None:
    folder = kind.write(tmp_path)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["apple"] = 96
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    encoder = kind.open(folder)
    assert len(kind.documents(encoder, ["car"])) == 1
    assert refused(lambda: kind.documents(encoder, ["car", "apple"])) == (
        f"model folder {folder}: its tokenizer gives tokens the numbers up to 96, and its network knows 96 tokens; "
        "they are not of one model"
    )


def test_an_unknown_model_type_is_one_line(tmp_path: Path, kind: Kind, refused: Refused) -> None:
    folder = changed(kind.write(tmp_path), model_type="no-such-network", architectures=["NoSuchModel"])
    said = refused(lambda: kind.queries(kind.open(folder), ["car"]))
    assert said.startswith(f"model folder {folder} cannot be opened as {kind.stated['what']}: ")


def test_a_length_beyond_the_networks_positions_is_refused(tmp_path: Path, kind: Kind) -> None:
    folder = kind.write(tmp_path)
    with pytest.raises(UsageError) as caught:
        kind.open(folder, max_length=65)
    assert str(caught.value) == f"max_length is 65; the network {folder} reads 64 tokens"
