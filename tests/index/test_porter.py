import pytest

from rankpipe.index.porter import stem

# Examples of the rules in Porter, 1980, carried through all steps (the paper gives the result of one step only).
PAPER = {
    "caresses": "caress",  # 1a SSES -> SS
    "ponies": "poni",  # 1a IES -> I
    "caress": "caress",  # 1a SS -> SS
    "cats": "cat",  # 1a S ->
    "feed": "feed",  # 1b m(f) = 0, and -ed is not tried
    "agreed": "agre",  # 1b EED -> EE, then 5a
    "plastered": "plaster",  # 1b
    "bled": "bled",  # 1b no vowel before -ed
    "motoring": "motor",  # 1b
    "sing": "sing",  # 1b no vowel before -ing
    "conflated": "conflat",  # 1b AT -> ATE, then 5a
    "troubled": "troubl",  # 1b BL -> BLE, then 5a
    "sized": "size",  # 1b IZ -> IZE; m = 1 and *o, so 5a keeps the e
    "hopping": "hop",  # 1b double consonant
    "falling": "fall",  # 1b double l stays; m = 1, so 5b keeps it too
    "hissing": "hiss",  # 1b double s stays
    "fizzed": "fizz",  # 1b double z stays
    "failing": "fail",  # 1b *o does not hold, two vowels
    "filing": "file",  # 1b m = 1 and *o: + E
    "happy": "happi",  # 1c
    "sky": "sky",  # 1c no vowel before y
    "relational": "relat",  # 2 ATIONAL -> ATE, 5a
    "conditional": "condit",  # 2 TIONAL -> TION, 4
    "rational": "ration",  # 2 m(r) = 0; 4 AL
    "valenci": "valenc",  # 2, 5a
    "digitizer": "digit",  # 2 IZER -> IZE, 4
    "vietnamization": "vietnam",  # 2, 4
    "hopefulness": "hope",  # 2 FULNESS -> FUL, 3; 5a keeps the e: m = 1, *o
    "sensibiliti": "sensibl",  # 2 BILITI -> BLE, 5a
    "triplicate": "triplic",  # 3
    "formative": "form",  # 3
    "electrical": "electr",  # 3 ICAL -> IC, 4
    "goodness": "good",  # 3
    "revival": "reviv",  # 4
    "inference": "infer",  # 4
    "replacement": "replac",  # 4
    "adoption": "adopt",  # 4 ION behind T
    "communion": "communion",  # 4 not behind S or T
    "rate": "rate",  # 5a m = 1 and *o
    "cease": "ceas",  # 5a m = 1, not *o
    "controll": "control",  # 5b
    "roll": "roll",  # 5b m = 1
    "generalizations": "gener",
    "oscillators": "oscil",
}


@pytest.mark.parametrize(("word", "expected"), PAPER.items())
def test_the_rules_of_the_paper_hold(word: str, expected: str) -> None:
    assert stem(word) == expected


@pytest.mark.parametrize(("word", "expected"), [("possibly", "possibl"), ("psychology", "psycholog"), ("us", "us")])
def test_lucene_departs_from_the_paper_in_bli_logi_and_short_words(word: str, expected: str) -> None:
    assert stem(word) == expected


@pytest.mark.parametrize(("word", "expected"), [("by", "by"), ("say", "sai"), ("yes", "ye"), ("syzygy", "syzygi")])
def test_y_is_a_vowel_only_behind_a_consonant(word: str, expected: str) -> None:
    assert stem(word) == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [("", ""), ("s", "s"), ("日本s", "日本"), ("naïves", "naïv"), ("ẞed", "ẞed"), ("12s", "12"), ("a.b's", "a.b'")],
)
def test_any_characters_may_occur_and_count_as_consonants(word: str, expected: str) -> None:
    assert stem(word) == expected


def test_a_character_beyond_the_first_plane_counts_as_two() -> None:
    assert stem("ds") == "ds"  # two letters stay
    assert stem("𝐝s") == "𝐝"  # three UTF-16 units, so the plural goes
    assert stem("be𝐝e") == "be𝐝"  # so be𝐝 does not end consonant, vowel, consonant, which would keep the e
