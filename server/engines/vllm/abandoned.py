"""A mend for vLLM: a call cancelled while its request is on its way into the engine is aborted.

vLLM 0.32 registers a request, waits until it is sent, and aborts on a cancellation only what came back from that.
What is cancelled before (on a busy machine, or with several draws) would be written to its end for nobody, and count
as running for ever.
"""

from __future__ import annotations

import asyncio
from functools import wraps
from typing import Any


def abort_abandoned(client: Any) -> None:
    """`client`: vLLM's AsyncLLM, which calls its own `add_request` for each call."""
    add = client.add_request

    @wraps(add)
    async def add_request(request_id: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return await add(request_id, *args, **kwargs)
        except asyncio.CancelledError:
            await client.abort(request_id)
            raise

    client.add_request = add_request
