"""What all requests of one server share: engines, alignments, limits, and whether it is well."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from heedful.server import requests
from heedful.server.alignments import Alignments
from heedful.server.config import Config
from heedful.strategies import Engine, EngineUnavailable, Run


@dataclass(slots=True)
class Service:
    """The server's state."""

    config: Config
    engines: Mapping[str, Engine]
    alignments: Alignments

    @property
    def failed(self) -> str | None:
        """What went wrong for good, once something has."""
        for name, engine in self.engines.items():
            if getattr(engine, "dead", False):
                return f"the engine of {name} has died; this server is going down to be restarted"
        return None

    def target(self, body: Mapping[str, Any], header: str | None) -> requests.Target:
        if failed := self.failed:
            raise EngineUnavailable(failed)
        return requests.target(body, header, self.engines, self.alignments)

    def run(self, target: requests.Target) -> Run:
        deadline = asyncio.get_running_loop().time() + self.config.request_timeout
        return Run(target.engine, self.alignments.resources, deadline=deadline)

    def models(self) -> list[dict[str, Any]]:
        """Every name a client may put into `model`: each model, and each model at each alignment it can run."""
        entries = []
        for model, engine in self.engines.items():
            base = {"object": "model", "created": 0, "owned_by": "heedful"}
            about = {"max_model_len": engine.context_length, "capabilities": engine.capabilities.names}
            entries.append({"id": model, **base, **about})
            for name in self.alignments.names():
                plan = self.alignments.resolve(name)
                if all(not s.needs & ~engine.capabilities for _, s in (*plan.contexts, plan.decoder)):
                    entries.append({"id": f"{model}@{name}", **base, "root": model, "alignment": plan.steps})
        return entries
