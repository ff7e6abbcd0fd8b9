from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankpipe import BM25, Cut, Fuse, Interpolate
from rankpipe.errors import PipelineError
from rankpipe.pipeline.checks import load_file, load_text
from rankpipe.pipeline.order import check_stages
from rankpipe.pipeline.registry import load_stage
from rankpipe.pipeline.writer import to_yaml
from rankpipe.stage import Chain, Stage

pytestmark = pytest.mark.usefixtures("little_stages")


def new(type_name: str, name: str | None = None, **settings: Any) -> Stage:
    return load_stage(type_name)(name=name, **settings)


def test_a_pipeline_is_written_as_people_would() -> None:
    bm25 = Chain(stages=(new("seek", k=1000, k1=1, b=0.75), new("cross-read", model="minilm", rest="drop")))
    stages = (
        new("join", "first", branches=(bm25, new("seek")), weights=(0.5, 1e-5)),
        new("cross-read", model="minilm", adapter=Path("adapters/scifact"), from_="no"),
        new("seek", "last"),
    )
    assert to_yaml(stages, description="BM25 and dense candidates, fused") == (
        "description: BM25 and dense candidates, fused\n"
        "stages:\n"
        "  - join:\n"
        "      branches:\n"
        "        - [seek: {k1: 1.0, b: 0.75}, cross-read: {model: minilm, rest: drop}]\n"
        "        - seek\n"
        "      weights: [0.5, 1e-05]\n"
        "    name: first\n"
        '  - cross-read: {model: minilm, adapter: adapters/scifact, from: "no"}\n'
        "  - seek: {}\n"
        "    name: last\n"
    )


def test_what_does_not_fit_a_line_is_written_in_block_style() -> None:
    long = "a" * 60
    branch = Chain(stages=(new("seek", analyzer=long), new("cross-read", "q", model=long)))
    text = to_yaml([new("join", branches=(branch, new("join", branches=(new("seek"), new("seek")))))])
    assert text == (
        "stages:\n"
        "  - join:\n"
        "      branches:\n"
        f"        - - seek: {{analyzer: {long}}}\n"
        f"          - cross-read: {{model: {long}}}\n"
        "            name: q\n"
        "        - join:\n"
        "            branches:\n"
        "              - seek\n"
        "              - seek\n"
    )


def test_paths_below_the_folder_are_written_relative_to_it(tmp_path: Path) -> None:
    stages = (new("seek"), new("cross-read", model="m", adapter=tmp_path / "a" / "b", folders=(Path("/elsewhere"),)))
    text = to_yaml(stages, folder=tmp_path)
    assert "{model: m, adapter: a/b, folders: [/elsewhere]}" in text
    (tmp_path / "x.yaml").write_text(text)
    assert load_file(tmp_path / "x.yaml").stages == stages


def test_a_reference_below_the_folder_is_written_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "tokens.json").touch()
    (tmp_path / "x.yaml").write_text("stages: [seek: {words: tokens.json}]")
    (stage,) = load_file(tmp_path / "x.yaml").stages
    assert stage == new("seek", words=str(tmp_path / "tokens.json"))
    assert to_yaml([stage], folder=tmp_path) == "stages:\n  - seek: {words: tokens.json}\n"


def test_a_pipeline_among_branches_is_written_as_its_stages() -> None:
    class OverCorpus(Chain):
        """What Pipeline is: a chain that knows more than its stages."""

    inner = OverCorpus(stages=(new("seek"), new("cross-read", model="m")))
    assert to_yaml([new("join", branches=(inner, new("seek")))]) == (
        "stages:\n  - join:\n      branches:\n        - [seek, cross-read: {model: m}]\n        - seek\n"
    )


def test_a_named_chain_stays_one_stage() -> None:
    chain = Chain(stages=(new("seek"), new("seek")), name="both")
    text = to_yaml([chain])
    assert text == "stages:\n  - chain:\n      stages:\n        - seek\n        - seek\n    name: both\n"
    assert load_text(text).stages == (chain,)


