"""The names of OpenTelemetry's conventions for generative AI, by their version.

"1.36" is the last of open-telemetry/semantic-conventions before its transition, which dashboards know; "genai-0.1" is
v0.1.0 of open-telemetry/semantic-conventions-genai, where they have moved to. All of it is in development there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from heedful.server.observe.settings import Semconv

if TYPE_CHECKING:
    from heedful.server.engines.served import ServedModel

OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
_PROVIDERS = {
    "api.openai.com": "openai",
    "api.anthropic.com": "anthropic",
    "api.cohere.com": "cohere",
    "api.deepseek.com": "deepseek",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral_ai",
    "api.perplexity.ai": "perplexity",
    "api.x.ai": "x_ai",
    "generativelanguage.googleapis.com": "gcp.gemini",
}
_DOMAINS = {".openai.azure.com": "azure.ai.openai", ".amazonaws.com": "aws.bedrock"}


@dataclass(frozen=True, slots=True)
class Names:
    """What differs between the versions."""

    version: Semconv

    @property
    def old(self) -> bool:
        return self.version == "1.36"

    def provider(self, name: str) -> dict[str, Any]:
        """Old dashboards look for `gen_ai.system`; the attribute of later versions does them no harm."""
        return {"gen_ai.provider.name": name} | ({"gen_ai.system": name} if self.old else {})


def names_of(version: Semconv) -> Names:
    """The names of a version."""
    return Names(version)


@dataclass(frozen=True, slots=True)
class Provider:
    """Who computes a model's answers. `address`: None in this process."""

    name: str
    address: str | None = None
    port: int | None = None

    @property
    def attributes(self) -> dict[str, Any]:
        return {} if self.address is None else {"server.address": self.address, "server.port": self.port}


def providers_of(engines: Mapping[str, ServedModel]) -> dict[str, Provider]:
    """Each model's. An OpenAI-compatible server that nobody knows counts as `openai`, whose form its data has."""
    return {
        name: Provider("vllm") if (remote := engine.remote) is None else _provider(remote.upstream.config.url)
        for name, engine in engines.items()
    }


def _provider(url: str) -> Provider:
    parts = urlsplit(url)
    host = parts.hostname or ""
    name = _PROVIDERS.get(host)
    name = name or next((n for domain, n in _DOMAINS.items() if host.endswith(domain)), "openai")
    return Provider(name, host, parts.port or (443 if parts.scheme == "https" else 80))
