"""Whether requests should be sent to this server, and why not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from heedful.server.engines.upstream.client import Upstream
from heedful.server.service import Service
from heedful.strategies import HeedfulError

_PROBE_LIMIT, _PROBE_EVERY = 2.0, 5.0


async def readiness(service: Service) -> tuple[list[str], dict[str, str]]:
    """The reasons against it, none where all is well; and each upstream's state, "ok" or its last error.

    An upstream is down after three failures in a row, and up with its next answer. Only where no model is left that
    could answer does that make a server unready: it would fail as well elsewhere, and other models go on. Those that
    are down then are asked for their models, so that they need no client to come back.
    """
    reasons = [failed] if (failed := service.failed) else []
    upstreams = list(dict.fromkeys(remote.upstream for remote in service.remotes))
    in_process = any(engine.remote is None for engine in service.engines.values())
    if upstreams and not in_process and not any(u.health.up for u in upstreams):
        await _probe(upstreams)
        if not any(u.health.up for u in upstreams):
            reasons.append("no upstream can be reached: " + ", ".join(u.host for u in upstreams))
    stores = service.alignments.resources.stores
    if stores is not None and stores.gone:
        reasons.append("the folder of the stores is gone")
    return reasons, {u.host: "ok" if u.health.up else u.health.last_error or "down" for u in upstreams}


async def _probe(upstreams: Sequence[Upstream]) -> None:
    """Asks each at once, seldom enough that a health check which is called often is no load for them."""
    now = time.monotonic()
    due = [u for u in upstreams if now - u.health.probed >= _PROBE_EVERY]
    for upstream in due:
        upstream.health.probed = now

    async def ask(upstream: Upstream) -> None:
        try:
            async with asyncio.timeout(_PROBE_LIMIT):
                await upstream.get("/models")
        except (HeedfulError, TimeoutError):
            pass  # its health knows

    await asyncio.gather(*map(ask, due))
