"""From the configuration's `upstreams` to engines: which models they have, and what those can do."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from heedful.server.config import ConfigError
from heedful.server.engines.upstream.client import Upstream, connect
from heedful.server.engines.upstream.dialect import Dialect, cut_short, names_the_limit
from heedful.server.engines.upstream.engine import OpenAIEngine
from heedful.server.engines.upstream.settings import CapabilityName, UpstreamConfig, UpstreamModel
from heedful.server.engines.upstream.tokens import RemoteTokens
from heedful.strategies import Capability, HeedfulError
from heedful.strategies.tasks import together

# Asked for nothing but a sign of life; two tokens, so that models that open with a special one still speak.
_TURN = {"role": "user", "content": "Say yes."}
_PROBE: dict[str, Any] = {"messages": [_TURN], "max_tokens": 2}
_ROOM = 64  # tokens for a model that refuses so few
_PROBE_LIMIT = 60.0  # seconds for all questions to one upstream


async def start(
    configs: Sequence[UpstreamConfig], stack: AsyncExitStack, *, client_keys: bool
) -> list[OpenAIEngine]:
    """Every model of every upstream. Raises ConfigError that names what is wrong with which upstream."""
    engines: list[OpenAIEngine] = []
    for config in configs:
        try:
            upstream = await stack.enter_async_context(connect(config, client_keys=client_keys))
            engines += await _engines(upstream)
        except ValueError as error:
            raise ConfigError(f"upstream {config.host}: {error}") from error
    return engines


def look(configs: Sequence[UpstreamConfig]) -> list[OpenAIEngine]:
    """What the upstreams have, without serving it. Raises ConfigError."""

    async def ask() -> list[OpenAIEngine]:
        async with AsyncExitStack() as stack:
            return await start(configs, stack, client_keys=False)

    return asyncio.run(ask())


async def _engines(upstream: Upstream) -> list[OpenAIEngine]:
    listed, trouble = await _listed(upstream)
    models = upstream.config.models or {name: UpstreamModel() for name in listed}
    if not models:
        raise ValueError(f"name its models: it does not list them ({trouble or 'the list is empty'})")
    return await together(_engine(upstream, n, m, listed) for n, m in models.items())


async def _listed(upstream: Upstream) -> tuple[dict[str, int | None], str]:
    """The upstream's own list, each with its context length where told; and why there is none."""
    try:
        async with asyncio.timeout(_PROBE_LIMIT):
            data = (await upstream.get("/models")).get("data")
    except HeedfulError as error:
        return {}, error.message
    except TimeoutError:
        return {}, "no answer in time"
    entries = [e for e in data if isinstance(e, dict) and isinstance(e.get("id"), str)] if data else []
    return {e["id"]: _length(e) for e in entries}, ""


def _length(entry: dict[str, object]) -> int | None:
    length = entry.get("max_model_len") or entry.get("context_length")
    return length if isinstance(length, int) else None


async def _engine(
    upstream: Upstream, name: str, model: UpstreamModel, listed: dict[str, int | None]
) -> OpenAIEngine:
    theirs = model.name or name
    declared = model.capabilities if model.capabilities is not None else upstream.config.capabilities
    tokens = RemoteTokens(upstream, theirs, frozenset(model.end_tokens))
    dialect = Dialect()
    if declared is not None:
        capabilities, note = _declared(declared), "declared"
    else:
        try:
            async with asyncio.timeout(_PROBE_LIMIT):
                capabilities, note = await _probe(upstream, theirs, dialect), "probed"
        except (HeedfulError, TimeoutError) as error:
            # It may come up later, or wants each client's own key: chat is what every such API has.
            capabilities = Capability.CHAT
            note = f"assumed, the probe failed: {error or 'no answer in time'}"
    if Capability.TOKENS in capabilities and Capability.CHAT in capabilities and not model.end_tokens:
        try:
            await tokens.find_end_tokens()
        except HeedfulError as error:
            note += f"; end tokens unknown: {error}"
    return OpenAIEngine(
        upstream,
        name,
        upstream_model=theirs,
        capabilities=capabilities,
        context_length=model.context_length or listed.get(theirs),
        end_tokens=tokens.end_tokens,
        note=note,
        dialect=dialect,
    )


def _declared(names: Sequence[CapabilityName]) -> Capability:
    found = Capability.NONE
    for name in names:
        found |= Capability[name.upper()]
    return found


async def _probe(upstream: Upstream, model: str, dialect: Dialect) -> Capability:
    """Asks for one token in each way. Raises HeedfulError where the upstream can't be asked at all."""
    found = Capability.NONE
    chat = {"model": model, **_PROBE}
    answer = await _chat(upstream, chat | {"logprobs": True, "top_logprobs": 1}, dialect)
    if answer is None:  # some refuse the parameter instead of leaving it out
        answer = await _chat(upstream, chat, dialect)
    if answer is not None:
        found |= Capability.CHAT
        if any((choice.get("logprobs") or {}).get("content") for choice in answer):
            found |= Capability.LOGPROBS
        # Who knows both fields refuses the pair, as they exclude each other; who does not know them answers.
        both = {"continue_final_message": True, "add_generation_prompt": True}
        begun = {"messages": [_TURN, {"role": "assistant", "content": "Yes"}]}
        if await _chat(upstream, chat | begun | both, dialect) is None:
            only = {"continue_final_message": True, "add_generation_prompt": False}
            if await _chat(upstream, chat | begun | only, dialect) is not None:
                found |= Capability.PREFILL
    raw = {"model": model, "max_tokens": 1}
    if await _ask(upstream, "/completions", raw | {"prompt": "Yes", "logprobs": 1}) is not None:
        found |= Capability.COMPLETION
        if await _has_tokens(upstream, model):
            found |= Capability.TOKENS | Capability.LOGPROBS
    return found


async def _has_tokens(upstream: Upstream, model: str) -> bool:
    try:
        tokens = await RemoteTokens(upstream, model, frozenset()).tokenize("Yes")
    except HeedfulError:
        return False
    body = {"model": model, "prompt": tokens, "max_tokens": 1, "return_token_ids": True}
    answer = await _ask(upstream, "/completions", body)
    return bool(answer and answer[0].get("token_ids"))


async def _chat(upstream: Upstream, body: dict[str, Any], dialect: Dialect) -> list[dict[str, Any]] | None:
    """As `_ask`, in the model's own dialect. One that thinks, or has a least length, gets more room."""

    async def send(adapted: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        return _choices(await upstream.json("/chat/completions", adapted))

    with_room = body | {"max_tokens": _ROOM}
    for given in (body, with_room):
        try:
            return await dialect.speak(given, {}, send)
        except HeedfulError as error:
            if cut_short(error):
                return []
            if not _refused(error):
                raise
            if not names_the_limit(error):
                return None
    return None


async def _ask(upstream: Upstream, path: str, body: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The choices of an answer, or None where the request is refused as such."""
    try:
        return _choices(await upstream.json(path, body))
    except HeedfulError as error:
        if _refused(error):
            return None
        raise


def _refused(error: HeedfulError) -> bool:
    return error.status in (400, 404, 405, 422, 501)


def _choices(answer: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    choices = answer.get("choices")
    return choices if isinstance(choices, list) else None
