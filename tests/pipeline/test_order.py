from collections.abc import Sequence
from typing import Any

import pytest

from rankpipe import Cut
from rankpipe.errors import PipelineError
from rankpipe.pipeline.checks import load_text
from rankpipe.pipeline.order import check_stages, parts_after
from rankpipe.pipeline.registry import load_stage
from rankpipe.stage import Chain, Stage

pytestmark = pytest.mark.usefixtures("little_stages")


def new(type_name: str, name: str | None = None, **settings: Any) -> Stage:
    return load_stage(type_name)(name=name, **settings)


def seek(name: str | None = None) -> Stage:
    return new("seek", name)


def read(name: str | None = None) -> Stage:
    return new("cross-read", name, model="m")


def blend(*names: str) -> Stage:
    return new("blend", with_=names)


def join(*branches: Stage, name: str | None = None) -> Stage:
    return new("join", name, branches=branches)


def mistakes(stages: Sequence[Stage]) -> list[str]:
    with pytest.raises(PipelineError) as error:
        check_stages(stages)
    return str(error.value).split("\n")


def mistakes_of_file(text: str) -> list[str]:
    with pytest.raises(PipelineError) as error:
        load_text(text, file="x.yaml")
    return str(error.value).split("\n")


def test_an_empty_pipeline_is_refused() -> None:
    assert mistakes(()) == ["a pipeline needs at least one stage"]


def test_a_re_ranker_first_is_refused() -> None:
    message = "'cross-read' needs candidates, and no stage before it makes any; put a retriever such as 'bm25' first"
    assert mistakes([read(), seek()]) == [message]
    assert mistakes_of_file("stages:\n  - cross-read: {model: m}\n  - seek\n") == [f"x.yaml:2:5: {message}"]


def test_missing_candidates_are_said_once() -> None:
    (message,) = mistakes([Cut(k=5), read(), Cut(k=3)])
    assert message.startswith("'cut' needs candidates")


def test_a_re_ranker_first_in_a_branch_is_refused_unless_candidates_come_in() -> None:
    (message,) = mistakes([join(read(), seek())])
    assert message.startswith("'cross-read' needs candidates, and no stage before it makes any;")
    check_stages([seek(), join(read(), seek())])


def test_stages_in_a_chain_see_those_before_it() -> None:
    check_stages([seek("a"), Chain(stages=(read("b"), blend("a"))), blend("a", "b")])


def test_a_branch_does_not_see_the_candidates_of_another() -> None:
    (message,) = mistakes([join(seek(), Chain(stages=(read(), read())))])
    assert message.startswith("'cross-read' needs candidates")


def test_a_branch_without_candidates_is_refused() -> None:
    assert mistakes([join(seek(), Chain(stages=()))]) == [
        "this branch of 'join' makes no candidates; a retriever such as 'bm25' does"
    ]
    assert mistakes_of_file("stages:\n- join:\n    branches: [seek, chain: {stages: []}]\n") == [
        "x.yaml:3:22: this branch of 'join' on line 2 makes no candidates; a retriever such as 'bm25' does"
    ]


def test_a_name_that_no_earlier_stage_has_gets_a_suggestion() -> None:
    assert mistakes([seek("first"), blend("frist")]) == [
        "'blend' refers to 'frist', a name that no earlier stage has; did you mean 'first'?"
    ]


def test_a_reference_where_nothing_is_named_is_refused() -> None:
    assert mistakes([seek(), blend("first")]) == [
        "'blend' refers to 'first', and no earlier stage has a name; give one a 'name'"
    ]


def test_a_reference_to_a_later_stage_is_refused() -> None:
    assert mistakes([seek("a"), blend("b"), read("b")]) == [
        "'blend' refers to 'b', which is not an earlier stage on the way to it"
    ]


def test_a_branch_does_not_see_the_names_of_another() -> None:
    assert mistakes([join(seek("a"), Chain(stages=(seek(), blend("a"))))]) == [
        "'blend' refers to 'a', which is not an earlier stage on the way to it"
    ]


