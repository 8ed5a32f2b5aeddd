"""What can be configured about an upstream, and where its secrets come from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from heedful.server.key_files import key_in, key_of, value_of

CapabilityName = Literal["chat", "completion", "prefill", "logprobs", "tokens"]
Seconds = Annotated[float, Field(gt=0)]


class UpstreamModel(BaseModel):
    """One model of an upstream. What is left out is the upstream's or probed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = None
    """The upstream's own name for it; default: the name that our clients use."""
    capabilities: list[CapabilityName] | None = None
    context_length: Annotated[int, Field(gt=0)] | None = None
    end_tokens: list[int] = Field(default_factory=list)
    """Token ids that end an answer, for token-level strategies on a base model (chat models are probed)."""


class UpstreamConfig(BaseModel):
    """One OpenAI-compatible server."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    """Base URL, up to and with `/v1`."""
    models: dict[str, UpstreamModel] = Field(default_factory=dict)
    """Models by the name that our clients use; also a plain list of names. Empty: all that the upstream lists."""
    api_key_env: str | None = None
    """Environment variable with the upstream's key."""
    api_key_file: Path | None = None
    """File with the upstream's key."""
    forward_client_key: bool | None = None
    """Send the client's own key upstream. Default: yes, where no key for the upstream is configured. Never where this
    server wants keys itself."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Sent with every request; `${NAME}` is replaced from the environment."""
    forward_headers: list[str] = Field(default_factory=list)
    """Headers of the client that travel on, beside request ids, tracing and `openai-*`."""
    connect_timeout: Seconds = 10.0
    read_timeout: Seconds = 300.0
    """Seconds without a byte before the upstream counts as hung."""
    max_connections: Annotated[int, Field(ge=0)] = 0
    """Connections at once; further requests wait. 0: no limit."""
    max_response_bytes: Annotated[int, Field(gt=0)] = 256 * 1024 * 1024
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    """Further tries after a refused connection, 429, 502 or 503, as long as no byte of an answer has come."""
    max_retry_wait: Annotated[float, Field(ge=0)] = 5.0
    """The longest pause before a retry, in seconds; where Retry-After asks for more, the client is told at once."""
    other_paths: bool | list[str] = True
    """Whether requests to paths of its API that this server does not have itself go there: all, none, or those below
    the ones listed (`audio`, `files`). Alignments do not apply to them."""
    capabilities: list[CapabilityName] | None = None
    """What all its models can do. Left out: probed once at start, with a few one-token requests."""

    @field_validator("url")
    @classmethod
    def _http(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be an http:// or https:// URL")
        if parts.username or parts.password:
            raise ValueError("put the key into api_key_env or api_key_file, not into the URL")
        return url.rstrip("/")

    @field_validator("models", mode="before")
    @classmethod
    def _short_forms(cls, models: Any) -> Any:
        """`[a, b]`, `{a: upstream-name}` and `{a: null}` beside the full form."""
        if isinstance(models, list):
            return {str(name): {} for name in models}
        if isinstance(models, dict):
            return {k: {"name": v} if isinstance(v, str) else v or {} for k, v in models.items()}
        return models

    @field_validator("other_paths")
    @classmethod
    def _plain_paths(cls, paths: bool | list[str]) -> bool | list[str]:
        return paths if isinstance(paths, bool) else [path.strip("/").removeprefix("v1/") for path in paths]

    def offers(self, path: str) -> bool:
        """Whether `path`, below /v1 and without a slash before it, may be asked for."""
        if isinstance(self.other_paths, bool):
            return self.other_paths
        return any(path == allowed or path.startswith(f"{allowed}/") for allowed in self.other_paths)

    @property
    def host(self) -> str:
        """How messages call this upstream."""
        return urlsplit(self.url).netloc

    def key(self) -> str | None:
        """The upstream's key. Raises ValueError where its source is not there."""
        if self.api_key_env and self.api_key_file:
            raise ValueError("give either api_key_env or api_key_file")
        if self.api_key_env:
            return key_of(self.api_key_env, "api_key_env")
        if self.api_key_file:
            return key_in(self.api_key_file, "api_key_file")
        return None

    def own_headers(self) -> dict[str, str]:
        """`headers` with the environment's values. Raises ValueError for an unset variable."""
        return {name: _expand(value, f"headers.{name}") for name, value in self.headers.items()}


def _expand(value: str, where: str) -> str:
    start = value.find("${")
    if start < 0 or (end := value.find("}", start)) < 0:
        return value
    return value[:start] + value_of(value[start + 2 : end], where) + _expand(value[end + 1 :], where)
