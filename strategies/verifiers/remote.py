"""What verifiers that ask a service of the operator's over HTTP have in common."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar

import aiohttp
from pydantic import Field

from heedful.strategies.errors import RequestError, VerifierError
from heedful.strategies.verifiers.base import Verifier


@dataclass(frozen=True)
class RemoteVerifier(Verifier):
    """The options of one. `timeout`: seconds for all of an answer; `max_output`: its bytes."""

    url: Annotated[str, Field(pattern="^https?://")] = ""
    timeout: Annotated[float, Field(gt=0, le=600)] = 10.0
    max_output: Annotated[int, Field(ge=2, le=1 << 20)] = 1 << 16
    key_env: str | None = None
    concurrency: Annotated[int, Field(ge=1, le=10_000)] = 64
    configured_only: ClassVar[bool] = True

    def check_key(self, name: str) -> None:
        """Raises RequestError where the variable with the key is not set."""
        if self.key_env is not None and self.key_env not in os.environ:
            raise RequestError(
                f"{name}: key_env: the environment variable {self.key_env} is not set", param="key_env"
            )

    @cached_property
    def _session(self) -> aiohttp.ClientSession:
        headers = {"content-type": "application/json"}
        if self.key_env is not None:
            headers["authorization"] = f"Bearer {os.environ[self.key_env]}"
        return aiohttp.ClientSession(
            headers=headers,
            timeout=aiohttp.ClientTimeout(self.timeout),
            connector=aiohttp.TCPConnector(limit=self.concurrency),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        if "_session" in self.__dict__:
            await self._session.close()

    async def post(self, url: str, data: bytes) -> bytes:
        """The body of its answer. Raises VerifierError for any status but 200; redirects are not followed."""
        try:
            async with self._session.post(url, data=data, allow_redirects=False) as response:
                if response.status != 200:
                    raise VerifierError(f"its service answered with status {response.status}")
                received = bytearray()
                async for piece in response.content.iter_chunked(1 << 14):
                    received += piece
                    if len(received) > self.max_output:
                        raise VerifierError(f"its service sent more than {self.max_output} bytes")
        except TimeoutError as error:
            raise VerifierError(f"its service took longer than {self.timeout:g} s") from error
        except aiohttp.ClientError as error:
            raise VerifierError(f"its service can't be reached: {type(error).__name__}") from error
        return bytes(received)
