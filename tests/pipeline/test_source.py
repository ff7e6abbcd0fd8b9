from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rankpipe.pipeline.source import (
    MAX_BYTES,
    MAX_VALUES,
    Mapping,
    Node,
    Scalar,
    Sequence,
    parse_source,
    read_source,
)


def plain(node: Node) -> object:
    """The tree as lists, dicts and scalars."""
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    return {entry.key: plain(entry.value) for entry in node.entries}


def read(text: str) -> object:
    source = parse_source(text)
    assert source.problems == ()
    assert source.root is not None
    return plain(source.root)


def problems(text: str) -> list[str]:
    return [str(problem) for problem in parse_source(text, "x.yaml").problems]


def test_quoted_scalars_are_text() -> None:
    assert read("a: '10'\nb: \"no\"\nc: 'null'\nd: |\n  5\n") == {"a": "10", "b": "no", "c": "null", "d": "5\n"}


def test_block_and_flow_style_give_the_same_tree() -> None:
    assert read("a:\n  - b: {c: 1}\n    d: [x, y]\n") == read("{a: [{b: {c: 1}, d: [x, y]}]}")


def test_keys_and_values_know_their_places() -> None:
    source = parse_source("a: 1\nb:\n  - c: ä\n    dé: [1, 2]\n", "x.yaml")
    assert source.root is not None
    first, second = source.root.entries
    assert (first.place.line, first.place.column) == (1, 1)
    assert (first.value.place.line, first.value.place.column) == (1, 4)
    assert isinstance(second.value, Sequence)
    item = second.value.items[0]
    assert isinstance(item, Mapping)
    assert (item.place.line, item.place.column) == (3, 5)
    entry = item.get("dé")
    assert entry is not None
    assert (entry.place.line, entry.place.column) == (4, 5)
    assert isinstance(entry.value, Sequence)
    assert (entry.value.items[1].place.line, entry.value.items[1].place.column) == (4, 13)
    assert entry.place.file == "x.yaml"


def test_an_alias_stands_for_the_anchored_value() -> None:
    assert read("a: &weights [0.5, 0.5]\nb: *weights\n") == {"a": [0.5, 0.5], "b": [0.5, 0.5]}


def test_a_byte_order_mark_is_no_character(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\na: 2")
    assert [str(problem) for problem in read_source(path).problems] == [
        f"{path}:2:1: 'a' is given twice; first on line 1"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.yaml: empty; a map is wanted"),
        ("# nothing\n", "x.yaml: empty; a map is wanted"),
        ("---\n", "x.yaml: empty; a map is wanted"),
        ("- bm25\n", "x.yaml:1:1: a map is wanted, not a list; put this list under 'stages:'"),
        ("\nbm25", "x.yaml:2:1: a map is wanted, not text"),
        ("12", "x.yaml:1:1: a map is wanted, not a number"),
        ("true", "x.yaml:1:1: a map is wanted, not true or false"),
        ("a: 1\n---\nb: 2\n", "x.yaml:2:1: a second document begins; a file holds one"),
        ("a:\n\tb: 1\n", "x.yaml:2:1: a tab where YAML wants spaces"),
        ("a: 1\n b: 2\n", "x.yaml:2:3: not YAML: mapping values are not allowed here"),
        ("a: 'x", "x.yaml:1:6: not YAML: found unexpected end of stream (while scanning a quoted scalar)"),
        (
            "a: [1,\n  2\n",
            "x.yaml:3:1: not YAML: expected ',' or ']', but got 'stream end' "
            "(while parsing a flow sequence begun on line 1)",
        ),
        (
            "a: @x",
            "x.yaml:1:4: not YAML: found character '@' that cannot start any token; text that begins so wants quotes",
        ),
        ('a: "\\UFFFFFFFF"', "x.yaml:1:7: not YAML: an escape or a number out of range"),
        ("%YAML 2.0\n---\na: 1", "x.yaml:1:1: not YAML: found incompatible YAML document (version 1.* is required)"),
        ("a: 1\nb: x\0y\n", "x.yaml:2:5: the character U+0000 is not allowed in YAML"),
        ("a: \x1b[0m", "x.yaml:1:4: the character U+001B is not allowed in YAML"),
        ("a: \udcff", "x.yaml:1:4: the character U+DCFF is not allowed in YAML"),
        ('a: "\\0"', "x.yaml:1:4: the character U+0000 cannot be used, even as an escape"),
        ('a: "\\ud800"', "x.yaml:1:4: the character U+D800 cannot be used, even as an escape"),
        ("<<: {a: 1}", "x.yaml:1:1: merge keys ('<<') are not read; write the entries out"),
        ("a: {k: 1,\n  k: 2}", "x.yaml:2:3: 'k' is given twice; first on line 1"),
        ("a: 1\n'a': 2", "x.yaml:2:1: 'a' is given twice; first on line 1"),
        ('"a\\nb": 1\n"a\\nb": 1', "x.yaml:2:1: 'a\\nb' is given twice; first on line 1"),
        (
            "a: !!python/object/apply:os.system [ls]",
            "x.yaml:1:4: the tag !!python/object/apply:os.system is not read; take it out",
        ),
        ("a: !!str 5", "x.yaml:1:4: the tag !!str is not read; take it out"),
        ("a: !mine {b: 1}", "x.yaml:1:4: the tag !mine is not read; take it out"),
        ("a: ! 5", "x.yaml:1:4: the tag ! is not read; take it out"),
        ("a: &a [1, *a]", "x.yaml:1:11: *a stands inside &a, the value it names"),
        ("a: *b", "x.yaml:1:4: *b has no &b before it"),
        ("5: x", "x.yaml:1:1: a key must be a name, not 5; quotes make it text"),
        ("true: x", "x.yaml:1:1: a key must be a name, not true; quotes make it text"),
        ("?\n: x", "x.yaml:1:2: a key must be a name, not nothing; quotes make it text"),
        ("? [a, b]\n: x", "x.yaml:1:3: a key must be a name, not a list"),
        ("a: " + "1" * 401, "x.yaml:1:4: a number of 401 characters; at most 400 are read"),
        ("a: " + "1" * 401 + ".0", "x.yaml:1:4: a number of 403 characters; at most 400 are read"),
    ],
)
def test_what_is_refused_is_said_in_one_line_with_its_place(text: str, message: str) -> None:
    assert problems(text) == [message]


