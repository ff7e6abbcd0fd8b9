"""What a process may use of the machine, where a container has limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from rankpipe.machine import _left, _quota, free_memory, machine, usable_cores


def group(folder: Path, files: Mapping[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ({}, math.inf),
    ],
)
def test_a_quota_of_time_is_so_many_cores(tmp_path: Path, files: Mapping[str, str], cores: float) -> None:
    assert _quota(group(tmp_path, files)) == cores


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"memory.max": "1000\n", "memory.current": "700\n", "memory.stat": "anon 400\ninactive_file 200\n"}, 500),
        ({"memory.max": "max\n", "memory.current": "700\n", "memory.stat": "inactive_file 200\n"}, None),
        ({"memory.max": "1000\n", "memory.current": "1200\n", "memory.stat": "inactive_file 100\n"}, 0),
        (
            {
                "memory/memory.limit_in_bytes": "1000\n",
                "memory/memory.usage_in_bytes": "700\n",
                "memory/memory.stat": "total_inactive_file 100\n",
            },
            400,
        ),
        ({}, None),
    ],
)
def test_what_a_container_may_still_take_is_told_without_files(
    tmp_path: Path, files: Mapping[str, str], left: int | None
) -> None:
    assert _left(group(tmp_path, files)) == left


def test_this_machine_has_cores_and_memory() -> None:
    told = machine()
    assert 1 <= usable_cores() == told["usable_cores"] <= told["cores"]
    free = free_memory()
    assert free is None or told["memory"] is None or 0 < free <= told["memory"]
