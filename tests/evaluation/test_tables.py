import csv
import io
import json
import math
from dataclasses import replace

from rich.console import Console

from rankpipe.evaluation import Result, compare
from rankpipe.evaluation.tables import (
    Cell,
    Entry,
    Table,
    comparison_table,
    escaped,
    measures_table,
    notes_of,
    p_text,
    results_csv,
    results_json,
    results_table,
)


def result(assumed: tuple[str, ...] = (), **per_query: list[float]) -> Result:
    means = {name: math.fsum(values) / len(values) for name, values in per_query.items()}
    return Result(
        means,
        {name: {f"q{place}": value for place, value in enumerate(values)} for name, values in per_query.items()},
        assumed,
    )


MEASURES = ["AP", "Judged"]
CELLS = [
    Cell(
        pipeline="bm25",
        dataset="one",
        result=result(("2 queries left out",), AP=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], Judged=[1.0] * 6),
        seconds={"bm25": 0.126},
    ),
    Cell(
        pipeline="two | stages",
        dataset="one",
        result=result(("2 queries left out",), AP=[0.2, 0.3, 0.4, 0.5, 0.6, 0.7], Judged=[0.5] * 6),
        seconds={"bm25": 0.12, "rescore": 10},
    ),
    Cell(pipeline="bm25", dataset="two", result=result(AP=[0.25, 0.5], Judged=[0.0, 1.0]), seconds={"bm25": 0.5}),
    Cell(pipeline="two | stages", dataset="two", error="no corpus at\n/there"),
]


def test_one_result_has_a_row_for_each_measure():
    assert (
        measures_table(result(("1 query left out",), AP=[0.25, 0.5], P=[1.0, 1.0])).markdown()
        == """\
| measure | mean |
| --- | ---: |
| AP | 0.3750 |
| P | 1.0000 |

- 1 query left out
"""
    )


def test_results_in_markdown_have_the_best_in_bold_marks_of_significance_and_every_error():
    # on data set one all six differences are .1: the two flips of 2^6 that are as far give p = 2/64
    assert (
        results_table(CELLS, MEASURES).markdown()
        == """\
| data set | pipeline | AP | Judged | seconds of each stage |
| --- | --- | ---: | ---: | ---: |
| one | bm25 | 0.3500 | 1.0000 | bm25 0.13 |
| one | two \\| stages | **0.4500**† | 0.5000 | bm25 0.12, rescore 10.00 |
| two | bm25 | 0.3750 | 0.5000 | bm25 0.50 |
| two | two \\| stages | n/a | n/a | n/a |

- † differs from bm25 on the same data set, p &lt; 0.05: two-sided randomisation test, Holm's correction over the pipelines
- two, two \\| stages: failed: no corpus at /there
- the seconds of a stage that holds others include theirs
- one: 2 queries left out
"""
    )


