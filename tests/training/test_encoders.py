"""Encoders in training: the vectors of BiEncoder, the gradients of the network's own forward, and less memory for both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'dense'")
pytest.importorskip("sentence_transformers", reason="needs the extra 'dense'")

from torch import Tensor  # noqa: E402

from rankpipe.data import Corpus  # noqa: E402
from rankpipe.models.bi_encoder import BiEncoder, EncoderSettings  # noqa: E402
from rankpipe.models.runtime import Runtime  # noqa: E402
from rankpipe.training.encoder_folder import write_encoders  # noqa: E402
from rankpipe.training.encoder_recipe import BiEncoderRecipe, Contrastive  # noqa: E402
from rankpipe.training.encoders import Encoders, TextEncoder, open_encoders  # noqa: E402
from rankpipe.training.means import Means  # noqa: E402

CPU = torch.device("cpu")
PROMPTS = {"prompts": {"query": "query: ", "document": "passage: "}, "similarity_fn_name": "dot"}
TEXTS = ["The apple is a sweet fruit.", "", "a road", "car " * 100, "the tree the tree the apple the car", "x"]
MADE: list[dict[str, Any]] = [
    {},
    {"normalise": False, "described": PROMPTS},
    {"pooling": "cls"},
    {"pooling": ["cls", "mean"]},
    {"pooling": ["mean", "cls"]},
    {"dense": (24, "Tanh")},
    {"described": PROMPTS, "include_prompt": False, "pooling": "weightedmean"},
]


def encoders(folder: Path, *, batch_tokens: int | None = None, recompute: bool = False, **settings: Any) -> Encoders:
    recipe = BiEncoderRecipe(model=str(folder), phases=(Contrastive(steps=1, learning_rate=1e-5),), **settings)
    means = Means(device=CPU, dtype=torch.float32, batch_tokens=batch_tokens, threads=1, recompute=recompute)
    return open_encoders(recipe, folder, means)


@pytest.mark.parametrize("made", MADE, ids=str)
def test_vectors_are_those_of_the_stage(
    tmp_path: Path, tiny_encoder: Callable[..., Path], made: dict[str, Any]
) -> None:
    folder = tiny_encoder(tmp_path, **made)
    ours, stage = encoders(folder), BiEncoder(str(folder), EncoderSettings(), Runtime(dtype="float32"))
    corpus = Corpus.from_texts(TEXTS)
    with torch.no_grad():
        documents = ours.vectors(ours.documents(corpus, np.arange(len(TEXTS), dtype=np.int32)[::-1], ("text",)))
        queries = ours.vectors(ours.queries(TEXTS))
    assert np.abs(documents.numpy()[::-1] - stage.documents(TEXTS).vectors).max() < 2e-6
    assert np.abs(queries.numpy() - stage.queries(TEXTS).vectors).max() < 2e-6


@pytest.mark.parametrize("made", MADE, ids=str)
def test_a_written_folder_is_what_sentence_transformers_opens(
    tmp_path: Path, tiny_encoder: Callable[..., Path], made: dict[str, Any]
) -> None:
    from sentence_transformers import SentenceTransformer

    folder = tiny_encoder(tmp_path / "base", **made)
    ours = changed(encoders(folder))
    write_encoders(ours.query, ours.document, tmp_path / "written")
    theirs = SentenceTransformer(str(tmp_path / "written"), device="cpu")
    with torch.no_grad():
        queries = ours.vectors(ours.queries(TEXTS)).numpy()
    assert np.abs(theirs.encode_query(TEXTS) - queries).max() < 1e-6
    assert theirs.max_seq_length == 48
    again = encoders(tmp_path / "written")
    with torch.no_grad():
        assert np.array_equal(again.vectors(again.queries(TEXTS)).numpy(), queries)
    assert again.document.recipe.document_prompt == ours.document.recipe.document_prompt
    assert again.temperature == ours.temperature


def test_a_plain_network_with_a_stated_pooling_becomes_a_whole_folder(
    tmp_path: Path, tiny_encoder: Callable[..., Path]
) -> None:
    from sentence_transformers import SentenceTransformer

    folder = tiny_encoder(tmp_path / "base", pooling=None)
    ours = changed(encoders(folder, pooling="cls", similarity="cosine", max_length=20, query_prompt="query: "))
    write_encoders(ours.query, ours.document, tmp_path / "written")
    theirs = SentenceTransformer(str(tmp_path / "written"), device="cpu")
    with torch.no_grad():
        queries = ours.vectors(ours.queries(TEXTS)).numpy()
    assert np.abs(theirs.encode_query(TEXTS) - queries).max() < 1e-6
    assert np.linalg.norm(queries, axis=1) == pytest.approx(1)
    assert (theirs.max_seq_length, theirs.prompts) == (20, {"query": "query: ", "document": ""})


def changed(opened: Encoders) -> Encoders:
    """With weights that no folder has yet."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in opened.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
    return opened.eval()


