"""vLLM started: its own command line, with defaults that fit the machine. vLLM is imported when it is asked for."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from pydantic import ValidationError
from starlette.datastructures import State

from heedful.server.engines.vllm.cpu import default_dtype
from heedful.server.engines.vllm.media import MediaHosts
from heedful.strategies import EngineError

if TYPE_CHECKING:
    from heedful.server.engines.vllm.engine import VllmEngine


def engine_arguments(
    model: str, served_name: str, options: Sequence[str], *, media_hosts: Sequence[str] = ()
) -> Namespace:
    """vLLM's own command-line parser over `options` (as in `vllm serve`), with defaults that fit the machine.

    Exits with vLLM's usage message for an unknown option, as any command line does.
    """
    # A client's four (OpenAI's limit) and those of a raw prompt; read when vLLM is imported.
    os.environ.setdefault("VLLM_MAX_STOP_STRINGS", "16")
    # A host that is listed may not send vLLM on to one that is not.
    os.environ.setdefault("VLLM_MEDIA_URL_ALLOW_REDIRECTS", "0")
    # As vLLM's own command does: this process has threads by now, and a fork of one that has them may hang.
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
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
    # vLLM looks as well, at the host that it has read from the URL.
    parser.set_defaults(allowed_media_domains=MediaHosts.of(media_hosts).names)
    if current_platform.is_cpu():
        import torch

        parser.set_defaults(dtype=default_dtype(torch.cpu.get_capabilities()))
    args: Namespace = parser.parse_args(["--model", model, "--served-model-name", served_name, *given])
    if args.enable_auto_tool_choice and not args.tool_call_parser:
        args.enable_auto_tool_choice = None  # with the parser that we choose, where vLLM wants one named
    validate_parsed_serve_args(args)
    return args


@asynccontextmanager
async def start(args: Namespace, *, media_hosts: Sequence[str] = ()) -> AsyncIterator[VllmEngine]:
    """Loads the model and yields its engine; shuts the engine's processes down at the end."""
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client

    from heedful.server.engines.vllm import tool_parsers
    from heedful.server.engines.vllm import tools as vllm_tools
    from heedful.server.engines.vllm.cancelled import abort_abandoned
    from heedful.server.engines.vllm.engine import VllmEngine

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
            client,
            state,
            args,
            tools,
            MediaHosts.of(media_hosts, files=bool(args.allowed_local_media_path)),
            trusts_templates=trusts_templates,
            hides_tools=hides_tools,
        )
        try:
            yield engine
        finally:
            engine.release()


def reason(error: Exception) -> str:
    """Why the engine did not start, in a line or two. Its processes have written the details to stderr."""
    if isinstance(error, ValidationError):
        return "; ".join(str(e["msg"]).removeprefix("Value error, ") for e in error.errors())
    return str(error)
