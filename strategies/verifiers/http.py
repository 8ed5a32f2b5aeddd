"""A service of the operator's as verifier: the question posted to it, the verdict in its response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

from pydantic import Field

from heedful.strategies.engine import Capability
from heedful.strategies.errors import RequestError
from heedful.strategies.run import Resources, Run
from heedful.strategies.types import Context
from heedful.strategies.verifiers.base import Verdict
from heedful.strategies.verifiers.remote import RemoteVerifier
from heedful.strategies.verifiers.report import question, verdict


@dataclass(frozen=True)
class Http(RemoteVerifier):
    """Posts `{"messages", "norms", "answer"}` to a URL, which answers 200 and `{"score", "passed", "critique"}`.

    `timeout`: seconds for all of it. `max_output`: bytes of the response. `key_env`: the environment variable with a
    bearer token. `concurrency`: connections at once; others wait. Redirects are not followed. `threshold`: of the
    score, where it does not say `passed`.
    """

    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    needs: ClassVar[Capability] = Capability.NONE

    def ready(self, resources: Resources) -> Self:
        if not self.url:
            raise RequestError("http: give the `url` of the service", param="url")
        self.check_key("http")
        return self

    async def verify(self, context: Context, answer: str, run: Run) -> Verdict:
        return verdict(await self.post(self.url, question(context, answer)), self.threshold)
