"""Two mends for vLLM, whose cancelled calls do not end as cancelled calls do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import wraps
from typing import Any


def abort_abandoned(client: Any) -> None:
    """A call cancelled while its request is on its way into the engine is aborted.

    `client`: vLLM's AsyncLLM, which calls its own `add_request` for each call. vLLM 0.32 registers a request, waits
    until it is sent, and aborts on a cancellation only what came back from that. What is cancelled before (on a busy
    machine, or with several draws) would be written to its end for nobody, and count as running for ever.
    """
    add = client.add_request

    @wraps(add)
    async def add_request(request_id: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return await add(request_id, *args, **kwargs)
        except asyncio.CancelledError:
            await client.abort(request_id)
            raise

    client.add_request = add_request


async def cancellable(work: Awaitable[Any]) -> Any:
    """Awaits one of vLLM's serving classes; a cancellation goes on its way.

    They end a cancelled call with an error object ("Client disconnected") as if the request had been wrong. Who
    cancels (a deadline, a verifier's time-out, a client that leaves) waits for the cancellation to come back.
    """
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    result = await work
    if task.cancelling() > before:
        raise asyncio.CancelledError
    return result
