"""Pairs of query and document against the tokenizer that joins them itself."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("transformers", reason="needs the extra 'dense'")

from rankpipe.errors import ModelError, UsageError
from rankpipe.models.pairs import PairReader, shares

QUERIES = ["sweet fruit", "", "car [SEP] the", "the tree " * 6, "road " * 30, "∅ \x00 ü"]
DOCUMENTS = ["The apple is a sweet fruit.", "", "car", "the tree " * 6, "road " * 80, "x"]
TEMPLATES = {
    "BERT": "[CLS] $A [SEP] $B:1 [SEP]:1",
    "RoBERTa": "[CLS] $A [SEP] [SEP] $B [SEP]",
    "T5": "$A [SEP] $B [SEP]",
    "XLNet": "$A:0 [SEP]:0 $B:1 [SEP]:1 [CLS]:2",
    "prompted": "[CLS] [MASK] $A [SEP] [MASK] $B:1 [SEP]:1",
    "bare": "$A $B",
}


@pytest.fixture
def tokenizer(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> Callable[..., Path]:
    """`tokenizer(template, side="left")`: a folder with a tokenizer that joins pairs so."""

    def write(template: str, **changed: Any) -> Path:
        from tokenizers import Tokenizer, processors

        folder = tiny_encoder(tmp_path)
        opened = Tokenizer.from_file(str(folder / "tokenizer.json"))
        names = ["[CLS]", "[SEP]", "[MASK]"]
        opened.post_processor = processors.TemplateProcessing(
            single="$A", pair=template, special_tokens=[(name, opened.token_to_id(name)) for name in names]
        )
        opened.save(str(folder / "tokenizer.json"))
        return configured(folder, **changed)

    return write


def configured(folder: Path, **changed: Any) -> Path:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    return folder


def check(folder: Path, max_length: int) -> None:
    """Every pair is what the tokenizer makes of it."""
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder)
    reader = PairReader(folder, max_length=max_length)
    queries, documents = reader.tokens(QUERIES), reader.tokens(DOCUMENTS)
    for query, query_tokens in zip(QUERIES, queries, strict=True):
        for document, document_tokens in zip(DOCUMENTS, documents, strict=True):
            expected = theirs(
                [(query, document)], truncation=True, max_length=max_length
            )  # as a batch: "" stays a text
            ids, types = reader.joined(query_tokens, document_tokens)
            assert ids.tolist() == expected["input_ids"][0]
            assert types.tolist() == expected.get("token_type_ids", [[0] * len(ids)])[0]
    assert reader.typed == ("token_type_ids" in theirs("car", "road"))


@pytest.mark.parametrize("max_length", [8, 9, 24, 48, 512])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_pairs_are_those_of_the_tokenizer(
    tokenizer: Callable[..., Path], name: str, side: str, max_length: int
) -> None:
    check(tokenizer(TEMPLATES[name], truncation_side=side), max_length)


def test_a_tokenizer_without_token_types_gives_none(tokenizer: Callable[..., Path]) -> None:
    check(tokenizer(TEMPLATES["BERT"], model_input_names=["input_ids", "attention_mask"]), 24)


def test_limits_that_a_tokenizer_file_states_itself_are_not_kept(tokenizer: Callable[..., Path]) -> None:
    from tokenizers import Tokenizer

    folder = tokenizer(TEMPLATES["BERT"])
    opened = Tokenizer.from_file(str(folder / "tokenizer.json"))
    opened.enable_truncation(max_length=6, stride=2, strategy="only_second")
    opened.enable_padding(length=128)
    opened.save(str(folder / "tokenizer.json"))
    check(folder, 24)


def test_bytes_as_robertas_tokenizer_reads_them(tmp_path: Path) -> None:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaTokenizerFast

    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator([*QUERIES, *DOCUMENTS], vocab_size=300, special_tokens=special, show_progress=False)
    trained.save_model(str(tmp_path))
    RobertaTokenizerFast.from_pretrained(tmp_path).save_pretrained(tmp_path)
    for max_length in (9, 24, 512):
        check(tmp_path, max_length)


def test_texts_are_put_into_lower_case_where_it_is_asked(tokenizer: Callable[..., Path]) -> None:
    from tokenizers import Tokenizer, normalizers

    folder = tokenizer(TEMPLATES["BERT"])
    opened = Tokenizer.from_file(str(folder / "tokenizer.json"))
    opened.normalizer = normalizers.NFC()
    opened.save(str(folder / "tokenizer.json"))
    upper, lower = (
        PairReader(folder, max_length=24, lower_case=asked).tokens(["CAR"])[0].tolist() for asked in (False, True)
    )
    assert upper != lower == PairReader(folder, max_length=24).tokens(["car"])[0].tolist()


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 30))
def test_the_longer_text_is_cut_first(query: int, document: int, room: int) -> None:
    # one token after the other is taken from the longer text, of equal ones from the query first
    left = [query, document]
    while sum(left) > room:
        left[0 if left[0] > left[1] or (left[0] == left[1] and query <= document) else 1] -= 1
    assert shares(query, document, room) == tuple(left)


def test_a_length_without_room_for_two_texts_is_refused(tokenizer: Callable[..., Path]) -> None:
    with pytest.raises(UsageError) as caught:
        PairReader(tokenizer(TEMPLATES["BERT"]), max_length=4)
    assert str(caught.value) == ("max_length is 4; 3 tokens stand around the texts of a pair, so it must be at least 5")


def test_a_tokenizer_that_leaves_a_text_out_is_refused(tokenizer: Callable[..., Path]) -> None:
    folder = tokenizer("[CLS] $B $A [SEP]")
    with pytest.raises(ModelError) as caught:
        PairReader(folder, max_length=24)
    assert str(caught.value) == (f"model folder {folder}: its tokenizer does not join a query and a document to a pair")
