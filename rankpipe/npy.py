"""Arrays in files of numpy's format (.npy), written so that a disk that fills up is an error.

np.save passes an array on to C, which does not look whether the last kilobytes could still be written when the file is
closed; a file that is cut short would go unnoticed until it is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import DTypeLike, NDArray


def save(path: Path, values: NDArray) -> None:
    """Write a file that np.load reads."""
    with open(path, "wb") as file:
        write(file, values)


def write(file: IO[bytes], values: NDArray) -> None:
    """Write to an open file what np.save would."""
    begin(file, values.dtype, values.shape)
    if values.size:
        file.write(np.ascontiguousarray(values).data)


def begin(file: IO[bytes], dtype: DTypeLike, shape: tuple[int, ...]) -> None:
    """Write what stands before the values of an array, which follow row by row."""
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
