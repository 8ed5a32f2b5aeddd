"""The in-process engine: vLLM's AsyncLLM, with vLLM's own serving classes in front of it.

Templates, tool and reasoning parsers, structured output and multimodal parts are vLLM's work, done by the very
classes that its own server uses; strategies reach the same AsyncLLM with token ids.
"""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
from jinja2 import TemplateError
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.tokenize.protocol import TokenizeChatRequest

from heedful.server.engines.prompt_tokens import tokenize_body
from heedful.server.engines.served import Serving
from heedful.server.engines.vllm import errors, room, tool_parsers, tool_prompt
from heedful.server.engines.vllm import tools as vllm_tools
from heedful.server.engines.vllm.cancelled import cancellable
from heedful.server.engines.vllm.media import MediaHosts
from heedful.server.engines.vllm.tokens import TokenLevel
from heedful.server.engines.vllm.tool_calls import FORMS, CallForm, Forced
from heedful.strategies import (
    Call,
    Capability,
    Chunk,
    ContextOverflow,
    Continuation,
    EngineUnavailable,
    Event,
    Extension,
    Finish,
    Habits,
    HeedfulError,
    Message,
    MissingCapability,
    RequestError,
    Usage,
    text_of,
)
from heedful.strategies.tasks import together

# A raw prompt goes through the chat API under a template that is nothing but the prompt, so that log-probabilities,
# `n`, structured output and streaming behave the same with and without a chat template.
_RAW_TEMPLATE = "{{ messages[0]['content'] }}"
_TEMPLATE_FIELDS = ("chat_template", "chat_template_kwargs")
_STREAM_USAGE = {"stream_options": {"include_usage": True}}
# Tokenizing a text longer than this (in characters) would hold up the event loop for milliseconds.
_LONG_TEXT = 8_000
DEAD = "the engine has died; this server is going down to be restarted"
# Prompt lengths run before serving starts: the first prefill of a new shape sets up kernels, seconds each.
_WARM_LENGTHS = (1, 16, 64, 256, 1024, 2048)


