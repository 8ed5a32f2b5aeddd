"""Where a search's computed tokens go: requests, tokens read anew and tokens written, by kind of request."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextvars import ContextVar
from typing import Any

from heedful.strategies import Continuation, Extension

_kind: ContextVar[str] = ContextVar("kind", default="other")


def kind(extension: Extension) -> str:
    if extension.logprob_token_ids:
        return "judgements"
    if extension.logprobs is None:
        return "simulations"
    if extension.temperature:
        return "samples"
    return "next tokens" if extension.max_tokens == 1 else "greedy sets"


class Split:
    """A vLLM engine, seen through: it counts what comes back by kind. Aborted requests are not counted."""

    def __init__(self, engine: Any) -> None:
        self._engine, self._client = engine, engine._client
        engine._client = _Client(self._client, self)
        self._kinds: dict[str, dict[str, int]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def extend(self, extension: Extension) -> list[Continuation]:
        _kind.set(kind(extension))
        continuations: list[Continuation] = await self._engine.extend(extension)
        return continuations

    async def forget(self) -> None:
        """Empties the prefix cache, so that no request finds what another of the same question has left."""
        await self._client.reset_prefix_cache()

    def take(self) -> dict[str, dict[str, int]]:
        """The counts since the last time."""
        counts, self._kinds = self._kinds, {}
        return counts

    def count(self, length: int, output: Any) -> None:
        counts = self._kinds.setdefault(_kind.get(), {"requests": 0, "read": 0, "written": 0})
        n = len(output.outputs)
        counts["requests"] += n
        counts["read"] += n * (length - (output.num_cached_tokens or 0))
        # The last token of each is never read again, so nothing is computed for it.
        counts["written"] += sum(len(o.token_ids) - 1 for o in output.outputs)


class _Client:
    def __init__(self, client: Any, split: Split) -> None:
        self._client, self._split = client, split

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def generate(self, prompt: Any, params: Any, request_id: str) -> AsyncGenerator[Any, None]:
        async for output in self._client.generate(prompt, params, request_id):
            if "prompt_token_ids" in prompt:
                self._split.count(len(prompt["prompt_token_ids"]), output)
            yield output