def gradients(opened: Encoders, loss: Callable[..., Tensor]) -> tuple[float, dict[str, Tensor]]:
    opened.zero_grad()
    corpus = Corpus.from_texts(TEXTS)
    torch.manual_seed(5)
    rows = np.arange(len(TEXTS), dtype=np.int32)
    value = opened.backward([opened.queries(TEXTS[::-1]), opened.documents(corpus, rows, ("text",))], loss)
    return value, {name: one.grad.clone() for name, one in opened.named_parameters() if one.grad is not None}


def contrast(queries: Tensor, documents: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(queries @ documents.T, torch.arange(len(queries)))


@pytest.mark.parametrize("made", MADE, ids=str)
def test_gradients_are_those_of_the_networks_own_forward(
    tmp_path: Path, tiny_encoder: Callable[..., Path], made: dict[str, Any]
) -> None:
    opened = encoders(tiny_encoder(tmp_path, **made))
    value, packed = gradients(opened, contrast)
    opened.query._packed = None
    expected, own = gradients(opened, contrast)
    assert value == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(packed, own, rtol=1e-4, atol=2e-6)
    trained = {name for name, one in opened.named_parameters() if one.requires_grad}
    assert packed.keys() == trained  # nothing is trained that vectors do not depend on


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_computed_twice_batch_by_batch_gradients_are_the_same(
    tmp_path: Path, tiny_encoder: Callable[..., Path], dropout: float
) -> None:
    opened = encoders(tiny_encoder(tmp_path), batch_tokens=100, dropout=dropout).train()
    value, whole = gradients(opened, contrast)
    opened._limit = 0
    again, parts = gradients(opened, contrast)
    assert again == pytest.approx(value, rel=1e-6)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-7)
    if dropout:  # without it, nothing is drawn
        torch.manual_seed(5)
        first = torch.rand(1)
        gradients(opened, contrast)
        assert not torch.equal(torch.rand(1), first)  # the numbers went on


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_activations_that_are_not_kept_give_the_same_gradients(
    tmp_path: Path, tiny_encoder: Callable[..., Path], dropout: float
) -> None:
    folder = tiny_encoder(tmp_path)
    value, kept = gradients(encoders(folder, dropout=dropout).train(), contrast)
    held: list[int] = []
    for recompute in (False, True):
        opened = encoders(folder, dropout=dropout, recompute=recompute).train()
        counted = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal counted
            counted += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            again, found = gradients(opened, contrast)
        held.append(counted)
        assert again == pytest.approx(value, rel=1e-6)
        torch.testing.assert_close(found, kept, rtol=1e-5, atol=1e-7)
    assert held[1] < held[0]


def test_a_network_that_is_not_bert_is_called_as_it_is(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    from transformers import DistilBertConfig, DistilBertModel

    folder = tiny_encoder(tmp_path)
    torch.manual_seed(2)
    config = DistilBertConfig(vocab_size=200, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=64)
    DistilBertModel(config).save_pretrained(folder)
    opened = TextEncoder(folder, "document", EncoderSettings(), dropout=0.0, device=CPU)
    assert opened._packed is None
    stage = BiEncoder(str(folder), EncoderSettings(), Runtime(dtype="float32"))
    ours = encoders(folder)
    with torch.no_grad():
        found = ours.vectors(ours.queries(TEXTS)).numpy()
    assert np.abs(found - stage.queries(TEXTS).vectors).max() < 2e-6
    _, found_gradients = gradients(ours, contrast)
    assert all(one.abs().max() > 0 for name, one in found_gradients.items() if name.endswith("weight"))
