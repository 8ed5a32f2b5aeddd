"""A service of the operator's as verifier: the question posted to it, the verdict in its response."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar, Self

import aiohttp
from pydantic import Field

from heedful.strategies.engine import Capability
from heedful.strategies.errors import RequestError, VerifierError
from heedful.strategies.run import Resources, Run
from heedful.strategies.types import Context
from heedful.strategies.verifiers.base import Verdict, Verifier
from heedful.strategies.verifiers.report import question, verdict


@dataclass(frozen=True)
class Http(Verifier):
    """Posts `{"messages", "norms", "answer"}` to a URL, which answers 200 and `{"score", "passed", "critique"}`.

    `timeout`: seconds for all of it. `max_output`: bytes of the response. `key_env`: the environment variable with a
    bearer token. `concurrency`: connections at once; others wait. Redirects are not followed. `threshold`: of the
    score, where it does not say `passed`.
    """

    url: Annotated[str, Field(pattern="^https?://")] = ""
    timeout: Annotated[float, Field(gt=0, le=600)] = 10.0
    max_output: Annotated[int, Field(ge=2, le=1 << 20)] = 1 << 16
    key_env: str | None = None
    concurrency: Annotated[int, Field(ge=1, le=10_000)] = 64
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    needs: ClassVar[Capability] = Capability.NONE
    configured_only: ClassVar[bool] = True

    def ready(self, resources: Resources) -> Self:
        if not self.url:
            raise RequestError("http: give the `url` of the service", param="url")
        if self.key_env is not None and self.key_env not in os.environ:
            raise RequestError(
                f"http: key_env: the environment variable {self.key_env} is not set", param="key_env"
            )
        return self

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

    async def verify(self, context: Context, answer: str, run: Run) -> Verdict:
        try:
            async with self._session.post(
                self.url, data=question(context, answer), allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise VerifierError(f"its service answered with status {response.status}")
                data = bytearray()
                async for piece in response.content.iter_chunked(1 << 14):
                    data += piece
                    if len(data) > self.max_output:
                        raise VerifierError(f"its service sent more than {self.max_output} bytes")
        except TimeoutError as error:
            raise VerifierError(f"its service took longer than {self.timeout:g} s") from error
        except aiohttp.ClientError as error:
            raise VerifierError(f"its service can't be reached: {type(error).__name__}") from error
        return verdict(bytes(data), self.threshold)
