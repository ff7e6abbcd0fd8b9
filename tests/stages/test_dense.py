"""The stages dense and rescore on a small random encoder."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from rankpipe.data import Corpus, Queries
from rankpipe.errors import MissingExtraError, ModelError, UsageError
from rankpipe.index.shards import finished
from rankpipe.index.vectors import Vectors
from rankpipe.models.runtime import Runtime
from rankpipe.run import Run
from rankpipe.stages.bm25 import BM25
from rankpipe.stages.dense import Dense
from rankpipe.stages.encoding import Encoding
from rankpipe.stages.fuse import Fuse
from rankpipe.stages.rescore import Rescore

TEXTS = {
    "a": "the apple is a sweet fruit",
    "b": "a car on the road",
    "c": "the tree by the road",
    "d": "",
    "e": "sweet sweet sweet",
    "f": "a car on the road",  # the twin of b
}
CORPUS = Corpus.from_records({"id": doc_id, "text": text} for doc_id, text in TEXTS.items())
QUERIES = Queries.of({"q1": "sweet fruit", "q2": "road", "q3": " ", "q4": "car"})
FULL = Runtime(dtype="float32")


@pytest.fixture
def model(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> str:
    return str(tiny_encoder(tmp_path / "model"))


def similarities(model: str, *, query: str, documents: list[str]) -> np.ndarray:
    """Cosines by sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(model, device="cpu")
    return encoder.encode(documents) @ encoder.encode([query])[0]


def ranked(stage: Any, queries: Any = QUERIES, corpus: Corpus = CORPUS) -> dict[str, dict[str, float]]:
    return replace(stage.on(corpus), runtime=FULL).run(queries).to_dict()


def test_documents_are_ranked_by_the_cosine_of_sentence_transformers(model: str) -> None:
    found = ranked(Dense(model=model), {"q": "sweet fruit"})["q"]
    expected = dict(zip(TEXTS, similarities(model, query="sweet fruit", documents=list(TEXTS.values())), strict=True))
    assert list(found) == sorted(TEXTS, key=lambda doc_id: (round(expected[doc_id], 5), doc_id), reverse=True)
    assert found == pytest.approx(expected, abs=1e-5)


def test_equal_documents_have_equal_scores_and_fall_by_id_also_at_the_cut(model: str) -> None:
    everything = ranked(Dense(model=model))["q4"]
    assert everything["b"] == everything["f"]
    place = list(everything).index("f")
    assert list(everything)[place + 1] == "b"
    assert list(ranked(Dense(model=model, k=place + 1))["q4"]) == list(everything)[: place + 1]


def test_a_query_without_text_has_no_candidates(model: str) -> None:
    assert {query_id: len(found) for query_id, found in ranked(Dense(model=model)).items()} == {
        "q1": 6,
        "q2": 6,
        "q3": 0,
        "q4": 6,
    }


def test_vectors_that_queries_carry_are_taken_before_their_texts(model: str) -> None:
    stage = Dense(model=model)
    vectors = np.zeros((4, 32), np.float32)
    vectors[:, 5] = 1
    found = ranked(stage, replace(QUERIES, vectors=vectors))
    with FULL.active():
        fifth = stage.all_vectors(CORPUS).values[:, 5].tolist()
    assert found["q1"] == found["q3"] == dict(zip(TEXTS, fifth, strict=True))


def test_vectors_of_other_dimensions_are_refused(model: str) -> None:
    with pytest.raises(UsageError, match="queries are vectors of 31 dimensions, the documents' have 32"):
        ranked(Dense(model=model), replace(QUERIES, vectors=np.ones((4, 31), np.float32)))


def test_encoders_of_queries_and_documents_may_differ(
    model: str, tmp_path: Path, tiny_encoder: Callable[..., Path]
) -> None:
    other = str(tiny_encoder(tmp_path / "other", seed=1))
    found = ranked(Dense(model=model, query_model=other))["q2"]
    from rankpipe.models.bi_encoder import BiEncoder, EncoderSettings

    query = BiEncoder(other, EncoderSettings(), FULL).queries(["road"]).vectors[0]
    documents = BiEncoder(model, EncoderSettings(), FULL).documents(list(TEXTS.values())).vectors
    assert found == pytest.approx(dict(zip(TEXTS, (documents @ query).tolist(), strict=True)), abs=1e-6)


