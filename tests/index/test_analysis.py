from __future__ import annotations

import gzip
import hashlib
import json
import os
import sys
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankpipe.errors import DataError, MissingExtraError, UsageError
from rankpipe.index import word_break
from rankpipe.index.analysis import open_analyzer, terms

DATA = Path(__file__).parents[1] / "data"  # written by eval/lucene_tokens.py
VECTORS = json.loads((DATA / "lucene_tokens.json").read_text("ascii"))["cases"]
DIGESTS = json.loads((DATA / "lucene_tokens_digest.json").read_text("ascii"))["collections"]


def english(text: str) -> list[str]:
    return terms(open_analyzer("english"), text)


@pytest.mark.parametrize(("text", "words"), [(text, words) for text, words, _ in VECTORS], ids=range(len(VECTORS)))
def test_words_are_those_of_lucene(text: str, words: list[str]) -> None:
    assert [word for word in word_break.words(text) if word_break.is_word(word)] == words


@pytest.mark.parametrize(
    ("text", "expected"), [(text, expected) for text, _, expected in VECTORS], ids=range(len(VECTORS))
)
def test_english_terms_are_those_of_lucene(text: str, expected: list[str]) -> None:
    assert english(text) == expected


@pytest.mark.parametrize("collection", DIGESTS)
def test_english_terms_of_a_whole_collection_are_those_of_lucene(collection: str) -> None:
    analyzer = open_analyzer("english")
    term = cache(analyzer.term)
    digest = hashlib.sha256()
    for text in texts_of(collection):
        found = [known for word in analyzer.words(text) if (known := term(word)) is not None]
        digest.update(" ".join(found).encode() + b"\n")
    assert digest.hexdigest() == DIGESTS[collection]["sha256"]


def texts_of(collection: str) -> list[str]:
    """Title and text of every document, then of every query."""
    homes = [Path(home) / collection for home in os.environ.get("RANKPIPE_DATA", "").split(":") if home]
    folder = next((home for home in homes if any(home.glob("corpus.jsonl*"))), None)
    if folder is None:
        pytest.skip(f"{collection} is in no folder of RANKPIPE_DATA")
    documents, queries = rows_of(folder, "corpus"), rows_of(folder, "queries")
    counts = DIGESTS[collection]["documents"], DIGESTS[collection]["queries"]
    if (len(documents), len(queries)) != counts:
        pytest.skip(f"{folder} holds {len(documents)} documents and {len(queries)} queries, not {counts}")
    return [f"{row.get('title') or ''} {row['text']}".strip() for row in documents + queries]


def rows_of(folder: Path, file: str) -> list[dict[str, str]]:
    compressed = folder / f"{file}.jsonl.gz"
    content = (
        gzip.decompress(compressed.read_bytes()) if compressed.exists() else (folder / f"{file}.jsonl").read_bytes()
    )
    return [json.loads(line) for line in content.splitlines()]


@given(st.text(st.characters(exclude_categories=[])))
def test_words_stand_in_the_text_in_order(text: str) -> None:
    position = 0
    for word in word_break.words(text):
        position = text.index(word, position) + len(word)


@given(st.text(st.characters(max_codepoint=127)))
def test_the_pattern_for_ascii_gives_the_words_of_the_general_one(text: str) -> None:
    # One more character, of no class, sends the text through the general pattern.
    general = [word for word in word_break.words(f"{text} \u2014") if word_break.is_word(word)]
    assert [word for word in word_break.words(text) if word_break.is_word(word)] == general


def test_english_drops_stop_words_and_possessives_and_stems() -> None:
    text = "The John’s possibly psychology's us naïve 日本語 カタカナ ภาษาไทย 한국어 a_b.c 1,000.5"
    assert english(text) == (
        [
            "john",
            "possibl",
            "psycholog",
            "us",
            "naïv",
            "日",
            "本",
            "語",
            "カタカナ",
            "ภาษาไทย",
            "한국어",
            "a_b.c",
            "1,000.5",
        ]
    )


def test_lower_case_is_that_of_each_character_alone() -> None:
    assert english("İSTANBUL ΟΔΟΣ") == ["istanbul", "οδοσ"]