def test_mistakes_that_leave_a_tree_are_all_collected_and_the_rest_is_read() -> None:
    source = parse_source("a: 1\na: 2\n<<: {b: 1}\nb: !x 3\n5: 4\nc: *no\nd: fine\n", "x.yaml")
    assert [problem.line for problem in source.problems] == [2, 3, 4, 5, 6]
    assert source.root is not None
    assert plain(source.root) == {"a": 1, "b": 3, "c": None, "d": "fine"}


def test_a_syntax_error_is_reported_after_the_mistakes_before_it() -> None:
    source = parse_source("a: 1\na: 2\nb: [\n", "x.yaml")
    assert source.root is None
    assert [problem.line for problem in source.problems] == [2, 4]


def test_billion_laughs_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    assert problems("\n".join(lines)) == [
        f"x.yaml:5:10: more than {MAX_VALUES} values, each alias counted as often as it is used"
    ]


def test_nesting_through_aliases_is_bounded_too() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 200)]
    (message,) = problems("\n".join(lines))
    assert message.endswith("nested more than 100 deep")


@pytest.mark.parametrize("text", ["[" * 900_000, "- " * 400_000, "{a: " * 200_000, "? " * 400_000, "[\n" * 400_000])
def test_deep_nesting_is_refused(text: str) -> None:
    (message,) = problems(text)
    assert message.endswith(": nested more than 100 deep")


def test_a_file_of_many_values_is_refused() -> None:
    (message,) = problems("a: [" + "x," * 450_000 + "]")
    assert message.endswith(f": more than {MAX_VALUES} values, each alias counted as often as it is used")


def test_a_file_of_ten_megabytes_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    path.write_bytes(b"a: 1\n" * 2_000_000)
    assert [str(p) for p in read_source(path).problems] == [f"{path}: larger than 1 MB, the most that is read as YAML"]


def test_text_beyond_the_limit_is_refused() -> None:
    assert problems(" " * (MAX_BYTES + 1)) == ["x.yaml: larger than 1 MB, the most that is read as YAML"]


def test_a_file_that_is_not_utf8_is_refused_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("a: 1\nb: ä, caf\xe9\n".encode("latin-1"))
    assert [str(p) for p in read_source(path).problems] == [f"{path}:2:4: not UTF-8 text (byte 0xe4)"]


def test_a_missing_file_is_a_problem(tmp_path: Path) -> None:
    assert [str(p) for p in read_source(tmp_path / "no.yaml").problems] == [f"{tmp_path / 'no.yaml'}: no such file"]


def test_a_folder_is_a_problem(tmp_path: Path) -> None:
    assert [str(p) for p in read_source(tmp_path).problems] == [f"{tmp_path}: a folder; a YAML file is wanted"]


def test_a_name_with_a_nul_is_a_problem() -> None:
    (problem,) = read_source("a\0b").problems
    assert problem.message == "cannot be read: embedded null byte"


@given(st.text(alphabet=st.sampled_from(list("ab:-?[]{},&*!|>'\"%@`#~<\\ \t\n0.e")), max_size=60))
@example("a: !<")
@example("!!str")
@example("*a : b")
@example("? *")
@example("%YAML 1.9")
@example("%TAG ! tag:x\n---\n!a")
def test_no_text_of_yaml_signs_raises(text: str) -> None:
    source = parse_source(text, "x.yaml")
    assert source.root is not None or source.problems


@given(st.text())
def test_no_text_at_all_raises(text: str) -> None:
    source = parse_source(text)
    assert source.root is not None or source.problems


@given(st.binary(max_size=80))
def test_no_bytes_raise(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "x.yaml"
    path.write_bytes(content)
    source = read_source(path)
    assert source.root is not None or source.problems
