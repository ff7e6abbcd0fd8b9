"""Encoders with a Router against those of sentence-transformers, and Routers that cannot be followed."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'dense'")
pytest.importorskip("sentence_transformers", reason="needs the extra 'dense'")

from rankpipe.models.bi_encoder import BiEncoder, EncoderSettings
from rankpipe.models.recipe import read_recipe, recipe_digest
from rankpipe.models.references import model_digest
from rankpipe.models.routes import Role
from rankpipe.models.runtime import Runtime

PROMPTS = {"query": "query: ", "document": "passage: "}
Write = Callable[..., Path]


def opened(folder: Path, role: Role, **settings: Any) -> BiEncoder:
    return BiEncoder(str(folder), EncoderSettings(**settings), Runtime(dtype="float32"), role=role)


def saved(folder: Path, modules: Sequence[Any], **described: Any) -> Path:
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(modules=list(modules), device="cpu", **described).save_pretrained(
        str(folder), create_model_card=False
    )
    return folder


def modules_of(folder: Path) -> list[Any]:
    from sentence_transformers import SentenceTransformer

    return list(SentenceTransformer(str(folder), device="cpu").children())


def assert_same_vectors(folder: Path, texts: list[str]) -> None:
    """Queries and documents have the vectors that encode_query and encode_document give them."""
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(folder), device="cpu")
    queries = opened(folder, "query", similarity="dot").queries(texts).vectors
    documents = opened(folder, "document", similarity="dot").documents(texts).vectors
    assert np.abs(queries - theirs.encode_query(texts)).max() < 1e-6
    assert np.abs(documents - theirs.encode_document(texts)).max() < 1e-6
    if queries.shape == documents.shape:
        assert np.abs(queries - documents).max() > 0.01


@pytest.mark.parametrize(
    ("query", "document", "behind", "prompts"),
    [
        ({"seed": 1}, {}, "", {}),
        ({"pooling": "cls"}, {"pooling": "max"}, "", {}),
        ({"pooling": ["cls", "mean"], "hidden": 16}, {"pooling": "lasttoken"}, "", {}),
        ({"hidden": 16, "dense": (32, "Tanh")}, {}, "", {}),
        ({"seed": 1, "normalise": False}, {"normalise": False}, "Normalize", {}),
        ({"seed": 1, "normalise": False}, {"dense": (32, "GELU"), "normalise": False}, "Dense, Normalize", PROMPTS),
        ({"max_length": 9}, {"max_length": 20}, "", PROMPTS),
        ({"include_prompt": False}, {}, "", PROMPTS),
    ],
    ids=str,
)
def test_vectors_equal_those_of_sentence_transformers(
    tmp_path: Path,
    tiny_router: Write,
    query: dict[str, Any],
    document: dict[str, Any],
    behind: str,
    prompts: dict[str, str],
    texts: list[str],
) -> None:
    folder = tiny_router(tmp_path / "routed", query=query, document=document, behind=behind, prompts=prompts)
    assert_same_vectors(folder, texts)


def test_routes_may_share_their_network(tmp_path: Path, tiny_encoder: Write, texts: list[str]) -> None:
    # of modules that two routes have in common one copy is saved, in a folder of the first route's name
    from sentence_transformers.base.modules import Dense, Normalize, Router

    transformer, pooling = modules_of(tiny_encoder(tmp_path / "encoder", normalise=False))
    router = Router.for_query_document([transformer, pooling, Dense(32, 32)], [transformer, pooling])
    assert_same_vectors(saved(tmp_path / "shared", [router, Normalize()]), texts)
    router = Router.for_query_document([Dense(32, 32)], [Normalize()])
    assert_same_vectors(saved(tmp_path / "behind", [transformer, pooling, router]), texts)


def test_routes_may_be_of_networks_alone(tmp_path: Path, tiny_encoder: Write, texts: list[str]) -> None:
    from sentence_transformers.base.modules import Router

    query, pooling = modules_of(tiny_encoder(tmp_path / "query", seed=1, normalise=False))
    document, _ = modules_of(tiny_encoder(tmp_path / "document", normalise=False))
    assert_same_vectors(saved(tmp_path / "routed", [Router.for_query_document([query], [document]), pooling]), texts)


def test_settings_of_the_pipeline_stand_above_those_of_a_route(
    tmp_path: Path, tiny_router: Write, tiny_encoder: Write, texts: list[str]
) -> None:
    folder = tiny_router(tmp_path / "routed", query={"seed": 1}, document={}, prompts=PROMPTS)
    alone = tiny_encoder(tmp_path / "alone", seed=1)
    settings: dict[str, Any] = {"pooling": "cls", "max_length": 12, "query_prompt": "the road ", "dimensions": 8}
    expected = opened(alone, "query", **settings).queries(texts).vectors
    assert np.array_equal(opened(folder, "query", **settings).queries(texts).vectors, expected)


def test_a_folder_without_routes_is_the_same_for_queries_and_documents(tmp_path: Path, tiny_encoder: Write) -> None:
    folder = tiny_encoder(tmp_path, dense=(24, "Tanh"))
    recipe = read_recipe(folder, "query")
    assert recipe == read_recipe(folder, "document")
    assert not recipe.routed
    assert recipe_digest(folder, "query") == recipe_digest(folder, "document") == model_digest(folder)


# -- digests --------------------------------------------------------------------------------------------------------------


def test_folders_with_one_route_in_common_have_one_digest_for_it(tmp_path: Path, tiny_router: Write) -> None:
    one = tiny_router(tmp_path / "one", query={"seed": 1}, document={}, prompts=PROMPTS)
    other = tiny_router(
        tmp_path / "other", query={"seed": 2, "dense": (32, "Tanh")}, document={}, prompts={**PROMPTS, "query": "q: "}
    )
    assert opened(one, "document").key() == opened(other, "document").key()
    digests = {recipe_digest(folder, role) for folder in (one, other) for role in ("query", "document")}
    assert len(digests) == 3


@pytest.mark.parametrize(
    "name",
    [
        "document_0_Transformer/config.json",
        "document_0_Transformer/model.safetensors",
        "document_0_Transformer/sentence_bert_config.json",
        "document_0_Transformer/tokenizer.json",
        "document_0_Transformer/tokenizer_config.json",
        "document_1_Pooling/config.json",
        "document_2_Dense/config.json",
        "document_2_Dense/model.safetensors",
    ],
)
def test_the_digest_is_of_all_that_the_route_loads_and_of_no_other(
    tmp_path: Path, tiny_router: Write, name: str
) -> None:
    folder = tiny_router(tmp_path / "routed", query={"seed": 1}, document={"dense": (32, "Tanh")})
    query, document = recipe_digest(folder, "query"), recipe_digest(folder, "document")
    path = folder / name
    path.write_bytes(path.read_bytes() + b"\n")
    assert recipe_digest(folder, "query") == query
    assert recipe_digest(folder, "document") != document


def test_the_digest_is_of_the_modules_behind_the_router_as_well(tmp_path: Path, tiny_router: Write) -> None:
    plain: dict[str, Any] = {"query": {"seed": 1, "normalise": False}, "document": {"normalise": False}}
    folder = tiny_router(tmp_path / "routed", **plain, behind="Dense, Normalize")
    document = recipe_digest(folder, "document")
    (folder / "modules.json").write_text(json.dumps(json.loads((folder / "modules.json").read_text())[:-1]))
    without = recipe_digest(folder, "document")
    path = folder / "1_Dense" / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"\n")
    assert len({document, without, recipe_digest(folder, "document")}) == 3


# -- what cannot be followed ----------------------------------------------------------------------------------------------

ENCODERS = {
    role: [f"{role}_0_Transformer", f"{role}_1_Pooling", f"{role}_2_Normalize"] for role in ("query", "document")
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"structure": {"query": ENCODERS["query"]}},
            ": the routes are query; they must be query and document",
        ),
        (
            {"structure": {"query": ENCODERS["query"], "passage": ENCODERS["document"]}},
            ": the routes are query, passage; they must be query and document",
        ),
        (
            {"structure": {**ENCODERS, "image": []}},
            ": the routes are query, document, image; they must be query and document",
        ),
        ({"structure": {}}, ": the routes are none; they must be query and document"),
        (
            {"parameters": {"route_mappings": {"('query', 'text')": "document"}}},
            ": route_mappings is {\"('query', 'text')\": 'document'}; only a Router without them is supported",
        ),
        (
            {
                "structure": {**ENCODERS, "query": ["../document"]},
                "types": {"../document": "sentence_transformers.models.Transformer"},
            },
            ": the module '../document' is outside of the Router's folder",
        ),
        (
            {
                "structure": {**ENCODERS, "query": ["/etc"]},
                "types": {"/etc": "sentence_transformers.models.Transformer"},
            },
            ": the module '/etc' is outside of the Router's folder",
        ),
        (
            {"structure": {**ENCODERS, "query": ["mine"]}, "types": {"mine": "mine.Encoder"}},
            ": the module mine.Encoder is none of sentence-transformers; its code is not run",
        ),
        (
            {"structure": {**ENCODERS, "query": ["else"]}},
            ": the route query is not a list of modules that have a type ('else')",
        ),
        (
            {"structure": {**ENCODERS, "query": None}},
            ": the route query is not a list of modules that have a type ('NoneType' object is not iterable)",
        ),
        (
            {"structure": [["query"]]},
            " is not the configuration of a Router: types, structure and parameters, by their names",
        ),
    ],
    ids=str,
)
def test_a_router_that_does_not_tell_queries_from_documents_is_refused(
    tmp_path: Path,
    tiny_router: Write,
    changes: dict[str, Any],
    message: str,
    refused: Callable[[Callable[[], object]], str],
) -> None:
    folder = tiny_router(tmp_path / "routed", query={"seed": 1}, document={})
    path = folder / "router_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    assert refused(lambda: opened(folder, "query")) == f"{path}{message}"


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (
            ["StaticEmbedding"],
            "modules of the kind StaticEmbedding are not supported; only Dense, Normalize, Pooling, Transformer",
        ),
        (["Router"], "modules of the kind Router are not supported; only Dense, Normalize, Pooling, Transformer"),
        (["Pooling", "Normalize"], "the modules are Pooling, Normalize; they must begin with Transformer, Pooling"),
        ([], "the modules are none; they must begin with Transformer, Pooling"),
    ],
    ids=str,
)
def test_a_route_that_is_no_encoder_is_refused_and_the_other_is_opened(
    tmp_path: Path,
    tiny_router: Write,
    kinds: list[str],
    message: str,
    refused: Callable[[Callable[[], object]], str],
) -> None:
    folder = tiny_router(tmp_path / "routed", query={"seed": 1}, document={})
    path = folder / "router_config.json"
    config = json.loads(path.read_text())
    config["types"].update({f"{kind}s": f"sentence_transformers.models.{kind}" for kind in kinds})
    config["structure"]["query"] = [f"{kind}s" for kind in kinds]
    path.write_text(json.dumps(config))
    assert refused(lambda: opened(folder, "query")) == f"{folder / 'modules.json'}, route query: {message}"
    assert opened(folder, "document").dimensions == 32


def test_a_router_without_its_file_is_refused(
    tmp_path: Path, tiny_router: Write, refused: Callable[[Callable[[], object]], str]
) -> None:
    folder = tiny_router(tmp_path / "routed", query={"seed": 1}, document={})
    (folder / "router_config.json").unlink()
    assert refused(lambda: opened(folder, "document")) == f"model folder {folder} has no router_config.json"