def test_encoders_that_do_not_fit_each_other_are_refused(
    model: str, tmp_path: Path, tiny_encoder: Callable[..., Path]
) -> None:
    small = str(tiny_encoder(tmp_path / "small", hidden=16))
    with pytest.raises(UsageError) as caught:
        Dense(model=model, query_model=small).prepare(CORPUS)
    assert str(caught.value) == (
        f"query_model '{small}' gives vectors of 16 dimensions, model '{model}' of 32; they must fit each other"
    )


def test_with_a_router_queries_and_documents_take_their_own_routes(
    tmp_path: Path, tiny_router: Callable[..., Path]
) -> None:
    from sentence_transformers import SentenceTransformer

    model = str(tiny_router(tmp_path / "routed", prompts={"query": "query: ", "document": "passage: "}))
    theirs = SentenceTransformer(model, device="cpu")
    scores = theirs.encode_document(list(TEXTS.values())) @ theirs.encode_query(["sweet fruit"])[0]
    expected = dict(zip(TEXTS, scores.tolist(), strict=True))
    found = ranked(Dense(model=model), {"q": "sweet fruit"})["q"]
    assert list(found) == sorted(TEXTS, key=lambda doc_id: (round(expected[doc_id], 5), doc_id), reverse=True)
    assert found == pytest.approx(expected, abs=1e-5)
    given = Run.of(Queries.of({"q": "sweet fruit"}), CORPUS, {"q": dict.fromkeys(TEXTS, 0)})
    with FULL.active():
        assert Rescore(model=model)(given).to_dict()["q"] == pytest.approx(found, abs=1e-6)


def test_a_router_may_be_that_of_the_queries_alone(
    model: str, tmp_path: Path, tiny_encoder: Callable[..., Path], tiny_router: Callable[..., Path]
) -> None:
    routed = str(tiny_router(tmp_path / "routed", query={"seed": 1}, document={"seed": 2}))
    query = str(tiny_encoder(tmp_path / "query", seed=1))
    document = str(tiny_encoder(tmp_path / "document", seed=2))
    assert ranked(Dense(model=model, query_model=routed)) == ranked(Dense(model=model, query_model=query))
    assert ranked(Dense(model=routed, query_model=model)) == ranked(Dense(model=document, query_model=model))


def test_a_folder_without_router_is_opened_once(model: str, tmp_path: Path, tiny_router: Callable[..., Path]) -> None:
    documents, queries = Dense(model=model).encoders()
    assert documents is queries
    stage = Dense(model=str(tiny_router(tmp_path / "routed")))
    documents, queries = stage.encoders()
    assert stage.facts(CORPUS)["model"] == documents.digest != queries.digest == stage.facts(CORPUS)["query_model"]


def test_routers_that_share_the_route_of_documents_share_their_vectors(
    tmp_path: Path, store: Path, tiny_router: Callable[..., Path]
) -> None:
    one, other = (
        ranked(Dense(model=str(tiny_router(tmp_path / name, query={"seed": seed}))))
        for name, seed in (("one", 1), ("other", 2))
    )
    assert one != other
    assert len(list((store / "vectors").iterdir())) == 1


def test_routes_that_do_not_fit_each_other_are_refused(tmp_path: Path, tiny_router: Callable[..., Path]) -> None:
    model = str(tiny_router(tmp_path / "routed", query={"hidden": 16}))
    with pytest.raises(UsageError) as caught:
        Dense(model=model).prepare(CORPUS)
    assert str(caught.value) == (
        f"the query route of model '{model}' gives vectors of 16 dimensions, its document route of 32; "
        "they must fit each other"
    )


