"""A trace while it grows: each note as soon as it is made, in comments of the stream that it tells of.

A comment is what every reader of server-sent events passes over, so that a client which knows nothing of this reads
the answer as always.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from heedful.strategies import Plan, Trace
from heedful.strategies.shown import note_shown

_TOLD = frozenset({"commits", "open"})
"""Of a search's note: what has been told commit by commit, and comes once more with the whole trace."""


async def with_notes(
    pieces: AsyncGenerator[bytes, None], trace: Trace, plan: Plan
) -> AsyncGenerator[bytes, None]:
    """A stream's pieces, and between them the notes as far as their client may see them. Closing it closes `pieces`.

    What was noted before goes out with the first thing that comes: until then an error is no part of a stream.
    """
    before = list(trace.steps)
    ready: asyncio.Queue[bytes | None] = asyncio.Queue()

    def hear(note: Mapping[str, Any]) -> None:
        if comment := _comment(note, plan):
            ready.put_nowait(comment)

    async def read() -> None:
        async with aclosing(pieces):
            async for piece in pieces:
                ready.put_nowait(piece)

    trace.listeners.append(hear)
    reading = asyncio.ensure_future(read())
    reading.add_done_callback(lambda _: ready.put_nowait(None))
    try:
        if (item := await ready.get()) is not None:
            for note in before:
                if comment := _comment(note, plan):
                    yield comment
        while item is not None:
            yield item
            item = await ready.get()
        reading.result()
    finally:
        trace.listeners.remove(hear)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


def _comment(note: Mapping[str, Any], plan: Plan) -> bytes | None:
    if (shown := note_shown(note, plan)) is None:
        return None
    return b": heedful " + msgspec.json.encode({k: v for k, v in shown.items() if k not in _TOLD}) + b"\n\n"
