import random
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankpipe import BM25, Pipeline
from rankpipe.errors import PipelineError
from rankpipe.pipeline.checks import load_file, load_text
from rankpipe.pipeline.registry import load_stage
from rankpipe.stage import Chain, Stage

pytestmark = pytest.mark.usefixtures("little_stages")


def mistakes(text: str) -> list[str]:
    """What is wrong with a file called x.yaml, a line each."""
    with pytest.raises(PipelineError) as error:
        load_text(dedent(text), file="x.yaml")
    return str(error.value).split("\n")


def mistakes_of_stage(entry: str) -> list[str]:
    """What is wrong with a stage that stands after a retriever, on line 3."""
    return mistakes(f"stages:\n- seek\n- {entry}\n")


def stages(text: str) -> tuple[object, ...]:
    return load_text(dedent(text)).stages


def new(type_name: str, **settings: Any) -> Stage:
    """A stage built in Python."""
    return load_stage(type_name)(**settings)


EIGHT = """\
description: eight mistakes
stages:
  - seek: {k: ten}
  - seek: {k: 10, k: 20, k1: -1}
  - join: {branches: [seek, sek]}
  - cross-read:
      modle: minilm
      depth: .nan
    name: first
  - blend: {with: [frist]}
stage: []
"""


def test_a_file_with_eight_mistakes_reports_all_eight_in_order() -> None:
    assert mistakes(EIGHT) == [
        "x.yaml:3:15: 'seek' setting 'k' is 'ten', must be a whole number",
        "x.yaml:4:19: 'k' is given twice; first on line 4",
        "x.yaml:4:30: 'seek' setting 'k1' is -1, must be at least 0",
        "x.yaml:5:29: no stage is called 'sek'; did you mean 'seek'?",
        "x.yaml:7:7: 'cross-read' has no setting 'modle'; did you mean 'model'?",
        "x.yaml:8:14: 'cross-read' setting 'depth' is not a number (nan)",
        "x.yaml:10:20: 'blend' refers to 'frist', a name that no earlier stage has; did you mean 'first'?",
        "x.yaml:11:1: a pipeline has no 'stage'; did you mean 'stages'?",
    ]


def test_a_stage_of_unknown_type_may_make_candidates() -> None:
    assert mistakes("stages: [seeek, cross-read: {model: x}]") == [
        "x.yaml:1:10: no stage is called 'seeek'; did you mean 'seek'?"
    ]


def test_the_names_in_a_stage_of_unknown_type_are_known() -> None:
    assert mistakes(
        """\
        stages:
          - jion:
              branches:
                - seek:
                  name: a
            name: b
          - blend: {with: [a, b, c]}
        """
    ) == [
        "x.yaml:2:5: no stage is called 'jion'; did you mean 'join'?",
        "x.yaml:7:26: 'blend' refers to 'c', a name that no earlier stage has; there are: a, b",
    ]


def test_a_stage_with_wrong_settings_still_counts_in_the_order() -> None:
    assert mistakes("stages:\n- cross-read: {model: 5}\n- seek: {k: -1}\n- cross-read: {}\n") == [
        "x.yaml:2:3: 'cross-read' needs candidates, and no stage before it makes any; "
        "put a retriever such as 'bm25' first",
        "x.yaml:2:23: 'cross-read' setting 'model' is 5, must be text",
        "x.yaml:3:13: 'seek' setting 'k' is -1, must be above 0",
        "x.yaml:4:3: 'cross-read' needs the setting 'model'",
    ]


def test_the_settings_are_the_fields_of_the_class() -> None:
    assert stages(
        """
        stages:
          - seek
          - seek:
          - seek: {k: 10, k1: 1, titles: false, boost: {title: 2}}
          - cross-read: {model: minilm, depth: all, from: "10"}
            name: first
        """
    ) == (
        new("seek"),
        new("seek"),
        new("seek", k=10, k1=1.0, titles=False, boost={"title": 2.0}),
        new("cross-read", model="minilm", depth="all", from_="10", name="first"),
    )


def test_a_branch_is_one_stage_or_a_list_that_runs_in_turn() -> None:
    inner = new("join", branches=(new("seek"), new("seek")))
    assert stages(
        """
        stages:
          - join:
              branches:
                - seek
                - [seek: {k: 5}]
                - [seek, cross-read: {model: m}]
                - join: {branches: [seek, seek]}
              weights: [1, 1, 1, 1]
        """
    ) == (
        new(
            "join",
            branches=(
                new("seek"),
                new("seek", k=5),
                Chain(stages=(new("seek"), new("cross-read", model="m"))),
                inner,
            ),
            weights=(1.0, 1.0, 1.0, 1.0),
        ),
    )


