"""A model behind an OpenAI-compatible API: a hosted one, a remote vLLM, another gateway."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Self

import aiohttp
import msgspec

from heedful.server.engines.served import Serving
from heedful.server.engines.upstream import canonical
from heedful.server.engines.upstream.choices import fault
from heedful.server.engines.upstream.client import Upstream
from heedful.server.engines.upstream.completion_shape import chat_choice, completion_params
from heedful.server.engines.upstream.counts import usage_of
from heedful.server.engines.upstream.dialect import Dialect
from heedful.server.engines.upstream.errors import faults, from_event
from heedful.server.engines.upstream.sse import SseParser
from heedful.server.engines.upstream.tokens import RemoteTokens
from heedful.strategies import (
    Call,
    Capability,
    Chunk,
    Continuation,
    EngineError,
    Event,
    Extension,
    Finish,
    Habits,
    Message,
    MissingCapability,
    Usage,
)


class OpenAIEngine(Serving):
    """One model of an upstream. See `heedful.strategies.Engine` for the methods.

    `forward` hands over the upstream's own bytes, for requests that leave the answer as it is.
    """

    def __init__(
        self,
        upstream: Upstream,
        model: str,
        *,
        upstream_model: str,
        capabilities: Capability,
        context_length: int | None = None,
        end_tokens: Iterable[int] = (),
        note: str = "",
        dialect: Dialect | None = None,
    ) -> None:
        self.upstream = upstream
        self.model = model
        self.upstream_model = upstream_model
        self._claimed = capabilities
        self.habits = Habits()
        self.context_length = context_length
        self._note = note
        self.dialect = dialect or Dialect()
        self._tokens = RemoteTokens(upstream, upstream_model, frozenset(end_tokens))
        self._headers: dict[str, str] | None = None
        self._fields: Mapping[str, Any] = {}

    @property
    def capabilities(self) -> Capability:
        lacks = self.habits.lacks
        return self._claimed & ~lacks if lacks else self._claimed

    @property
    def note(self) -> str:
        """Where the capabilities come from."""
        return self._note

    @property
    def remote(self) -> Self:
        return self

    def about(self) -> dict[str, Any]:
        return {"upstream": self.upstream.host, "capabilities_known_by": self._note}

    def bound(self, headers: Iterable[tuple[bytes, bytes]], fields: Mapping[str, Any] | None = None) -> Self:
        """The client's key and ids travel on with every call; what its body asks for itself is never left out."""
        mine = object.__new__(type(self))  # copy.copy takes ten times as long, and this is every request's
        mine.__dict__.update(self.__dict__)
        mine._headers = self.upstream.headers_for(headers)
        mine._fields = fields or {}
        return mine

    # -- the answer as it is

    def forward(self, path: str, payload: bytes) -> Awaitable[aiohttp.ClientResponse]:
        """Posts a body and hands over the response, its headers read; the caller closes it."""
        return self.upstream.post(path, payload, self._headers)

    async def json(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Posts an object to another of the upstream's endpoints, under its own name of the model."""
        return await self.upstream.json(path, {**body, "model": self.upstream_model}, self._headers)

    # -- OpenAI level

    def chat(self, call: Call) -> AsyncGenerator[Event, None]:
        if call.prompt is None:
            return self._answer("/chat/completions", {**call.params, "messages": call.messages}, call.stream)
        params = completion_params(call.params, call.prompt)
        return self._answer("/completions", params, call.stream, raw_prompt=True)

    def complete(self, params: dict[str, Any], *, stream: bool) -> AsyncGenerator[Event, None]:
        return self._answer("/completions", params, stream)

    async def _answer(
        self, path: str, params: Mapping[str, Any], stream: bool, *, raw_prompt: bool = False
    ) -> AsyncGenerator[Event, None]:
        body = {**params, "model": self.upstream_model, "stream": stream}
        if stream:
            body["stream_options"] = {**(params.get("stream_options") or {}), "include_usage": True}

        def send(adapted: Mapping[str, Any]) -> Awaitable[aiohttp.ClientResponse]:
            return self.forward(path, msgspec.json.encode(adapted))

        chat = path == "/chat/completions"
        response = await (self.dialect.speak(body, self._fields, send) if chat else send(body))
        whole = False
        try:
            if response.content_type == "text/event-stream":
                pieces = canonical.streamed(self._events(response, raw_prompt), self.upstream.nonsense)
                async with aclosing(pieces) as events:
                    async for event in events:
                        whole = isinstance(event, Finish)
                        yield event
            else:
                answer = self.object(await self.upstream.read(response))
                yield canonical.whole(self._chunk(answer, raw_prompt), self.upstream.nonsense)
                yield _finish(answer, answer.get("usage"))
        finally:
            self.upstream.finish(response, whole=whole)

    async def _events(
        self, response: aiohttp.ClientResponse, raw_prompt: bool
    ) -> AsyncGenerator[Event, None]:
        parser = SseParser(self.upstream.config.max_response_bytes)
        last: dict[str, Any] = {}
        usage: dict[str, Any] | None = None
        with faults(self.upstream.host):
            async for piece in response.content.iter_any():
                for data in parser.feed(piece):
                    if data == b"[DONE]":
                        yield _finish(last, usage)
                        return
                    last = self._object(data)
                    usage = last.get("usage") or usage
                    if last.get("choices"):
                        yield self._chunk(last, raw_prompt)
        if b"[DONE]" in parser.feed(b"\n\n"):  # without its blank line
            yield _finish(last, usage)
            return
        raise EngineError(
            f"upstream {self.upstream.host} broke off its stream",
            status=502,
            code="upstream_broken",
        )

    def object(self, body: bytes) -> dict[str, Any]:
        """A whole answer; an `error` inside is raised. Raises EngineError."""
        return self.upstream.object(body, sent=self._headers)

    def _object(self, data: bytes) -> dict[str, Any]:
        try:
            value = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self.upstream.nonsense("an event of its stream is not JSON") from error
        if not isinstance(value, dict):
            raise self.upstream.nonsense("an event of its stream is no JSON object")
        if value.get("error"):
            raise from_event(self.upstream.host, value, self.upstream.secrets_in(self._headers))
        return value

    def _chunk(self, body: Mapping[str, Any], raw_prompt: bool) -> Chunk:
        """An answer or a piece of one; a choice's `message` (or text) becomes its `delta`."""
        choices = body.get("choices")
        if not isinstance(choices, list) or not all(isinstance(c, dict) for c in choices):
            raise self.upstream.nonsense("its answer has no list of choices")
        for choice in choices:
            if wrong := fault(choice):
                raise self.upstream.nonsense(wrong)
        if raw_prompt:
            return Chunk([chat_choice(c) for c in choices])
        shaped = []
        for choice in choices:
            if "text" not in choice:
                delta = choice.get("message") or choice.get("delta") or {}
                if not isinstance(delta, dict):
                    raise self.upstream.nonsense("a choice of its answer has no message")
                choice = {k: v for k, v in choice.items() if k != "message"} | {"delta": delta}
            shaped.append(choice)
        return Chunk(shaped)

    # -- token level

    @property
    def end_tokens(self) -> frozenset[int]:
        return self._token_level().end_tokens

    async def render(
        self,
        messages: Sequence[Message],
        *,
        continue_final: bool = False,
        shape: Mapping[str, Any] | None = None,
    ) -> list[int]:
        return await self._token_level().render(messages, continue_final=continue_final, shape=shape)

    async def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        return await self._token_level().tokenize(text, special=special)

    async def count_prompt(self, call: Call) -> int:
        return await self._token_level().count_prompt(call)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        return await self._token_level().detokenize(token_ids)

    async def extend(self, extension: Extension) -> list[Continuation]:
        return await self._token_level().extend(extension)

    async def score(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[list[float]]:
        return await self._token_level().score(prompt, continuations)

    def _token_level(self) -> RemoteTokens:
        if Capability.TOKENS not in self.capabilities:
            raise MissingCapability(f"model {self.model!r} has no token level (its upstream is no vLLM)")
        return self._tokens.bound(self._headers)


def _finish(body: Mapping[str, Any], told: Any) -> Finish:
    usage = usage_of(told) or Usage()
    # Details are read further on as objects that hold numbers.
    extra = {
        k: {n: c for n, c in v.items() if isinstance(c, int | float)} if k.endswith("_details") else v
        for k, v in usage.extra.items()
        if not k.endswith("_details") or isinstance(v, dict)
    }
    return Finish(
        replace(usage, extra=extra), {k: v for k, v in body.items() if k not in ("choices", "usage")}
    )
