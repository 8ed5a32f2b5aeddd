"""Committed tokens as the client reads them: text that is never taken back, and log-probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from heedful.strategies.decode.rain.request import Request
from heedful.strategies.decode.rain.tree import Draft
from heedful.strategies.engine import Engine
from heedful.strategies.types import Chunk


@dataclass(slots=True)
class Writer:
    """One choice's text so far. Held back: half a character, and what may be the beginning of a stop string."""

    engine: Engine
    request: Request
    index: int
    tokens: tuple[int, ...] = ()
    text: str = ""

    async def write(self, draft: Draft) -> Chunk | None:
        """What a token set adds to the answer, or None where nothing can be said yet."""
        self.tokens += draft.tokens
        whole = await self.engine.detokenize(self.tokens)
        if (cut := self.request.cut(whole)) is not None:
            whole = cut
        elif draft.end is None:
            whole = whole.rstrip("\ufffd")
            whole = whole[: len(whole) - self.request.held_back(whole)]
        new, self.text = whole[len(self.text) :], max(whole, self.text, key=len)
        logprobs = await self._logprobs(draft) if self.request.logprobs else None
        return Chunk.of(new, index=self.index, logprobs=logprobs) if new or logprobs else None

    async def _logprobs(self, draft: Draft) -> dict[str, Any]:
        return {
            "content": [
                await self._token(token, step)
                for token, step in zip(draft.tokens, draft.logprobs, strict=True)
                if token not in self.engine.end_tokens
            ]
        }

    async def _token(self, token: int, step: Mapping[int, float]) -> dict[str, Any]:
        likeliest = sorted(step, key=lambda t: -step[t])[: self.request.top_logprobs]
        shown = await self._entry(token, step[token])
        return shown | {"top_logprobs": [await self._entry(t, step[t]) for t in likeliest]}

    async def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        text = await self.engine.detokenize([token])
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
