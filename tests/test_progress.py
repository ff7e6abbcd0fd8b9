"""What long steps say where there is no terminal. Time is made to pass by hand."""

import pytest

from rankpipe import progress
from rankpipe.progress import counted, spoken, tracked


class Clock:
    """Seconds that pass when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "perf_counter", made)
    return made


def test_a_long_step_says_now_and_then_how_many_how_fast_and_how_long(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with counted(5183, "documents") as advance:
        for _ in range(50):
            clock.now += 2
            advance(100)
    # first looked at after 4 seconds: 200 of 5,183 at 50/s, so 4,983 / 50 = 99.7 seconds are left; then 60 seconds later
    assert capsys.readouterr().err == (
        "200 of 5,183 documents done, 50/s, about 2 min left\n3,200 of 5,183 documents done, 50/s, about 40 s left\n"
    )


def test_what_was_done_before_counts_for_the_share_not_for_the_rate(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with counted(5000, "documents", done=4000) as advance:
        clock.now += 10
        advance(100)
    # 900 are left, at 10/s: 90 seconds
    assert capsys.readouterr().err == "4,100 of 5,000 documents done, 10/s, about 2 min left\n"


def test_a_short_step_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with counted(100, "documents") as advance:
        for _ in range(10):
            clock.now += 2.5
            advance(10)
    assert capsys.readouterr() == ("", "")


def test_nothing_is_said_when_it_is_not_to_be_shown(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    for block in tracked([[1], [2]], 1000, "documents", show=False):
        clock.now += 100 * len(block)
    assert capsys.readouterr() == ("", "")


def test_blocks_pass_through_and_are_counted_by_their_length(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = [[1, 2], [3], []]
    seen = []
    for block in tracked(blocks, 100, "queries"):
        clock.now += 5
        seen.append(block)
    assert seen == blocks
    assert capsys.readouterr().err == "2 of 100 queries done, 0.4/s, about 4 min left\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (100, "2 min"), (5399, "90 min"), (12_600, "3.5 h")]
)
def test_durations_in_words(seconds: float, text: str) -> None:
    assert spoken(seconds) == text