def test_the_best_window_of_a_document_counts_and_is_named(model: str) -> None:
    corpus = Corpus.from_texts(["the car the road tree " * 3 + "sweet fruit", "sweet"])
    stage = Dense(model=model, window=8, stride=2, fields=["text"])
    run = replace(stage.on(corpus), runtime=FULL).run("sweet fruit")
    assert run.passages is not None
    # 17 words, 6 in a window, 2 apart: windows begin at 0, 2, ..., 12; the last is "the road tree sweet fruit"
    windows = [" ".join(("the car the road tree " * 3 + "sweet fruit").split()[at : at + 6]) for at in range(0, 13, 2)]
    scores = similarities(model, query="sweet fruit", documents=windows)
    place = run.documents.tolist().index(0)
    assert run.scores[place] == pytest.approx(float(scores.max()), abs=1e-5)
    assert run.passages[place] == int(scores.argmax())


def test_the_corpus_is_encoded_once_for_all_stages_and_processes(model: str, store: Path) -> None:
    first = ranked(Dense(model=model))
    before = {path: path.stat().st_mtime_ns for path in (store / "vectors").rglob("*")}
    assert ranked(Dense(model=model, k=3))["q1"] == dict(list(first["q1"].items())[:3])
    assert {path: path.stat().st_mtime_ns for path in (store / "vectors").rglob("*")} == before


@pytest.mark.parametrize(
    "settings",
    [{"document_prompt": "the "}, {"dimensions": 8}, {"max_length": 5}, {"vectors": "float16"}, {"window": 9}],
)
def test_what_makes_other_vectors_is_another_artefact(model: str, store: Path, settings: dict[str, Any]) -> None:
    Dense(model=model).prepare(CORPUS)
    Dense(model=model, **settings).prepare(CORPUS)
    assert len(list((store / "vectors").iterdir())) == 2


def test_the_manifest_is_told_of_model_precision_and_what_was_cut(model: str) -> None:
    corpus = Corpus.from_texts(["car", "car " * 100])
    stage = Dense(model=model, query_prompt="query: ")
    with FULL.active():
        assert stage.counted(corpus) == {}
        stage.prepare(corpus)
        facts = stage.facts(corpus)
        assert stage.counted(corpus) == {"truncated_share": 0.5}
        stage(Run.empty(Queries.of(["car", "car " * 47, "road", "tree"]), corpus))
        assert stage.counted(corpus) == {"truncated_share": 0.5, "truncated_query_share": 0.25}
    assert {name: facts[name] for name in ("dtype", "dimensions", "max_length", "query_prompt")} == {
        "dtype": "float32",
        "dimensions": 32,
        "max_length": 48,
        "query_prompt": "query: ",
    }
    json.dumps(facts)


# -- rescore --------------------------------------------------------------------------------------------------------------


def candidates() -> Run:
    return Run.of(QUERIES, CORPUS, {"q1": {"a": 3, "b": 2, "c": 1}, "q2": {"b": 2, "f": 1, "e": 0}, "q4": {"c": 7}})


def test_candidates_are_scored_as_dense_scores_them(model: str) -> None:
    with FULL.active():
        rescored = Rescore(model=model)(candidates()).to_dict()
        alone = Rescore(model=model, depth=10)(candidates()).to_dict()
    dense = ranked(Dense(model=model))
    assert rescored == alone
    for query_id in ("q1", "q2", "q4"):
        assert list(rescored[query_id]) == [doc_id for doc_id in dense[query_id] if doc_id in rescored[query_id]]
        assert rescored[query_id] == pytest.approx({d: dense[query_id][d] for d in rescored[query_id]}, abs=1e-6)


def test_vectors_of_the_store_are_taken_where_there_are_any(model: str) -> None:
    dense, rescore = Dense(model=model), Rescore(model=model)
    with FULL.active():
        dense.prepare(CORPUS)
        stored = rescore.stored_vectors(CORPUS)
        assert stored is not None
        rescored = rescore(candidates()).to_dict()
    assert {doc_id: ranked(dense)["q1"][doc_id] for doc_id in rescored["q1"]} == rescored["q1"]


