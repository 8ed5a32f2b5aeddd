"""What watches for a client's leaving cancels what it stands around, and nothing after it."""

from __future__ import annotations

import asyncio

import pytest
from starlette.requests import ClientDisconnect

from heedful.server.http import WhileConnected


async def steps(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("more", range(6))
async def test_a_client_that_leaves_as_the_body_ends(more: int) -> None:
    """Whenever the leaving comes, by the step: it ends the body, or it is too late and cancels nothing."""
    leaves, ended = asyncio.Event(), False

    async def receive() -> dict[str, str]:
        await leaves.wait()
        return {"type": "http.disconnect"}

    try:
        async with WhileConnected(receive):
            await steps(2)
            leaves.set()
            await steps(more)
    except ClientDisconnect:
        ended = True
    await steps(10)  # a cancellation that came late would end this
    task = asyncio.current_task()
    assert task is not None and not task.cancelling()
    assert ended or more < 5


async def test_a_client_that_stays() -> None:
    async def receive() -> dict[str, str]:
        await asyncio.Event().wait()
        raise AssertionError

    async with WhileConnected(receive):
        await steps(3)
    await steps(3)