def test_no_stages_are_no_file() -> None:
    with pytest.raises(PipelineError, match=r"^a pipeline needs at least one stage$"):
        to_yaml(())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"analyzer": "a\0"}, "'seek' setting 'analyzer' holds the character U+0000, which YAML cannot say"),
        ({"analyzer": "\udcff"}, "'seek' setting 'analyzer' holds the character U+DCFF, which YAML cannot say"),
        ({"k": 10**500}, "'seek' setting 'k' is too long a number for YAML"),
    ],
)
def test_what_yaml_cannot_say_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError) as error:
        to_yaml([new("seek", **settings)])
    assert str(error.value) == message


TEXT = st.one_of(
    st.sampled_from(["no", "yes", "on", "off", "null", "~", "true", "10", "010", "1e5", "1:30", "2020-01-01", "<<", "-", "--", "---", "...", "#", "a#b", ".inf", "*", "&", "!", "%", "@", "`"]),
    st.sampled_from(["", " ", "a: b", "a #b", "- a", " a", "a ", "[a]", "{a: b}", "a\nb", "'a'", '"', "\\", "\x85", "\u2028"]),
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12),
)  # fmt: skip
FINITE = st.floats(0, allow_infinity=False)


def stage(name: str, **settings: st.SearchStrategy[Any]) -> st.SearchStrategy[Stage]:
    """Stages of a type, each setting given or left out."""
    return st.fixed_dictionaries({}, optional=settings).map(lambda chosen: new(name, **chosen))


SEEK = st.deferred(
    lambda: stage(
        "seek",
        k=st.integers(1),
        k1=FINITE,
        b=st.floats(0, 1),
        titles=st.booleans(),
        analyzer=TEXT,
        boost=st.none() | st.dictionaries(TEXT, FINITE, max_size=3),
    )
)
PATHS = TEXT.map(Path)
READ = st.builds(
    lambda model, rest: new("cross-read", model=model, **rest),
    TEXT,
    st.fixed_dictionaries(
        {},
        optional={
            "adapter": PATHS,
            "folders": st.lists(PATHS, max_size=3).map(tuple),
            "depth": st.integers(1) | st.just("all"),
            "from_": TEXT,
        },
    ),
)


def joined(branches: list[Stage], weighted: bool) -> Stage:
    weights = tuple(0.1 * i - 1 for i in range(len(branches))) if weighted else None
    return new("join", branches=tuple(branches), weights=weights)


RETRIEVERS = st.recursive(
    SEEK,
    lambda inner: st.one_of(
        st.builds(joined, st.lists(inner, min_size=2, max_size=4), st.booleans()),
        st.builds(lambda first, others: Chain(stages=(first, *others)), inner, st.lists(READ, max_size=3)),
    ),
    max_leaves=8,
)


@given(RETRIEVERS, st.lists(READ, max_size=2), st.none() | TEXT.filter(bool))
def test_stages_survive_yaml_and_back(first: Stage, others: list[Stage], description: str | None) -> None:
    stages = (first, *others)
    check_stages(stages)
    text = to_yaml(stages, description=description)
    file = load_text(text)
    assert file.stages == stages
    assert file.description == description
    assert to_yaml(file.stages, description=description) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_survive_to_the_last_bit(number: float) -> None:
    stages = (new("join", branches=(new("seek"), new("seek")), bounds=(number, 0.0)),)
    (read,) = load_text(to_yaml(stages)).stages
    assert repr(read) == repr(stages[0])


@given(TEXT.filter(bool))
def test_names_survive(name: str) -> None:
    stages = (new("seek", name),)
    assert load_text(to_yaml(stages)).stages == stages


def test_operators_and_yaml_build_the_same_objects() -> None:
    built = Fuse([BM25(k=5, name="a"), BM25(fields=("title",)) >> Cut(k=3)], weights=(0.25, 1e-5)) >> Interpolate(
        with_="a", weight=1
    )
    text = (
        "stages:\n"
        "  - fuse:\n"
        "      branches:\n"
        "        - bm25: {k: 5}\n"
        "          name: a\n"
        "        - [bm25: {fields: [title]}, cut: {k: 3}]\n"
        "      weights: [0.25, 1e-05]\n"
        "  - interpolate: {with: a, weight: 1.0}\n"
    )
    assert to_yaml(built.stages) == text
    assert load_text(text).stages == built.stages
