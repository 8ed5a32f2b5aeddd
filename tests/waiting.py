"""Waits that a busy machine does not cut short: for a server, as long as its start gets on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psutil

HANG = 1200
"""Seconds after which a wait is given up. Nothing that works comes near, however busy the machine."""

_STILL = (
    90  # seconds in which a start that works does more than `_LITTLE`, however small its share of the machine
)
_LITTLE = 0.5  # seconds of processor time; an idle engine looks round for about 0.15 in ten
_WORK = 900  # seconds of processor time; a start takes about 60


def until_ready(ready: Callable[[], bool], process: psutil.Process, log: Path) -> None:
    """Returns once `ready()`; raises AssertionError with the log once the process is gone, stands still or turns
    in circles. Its progress is the processor time and the output of all that it has started, not the clock."""
    meter = _Meter(process, log)
    moved, mark = time.monotonic(), meter.read()
    while not ready():
        assert process.is_running() and process.status() != psutil.STATUS_ZOMBIE, (
            f"the server ended before it was ready:\n{log.read_text()}"
        )
        work, told = meter.read()
        assert work < _WORK, f"the server has worked for {work:.0f} s and is not ready:\n{log.read_text()}"
        if work - mark[0] > _LITTLE or told != mark[1]:
            moved, mark = time.monotonic(), (work, told)
        assert time.monotonic() - moved < _STILL, (
            f"the server stands still before it is ready:\n{log.read_text()}"
        )
        time.sleep(0.05)


class _Meter:
    """The processor time of a process and its descendants, those that have ended too, and the size of its log."""

    def __init__(self, process: psutil.Process, log: Path) -> None:
        self._process, self._log = process, log
        self._seconds: dict[psutil.Process, float] = {}

    def read(self) -> tuple[float, int]:
        try:
            living = [self._process, *self._process.children(recursive=True)]
        except psutil.NoSuchProcess:
            living = []
        for process in living:
            try:
                times = process.cpu_times()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            self._seconds[process] = times.user + times.system
        return sum(self._seconds.values()), self._log.stat().st_size
