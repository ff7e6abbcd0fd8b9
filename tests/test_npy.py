"""Arrays in files: numpy reads them, and a disk that fills up is noticed however little is missing."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rankpipe import npy

ARRAYS = [
    np.arange(5),
    np.empty((0, 4), np.float32),
    np.arange(12, dtype=np.float16).reshape(3, 4),
    np.arange(12, dtype=np.uint8).reshape(3, 4).T,
    np.arange(20, dtype=np.int32)[::3],
    np.empty(0, np.int64),
    np.array([True, False]),
]


@pytest.mark.parametrize("values", ARRAYS, ids=lambda values: f"{values.dtype}{values.shape}")
def test_what_is_saved_is_what_numpy_saves(tmp_path: Path, values: NDArray) -> None:
    npy.save(tmp_path / "ours.npy", values)
    np.save(tmp_path / "theirs.npy", np.ascontiguousarray(values))
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "theirs.npy").read_bytes()
    assert np.array_equal(np.load(tmp_path / "ours.npy", mmap_mode="r" if values.size else None), values)


FULL = """
import resource, sys
import numpy as np
from rankpipe import npy
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    npy.save(sys.argv[1], np.arange(int(sys.argv[3])))
except OSError as error:
    sys.exit(error.strerror)
"""


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
@pytest.mark.parametrize(("limit", "numbers"), [(100, 1), (130, 1), (135, 1), (8127, 1000), (800_000, 100_000)])
def test_a_disk_that_is_full_at_the_last_byte_is_an_error(tmp_path: Path, limit: int, numbers: int) -> None:
    # 128 bytes of header, 8 for each number
    program = [sys.executable, "-c", FULL, str(tmp_path / "x.npy"), str(limit), str(numbers)]
    done = subprocess.run(program, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "File too large\n")
