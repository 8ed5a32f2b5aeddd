"""The endpoint that is measured, over HTTP."""

from __future__ import annotations

import json
import os
from types import TracebackType
from typing import Any, Self

import aiohttp

from heedful.benchmarks.load.arrivals import Clock
from heedful.benchmarks.load.records import BenchError
from heedful.benchmarks.load.stream import Reading, message

# Who answers so will answer nothing else, however often it is asked.
_REFUSED = (401, 403, 404)


class LoadEndpoint:
    """An OpenAI-compatible server: `url` with /v1. Each request may take `timeout` seconds."""

    def __init__(self, url: str, *, timeout: float = 600) -> None:
        self._url = url.rstrip("/")
        self._timeout = aiohttp.ClientTimeout(total=timeout)

    async def __aenter__(self) -> Self:
        key = os.environ.get("HEEDFUL_API_KEY", "none")
        # No limit: a request that waits here for a connection would be the generator's delay, not the server's.
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
            timeout=self._timeout,
            connector=aiohttp.TCPConnector(limit=0),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def stream(self, body: bytes, clock: Clock) -> Reading:
        """Streams a chat completion. What goes wrong is in the reading's `error`.

        Raises BenchError where the endpoint has no such model or alignment, or wants another key.
        """
        reading = Reading()
        try:
            async with self._session.post(f"{self._url}/chat/completions", data=body) as response:
                if response.status != 200:
                    told = _refusal(response.status, await response.read())
                    if response.status in _REFUSED:
                        raise BenchError(f"{self._url}: {told}")
                    reading.error = told
                    return reading
                async for piece in response.content.iter_any():
                    reading.feed(piece, clock())
        except TimeoutError:
            reading.error = f"no answer in {self._timeout.total:g} s"
        except (aiohttp.ClientError, ValueError) as error:
            reading.error = f"{type(error).__name__}: {error}"
        if reading.error is None and not reading.done:
            reading.error = "the stream broke off"
        return reading

    async def get(self, path: str) -> dict[str, Any] | None:
        """A JSON object, or None where the endpoint has none there. Raises BenchError where nobody answers."""
        try:
            async with self._session.get(f"{self._url}{path}") as response:
                if response.status in (401, 403):
                    raise BenchError(f"{self._url}: {_refusal(response.status, await response.read())}")
                found = json.loads(await response.read()) if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise BenchError(f"no answer from {self._url}: {error}") from error
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    async def prompt_tokens(self, path: str, body: dict[str, Any]) -> int:
        """How many tokens the endpoint says that a prompt has. Raises BenchError where it does not say."""
        try:
            async with self._session.post(f"{self._url}{path}", json=body) as response:
                text = await response.read()
                if response.status != 200:
                    raise BenchError(f"can't count an answer's tokens: {_refusal(response.status, text)}")
            return int(json.loads(text)["usage"]["prompt_tokens"])
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            raise BenchError(f"can't count an answer's tokens: {error!r}") from error


def _refusal(status: int, body: bytes) -> str:
    try:
        error = json.loads(body)
    except ValueError:
        return f"HTTP {status}: {body[:200].decode(errors='replace')}"
    return f"HTTP {status}: {message(error.get('error', error) if isinstance(error, dict) else error)}"