@pytest.mark.parametrize("stored", [False, True], ids=["of candidates", "of the corpus"])
def test_what_was_cut_is_told_whether_or_not_the_store_has_the_corpus(model: str, stored: bool) -> None:
    lengths = {"a": 1, "b": 47, "c": 48, "d": 2}
    corpus = Corpus.from_records({"id": doc_id, "text": "car " * length} for doc_id, length in lengths.items())
    if stored:
        Dense(model=model).prepare(corpus)
    stage = Rescore(model=model, depth=2)
    queries = Queries.of({"q1": "car", "q2": "road " * 50})
    stage(Run.of(queries, corpus, {"q1": {"a": 9, "b": 8, "c": 7}, "q2": {"b": 2, "d": 1}}))  # b is cut, twice of four
    assert stage.counted(corpus) == {"truncated_share": 0.5, "truncated_query_share": 0.5}
    assert stage.facts(corpus) == Rescore(model=model).facts(corpus)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of the documents that were encoded, in turn."""
    rows_of: list[int] = []
    encode = Encoding.encode_rows

    def counting(self: Encoding, corpus: Corpus, rows: Any, *more: Any) -> Any:
        rows_of.extend(rows.tolist())
        return encode(self, corpus, rows, *more)

    monkeypatch.setattr(Encoding, "encode_rows", counting)
    return rows_of


def test_only_candidates_are_encoded_and_each_once(model: str, store: Path, encoded: list[int]) -> None:
    stage = Rescore(model=model, depth=2)
    stage(candidates())
    stage(candidates())
    stage(Run.of(QUERIES, CORPUS, {"q1": {"a": 1, "e": 0}}))
    assert encoded == [0, 1, 2, 5, 4]
    assert not (store / "vectors").exists()


def test_what_was_encoded_is_kept_for_other_runs_and_pipelines(model: str, encoded: list[int]) -> None:
    first = Rescore(model=model, depth=2)(candidates()).to_dict()
    assert Rescore(model=model, depth=2)(candidates()).to_dict() == first
    other = BM25(k=10) >> Rescore(model=model, depth=3, query_prompt="the ")
    other(Run.empty(QUERIES, CORPUS))
    assert sorted(encoded) == [0, 1, 2, 4, 5]
    assert encoded[:4] == [0, 1, 2, 5]


@pytest.mark.parametrize(
    "settings",
    [{"document_prompt": "the "}, {"dimensions": 8}, {"max_length": 5}, {"vectors": "float16"}, {"window": 9}],
)
def test_what_makes_other_vectors_is_kept_apart(model: str, encoded: list[int], settings: dict[str, Any]) -> None:
    Rescore(model=model, depth=1)(candidates())
    Rescore(model=model, depth=1, **settings)(candidates())
    Rescore(model=model, depth=1)(Run.of(QUERIES, CORPUS.without(["d"]), {"q1": {"a": 1}}))
    assert encoded == [0, 1, 2, 0, 1, 2, 0]


def test_encoding_the_corpus_takes_over_what_was_encoded_of_candidates(
    model: str, store: Path, encoded: list[int]
) -> None:
    with FULL.active():
        Rescore(model=model, depth=2)(candidates())  # a, b, c and f
        assert encoded == [0, 1, 2, 5]
        encoded.clear()
        index = Dense(model=model).all_vectors(CORPUS)
        assert encoded == [3, 4]
        assert not list((store / "candidate-vectors").iterdir())
        alone = Dense(model=model).encoders()[0].documents(list(TEXTS.values())).vectors
    assert np.abs(index.values - alone).max() < 1e-6  # other texts in a batch, another rounding


def test_a_rescorer_takes_what_a_dense_stage_has_encoded_meanwhile(model: str, encoded: list[int]) -> None:
    pipeline = Fuse([BM25() >> Rescore(model=model, rest="drop"), Dense(model=model)]).on(CORPUS)
    pipeline.run(["sweet road"])
    assert encoded == list(range(6))
    open_before = Rescore(model=model, document_prompt="the ")
    open_before.prepare(CORPUS)
    Dense(model=model, document_prompt="the ").prepare(CORPUS)
    open_before(candidates())
    assert encoded == [*range(6), *range(6)]


# -- corpora that grow and shrink -----------------------------------------------------------------------------------------


def test_of_a_corpus_that_grows_or_shrinks_only_new_documents_are_encoded(model: str, encoded: list[int]) -> None:
    more = CORPUS.extended([{"id": "g", "text": "fruit on the road"}, {"id": "h", "text": "car " * 50}])
    less = more.without(["b", "g"])
    again = less.extended([{"id": "g", "text": "another"}])  # a segment of its own, behind the old one
    with FULL.active():
        stage = Dense(model=model)
        for corpus, new in ((CORPUS, [*range(6)]), (more, [6, 7]), (less, []), (again, [8])):
            encoded.clear()
            found = stage.all_vectors(corpus)
            assert encoded == new
            texts = corpus.joined_texts(found.rows)
            expected = stage.encoders()[0].documents(texts)
            assert found.rows.tolist() == corpus.live_rows().tolist()
            assert np.abs(found.values - expected.vectors).max() < 1e-6
            assert found.truncated.tolist() == expected.truncated.tolist() == [len(text) > 100 for text in texts]


def test_documents_of_another_place_in_a_corpus_are_known_again(model: str, encoded: list[int]) -> None:
    first, second = ({"id": name, "text": text} for name, text in (("x", "sweet fruit"), ("y", "a road")))
    Dense(model=model).prepare(Corpus.from_records([first]).extended([second]))
    assert encoded == [0, 1]
    corpus = Corpus.from_records([{"id": "z", "text": "tree"}]).extended([second])  # y in the second row again
    run = Rescore(model=model)(Run.of(Queries.of("road"), corpus, {"q1": {"y": 1, "z": 0}}))
    assert encoded == [0, 1, 0]
    corpus = Corpus.from_records([second]).extended([first])  # both change places
    swapped = Dense(model=model)(Run.empty(Queries.of("road"), corpus))
    assert encoded == [0, 1, 0]
    assert swapped.to_dict()["q1"]["y"] == pytest.approx(run.to_dict()["q1"]["y"], abs=1e-6)


@pytest.mark.parametrize("window", [None, 8])
def test_of_documents_in_another_order_only_those_with_a_new_text_are_encoded(
    model: str, encoded: list[int], window: int | None
) -> None:
    """As where a file of documents was edited: the corpus is built anew, and has no segment of the old one."""
    texts = ["a sweet fruit", "the road " * 30, "", "a car", "a tree", "a road"]
    old = Corpus.from_records([{"id": f"d{at}", "title": "", "text": text} for at, text in enumerate(texts)])
    changed = ["a car", "new", "the road " * 30, "", "a sweet fruit", "a sweet fruit", "a tree here"]
    new = Corpus.from_records([{"id": f"e{at}", "text": text} for at, text in enumerate(changed)])
    assert not set(new.segments) & set(old.segments)
    with FULL.active():
        stage = Dense(model=model, window=window)
        kept = stage.all_vectors(old)
        assert encoded == [*range(6)]
        encoded.clear()
        found = stage.all_vectors(new)
        assert encoded == [1, 6]
        expected = stage.encoders()[0].documents(new.joined_texts(found.rows))
        assert np.abs(found.values - expected.vectors).max() < 1e-6
        assert found.offsets.tolist() == expected.offsets.tolist()
        assert found.truncated.tolist() == expected.truncated.tolist()
        mine, theirs = (vectors.values[vectors.offsets[at] :] for vectors, at in ((found, 2), (kept, 1)))
        size = int(kept.offsets[2] - kept.offsets[1])
        assert np.array_equal(mine[:size], theirs[:size])  # copied
        assert (size > 1) == (window is not None)
        encoded.clear()
        Dense(model=model, window=window).prepare(new)
        assert encoded == []


def test_damage_of_another_collection_is_no_reason_to_stop(
    model: str, encoded: list[int], store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [{"id": f"d{at}", "text": text} for at, text in enumerate(["a sweet fruit", "a car"])]
    Dense(model=model).prepare(Corpus.from_records(records))
    [folder] = (store / "vectors").iterdir()
    (folder / "texts.npy").write_bytes(b"x")
    Dense(model=model).prepare(Corpus.from_records(records[1:]))
    assert encoded == [0, 1, 0]
    assert capsys.readouterr().err.startswith(
        f"note: vectors of another collection are not taken over: {folder} is damaged"
    )


def test_texts_that_are_cut_at_other_places_are_others(model: str, encoded: list[int]) -> None:
    Dense(model=model).prepare(Corpus.from_records([{"id": "a", "title": "sweet", "text": "fruit road"}]))
    encoded.clear()
    Dense(model=model).prepare(Corpus.from_records([{"id": "b", "title": "sweet fruit", "text": "road"}]))
    assert encoded == []  # an encoder reads both as the same
    Dense(model=model).prepare(Corpus.from_records([{"id": "b", "title": "sweet", "text": "fruit  road"}]))
    assert encoded == [0]


@pytest.mark.parametrize(
    "settings", [{"fields": ["text"]}, {"vectors": "float16"}, {"document_prompt": "the "}], ids=str
)
def test_vectors_that_other_settings_made_are_not_taken(
    model: str, encoded: list[int], settings: dict[str, Any]
) -> None:
    Dense(model=model).prepare(CORPUS)
    encoded.clear()
    Dense(model=model, **settings).prepare(CORPUS.without(["a"]))
    assert encoded == [1, 2, 3, 4, 5]


# -- what a rescorer leaves -----------------------------------------------------------------------------------------------


def test_the_rest_stays_below_or_goes(model: str) -> None:
    kept, dropped = (Rescore(model=model, depth=1, rest=rest)(candidates()) for rest in ("keep", "drop"))
    assert list(kept.to_dict()["q1"]) == ["a", "b", "c"]
    assert list(dropped.to_dict()["q1"]) == ["a"]


def test_the_best_windows_are_those_of_the_documents_that_were_scored(model: str) -> None:
    text = "the car the road tree " * 6 + "sweet fruit"
    corpus = Corpus.from_records([{"id": "a", "text": text}, {"id": "b", "text": "sweet"}, {"id": "c", "text": text}])
    settings: dict[str, Any] = {"model": model, "window": 12, "stride": 5}
    run = Dense(model=model, window=8, stride=2)(Run.empty(Queries.of("sweet fruit"), corpus))
    assert run.passages is not None
    rescored = Rescore(**settings)(run)
    assert rescored.passages is not None
    own = Dense(**settings)(Run.empty(Queries.of("sweet fruit"), corpus))
    assert own.passages is not None
    assert rescored.documents.tolist() == own.documents.tolist()
    assert rescored.passages.tolist() == own.passages.tolist()
    first = Rescore(**settings, depth=1)(run)
    assert first.passages is not None
    assert first.passages[0] == rescored.passages[rescored.documents.tolist().index(int(first.documents[0]))]
    assert first.passages[1:].tolist() == [-1, -1]


def test_windows_are_named_beside_queries_that_find_nothing(model: str) -> None:
    pipeline = (BM25() >> Rescore(model=model, window=8)).on(CORPUS)
    run = pipeline.run(["nothing", "sweet", "nothing", "car"], batch_size=1)
    assert run.passages is not None
    assert run.passages.tolist() == [0] * len(run.documents)  # all are short


def test_a_pipeline_of_bm25_and_rescore(model: str) -> None:
    found = ranked(BM25(k=10) >> Rescore(model=model), {"q": "sweet road"})["q"]
    assert set(found) == {"a", "b", "c", "e", "f"}
    assert found["b"] == found["f"]


# -- settings and what is missing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"similarity": "cosine", "normalise": False}, "'similarity: cosine' and 'normalise: false' contradict"),
        ({"stride": 4}, "'stride' needs 'window'"),
        ({"window": 4, "stride": 5}, "'stride' is larger than 'window'"),
        ({"window": 40, "max_length": 20}, "'window' is larger than 'max_length', the tokens of a text that are read"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Dense(model="minilm", **settings)


@pytest.mark.parametrize("stage", [Dense(model="minilm"), Rescore(model="minilm")])
def test_a_missing_extra_is_named(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError) as caught:
        stage.prepare(CORPUS)
    assert str(caught.value) == (
        f"stage '{stage.type_name()}' needs sentence-transformers: install rankpipe with its extra 'dense', "
        "for example pip install '.[dense]'"
    )


def test_a_model_folder_that_is_not_there_is_one_line(model: str) -> None:
    with pytest.raises(ModelError) as caught:
        Dense(model=f"{model}/nothing").prepare(CORPUS)
    assert str(caught.value) == f"there is no model folder '{model}/nothing'"


# -- a killed encode ------------------------------------------------------------------------------------------------------

ENCODE = """
import sys, time
from rankpipe.data import Corpus
from rankpipe.index import shards, vectors
from rankpipe.stages.dense import Dense