def test_every_stage_knows_its_place() -> None:
    file = load_text("stages:\n- seek\n- join:\n    branches:\n    - [seek, seek]\n    - seek\n", file="x.yaml")
    (seek, join), places = file.stages, file.places
    chain, last = join.parts
    assert [(places[id(s)].line, places[id(s)].column) for s in (seek, join, chain, *chain.parts, last)] == [
        (2, 3),
        (3, 3),
        (5, 7),
        (5, 8),
        (5, 14),
        (6, 7),
    ]


def test_the_description_is_text() -> None:
    assert load_text("description: a first try\nstages: [seek]").description == "a first try"
    assert load_text("stages: [seek]").description is None


def test_relative_paths_stand_in_the_folder_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("stages: [seek, cross-read: {model: m, adapter: a/b, folders: [c, /d], from: e}]")
    stage = load_file(path).stages[1]
    assert stage == new(
        "cross-read",
        model="m",
        adapter=tmp_path / "a" / "b",
        folders=(tmp_path / "c", Path("/d")),
        from_="e",
    )


def test_a_reference_is_a_path_where_the_folder_has_one(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"stages: [seek: {{words: tokens.json}}, seek: {{words: english}}, seek: {{words: {'x' * 5000}}}]")
    (tmp_path / "tokens.json").touch()
    assert load_file(path).stages == (
        new("seek", words=str(tmp_path / "tokens.json")),
        new("seek", words="english"),
        new("seek", words="x" * 5000),
    )


