"""The access log: one JSON line a request, written by a thread of its own. No text and no key is in it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from queue import Full, Queue
from typing import Any, BinaryIO

import msgspec

from heedful.server.observe.facts import Facts
from heedful.server.observe.labels import alignment_of

_FAREWELL = 5.0  # seconds
_WAITING = 10_000  # lines that a slow disk may be behind; more are left out and counted


class AccessLog:
    """A sink. `where`: a path, or "-" for standard output. A file that was renamed (logrotate) is made again.

    Raises OSError where it can't be opened. `dropped` is called for each line that is left out.
    """

    def __init__(self, where: str, named: Collection[str], dropped: Callable[[], None]) -> None:
        self._path = None if where == "-" else Path(where)
        self._named, self._dropped = named, dropped
        self._lines: Queue[bytes | None] = Queue(_WAITING)
        self._torn = False
        self._file: BinaryIO = self._opened()
        self._thread = threading.Thread(target=self._write, name="access-log", daemon=True)
        self._thread.start()

    def __call__(self, facts: Facts) -> None:
        try:
            self._lines.put_nowait(msgspec.json.encode(line(facts, self._named)) + b"\n")
        except Full:
            self._dropped()

    def close(self) -> None:
        """Writes what waits, and ends; whoever reads the log through a pipe can't hold it up for long."""
        with suppress(Full):
            self._lines.put(None, timeout=_FAREWELL)
        self._thread.join(_FAREWELL)
        if self._path is not None and not self._thread.is_alive():
            self._file.close()

    def _opened(self) -> BinaryIO:
        if self._path is None:
            return sys.stdout.buffer
        # Who may log in here may not read it, unless the operator says so.
        return open(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640), "ab", buffering=0)

    def _write(self) -> None:
        open_ = True
        while open_:
            lines = [self._lines.get()]
            while lines[-1] is not None and not self._lines.empty():
                lines.append(self._lines.get())
            open_ = lines[-1] is not None
            told = [each for each in lines if each is not None]
            try:
                self._reopen()
                self._emit(b"".join(told))
            except OSError:  # a full disk, say: the server goes on, and the metric tells of it
                for _ in told:
                    self._dropped()

    def _emit(self, text: bytes) -> None:
        """All of it, or what there is room for: then the next line begins on a line of its own all the same."""
        if self._torn and text:
            text = b"\n" + text
        self._torn = bool(text)
        left = memoryview(text)
        while left:
            left = left[self._file.write(left) :]
        self._file.flush()
        self._torn = False

    def _reopen(self) -> None:
        """Follows the name where the file behind it has been moved away."""
        if self._path is None:
            return
        ours = os.fstat(self._file.fileno())
        try:
            named = os.stat(self._path)
        except FileNotFoundError:
            named = None
        if named is None or (named.st_ino, named.st_dev) != (ours.st_ino, ours.st_dev):
            new = self._opened()
            self._file.close()
            self._file = new


def line(facts: Facts, named: Collection[str]) -> dict[str, Any]:
    """What the log says of a request. Seconds are rounded to tenths of a millisecond."""
    plan, client, usage = facts.plan, facts.client, facts.usage
    calls = facts.run.ledger.calls if facts.run is not None else 0
    origin = facts.trace.origin
    return {
        "time": datetime.fromtimestamp(facts.came, UTC).isoformat(timespec="milliseconds"),
        "id": facts.id,
        "trace_id": f"{origin.trace_id:032x}" if origin is not None else None,
        "tenant": client.tenant.name if client is not None else None,
        "key": client.key_id if client is not None else None,
        "method": facts.method,
        "route": facts.route,
        "model": facts.model,
        "alignment": alignment_of(plan, named) if plan is not None else None,
        "stream": facts.stream,
        "status": facts.status,
        "gone": facts.gone,
        "error": type(facts.error).__name__ if facts.error is not None else None,
        "seconds": round(facts.ended - facts.began, 4),
        "first_byte_seconds": round(facts.first - facts.began, 4) if facts.first is not None else None,
        "prompt_tokens": usage.prompt_tokens if usage is not None else None,
        "completion_tokens": usage.completion_tokens if usage is not None else None,
        "calls": calls or None,
        "response_id": facts.response_id,
    }
