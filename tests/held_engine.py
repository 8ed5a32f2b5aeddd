"""An engine that begins an answer and then says nothing more, until it is cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator

from heedful.strategies import Call, Chunk, Event
from heedful.strategies.scripted import ScriptedEngine


class HeldEngine(ScriptedEngine):
    """`begun` is set once something runs, `left` once nothing does any more. `speaks`: whether a piece comes."""

    def __init__(self, *, speaks: bool = True) -> None:
        super().__init__()
        self._speaks = speaks
        self.begun, self.left = threading.Event(), threading.Event()

    async def chat(self, call: Call) -> AsyncGenerator[Event, None]:
        self.calls.append(call)
        self.running += 1
        self.begun.set()
        try:
            if self._speaks:
                yield Chunk([{"index": 0, "delta": {"content": "Well"}, "finish_reason": None}])
            await asyncio.Event().wait()
        finally:
            self.running -= 1
            self.left.set()