vectors.SHARD = 4
vectors.build.__kwdefaults__["shard"] = 4
write, pause = shards.write, float(sys.argv[2])

def slowly(folder, number, shard):
    write(folder, number, shard)
    print("encoded shard", number, flush=True)
    time.sleep(pause if number == 2 else 0)

shards.write = slowly
Dense(model=sys.argv[1]).prepare(Corpus.from_texts([f"the car {number}" for number in range(18)]))
"""


RESCORE = """
import sys, time
from rankpipe.data import Corpus, Queries
from rankpipe.index import kept
from rankpipe.run import Run
from rankpipe.stages.rescore import Rescore

kept.SHARD = 4
encode, pause = Rescore.encode_rows, float(sys.argv[2])

def slowly(self, corpus, rows, *more):
    time.sleep(pause if rows[0] == 8 else 0)
    print("encoding", *rows, flush=True)
    return encode(self, corpus, rows, *more)

Rescore.encode_rows = slowly
corpus = Corpus.from_texts([f"the car {number}" for number in range(10)])
given = Run.of(Queries.of("car"), corpus, {"q1": {f"d{number}": -number for number in range(1, 11)}})
print(len(Rescore(model=sys.argv[1])(given).documents))
"""


def encode(model: str, pause: float, program: str = ENCODE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, model, str(pause)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_killed_rescoring_goes_on_where_it_stopped(model: str, store: Path) -> None:
    first = encode(model, 600, RESCORE)
    assert first.stdout is not None
    lines = [first.stdout.readline() for _ in range(2)]
    assert lines == ["encoding 0 1 2 3\n", "encoding 4 5 6 7\n"], first.communicate()[1]
    until = time.monotonic() + 60
    while len(list(store.glob("candidate-vectors/*/[!.]*"))) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    output, errors = encode(model, 0, RESCORE).communicate()
    assert output == "encoding 8 9\n10\n", errors


def test_a_killed_encode_goes_on_where_it_stopped(model: str, store: Path) -> None:
    first = encode(model, pause=600)
    assert first.stdout is not None
    lines = [first.stdout.readline() for _ in range(3)]
    assert lines == [f"encoded shard {number}\n" for number in range(3)], first.communicate()[1]
    first.send_signal(signal.SIGKILL)
    first.communicate()
    (partial,) = (store / "vectors").glob(".partial-*")
    assert finished(partial) == [0, 1, 2]
    second = encode(model, pause=0)
    output, errors = second.communicate()
    assert output == "encoded shard 3\nencoded shard 4\n", errors
    (folder,) = (store / "vectors").iterdir()
    vectors = Vectors.open(folder)
    assert len(vectors.rows) == 18
    assert not list(folder.glob("shard-*"))
