"""What serves a model: an engine, and what the server asks of it beyond what strategies do."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self

from heedful.strategies import Call, Engine, Event, MissingCapability, RequestError

if TYPE_CHECKING:
    from heedful.server.engines.upstream.engine import OpenAIEngine


class Serving(Protocol):
    """What the server asks. The defaults are those of a model that can do no more than strategies need."""

    @property
    def dead(self) -> bool:
        """Whether it has failed for good, so that the server must go down and be started again."""
        return False

    @property
    def running(self) -> int:
        """Its requests that are not finished; 0 where others count them."""
        return 0

    @property
    def note(self) -> str:
        """What people should know of it, told at start and in the list of models."""
        return ""

    @property
    def tools(self) -> str:
        """What becomes of tools, in a few words."""
        return ""

    @property
    def remote(self) -> OpenAIEngine | None:
        """Who hands requests on as they are, where somebody else answers them."""
        return None

    def about(self) -> dict[str, Any]:
        """Its facts in `GET /v1/models`, beside context length and capabilities."""
        return {}

    def bound(self, headers: Iterable[tuple[bytes, bytes]], fields: Mapping[str, Any] | None = None) -> Self:
        """The same model for one request, whose headers and body these are."""
        return self

    def complete(self: Engine, params: dict[str, Any], *, stream: bool) -> AsyncGenerator[Event, None]:
        """OpenAI's legacy completions, for requests without any alignment.

        `params`: the request body without `model` and `stream`. Choices hold `text` in place of `delta`.
        """
        raise RequestError(f"model {self.model!r} has no raw completions", param="model")

    async def count_prompt(self: Engine, call: Call) -> int:
        """The tokens of a call's prompt as the model would see it: conversation, tools and all."""
        raise MissingCapability(
            f"the tokens of model {self.model!r} can't be counted: its engine counts no prompts",
            param="model",
        )


class ServedModel(Engine, Serving, Protocol):
    """A model that clients may name."""
