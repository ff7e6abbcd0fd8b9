"""TREC topics in their three forms."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from rankpipe.data.topics import read_topics
from rankpipe.errors import DataError

CLASSIC = """
<top>

<num> Number: 301
<title> International
Organized Crime &amp; more

<desc> Description:
Identify organizations.

<narr> Narrative:
A relevant document <b>must</b> say so.
</top>

<top>
<num>302</num><title>Topic: Polio
<desc>Is it under control?
</top>
"""

XML = """<?xml version="1.0" encoding="ISO-8859-1"?>
<topics task="x">
  <topic number="1">
    <query>origin of
      covid</query>
    <question>What is it &amp; where?</question>
    <subtopics><subtopic number="9">deeper</subtopic></subtopics>
  </topic>
  <topic><num>2</num><title>grün</title><query>other</query></topic>
</topics>
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "topics.txt"


def test_classic_topics_have_titles_and_descriptions(file: Path) -> None:
    file.write_text(CLASSIC)
    queries = read_topics(file)
    assert queries.ids == ("301", "302")
    assert queries.texts == ("International Organized Crime & more", "Polio")
    assert queries.fields["description"] == ("Identify organizations.", "Is it under control?")
    assert queries.fields["narrative"][0].startswith("A relevant document")


def test_what_is_no_tag_of_a_classic_topic_is_text(file: Path) -> None:
    file.write_text(
        "<top>\n<num> 1\n<title> mail <john@example.com> spam p<q and r>s x<y>z H<sub>2</sub>O\n"
        "<own> a field\nof two lines </own> outside\n<narr> it <i>must</i>\n</top>\n"
    )
    queries = read_topics(file)
    assert queries.texts == ("mail <john@example.com> spam p<q and r>s x<y>z H2O",)
    assert queries.fields == {"own": ("a field of two lines",), "narrative": ("it must",)}


def test_marks_inside_of_an_xml_text_are_dropped_and_their_words_kept(file: Path) -> None:
    file.write_text(
        "<topics><topic number='1'><num>7</num><title>vitamin <i>E</i> H<sub>2</sub>O trial<br/>of <x><y>all</y></x></title>"
        "<aspects><aspect>one</aspect><aspect>two</aspect></aspects></topic></topics>"
    )
    queries = read_topics(file)
    assert (queries.ids, queries.texts) == (("7",), ("vitamin E H2O trial of all",))
    assert queries.fields == {"aspects": ("one two",)}


def test_xml_topics_have_titles_or_queries(file: Path) -> None:
    file.write_text(XML, encoding="utf-8")
    queries = read_topics(file)
    assert queries.ids == ("1", "2")
    assert queries.texts == ("origin of covid", "grün")
    assert queries.fields["question"] == ("What is it & where?", "")
    assert queries.fields["query"] == ("", "other")


def test_xml_topics_may_stand_behind_each_other_without_an_element_around_them(file: Path) -> None:
    file.write_text(
        '\n<top lang="en">\n<num>C041</num>\n<title>Pesticides &amp; food</title>\n</top>\n<TOP><num>C042</num><title>x</title></TOP>'
    )
    queries = read_topics(file)
    assert (queries.ids, queries.texts) == (("C041", "C042"), ("Pesticides & food", "x"))
    file.write_text("<top>\n<num>1</num><title>x</title></top>\n<top><num>1</num><title>y</title></top>")
    with pytest.raises(DataError) as caught:
        read_topics(file)
    assert str(caught.value) == f"{file}:3: topic '1' occurs twice; the first time in line 1"


def test_lines_of_id_and_text_are_topics_too(tmp_path: Path) -> None:
    path = tmp_path / "queries.tsv.gz"
    path.write_bytes(gzip.compress(b"19335\tanthropological definition\n47923\taxon terminals\n5\t\n"))
    queries = read_topics(path)
    assert queries.ids == ("19335", "47923", "5")
    assert queries.texts == ("anthropological definition", "axon terminals", "")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", ": holds no topics"),
        ("<topics></topics>", ": holds no topics"),
        ("1\ta\nb\n", ":2: no tab; a line is 'query_id<TAB>text'"),
        ("qid\tquery\n1\ta\n", ":1: 'qid' names a column; topics have no header, so leave this line out"),
        ("1\tQ0\td1\n", ":1: 2 tabs; a line is 'query_id<TAB>text'"),
        ("<top>\n<num> 1\n<title> a\n<title> b\n</top>", ":4: a second <title> in one topic; keep one"),
        (
            "<t><topic number='1'>\n<query>a</query>\n<query>b</query></topic></t>",
            ":3: a second <query> in one topic; keep one",
        ),
        ("1\ta\n\n1\tb\n", ":3: topic '1' occurs twice; the first time in line 1"),
        ("\ta\n", ":1: the id of this topic is empty"),
        ("<top>\n<title> a\n</top>", ":1: the id of this topic is empty"),
        ("<top>\n<num> 1\n<desc> d\n<title>\n", ":1: this <top> has no </top>"),
        ("<top>\n<num> 1\n<title> a\n<top>\n", ":4: <top> before the </top> of the one before"),
        ("<top>\n<num> 1\n<title> a\n</top>\n</top>", ":5: </top> without <top>"),
        ("<t>\n<top><num>1</num><desc>d</desc></top></t>", ":2: topic '1' has no title"),
        ("<t>\n<topic>\n</t>", ":3: not XML: mismatched tag"),
        ('<!DOCTYPE t [<!ENTITY a "b">]>\n<t/>', ":1: declares an entity, which topics have no use for"),
    ],
)
def test_bad_topics_are_named(file: Path, content: str, says: str) -> None:
    file.write_text(content)
    with pytest.raises(DataError) as caught:
        read_topics(file)
    assert str(caught.value) == f"{file}{says}"


def test_labels_in_closed_tags_are_no_part_of_what_they_stand_before(file: Path) -> None:
    file.write_text(
        "<top>\n<num> Number: MB001 </num>\n<title> BBC news </title>\n<desc> Description: what &amp; who </desc>\n</top>\n"
    )
    queries = read_topics(file)
    assert (queries.ids, queries.texts) == (("MB001",), ("BBC news",))
