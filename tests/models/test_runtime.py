"""Runtime: what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from rankpipe import Runtime
from rankpipe.errors import UsageError


@pytest.mark.parametrize("device", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:11"])
def test_devices_are_named_as_torch_names_them(device: str) -> None:
    assert Runtime(device=device).device == device


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "tpu"}, "device is 'tpu', must be auto, cpu, mps, cuda or, of several, cuda:1"),
        ({"device": "cuda:"}, "device is 'cuda:', must be auto, cpu, mps, cuda or, of several, cuda:1"),
        ({"dtype": "int4"}, "dtype is 'int4', must be one of auto, float32, bfloat16, float16, int8"),
        ({"threads": 0}, "threads is 0, must be at least 1"),
        ({"batch_tokens": -1}, "batch_tokens is -1, must be at least 1"),
    ],
)
def test_what_no_machine_has_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        Runtime(**settings)
    assert str(error.value) == message
