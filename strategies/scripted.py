"""An engine that says what a test tells it to: ships with the library, so that third parties can use it too."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from inspect import isawaitable
from typing import Any, Self

from heedful.strategies.engine import Capability, Continuation, Extension, Habits
from heedful.strategies.errors import MissingCapability, RequestError
from heedful.strategies.types import Call, Chunk, Event, Finish, Message, Usage, choices_wanted, text_of

StepFunction = Callable[[Sequence[int]], Mapping[int, float]]
"""A scripted model's next-token probabilities after these tokens; they need not sum to one."""

ALL = Capability.CHAT | Capability.COMPLETION | Capability.PREFILL | Capability.LOGPROBS | Capability.TOKENS

ScoreFunction = Callable[[Sequence[int], Sequence[int]], list[float]]
"""The log-probabilities of a continuation's tokens after a prompt."""

Reply = str | Iterable[str] | Exception
"""A whole answer, its pieces, or the error to raise."""


class ScriptedEngine:
    """Answers from a script and keeps a record.

    `chat` is given each Call and returns the reply; `extend` each Extension, and returns continuations (either
    may be async). `score` gives the log-probabilities of given tokens. Tokens are the bytes of the text (ids
    0-255), 0 ends an answer. `calls`, `extensions` and `scored` record what was asked, `running` how many are
    under way, `aborted` how many were cancelled or closed early.
    """

    end_tokens = frozenset({0})
    # What a server asks of a model that it serves.
    dead = False
    note = tools = ""
    remote = None

    def __init__(
        self,
        chat: Callable[[Call], Reply | Awaitable[Reply]] | str = "ok",
        *,
        extend: Callable[[Extension], list[Continuation] | Awaitable[list[Continuation]]] | None = None,
        score: ScoreFunction | None = None,
        capabilities: Capability = ALL,
        context_length: int | None = 8192,
        model: str = "scripted",
    ) -> None:
        self._chat: Callable[[Call], Any] = (lambda _: chat) if isinstance(chat, str) else chat
        self._extend: Callable[[Extension], Any] | None = extend
        self._score = score
        self._capabilities = capabilities
        self.habits = Habits()
        self.context_length = context_length
        self.model = model
        self.calls: list[Call] = []
        self.extensions: list[Extension] = []
        self.scored: list[tuple[Sequence[int], Sequence[int]]] = []
        self.running = 0
        self.aborted = 0

    @property
    def capabilities(self) -> Capability:
        return self._capabilities & ~self.habits.lacks

    async def chat(self, call: Call) -> AsyncGenerator[Event, None]:
        self.calls.append(call)
        self.running += 1
        done = False
        try:
            if "stream_options" in call.params and not call.stream:  # as vLLM and OpenAI have it
                raise RequestError("stream_options: only where stream is true", param="stream_options")
            reply = self._chat(call)
            if isawaitable(reply):
                reply = await reply
            if isinstance(reply, Exception):
                raise reply
            pieces = [reply] if isinstance(reply, str) else list(reply)
            n = choices_wanted(call.params)
            for piece in pieces if call.stream else ["".join(pieces)]:
                await asyncio.sleep(0)  # lets a cancellation in between pieces, as a real engine does
                yield Chunk(
                    [{"index": i, "delta": {"content": piece}, "finish_reason": None} for i in range(n)]
                )
            yield Chunk([{"index": i, "delta": {}, "finish_reason": "stop"} for i in range(n)])
            prompt = call.prompt or "".join(text_of(m) for m in call.messages)
            done = True
            yield Finish(Usage(len(prompt.encode()), n * len("".join(pieces).encode())))
        except Exception:
            done = True
            raise
        finally:
            self.running -= 1
            self.aborted += not done

    async def render(
        self,
        messages: Sequence[Message],
        *,
        continue_final: bool = False,
        shape: Mapping[str, Any] | None = None,
    ) -> list[int]:
        told = "".join(f"<{name}={value}>\n" for name, value in (shape or {}).items())
        text = told + "".join(f"<{m['role']}>{text_of(m)}\n" for m in messages)
        return list((text[:-1] if continue_final else text + "<assistant>").encode())

    async def count_prompt(self, call: Call) -> int:
        if call.prompt is not None:
            return len(call.prompt.encode())
        open_end = bool(call.params.get("continue_final_message"))
        tools = json.dumps(call.params["tools"]) if call.params.get("tools") else ""
        return len(await self.render(call.messages, continue_final=open_end)) + len(tools)

    def complete(self, params: dict[str, Any], *, stream: bool) -> AsyncGenerator[Event, None]:
        raise RequestError(f"model {self.model!r} has no raw completions", param="model")

    def about(self) -> dict[str, Any]:
        return {}

    def bound(self, headers: object, fields: object = None) -> Self:
        return self

    async def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        return list(text.encode())

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        return bytes(t for t in token_ids if t).decode(errors="replace")

    async def extend(self, extension: Extension) -> list[Continuation]:
        if self._extend is None or not self.capabilities & Capability.TOKENS:
            raise MissingCapability("this scripted engine has no token level")
        self.extensions.append(extension)
        self.running += 1
        try:
            await asyncio.sleep(0)
            result = self._extend(extension)
            return list(await result if isawaitable(result) else result)
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        finally:
            self.running -= 1

    async def score(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[list[float]]:
        if self._score is None or not self.capabilities & Capability.TOKENS:
            raise MissingCapability("this scripted engine scores no tokens")
        self.scored += [(prompt, c) for c in continuations]
        return [self._score(prompt, c) for c in continuations]


class ScriptedModel:
    """A language model for `ScriptedEngine(extend=model, score=model.score)`, by a `step`'s probabilities.

    As with a real engine, two equal extensions of one seed are the same draw, and the i-th of n draws is seeded with
    seed + i.
    """

    def __init__(self, step: StepFunction) -> None:
        self._step = step

    def __call__(self, extension: Extension) -> list[Continuation]:
        seeds = [None if extension.seed is None else extension.seed + i for i in range(extension.n)]
        return [self._one(extension, random.Random(seed)) for seed in seeds]

    def score(self, prompt: Sequence[int], continuation: Sequence[int]) -> list[float]:
        """Log-probabilities of the continuation's tokens."""
        places = range(len(continuation))
        steps = [self._step([*prompt, *continuation[:i]]) for i in places]
        return [math.log(steps[i].get(continuation[i], 1e-30)) for i in places]

    def _one(self, e: Extension, rng: random.Random) -> Continuation:
        tokens: list[int] = []
        logprobs: list[Mapping[int, float]] = []
        while len(tokens) < e.max_tokens:
            probabilities = self._step([*e.token_ids, *tokens])
            ranked = sorted(probabilities, key=lambda t: (-probabilities[t], t))
            kept = ranked[: e.top_k or None]
            if e.temperature:
                token = rng.choices(kept, [probabilities[t] ** (1 / e.temperature) for t in kept])[0]
            else:
                token = ranked[0]
            tokens.append(token)
            shown = [*ranked[: e.logprobs or 0], token, *e.logprob_token_ids]
            logprobs.append({t: math.log(probabilities.get(t, 1e-30)) for t in shown})
            text = bytes(t for t in tokens if t).decode(errors="replace")
            if stop := next((s for s in e.stop if s in text), None):
                return Continuation(tuple(tokens), text[: text.index(stop)], tuple(logprobs), "stop", stop)
            if token == 0 and not e.ignore_eos:
                return Continuation(tuple(tokens), text, tuple(logprobs), "stop")
        return Continuation(tuple(tokens), text, tuple(logprobs), "length")