def test_paths_do_not_depend_on_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.yaml").write_text("stages: [seek, cross-read: {model: m, adapter: a}]")
    monkeypatch.chdir(tmp_path)
    assert load_file("x.yaml").stages == load_file(tmp_path / "x.yaml").stages


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.yaml: empty; a map is wanted"),
        ("- seek", "x.yaml:1:1: a map is wanted, not a list; put this list under 'stages:'"),
        ("{}", "x.yaml:1:1: a pipeline needs 'stages', a list of stages"),
        ("stages:", "x.yaml:1:8: 'stages' is nothing, must be a list of stages"),
        ("stages: []", "x.yaml:1:9: a pipeline needs at least one stage"),
        ("stages: seek", "x.yaml:1:9: 'stages' is 'seek', must be a list of stages"),
        ("stages: {seek: {}}", "x.yaml:1:9: 'stages' is a map, must be a list of stages"),
        ("stages: [seek]\nname: x", "x.yaml:2:1: a pipeline has no 'name'; there are: description, stages"),
        ("stages: [seek]\ndescripton: x", "x.yaml:2:1: a pipeline has no 'descripton'; did you mean 'description'?"),
        ("stages: [seek]\ndescription: [x]", "x.yaml:2:14: the description is a list, must be text"),
        ("stages: [seek]\ndescription: 5", "x.yaml:2:14: the description is 5, must be text"),
        ("stages: [seek]\nstages: [seek]", "x.yaml:2:1: 'stages' is given twice; first on line 1"),
        ("stages: [*x]", "x.yaml:1:10: *x has no &x before it"),
        ("stages: [seek: {k: !!int 5}]", "x.yaml:1:20: the tag !!int is not read; take it out"),
        ("stages: [seek: &s {k: *s}]", "x.yaml:1:23: *s stands inside &s, the value it names"),
    ],
)
def test_what_is_wrong_with_a_file(text: str, message: str) -> None:
    assert mistakes(text) == [message]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("sekk", "3:3: no stage is called 'sekk'; did you mean 'seek'?"),
        ("5", "3:3: a stage is wanted (its name, or its name and settings), not 5"),
        ("[seek]", "3:3: a stage is wanted (its name, or its name and settings), not a list"),
        ("null", "3:3: a stage is wanted (its name, or its name and settings), not nothing"),
        ("{}", "3:3: a stage is missing; write its name, such as 'bm25', and then its settings"),
        ("name: x", "3:3: a stage is missing; write its name, such as 'bm25', and then its settings"),
        ("seek: 5", "3:9: the settings of 'seek' are 5, must be a map"),
        ("seek: [k]", "3:9: the settings of 'seek' are a list, must be a map"),
        ("seek:\n  k: 5", "4:3: 'k' stands beside 'seek'; as one of its settings it is indented further"),
        ("seek:\n  blend:", "4:3: 'blend' stands beside 'seek'; each stage is an item of its own, begun by '- '"),
        ("seek:\n  nam: x", "4:3: 'nam' stands beside 'seek'; did you mean 'name'?"),
        ("seek: {name: x}", "3:10: 'name' stands among the settings of 'seek', must stand beside 'seek'"),
        ("{seek: {}, name: 5}", "3:20: a name is 5, must be text"),
        ("{seek: {}, name: ''}", "3:20: a name is '', must be text"),
        ("cross-read: {modle: x}", "3:16: 'cross-read' has no setting 'modle'; did you mean 'model'?"),
        ("cross-read: {model: x, from_: y}", "3:26: 'cross-read' has no setting 'from_'; did you mean 'from'?"),
        (
            "seek: {zzz: 1}",
            "3:10: 'seek' has no setting 'zzz'; there are: analyzer, b, boost, k, k1, titles, words",
        ),
        ("cross-read", "3:3: 'cross-read' needs the setting 'model'"),
        ("blend: {weight: 1}", "3:3: 'blend' needs the setting 'with'"),
        ("seek: {k: ten}", "3:13: 'seek' setting 'k' is 'ten', must be a whole number"),
        ("seek: {k: '10'}", "3:13: 'seek' setting 'k' is '10', must be a whole number"),
        ("seek: {k: 1.0}", "3:13: 'seek' setting 'k' is 1.0, must be a whole number"),
        ("seek: {k: true}", "3:13: 'seek' setting 'k' is true, must be a whole number"),
        ("seek: {k: }", "3:12: 'seek' setting 'k' is nothing, must be a whole number"),
        ("seek: {k: [1]}", "3:13: 'seek' setting 'k' is a list, must be a whole number"),
        ("seek: {k: {a: 1}}", "3:13: 'seek' setting 'k' is a map, must be a whole number"),
        ("seek: {k: 0x0}", "3:13: 'seek' setting 'k' is 0x0, must be above 0"),
        ("seek: {k1: -1}", "3:14: 'seek' setting 'k1' is -1, must be at least 0"),
        ("seek: {b: 1.5}", "3:13: 'seek' setting 'b' is 1.5, must be at most 1"),
        ("seek: {b: .NaN}", "3:13: 'seek' setting 'b' is not a number (nan)"),
        ("seek: {b: .inf}", "3:13: 'seek' setting 'b' is .inf, must be finite"),
        ("seek: {b: 1e999}", "3:13: 'seek' setting 'b' is 1e999, must be finite"),
        ("seek: {b: 1e-5x}", "3:13: 'seek' setting 'b' is '1e-5x', must be a number"),
        ("seek: {titles: no}", "3:18: 'seek' setting 'titles' is 'no', must be true or false"),
        ("seek: {analyzer: 5}", "3:20: 'seek' setting 'analyzer' is 5, must be text"),
        ('seek: {k: "a\\nb"}', "3:13: 'seek' setting 'k' is 'a\\nb', must be a whole number"),
        (f"seek: {{k: {'x' * 99}}}", f"3:13: 'seek' setting 'k' is '{'x' * 57}...', must be a whole number"),
        ("seek: {boost: [1]}", "3:17: 'seek' setting 'boost' is a list, must be a map"),
        ("seek: {boost: {a: x}}", "3:21: 'seek' setting 'boost.a' is 'x', must be a number"),
        ("cross-read: {model: x, rest: kep}", "3:32: 'cross-read' setting 'rest' is 'kep', must be 'keep' or 'drop'"),
        ("cross-read: {model: x, adapter: 5}", "3:35: 'cross-read' setting 'adapter' is 5, must be a path"),
        ("cross-read: {model: x, depth: 0}", "3:33: 'cross-read' setting 'depth' is 0, must be above 0 or 'all'"),
        (
            "cross-read: {model: x, depth: x}",
            "3:33: 'cross-read' setting 'depth' is 'x', must be a whole number or 'all'",
        ),
        ("blend: {with: first}", "3:17: 'blend' setting 'with' is 'first', must be a list"),
        ("blend: {with: [5]}", "3:18: 'blend' setting 'with[0]' is 5, must be text"),
        ("join: {branches: seek}", "3:20: 'join' setting 'branches' is 'seek', must be a list"),
        ("join: {branches: [seek]}", "3:20: 'join' setting 'branches' has 1 value, must have at least 2"),
        ("join: {branches: [seek, []]}", "3:27: an empty branch; it needs at least one stage"),
        ("join: {branches: [seek, [sek]]}", "3:28: no stage is called 'sek'; did you mean 'seek'?"),
        ("join: {branches: [seek, seek], weights: [1]}", "3:3: 'join': 1 weights for 2 branches"),
        (
            "join: {branches: [seek, seek], weights: [1, x]}",
            "3:47: 'join' setting 'weights[1]' is 'x', must be a number",
        ),
        (
            "join: {branches: [seek, seek], bounds: [1, x]}",
            "3:46: 'join' setting 'bounds[1]' is 'x', must be a number",
        ),
        (
            "join: {branches: [seek, seek], bounds: x}",
            "3:42: 'join' setting 'bounds' is 'x', must be a list or a number",
        ),
    ],
)
def test_what_is_wrong_with_a_stage(entry: str, message: str) -> None:
    assert mistakes_of_stage(entry) == [f"x.yaml:{message}"]