def test_a_word_longer_than_255_units_is_cut_there() -> None:
    assert english("x" * 300) == ["x" * 255, "x" * 45]
    assert english("𝐱" * 130) == ["𝐱" * 127, "𝐱" * 3]  # 128 would be 256 units


def test_joiners_alone_are_no_word() -> None:
    assert english("_ __ ___ _a_ \u203f") == ["_a_"]


def test_a_drawn_line_of_joiners_is_no_word_however_long() -> None:
    assert english(f"above {'_' * 300} below {'_' * 254}x {'_' * 300}x") == [
        "abov",
        "below",
        "_" * 254 + "x",
        "_" * 254 + "x",
    ]


def test_surrogates_and_nul_separate_words() -> None:
    assert english("cats\ud800dogs\x00birds\udfff") == ["cat", "dog", "bird"]


def test_whitespace_splits_and_changes_nothing() -> None:
    assert terms(open_analyzer("whitespace"), "  The cats,\tThe\u2003\ud800CATS \n") == [
        "The",
        "cats,",
        "The",
        "\ud800CATS",
    ]


@pytest.mark.parametrize("language", ["english", "german", "finnish", "russian"])
def test_snowball_gives_what_pystemmer_gives(language: str) -> None:
    import Stemmer

    words = ["Häuser", "running", "possibly", "The", "книгами", "juoksemassa", "us"]
    stemmer = Stemmer.Stemmer(language)
    expected = [stemmer.stemWord(word.lower()) for word in words]
    assert terms(open_analyzer(f"snowball:{language}"), " ".join(words)) == expected


def test_an_unknown_language_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError) as raised:
        open_analyzer("snowball:germn")
    message = str(raised.value)
    assert message.startswith("analyzer 'snowball:germn': no such language; did you mean 'german'?: known are arabic, ")
    assert "porter" in message


def test_an_unknown_name_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UsageError) as raised:
        open_analyzer("englsh")
    assert str(raised.value) == (
        "unknown analyzer 'englsh'; did you mean 'english'?: known are 'english', 'whitespace', 'snowball:LANGUAGE' "
        "and the path of a tokenizer.json"
    )


def test_a_missing_tokenizer_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        open_analyzer(str(tmp_path / "tokenizer.json"))
    assert str(raised.value) == f"analyzer '{tmp_path}/tokenizer.json': cannot be read: No such file or directory"
    with pytest.raises(DataError) as raised:
        open_analyzer("a\0b.json")
    assert str(raised.value) == "analyzer 'a\0b.json': cannot be read: embedded null byte"


def test_a_tokenizer_file_needs_the_extra_tokenizers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)  # what an import of a missing package meets
    with pytest.raises(MissingExtraError) as raised:
        open_analyzer(str(path))
    assert str(raised.value) == (
        f"analyzer '{path}' needs tokenizers: install rankpipe with its extra 'tokenizers', "
        "for example pip install '.[tokenizers]'"
    )


def test_a_tokenizer_file_gives_its_tokens_without_special_ones(tmp_path: Path) -> None:
    path = tiny_tokenizer(tmp_path)
    analyzer = open_analyzer(str(path))
    assert terms(analyzer, "a cat \ud800 a") == ["a", "cat", "[UNK]", "a"]
    assert analyzer.fingerprint == f"tokenizer/1 sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    path = tmp_path / "other.json"
    path.write_text("{}")
    with pytest.raises(DataError, match=r"other\.json': not a tokenizer\.json: "):
        open_analyzer(str(path))


def tiny_tokenizer(folder: Path) -> Path:
    """A word-level tokenizer that knows two words, cuts at one token and puts [CLS] in front of every text."""
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {"[UNK]": 0, "[CLS]": 1, "a": 2, "cat": 3}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing("[CLS] $A", None, [("[CLS]", 1)])
    tokenizer.enable_truncation(1)
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def test_fingerprints_differ(tmp_path: Path) -> None:
    names = ["english", "whitespace", "snowball:english", "snowball:german", str(tiny_tokenizer(tmp_path))]
    assert len({open_analyzer(name).fingerprint for name in names}) == len(names)
