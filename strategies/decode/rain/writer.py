"""Committed tokens as the client reads them: text that is never taken back, and log-probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from heedful.strategies.decode.rain.request import RainRequest
from heedful.strategies.decode.rain.tree import Draft
from heedful.strategies.engine import Engine
from heedful.strategies.types import Chunk

_OVERLAP = 16
"""Tokens that a window begins before what is new."""
_ENDLESS = 128
"""Tokens in a window that end with no whole character for so long that they are taken for bytes that make none."""
_HALF = 3
"""A character has four bytes at most, so as many replacement characters may still become one."""


@dataclass(slots=True)
class Writer:
    """One choice's answer so far. Held back: half a character, and what may be the beginning of a stop string.

    `tokens`: the ids of all that is committed. What a token says can hang on those before it (half a character, a
    leading space), so they are detokenised in a window that begins a little before what is new, as vLLM and Hugging
    Face do it: the cost grows with the answer's length and not with its square.
    """

    engine: Engine
    request: RainRequest
    index: int
    tokens: list[int] = field(default_factory=list)
    _start: int = 0
    """The window: from this token on."""
    _said: int = 0
    """How many characters of the window's text are read already."""
    _next: int = 0
    """Where the next window begins, once there are enough tokens behind: between two characters."""
    _held: str = ""
    """Text that is read and may begin a stop string."""
    _ended: bool = False

    async def write(self, draft: Draft) -> Chunk | None:
        """What a token set adds to the answer, or None where nothing can be said yet."""
        text = self._held + await self._read(draft)
        if self._ended:
            text = ""
        elif (cut := self.request.cut(text)) is not None:
            text, self._held, self._ended = cut, "", True
        else:
            # What is out already begins no stop string, or it would have been held back.
            held = 0 if draft.end else self.request.held_back(text)
            text, self._held = text[: len(text) - held], text[len(text) - held :]
        logprobs = await self._logprobs(draft) if self.request.logprobs else None
        return Chunk.of(text, index=self.index, logprobs=logprobs) if text or logprobs else None

    async def _read(self, draft: Draft) -> str:
        """The text that a set adds, up to the last whole character; the last set's whole."""
        self.tokens += draft.tokens
        text = await self.engine.detokenize(self.tokens[self._start :])
        # All of them: Hugging Face's decoders show a run of byte tokens as replacements until the run is whole.
        cut = 0 if draft.end else len(text) - len(text.rstrip("\ufffd"))
        endless = cut > 0 and len(self.tokens) - self._start > _ENDLESS
        if endless:
            cut = min(cut, _HALF)
        new = text[self._said : len(text) - cut]
        self._said = max(self._said, len(text) - cut)
        if endless:
            self._next = len(self.tokens) - _OVERLAP
            await self._move(unread=cut)
        elif not cut and not draft.end and len(self.tokens) - self._next >= _OVERLAP:
            await self._move()
            self._next = len(self.tokens)
        return new

    async def _move(self, unread: int = 0) -> None:
        """Begins the next window; all that is known of it is read, but for so many characters at its end."""
        if self._start < self._next:
            self._start = self._next
            self._said = len(await self.engine.detokenize(self.tokens[self._start :])) - unread

    async def _logprobs(self, draft: Draft) -> dict[str, Any]:
        """One entry per token of a set, in OpenAI's shape; natural logarithms."""
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
