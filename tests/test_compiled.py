"""Compiled code where nothing can be kept."""

import pytest
from numba.core import caching

from rankpipe import compiled as module
from rankpipe.compiled import compiled


def test_without_a_folder_to_keep_it_in_code_still_runs_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        caching.CacheImpl, "_locator_classes", []
    )  # what numba is left with if no folder can be written
    module._say_that_nothing_is_kept.cache_clear()
    with pytest.warns(RuntimeWarning) as said:
        double, triple = compiled(lambda number: 2 * number), compiled(lambda number: 3 * number)
    assert (double(21), triple(14)) == (42, 42)
    assert len(said) == 1
    assert str(said[0].message) == (
        "compiled code cannot be kept: neither the package's folder nor the user's cache can be written; "
        "every process will compile for some seconds. Set NUMBA_CACHE_DIR to a folder that can be written"
    )