def test_a_reference_to_scores_that_a_retriever_replaced_is_refused() -> None:
    assert mistakes([seek("a"), seek(), blend("a")]) == ["'blend' refers to 'a', whose scores 'seek' replaced"]
    assert mistakes_of_file("stages:\n- seek:\n  name: a\n- seek\n- blend: {with: [a]}\n") == [
        "x.yaml:5:18: 'blend' refers to 'a', whose scores 'seek' on line 4 replaced"
    ]


def test_a_re_ranker_keeps_the_names_before_it() -> None:
    check_stages([seek("a"), read("b"), read(), blend("a", "b")])


def test_a_fusion_brings_the_names_of_its_branches_and_its_own() -> None:
    check_stages([join(seek("a"), Chain(stages=(seek("b"), read("c"))), name="d"), blend("a", "b", "c", "d")])


def test_a_fusion_keeps_earlier_names_that_a_branch_keeps() -> None:
    check_stages([seek("a"), join(read(), seek()), blend("a")])
    assert mistakes([seek("a"), join(seek(), seek()), blend("a")]) == [
        "'blend' refers to 'a', whose scores 'seek' replaced"
    ]


def test_a_name_is_given_once_in_a_whole_pipeline() -> None:
    assert mistakes([join(seek("a"), seek("a")), read("a")]) == [
        "the name 'a' is taken by 'seek'; names are given once",
        "the name 'a' is taken by 'seek'; names are given once",
    ]
    assert mistakes_of_file("stages:\n- seek:\n  name: a\n- cross-read: {model: m}\n  name: a\n") == [
        "x.yaml:4:3: the name 'a' is taken by 'seek' on line 2; names are given once"
    ]


# -- what queries are given beside their texts -----------------------------------------------------------------------------

UNTAKEN = "'rm3' gives queries weighted terms, and no later stage takes them; put a 'bm25' behind it"


@pytest.mark.parametrize(
    "text",
    [
        "stages: [bm25, rm3, bm25]",
        "stages: [bm25, rm3]",  # whoever calls may read them
        "stages: [bm25, rm3, {dense: {model: m}}, bm25]",
        "stages: [bm25, rm3, bm25, original, bm25: {analyzer: whitespace}]",
        "stages: [bm25, rm3, fuse: {branches: [{dense: {model: m}}, bm25]}]",
        "stages: [bm25, rm3, features]",
        "stages: [fuse: {branches: [[bm25, rm3, bm25], {bm25: {analyzer: whitespace}}]}]",
        "stages: [{dense: {model: m}}, {vector-feedback: {model: m}}, {dense: {model: m}}]",
    ],
)
def test_terms_and_vectors_that_somebody_may_take_are_right(text: str) -> None:
    assert load_text(text).stages


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stages: [bm25, rm3, dense: {model: m}]", f"1:16: {UNTAKEN}"),
        ("stages: [bm25, rm3, original, bm25]", f"1:16: {UNTAKEN}"),
        ("stages: [fuse: {branches: [[bm25, rm3], bm25]}, bm25]", f"1:35: {UNTAKEN}"),
        (
            "stages: [{dense: {model: m}}, {vector-feedback: {model: m}}, bm25]",
            "1:32: 'vector-feedback' gives queries vectors, and no later stage takes them; put a 'dense' of its model behind it",
        ),
        (
            "stages:\n  - bm25\n  - rm3: {analyzer: whitespace}\n  - bm25",
            "4:5: 'bm25' takes terms that 'rm3' on line 3 gave with 'analyzer: whitespace', and here it is "
            "'analyzer: english'; give both the same",
        ),
    ],
)
def test_terms_and_vectors_that_nobody_takes_are_told(text: str, said: str) -> None:
    with pytest.raises(PipelineError) as error:
        load_text(text)
    assert str(error.value) == said


def test_parts_that_stages_leave() -> None:
    assert parts_after(load_text("stages: [bm25, features]").stages) == {"candidates", "features"}
    assert parts_after(load_text("stages: [bm25, features, bm25]").stages) == {"candidates"}
