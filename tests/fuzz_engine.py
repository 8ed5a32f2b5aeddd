"""An engine for fuzzing: it says anything, has a token level, scores, and reports log-probabilities."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from zlib import crc32

from random_plans import reply

from heedful.strategies import Call, Chunk, Event
from heedful.strategies.scripted import ScriptedEngine, ScriptedModel

_LIKELY = b"ab no,.YNASCUB"


def _step(tokens: Sequence[int]) -> dict[int, float]:
    """Short texts, and some probability for each of the words that judges are asked for."""
    hashed = crc32(bytes(t % 256 for t in tokens[-6:]))
    found = {token: 0.02 + ((hashed >> i) % 7) / 10 for i, token in enumerate(_LIKELY)}
    return found | {0: 0.5}


class FuzzEngine(ScriptedEngine):
    """Its answers hang on what it is asked, and on how often it was asked that."""

    def __init__(self, *, model: str = "scripted") -> None:
        self._times = 0
        language = ScriptedModel(_step)
        super().__init__(self._say, extend=language, score=language.score, model=model)

    def _say(self, call: Call) -> list[str]:
        self._times += 1
        text = reply(f"{self._times % 50} {json.dumps(call.messages, default=str)} {call.prompt}")
        return [text[i : i + 7] for i in range(0, len(text), 7)]

    async def chat(self, call: Call) -> AsyncGenerator[Event, None]:
        async for event in super().chat(call):
            if isinstance(event, Chunk) and call.params.get("logprobs"):
                top = [{"token": t, "logprob": -1.5} for t in ("Yes", "No", "S", "a")]
                step = {"token": "a", "logprob": -0.5, "top_logprobs": top}
                event = Chunk([{**choice, "logprobs": {"content": [step]}} for choice in event.choices])
            yield event
        for kept in (self.calls, self.extensions, self.scored):
            kept.clear()  # a long run's record would be all that it holds
