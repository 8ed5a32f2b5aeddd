"""The in-process engine: vLLM's AsyncLLM, with vLLM's own serving classes in front of it.

Templates, tool and reasoning parsers, structured output and multimodal parts are vLLM's work, done by the very
classes that its own server uses; strategies reach the same AsyncLLM with token ids.
"""

from __future__ import annotations

import asyncio
import os
from argparse import Namespace
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any
from uuid import uuid4

import msgspec
from jinja2 import TemplateError
from pydantic import ValidationError
from starlette.datastructures import State

from heedful.server.engines.prompt_tokens import tokenize_body
from heedful.server.engines.scores import MOST, scored
from heedful.server.engines.served import Serving
from heedful.server.engines.vllm import tool_parsers, tool_prompt
from heedful.server.engines.vllm import tools as vllm_tools
from heedful.server.engines.vllm.abandoned import abort_abandoned
from heedful.server.engines.vllm.cpu import default_dtype
from heedful.server.engines.vllm.tool_calls import FORMS, Forced, Form
from heedful.strategies import (
    Call,
    Capability,
    Chunk,
    ContextOverflow,
    Continuation,
    EngineError,
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


def engine_arguments(model: str, served_name: str, options: Sequence[str]) -> Namespace:
    """vLLM's own command-line parser over `options` (as in `vllm serve`), with defaults that fit a CPU.

    Exits with vLLM's usage message for an unknown option, as any command line does.
    """
    # A client's four (OpenAI's limit) and those of a raw prompt; read when vLLM is imported.
    os.environ.setdefault("VLLM_MAX_STOP_STRINGS", "16")
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.platforms import current_platform
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    given = list(options)
    if current_platform.is_cpu():
        # Compiling for a CPU needs a C++ compiler and minutes; eager starts at once.
        given = ["--enforce-eager", *given]
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
        # Eager still compiles one helper of the sampler: 20 s at the first log-probability, and no machine
        # without a compiler gets past it.
        os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
    parser = make_arg_parser(FlexibleArgumentParser(prog="heedful serve MODEL"))
    parser.set_defaults(enable_auto_tool_choice=None)  # ours to choose, unless it is told
    if current_platform.is_cpu():
        import torch

        parser.set_defaults(dtype=default_dtype(torch.cpu.get_capabilities()))
    args: Namespace = parser.parse_args(["--model", model, "--served-model-name", served_name, *given])
    if args.enable_auto_tool_choice and not args.tool_call_parser:
        args.enable_auto_tool_choice = None  # with the parser that we choose, where vLLM wants one named
    validate_parsed_serve_args(args)
    return args


@asynccontextmanager
async def start(args: Namespace) -> AsyncIterator[VllmEngine]:
    """Loads the model and yields its engine; shuts the engine's processes down at the end."""
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client

    trusts_templates = args.trust_request_chat_template
    async with build_async_engine_client(args) as client:
        state = State()
        tasks = await client.get_supported_tasks()
        if "generate" not in tasks:
            raise EngineError(f"{args.model} does not generate text (it supports: {', '.join(tasks)})")
        abort_abandoned(client)
        # Our raw prompts travel as templates; those of clients are still refused below.
        args.trust_request_chat_template = True
        template = vllm_tools.chat_template(args, client.get_tokenizer())
        tools = tool_parsers.choose(args, template, client.model_config.hf_config.model_type)
        args.tool_call_parser, args.enable_auto_tool_choice = tools.parser, tools.automatic
        hides_tools, args.exclude_tools_when_tool_choice_none = (
            args.exclude_tools_when_tool_choice_none,
            False,
        )
        await init_app_state(client, state, args, tasks)
        engine = VllmEngine(
            client, state, args, tools, trusts_templates=trusts_templates, hides_tools=hides_tools
        )
        try:
            yield engine
        finally:
            engine.release()


class VllmEngine(Serving):
    """One model in this process. See `heedful.strategies.Engine` for the methods."""

    def __init__(
        self,
        client: Any,
        state: Any,
        args: Namespace,
        tools: tool_parsers.Tools,
        *,
        trusts_templates: bool,
        hides_tools: bool,
    ) -> None:
        self._client = client
        self._serving_chat = state.openai_serving_chat
        self._serving_completion = state.openai_serving_completion
        self._serving_tokenization = state.serving_tokenization
        self._tokenizer = client.get_tokenizer()
        self._trusts_templates = trusts_templates
        self._hides_tools = hides_tools
        self._tools = tools
        self._form = FORMS.get(tools.parser or "", Form())
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
        del self._client, self._serving_chat, self._serving_completion, self._serving_tokenization

    def _find_end_tokens(self) -> frozenset[int]:
        config = self._client.model_config.try_get_generation_config()
        ends = config.get("eos_token_id", [])
        ends = set(ends if isinstance(ends, list) else [ends])
        if self._tokenizer.eos_token_id is not None:
            ends.add(self._tokenizer.eos_token_id)
        return frozenset(ends)

    # -- OpenAI level

    async def chat(self, call: Call) -> AsyncGenerator[Event, None]:
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

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
            result = await _cancellable(self._serving_chat.create_chat_completion(request))
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
        from vllm.entrypoints.openai.completion.protocol import CompletionRequest

        body = {**params, "model": self.model, "stream": stream}
        if stream:
            body["stream_options"] = {**(params.get("stream_options") or {}), "include_usage": True}
        try:
            request = CompletionRequest.model_validate(body)
            result = await _cancellable(self._serving_completion.create_completion(request))
        except Exception as error:
            raise _told(error) from error
        async with aclosing(self._events(result, None)) as events:
            async for event in events:
                yield event

    def _chat_body(self, call: Call) -> dict[str, Any]:
        body: dict[str, Any] = {**call.params, "model": self.model, "stream": call.stream}
        if call.stream:
            body["stream_options"] = {**(call.params.get("stream_options") or {}), "include_usage": True}
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
        from vllm.entrypoints.serve.engine.protocol import ErrorResponse

        from heedful.server.engines.vllm import errors as vllm_errors

        if isinstance(result, ErrorResponse):
            raise vllm_errors.from_response(result)
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
                    raise vllm_errors.from_object(msgspec.json.decode(data)["error"])
                if (
                    '"choices":[]' in data
                ):  # the last one, which carries the usage; in a text the quotes are escaped
                    yield _finish(msgspec.json.decode(data))
                elif data != "[DONE]":
                    yield Chunk.from_json(data.encode())

    async def _told_with_length(self, error: Exception, body: dict[str, Any]) -> HeedfulError:
        """vLLM stops counting just past the limit; a client wants to know by how much its prompt is too long."""
        told = _told(error)
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
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
        from vllm.entrypoints.serve.engine.protocol import ErrorResponse

        from heedful.server.engines.vllm import errors as vllm_errors

        params = {"continue_final_message": continue_final, "add_generation_prompt": not continue_final}
        body = self._chat_body(Call(tuple(messages), {**params, **(shape or {})}))
        if body.get("tools"):
            body["tool_choice"] = (
                "none"  # nothing is written here, and the prompt holds the tools all the same
            )
        try:
            request = ChatCompletionRequest.model_validate(body)
            result = await _cancellable(self._serving_chat.render_chat_request(request))
        except Exception as error:
            raise _told(error) from error
        if isinstance(result, ErrorResponse):
            raise vllm_errors.from_response(result)
        _, (rendered,) = result
        return list(rendered["prompt_token_ids"])

    async def count_prompt(self, call: Call) -> int:
        from vllm.entrypoints.serve.engine.protocol import ErrorResponse
        from vllm.entrypoints.serve.tokenize.protocol import TokenizeChatRequest

        from heedful.server.engines.vllm import errors as vllm_errors

        chat = self._chat_body(call)
        if call.prompt is not None:
            return len(await self.tokenize(call.prompt, special=True))
        # Not by `render`, which refuses a prompt that is too long: a client asks how much too long.
        body = {**tokenize_body(chat["messages"], chat), "model": self.model}
        try:
            request = TokenizeChatRequest.model_validate(body)
            result = await _cancellable(self._serving_tokenization.create_tokenize(request, None))
        except Exception as error:
            raise _told(error) from error
        if isinstance(result, ErrorResponse):
            raise vllm_errors.from_response(result)
        return int(result.count)

    async def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        if len(text) > _LONG_TEXT:
            return list(await asyncio.to_thread(self._tokenizer.encode, text, add_special_tokens=special))
        return list(self._tokenizer.encode(text, add_special_tokens=special))

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

    async def extend(self, extension: Extension) -> list[Continuation]:
        if extension.logprob_token_ids:
            most: int = self._client.model_config.max_logprobs
            return await scored(self._drawn, extension, MOST if most < 0 else min(MOST, most))
        return await self._drawn(extension)

    async def _drawn(self, extension: Extension, allowed: int | None = None) -> list[Continuation]:
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        e = extension
        try:
            params = SamplingParams(
                n=e.n,
                temperature=e.temperature,
                top_p=e.top_p,
                top_k=e.top_k,
                min_p=e.min_p,
                repetition_penalty=e.repetition_penalty,
                seed=e.seed,
                stop=list(e.stop),
                stop_token_ids=list(e.stop_token_ids),
                ignore_eos=e.ignore_eos,
                max_tokens=e.max_tokens,
                logprobs=e.logprobs,
                allowed_token_ids=None if allowed is None else [allowed],
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
        except Exception as error:
            raise _told(error) from error
        final = await self._generate(e.token_ids, params, "extend")
        return [_continuation(output) for output in final.outputs]

    async def score(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[list[float]]:
        return await together(self._score_one(prompt, c) for c in continuations)

    async def _score_one(self, prompt: Sequence[int], continuation: Sequence[int]) -> list[float]:
        """vLLM reports log-probabilities of prompt tokens, but only of those it computes.

        Left alone it computes such a prompt anew; here the prompt's part may come from the prefix cache. Where
        more than that was found there (the same answer once more), the scores have a gap: then without the cache.
        """
        ids = [*prompt, *continuation]
        final = await self._generate(ids, self._scoring(cached=True), "score")
        if (final.num_cached_tokens or 0) >= len(prompt):
            final = await self._generate(ids, self._scoring(cached=False), "score")
        steps = final.prompt_logprobs[-len(continuation) :]
        return [float(step[t].logprob) for t, step in zip(continuation, steps, strict=True)]

    @staticmethod
    def _scoring(*, cached: bool) -> Any:
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        return SamplingParams(
            max_tokens=1,
            temperature=0,
            prompt_logprobs=0,
            skip_reading_prefix_cache=not cached,
            detokenize=False,  # the places that came from the cache hold no tokens
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    async def _generate(self, token_ids: Sequence[int], params: Any, kind: str) -> Any:
        """One request to the engine; its last output."""
        from vllm.inputs.engine import tokens_input

        final = None
        try:
            prompt = tokens_input(list(token_ids))
            async with aclosing(self._client.generate(prompt, params, f"{kind}-{uuid4().hex}")) as outputs:
                async for output in outputs:
                    final = output
        except Exception as error:
            raise _told(error) from error
        if final is None:
            raise EngineError("the engine ended a request without a result")
        return final


def reason(error: Exception) -> str:
    """Why the engine did not start, in a line or two. Its processes have written the details to stderr."""
    if isinstance(error, ValidationError):
        return "; ".join(str(e["msg"]).removeprefix("Value error, ") for e in error.errors())
    return str(error)


async def _cancellable(work: Awaitable[Any]) -> Any:
    """Awaits one of vLLM's serving classes; a cancellation goes on its way.

    They end a cancelled call with an error object ("Client disconnected") as if the request had been wrong. Who
    cancels (a deadline, a verifier's time-out, a client that leaves) waits for the cancellation to come back.
    """
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    result = await work
    if task.cancelling() > before:
        raise asyncio.CancelledError
    return result


def _told(error: Exception) -> HeedfulError:
    from heedful.server.engines.vllm import errors as vllm_errors

    return vllm_errors.from_exception(error)


def _finish(body: dict[str, Any]) -> Finish:
    usage = body.pop("usage", None) or {}
    prompt, completion = usage.pop("prompt_tokens", 0), usage.pop("completion_tokens", 0) or 0
    usage.pop("total_tokens", None)
    body.pop("choices", None)
    return Finish(Usage(prompt, completion, usage), body)


def _continuation(output: Any) -> Continuation:
    if output.finish_reason not in ("stop", "length"):
        raise EngineError(f"the engine ended a request with {output.finish_reason!r}")
    return Continuation(
        token_ids=tuple(output.token_ids),
        text=output.text,
        logprobs=tuple({t: p.logprob for t, p in step.items()} for step in output.logprobs or ()),
        finish_reason=output.finish_reason,
        stop=output.stop_reason if isinstance(output.stop_reason, str) else None,
    )
