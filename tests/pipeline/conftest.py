from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def little_stages() -> Iterator[None]:
    """Another package of stages, installed: seek, cross-read, join, blend, and three that cannot be loaded.

    Once for a module, because hypothesis wants no fixture that is made for every test; gone before the next one's tests.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent / "installed")
        yield
