"""From the configuration's `upstreams` to engines: which models they have, and what those can do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

from heedful.server.config import ConfigError
from heedful.server.engines.upstream.client import Upstream, connect
from heedful.server.engines.upstream.dialect import Dialect
from heedful.server.engines.upstream.engine import OpenAIEngine
from heedful.server.engines.upstream.probe import probe
from heedful.server.engines.upstream.settings import CapabilityName, UpstreamConfig, UpstreamModel
from heedful.server.engines.upstream.tokens import RemoteTokens
from heedful.strategies import Capability, HeedfulError
from heedful.strategies.tasks import together

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
                capabilities, note = await probe(upstream, theirs, dialect), "probed"
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