def test_a_misspelt_setting_is_checked_as_the_one_it_was_meant_to_be() -> None:
    assert mistakes_of_stage("cross-read: {modle: 5}") == [
        "x.yaml:3:16: 'cross-read' has no setting 'modle'; did you mean 'model'?",
        "x.yaml:3:23: 'cross-read' setting 'model' is 5, must be text",
    ]


def test_a_branch_that_cannot_be_built_still_counts() -> None:
    assert mistakes_of_stage("join: {branches: [seek, sek], weights: [1]}") == [
        "x.yaml:3:3: 'join': 1 weights for 2 branches",
        "x.yaml:3:27: no stage is called 'sek'; did you mean 'seek'?",
    ]


def test_a_mistake_in_an_aliased_value_is_reported_once() -> None:
    assert mistakes("stages:\n- seek: &s {k: ten}\n- seek: *s\n") == [
        "x.yaml:2:16: 'seek' setting 'k' is 'ten', must be a whole number"
    ]


def test_an_alias_in_two_settings_is_a_mistake_in_each() -> None:
    assert mistakes("stages: [seek: {k1: &x -1, titles: *x}]") == [
        "x.yaml:1:21: 'seek' setting 'k1' is -1, must be at least 0",
        "x.yaml:1:21: 'seek' setting 'titles' is -1, must be true or false",
    ]


def test_a_file_that_cannot_be_read_is_a_pipeline_error(tmp_path: Path) -> None:
    with pytest.raises(PipelineError) as error:
        load_file(tmp_path / "none.yaml")
    assert str(error.value) == f"{tmp_path / 'none.yaml'}: no such file"


