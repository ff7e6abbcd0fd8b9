"""Runtime: what the machine gives a pipeline. It is never part of the YAML, so a pipeline means the same everywhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, get_args

from rankpipe.errors import UsageError
from rankpipe.machine import usable_cores

Dtype = Literal["auto", "float32", "bfloat16", "float16", "int8"]
DEVICE = re.compile(r"auto|cpu|mps|cuda(:[0-9]+)?")


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """How the machine is used.

    device        where networks run: "auto" takes a GPU where there is one; else "cpu", "cuda", "cuda:1", "mps"
    dtype         precision of networks: "auto" is bfloat16 where the hardware has it, else float32; "int8" is for
                  CPUs, and never what auto takes: it changes scores a little
    threads       threads of a stage at work; default: the cores this process may use
    batch_tokens  tokens in one batch of a network; default: chosen by device
    """

    device: str = "auto"
    dtype: Dtype = "auto"
    threads: int | None = None
    batch_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("threads", "batch_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UsageError(f"{name} is {value}, must be at least 1")
        if not DEVICE.fullmatch(self.device):
            raise UsageError(f"device is {self.device!r}, must be auto, cpu, mps, cuda or, of several, cuda:1")
        if self.dtype not in get_args(Dtype):
            raise UsageError(f"dtype is {self.dtype!r}, must be one of {', '.join(get_args(Dtype))}")

    @property
    def thread_count(self) -> int:
        """Threads to use, detected where none were given."""
        return self.threads or usable_cores()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within the block, current_runtime() is this one."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)


_current: ContextVar[Runtime] = ContextVar("rankpipe_runtime")


def current_runtime() -> Runtime:
    """The runtime that stages at work should use: that of the running pipeline, or the machine's defaults."""
    return _current.get(Runtime())