class VllmEngine(Serving):
    """One model in this process. See `heedful.strategies.Engine` for the methods."""

    def __init__(
        self,
        client: Any,
        state: Any,
        args: Namespace,
        tools: tool_parsers.Tools,
        media: MediaHosts,
        *,
        trusts_templates: bool,
        hides_tools: bool,
    ) -> None:
        self._client = client
        self._serving_chat = state.openai_serving_chat
        self._serving_completion = state.openai_serving_completion
        self._serving_tokenization = state.serving_tokenization
        self._tokenizer = client.get_tokenizer()
        self._token_level = TokenLevel(client)
        self._trusts_templates = trusts_templates
        self._hides_tools = hides_tools
        self._tools = tools
        self._media = media
        self._form = FORMS.get(tools.parser or "", CallForm())
        self._little_room = bool(client.vllm_config.use_v2_model_runner)
        self._grammars: str = client.vllm_config.structured_outputs_config.backend
        self.model: str = args.served_model_name[0]
        self._dtype = str(client.model_config.dtype).removeprefix("torch.")
        self.context_length: int | None = client.model_config.max_model_len
        self.habits = Habits()
        self.capabilities = Capability.COMPLETION | Capability.LOGPROBS | Capability.TOKENS
        if vllm_tools.chat_template(args, self._tokenizer):
            self.capabilities |= Capability.CHAT | Capability.PREFILL
        self.end_tokens = self._find_end_tokens()

    # -- the model's state

    @property
    def note(self) -> str:
        """What it computes in."""
        return self._dtype

    @property
    def tools(self) -> str:
        return self._tools.note

    @property
    def dead(self) -> bool:
        """Whether the engine has failed for good."""
        return bool(self._client.errored)

    @property
    def running(self) -> int:
        """Requests that are not finished."""
        return int(self._client.get_num_unfinished_requests())

    def about(self) -> dict[str, Any]:
        return {"multimodal": bool(self._client.model_config.is_multimodal_model)}

    async def warm_up(self) -> None:
        """Runs prompts of growing length and a full batch, then forgets them: no client pays for first times."""
        assert self.context_length is not None
        longest = min(
            self.context_length - 8, self._client.vllm_config.scheduler_config.max_num_batched_tokens
        )
        lengths = [n for n in _WARM_LENGTHS if n < longest] + [longest]
        for length in lengths:
            await self.extend(Extension([5] * length, max_tokens=2, temperature=0.0))
        width = min(16, self._client.vllm_config.scheduler_config.max_num_seqs)
        prompts = ([6 + i] * 24 for i in range(width))
        await together(self.extend(Extension(p, max_tokens=4, logprobs=1)) for p in prompts)
        await self._client.reset_prefix_cache()

    def release(self) -> None:
        """Lets go of vLLM's objects: left to the interpreter's end, their clean-up fails with noise."""
        del (
            self._client,
            self._token_level,
            self._serving_chat,
            self._serving_completion,
            self._serving_tokenization,
        )

    def _find_end_tokens(self) -> frozenset[int]:
        config = self._client.model_config.try_get_generation_config()
        ends = config.get("eos_token_id", [])
        ends = set(ends if isinstance(ends, list) else [ends])
        if self._tokenizer.eos_token_id is not None:
            ends.add(self._tokenizer.eos_token_id)
        return frozenset(ends)

    # -- OpenAI level

    async def chat(self, call: Call) -> AsyncGenerator[Event, None]:
        body = self._chat_body(call)
        forced: Forced | None = None
        try:
            request = ChatCompletionRequest.model_validate(body)
            if forced := Forced.of(body):
                if self._native_calls:
                    for tool in request.tools:
                        tool.function.strict = True
                else:
                    # Off the loop: making a grammar of a large schema takes a while.
                    await asyncio.to_thread(vllm_tools.force, request, forced, self._form, self._grammars)
            result = await cancellable(self._serving_chat.create_chat_completion(request))
        except Exception as error:
            raise await self._told_with_length(error, body) from error
        answer = self._events(result, "message")
        if forced and not self._native_calls:
            answer = forced.read(answer, stream=call.stream)
        async with aclosing(answer) as events:
            async for event in events:
                yield event

    @property
    def _native_calls(self) -> bool:
        """Whether calls are no text: gpt-oss writes them in a channel of their own, which vLLM constrains."""
        return self._tools.parser == "openai"

    async def complete(self, params: dict[str, Any], *, stream: bool) -> AsyncGenerator[Event, None]:
        """OpenAI's legacy completions: `params` is the request body. Choices hold `text` in place of `delta`."""
        body = {**params, "model": self.model, "stream": stream}
        if stream:
            body["stream_options"] = {**(params.get("stream_options") or {}), "include_usage": True}
        if self._little_room:
            room.check(body)
        try:
            request = CompletionRequest.model_validate(body)
            result = await cancellable(self._serving_completion.create_completion(request))
        except Exception as error:
            raise errors.from_exception(error) from error
        async with aclosing(self._events(result, None)) as events:
            async for event in events:
                yield event

    def _chat_body(self, call: Call) -> dict[str, Any]:
        body: dict[str, Any] = {**call.params, "model": self.model, "stream": call.stream}
        if call.stream:
            body["stream_options"] = {**(call.params.get("stream_options") or {}), "include_usage": True}
        if self._little_room:
            room.check(body)
        kwargs = body.get("chat_template_kwargs")
        own_template = body.get("chat_template") or (isinstance(kwargs, dict) and kwargs.get("chat_template"))
        if own_template and not self._trusts_templates:
            raise RequestError(
                "chat_template: this server does not take templates from requests; start it with "
                "--trust-request-chat-template to allow them",
                param="chat_template",
            )
        if call.prompt is not None:
            if body.get("tools"):
                raise RequestError(
                    "tools: this alignment writes a raw prompt, which has no place for tools", param="tools"
                )
            for field in (*_TEMPLATE_FIELDS, "continue_final_message", "add_generation_prompt", "echo"):
                body.pop(field, None)
            body["messages"] = [{"role": "user", "content": call.prompt}]
            return body | {"chat_template": _RAW_TEMPLATE, "add_special_tokens": True}
        if not (self.capabilities & Capability.CHAT or own_template):
            raise MissingCapability(
                f"model {self.model!r} is a base model without a chat template: choose an alignment that writes a "
                "raw prompt (such as 'urial'), give the server a --chat-template, or use /v1/completions",
                param="model",
            )
        self._media.check(call.messages)  # here, where every API and every hidden call passes
        tools, messages = body.get("tools"), list(call.messages)
        if body.get("tool_choice") == "none" and self._hides_tools:
            body.pop("tools", None)
        if self._tools.told:
            # What is no list of tools is refused when the request is read.
            shown = tools if isinstance(tools, list) and body.get("tool_choice") != "none" else []
            messages = tool_prompt.written_out(messages, shown, has_system=self._tools.has_system)
        return body | {"messages": [dict(m) for m in messages]}

    async def _events(self, result: Any, whole: str | None) -> AsyncGenerator[Event, None]:
        """vLLM's answer as events; `whole` is the field of a full choice that becomes our `delta`."""
        if isinstance(result, ErrorResponse):
            raise errors.from_response(result)
        if not hasattr(result, "__aiter__"):
            body = result.model_dump()
            choices = body.pop("choices")
            if whole:
                for choice in choices:
                    choice["delta"] = choice.pop(whole)
            yield Chunk(choices)
            yield _finish(body)
            return
        async with aclosing(result) as lines:
            async for line in lines:
                data = line[6:-2]  # between "data: " and the blank line
                if data.startswith('{"error"'):
                    if self.dead:
                        raise EngineUnavailable(DEAD)
                    raise errors.from_object(msgspec.json.decode(data)["error"])
                if (
                    '"choices":[]' in data
                ):  # the last one, which carries the usage; in a text the quotes are escaped
                    yield _finish(msgspec.json.decode(data))
                elif data != "[DONE]":
                    yield Chunk.from_json(data.encode())

    async def _told_with_length(self, error: Exception, body: dict[str, Any]) -> HeedfulError:
        """vLLM stops counting just past the limit; a client wants to know by how much its prompt is too long."""
        told = errors.from_exception(error)
        if not (told.code == "context_length_exceeded" and told.param == "input_tokens"):
            return told
        assert self.context_length is not None
        if body.get("chat_template") == _RAW_TEMPLATE:
            prompt = str(body["messages"][0]["content"])
            return ContextOverflow(
                self.context_length,
                len(await asyncio.to_thread(self._tokenizer.encode, prompt)),
                param="messages",
            )
        kwargs = body.get("chat_template_kwargs")
        rendering = {
            **(kwargs if isinstance(kwargs, dict) else {}),
            **{f: body[f] for f in ("tools", "documents", "chat_template") if body.get(f)},
            "tokenize": False,
            "add_generation_prompt": body.get("add_generation_prompt", True),
        }
        # Templates of text models read no parts.
        messages = [
            {**m, "content": text_of(m)} if isinstance(m.get("content"), list) else m
            for m in body["messages"]
        ]
        try:
            rendered = await asyncio.to_thread(self._tokenizer.apply_chat_template, messages, **rendering)
        except (TypeError, ValueError, TemplateError):
            return told  # what vLLM has made of these messages can't be done again here: its own words, less exact
        count = len(await asyncio.to_thread(self._tokenizer.encode, rendered, add_special_tokens=False))
        return ContextOverflow(self.context_length, count, param="messages")

    # -- token level

    async def render(
        self,
        messages: Sequence[Message],
        *,
        continue_final: bool = False,
        shape: Mapping[str, Any] | None = None,
    ) -> list[int]:
        params = {"continue_final_message": continue_final, "add_generation_prompt": not continue_final}
        body = self._chat_body(Call(tuple(messages), {**params, **(shape or {})}))
        if body.get("tools"):
            body["tool_choice"] = (
                "none"  # nothing is written here, and the prompt holds the tools all the same
            )
        try:
            request = ChatCompletionRequest.model_validate(body)
            result = await cancellable(self._serving_chat.render_chat_request(request))
        except Exception as error:
            raise errors.from_exception(error) from error
        if isinstance(result, ErrorResponse):
            raise errors.from_response(result)
        _, (rendered,) = result
        return list(rendered["prompt_token_ids"])

    async def count_prompt(self, call: Call) -> int:
        chat = self._chat_body(call)
        if call.prompt is not None:
            return len(await self.tokenize(call.prompt, special=True))
        # Not by `render`, which refuses a prompt that is too long: a client asks how much too long.
        body = {**tokenize_body(chat["messages"], chat), "model": self.model}
        try:
            request = TokenizeChatRequest.model_validate(body)
            result = await cancellable(self._serving_tokenization.create_tokenize(request, None))
        except Exception as error:
            raise errors.from_exception(error) from error
        if isinstance(result, ErrorResponse):
            raise errors.from_response(result)
        return int(result.count)

    async def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        if len(text) > _LONG_TEXT:
            return list(await asyncio.to_thread(self._tokenizer.encode, text, add_special_tokens=special))
        return list(self._tokenizer.encode(text, add_special_tokens=special))

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

    async def extend(self, extension: Extension) -> list[Continuation]:
        return await self._token_level.extend(extension)

    async def score(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[list[float]]:
        return await self._token_level.score(prompt, continuations)


def _finish(body: dict[str, Any]) -> Finish:
    usage = body.pop("usage", None) or {}
    prompt, completion = usage.pop("prompt_tokens", 0), usage.pop("completion_tokens", 0) or 0
    usage.pop("total_tokens", None)
    body.pop("choices", None)
    return Finish(Usage(prompt, completion, usage), body)
