"""What made a score, as words and as a picture."""

from xml.etree import ElementTree

from rankpipe.evaluation.explanation import LINE_WIDTH, picture, words_of


def test_pieces_of_a_word_are_added_up() -> None:
    pieces = [("[1]", 1.0), (" vac", 2.0), ("cine", 3.0), (" works\n", -1.0), ("in", 0.5)]
    assert words_of(pieces) == [("[1]", 1.0), ("vaccine", 5.0), ("works", -1.0), ("in", 0.5)]


def test_nothing_is_lost_between_words() -> None:
    pieces = [(" ", 1.0), ("a", 2.0), ("  ", 4.0), ("b c", 8.0), ("\n", 16.0)]
    words = words_of(pieces)
    assert [word for word, _ in words] == ["a", "b", "c"]
    assert sum(value for _, value in words) == 31.0
    assert words_of([]) == []
    assert words_of([("  ", 1.0)]) == []


def test_the_picture_holds_every_word_and_colours_by_one_scale() -> None:
    long = [(f" word{number}", number / 100) for number in range(40)]
    drawn = picture("a <query>", [("1. d1 & d2", long), ("2. d3", [("less", -0.39)])])
    root = ElementTree.fromstring(drawn)
    texts = ["".join(one.itertext()) for one in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["a <query>", "1. d1 & d2", *[f"word{number}" for number in range(40)], "2. d3", "less"]
    fills = {(one.get("fill"), one.get("fill-opacity")) for one in root.iter("{http://www.w3.org/2000/svg}rect")}
    assert {("#d66014", "1.00"), ("#285ac8", "1.00")} <= fills
    assert len({one.get("y") for one in root.iter("{http://www.w3.org/2000/svg}text")}) > 40 * 7 // LINE_WIDTH + 3


def test_a_picture_is_xml_whatever_a_document_holds() -> None:
    drawn = picture("q", [("1. d\x0b1", [("a\x00b\ufffe", 1.0)])])
    assert "a\ufffdb\ufffd" in "".join(ElementTree.fromstring(drawn).itertext())
