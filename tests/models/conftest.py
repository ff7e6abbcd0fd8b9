"""What the tests of encoders have in common."""

from collections.abc import Callable

import pytest

from rankpipe.errors import RankpipeError


@pytest.fixture
def texts() -> list[str]:
    return [
        "The apple is a sweet fruit.",
        "",
        "a road",
        "car " * 100,  # longer than the limit
        "Trees, roads: sweet-ness? 12.5",
        "the tree the tree the apple the car",
        "∅ \x00",
        "x",
    ]


@pytest.fixture
def refused() -> Callable[[Callable[[], object]], str]:
    """`refused(call)`: what is said of it, which is one line."""

    def message(call: Callable[[], object]) -> str:
        with pytest.raises(RankpipeError) as caught:
            call()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return message