def test_a_small_file_is_checked_without_heavy_modules() -> None:
    code = (
        "import sys; from rankpipe.pipeline.checks import load_text; load_text('stages: [bm25: {k: 5}, cut: {k: 3}]'); "
        "print([m for m in ('numba', 'pyarrow', 'torch', 'rankpipe.stages.fuse') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"


SOUND = """\
description: mutate me
stages:
  - join:
      branches:
        - [seek: {k: 1000, k1: 0.9, b: 0.4}]
        - [seek: {boost: {title: 2.5}}, cross-read: {model: "minilm", adapter: a/b}]
      weights: &w [0.5, 1e-5]
    name: first
  - cross-read: {model: minilm, depth: 100, rest: keep}
  - blend: {with: [first], weight: .5}
"""


def test_the_text_that_is_mutated_is_sound() -> None:
    assert len(load_text(SOUND).stages) == 3


@given(st.integers(0, 2**32), st.integers(1, 6))
def test_mutated_files_raise_nothing_but_pipeline_errors(seed: int, count: int) -> None:
    chosen = random.Random(seed)
    text = SOUND
    for _ in range(count):
        at, length = chosen.randrange(len(text)), chosen.choice([0, 0, 1, 2, 10])
        piece = chosen.choice(
            [*"[]{}:,-&*!|>'\"#\n\t 0", "", "", ": ", "- ", "*w", "<<: ", "name: ", "null", text[at : at + 20]]
        )
        text = text[:at] + piece + text[at + length :]
    try:
        problems = ()
        load_text(text, file="x.yaml")
    except PipelineError as error:
        problems = error.problems
    assert all(problem.file == "x.yaml" for problem in problems)
    assert all("\n" not in problem.message for problem in problems)


def test_a_wrong_setting_does_not_hide_what_else_is_wrong_with_its_stage() -> None:
    text = "stages:\n  - bm25\n  - interpolate: {with: nobody, weight: 2, minimum: [0, 0]}\n"
    with pytest.raises(PipelineError) as raised:
        load_text(text)
    assert [(problem.line, problem.message) for problem in raised.value.problems] == [
        (3, "'interpolate': 'minimum' and 'normalise: theoretical-minimum' need each other"),
        (3, "'interpolate' setting 'weight' is 2, must be at most 1"),
    ]
    with pytest.raises(PipelineError) as raised:
        load_text(text.replace(", minimum: [0, 0]", ""))
    assert [(problem.line, problem.message) for problem in raised.value.problems] == [
        (3, "'interpolate' refers to 'nobody', and no earlier stage has a name; give one a 'name'"),
        (3, "'interpolate' setting 'weight' is 2, must be at most 1"),
    ]


@pytest.mark.parametrize("name", ["english", "whitespace"])
def test_an_analyzer_is_meant_whatever_lies_beside_the_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    file = tmp_path / "x.yaml"
    file.write_text(f"stages: [bm25: {{analyzer: {name}}}]")
    assert Pipeline.load(file).stages == (BM25(analyzer=name),)


def shipped(text: str) -> list[str]:
    """What is wrong with a file of shipped stages; a line each, the rest of it `text` behind 'stages:'."""
    with pytest.raises(PipelineError) as error:
        load_text("stages:\n" + dedent(text), file="x.yaml")
    return str(error.value).split("\n")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("dense: {model: m, window: big, stride: 5}", "'dense' setting 'window' is 'big', must be a whole number"),
        (
            "fuse: {branches: [bm25, bm25], method: convx, normalise: z-score}",
            "'fuse' setting 'method' is 'convx', must be",
        ),
        ("attention: {model: m, order: rnd, seed: 4}", "'attention' setting 'order' is 'rnd', must be"),
        (
            "fuse: {method: convex, normalise: theoretical-minimum, branches: [bm25: {k1: -1}, sparse: {model: m}]}",
            "'bm25' setting 'k1' is -1, must be at least 0",
        ),
    ],
)
def test_nothing_is_said_of_a_default_that_stands_in_for_a_mistake(entry: str, said: str) -> None:
    first, *rest = shipped(f"- bm25\n- {entry}\n")
    assert said in first
    assert rest == []


def test_a_name_stands_where_it_is_referred_to() -> None:
    assert shipped(
        """\
        - bm25
        - features:
            fields: [title, text]
            scores: [title]
        - interpolate:
            normalise: none
            with: none
        """
    ) == [
        "x.yaml:5:14: 'features' refers to 'title', and no earlier stage has a name; give one a 'name'",
        "x.yaml:8:11: 'interpolate' refers to 'none', and no earlier stage has a name; give one a 'name'",
    ]


def test_a_long_text_for_a_reference_is_a_mistake_with_its_place() -> None:
    prompt = "You are a helpful assistant. " * 20
    (said,) = shipped(f'- query2doc: {{writer: any, prompt: "{prompt}"}}\n- bm25\n')
    assert said.startswith("x.yaml:2:36: 'query2doc' setting 'prompt'")


def test_a_name_of_columns_is_none_of_a_stage() -> None:
    (said,) = shipped("- bm25:\n  name: feature:score\n")
    assert (
        said
        == "x.yaml:2:3: 'bm25' setting 'name': must not begin with 'feature:', as the columns of the stage 'features' do"
    )


@pytest.mark.parametrize(
    "text",
    [
        "- multi-query: {writer: any, stages: [bm25, rm3: {analyzer: whitespace}, bm25: {analyzer: whitespace}]}\n"
        "- features\n",
        "- bm25\n- rm3\n- multi-query: {writer: any, stages: [original, bm25]}\n- bm25\n",
        "- bm25\n- rm3\n- fuse: {branches: [bm25, [original, bm25]]}\n",
    ],
)
def test_what_branches_do_to_queries_is_theirs_alone(text: str) -> None:
    assert load_text("stages:\n" + text).stages


def test_terms_that_nothing_inside_multi_query_takes_are_given_in_vain() -> None:
    (said,) = shipped("- multi-query: {writer: any, stages: [bm25, rm3]}\n- bm25\n")
    assert "'rm3' gives queries weighted terms, and no later stage takes them" in said


def test_a_folder_of_the_name_of_a_shipped_prompt_is_not_meant(tmp_path: Path) -> None:
    (tmp_path / "listwise").mkdir()
    read = load_text("stages: [bm25, listwise: {model: any, prompt: listwise}]", folder=tmp_path)
    assert read.stages[1] == load_text("stages: [bm25, listwise: {model: any}]").stages[1]