def test_results_on_the_terminal_show_the_same_fields():
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(results_table(CELLS, MEASURES).terminal())
    lines = [line.strip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert lines[1:7] == [
        "data set   pipeline            AP   Judged      seconds of each stage",
        "─" * 71,
        "one        bm25            0.3500   1.0000                  bm25 0.13",
        "one        two | stages   0.4500†   0.5000   bm25 0.12, rescore 10.00",
        "two        bm25            0.3750   0.5000                  bm25 0.50",
        "two        two | stages       n/a      n/a                        n/a",
    ]
    assert "two, two | stages: failed: no corpus at" in lines


def test_a_narrow_terminal_folds_the_widest_column_and_keeps_every_number():
    console = Console(file=io.StringIO(), width=70, color_system=None)
    console.print(results_table(CELLS, MEASURES).terminal())
    lines = [line.strip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert lines[3:7] == [
        "one        bm25            0.3500   1.0000               bm25 0.13",
        "one        two | stages   0.4500†   0.5000      bm25 0.12, rescore",
        "10.00",
        "two        bm25            0.3750   0.5000               bm25 0.50",
    ]


def test_a_terminal_too_narrow_for_the_numbers_gets_lines_longer_than_itself(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "30")
    compared = compare({"bm25": result(AP=[1.0, 0.5, 0.25]), "a long name": result(AP=[0.75, 0.5, 0.75])})
    comparison_table(compared).show()
    shown = capsys.readouterr().out
    for part in ("a long name", "0.6667", "0.5833", "+0.0833", "-0.8653 to +1.0320", "0.7418", "1.0000", "1/1/1"):
        assert part in shown


def test_output_that_is_no_terminal_is_as_wide_as_the_table(capsys):
    results_table(CELLS, MEASURES).show()
    assert "one        two | stages   0.4500†   0.5000   bm25 0.12, rescore 10.00" in capsys.readouterr().out


def test_output_that_is_no_terminal_loses_no_column_of_a_wide_table(capsys):
    columns = tuple(f"measure-{number}" for number in range(40))
    Table(columns=("name", *columns), rows=((Entry("a"), *map(Entry, columns)),), labels=1, notes=()).show()
    assert capsys.readouterr().out.count("measure-39") == 2


def test_text_in_a_table_is_no_markdown():
    assert escaped("kw *a* __init__ a_b [x](u) ![i](u) `c` ~d~ a|b <e> &amp; \\") == (
        r"kw \*a\* \_\_init\_\_ a_b \[x\](u) !\[i\](u) \`c\` \~d\~ a\|b &lt;e> &amp;amp; \\"
    )


def test_what_was_assumed_of_compared_runs_is_told():
    first, second = (replace(result(AP=[0.5]), assumed=assumed) for assumed in (("both",), ("both", "one")))
    assert notes_of({"a": first, "b": second}) == ["all: both", "b: one"]
    assert comparison_table([], notes_of({"a": first})).notes[-1] == "all: both"


def test_results_as_csv_read_back_as_what_the_table_shows():
    rows = list(csv.DictReader(io.StringIO(results_csv(CELLS, MEASURES))))
    assert rows[1] == {
        "dataset": "one",
        "pipeline": "two | stages",
        "AP": "0.4500",
        "Judged": "0.5000",
        "seconds": "bm25 0.12, rescore 10.00",
        "differs": "AP",
        "error": "",
    }
    assert rows[3]["error"] == "no corpus at\n/there"
    assert rows[3]["AP"] == "n/a"


def test_results_as_json_keep_every_digit_and_what_was_assumed():
    rows = json.loads(results_json(CELLS))
    assert rows[0] == {
        "dataset": "one",
        "pipeline": "bm25",
        "measures": {"AP": 0.35000000000000003, "Judged": 1},
        "differs": [],
        "seconds": {"bm25": 0.126},
        "assumed": ["2 queries left out"],
    }
    assert rows[1]["differs"] == ["AP"]
    assert rows[3] == {"dataset": "two", "pipeline": "two | stages", "error": "no corpus at\n/there"}


def test_values_that_are_written_alike_are_all_the_best_and_a_single_one_is_not():
    cells = [
        Cell(pipeline=name, dataset=dataset, result=result(AP=[value]))
        for dataset, name, value in [("x", "a", 0.50001), ("x", "b", 0.5), ("x", "c", 0.4), ("y", "a", 1.0)]
    ]
    rows = results_table(cells, ["AP"]).rows
    assert [row[2] for row in rows] == [
        Entry("0.5000", best=True),
        Entry("0.5000", best=True),
        Entry("0.4000"),
        Entry("1.0000"),
    ]


def test_nothing_is_marked_where_the_first_pipeline_failed():
    cells = [Cell(pipeline="bm25", dataset="one", error="broken"), CELLS[0], CELLS[1]]
    cells[1] = Cell(pipeline="other", dataset="one", result=CELLS[0].result)
    table = results_table(cells, ["AP"])
    assert [row[2].text for row in table.rows] == ["n/a", "0.3500", "0.4500"]


def test_an_assumption_that_not_all_pipelines_share_names_those_that_do():
    cells = [
        Cell(pipeline="a", dataset="x", result=result(("1 query without candidates",), AP=[0.5])),
        Cell(pipeline="b", dataset="x", result=result(AP=[0.5])),
    ]
    assert results_table(cells, ["AP"]).notes == ("x, a: 1 query without candidates",)


def test_a_comparison_shows_difference_tests_and_the_queries_behind_it():
    compared = compare({"bm25": result(AP=[1.0, 0.5, 0.25]), "hybrid": result(AP=[0.75, 0.5, 0.75])})
    # differences -.25 0 .5: mean .0833; of four sums +-.75 +-.25 all are as far as .25: p 1
    # standard error .2205, t .378 with two degrees: p = 1 - .378 / sqrt(2 + .378^2) = .7418; 4.3027 * .2205 = .9487
    assert (
        comparison_table(compared).markdown()
        == """\
| measure | system | mean | baseline | difference | 95 % interval | t-test p | random p | won/tied/lost |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| AP | hybrid | 0.6667 | 0.5833 | +0.0833 | -0.8653 to +1.0320 | 0.7418 | 1.0000 | 1/1/1 |

- baseline: bm25; difference: system less baseline, over the queries
- t-test p: paired, two-sided; random p: randomisation test, two-sided, all sign flips
- AP, hybrid: largest gains: q2 +0.5000
- AP, hybrid: largest losses: q0 -0.2500
"""
    )


def test_a_comparison_of_one_query_has_no_t_test():
    row = comparison_table(compare({"a": result(AP=[0.5]), "b": result(AP=[0.75])})).rows[0]
    assert [entry.text for entry in row[5:8]] == ["n/a", "n/a", "1.0000"]


def test_small_p_values_are_never_written_as_zero():
    assert [p_text(p) for p in (0.00009, 0.0001, 0.25)] == ["< 0.0001", "0.0001", "0.2500"]


def test_words_of_a_table_are_never_read_as_markup():
    table = Table(columns=("[red]name[/red]",), rows=((Entry("[b]x"),),), labels=1, notes=("[i]note",))
    console = Console(file=io.StringIO(), width=60, color_system=None)
    console.print(table.terminal())
    assert {"[red]name[/red]", "[b]x", "[i]note"} <= {
        line.strip()
        for line in console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    }
