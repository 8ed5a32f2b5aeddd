"""heedful.yaml and the command line, as one typed value."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from heedful.prompts.yaml_file import YamlError, load_yaml
from heedful.retrieval.embedding.encoder import BUNDLED
from heedful.retrieval.store.place import is_postgres, place_of
from heedful.server.access.settings import (
    TENANT,
    AdmissionSettings,
    FloorSettings,
    KeySettings,
    StepConfig,
    TenantSettings,
)
from heedful.server.engines.upstream.settings import UpstreamConfig
from heedful.server.observe.settings import TelemetrySettings

MEDIA_HOST = r"^([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$"
"""ASCII, as URLs have it after reading: `xn--...` for a name in other letters, `[::1]` for an address of IPv6."""


STORES_ENV = "HEEDFUL_STORES"
"""Where the stores are, for commands that are not told otherwise."""
_BODIES = 8  # of the largest size, for which there is room


class ConfigError(Exception):
    """A configuration that can't be used; the message names file and field."""


class PriceSettings(BaseModel):
    """What a model costs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """For a million tokens that it reads."""
    completion: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """For a million tokens that it writes."""
    currency: Annotated[str, Field(min_length=1, max_length=16)] = "USD"


class Config(BaseModel):
    """Everything the server can be told. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = None
    """A bundled name, a local folder or a Hugging Face id, run in this process by vLLM."""
    served_name: str | None = None
    """The name clients use; default: the bundled name, the folder's name or the id."""
    engine: dict[str, Any] = Field(default_factory=dict)
    """vLLM engine arguments, as in `vllm serve`, with underscores or dashes."""
    ray: dict[str, Any] = Field(default_factory=dict)
    """With `--ray`: options of Ray Serve's deployment, as they are: num_replicas, autoscaling_config, …"""
    media_hosts: list[Annotated[str, Field(pattern=MEDIA_HOST)]] = Field(default_factory=list)
    """Hosts from which the in-process model fetches images, audio and video that a request names by URL: a name or an
    address, and `:PORT` where it is not 80 or 443. Nothing by default; data: URLs always work."""
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that answer behind the one port, where only upstreams are served."""
    upstreams: list[UpstreamConfig] = Field(default_factory=list)
    """OpenAI-compatible servers whose models are served too."""
    fallbacks: dict[str, list[str]] = Field(default_factory=dict)
    """Models that answer, in this order, when a model's engine is down, full or failing."""
    prices: dict[str, PriceSettings] = Field(default_factory=dict)
    """What models cost, as `GET /v1/models` tells it and the page reckons with it; nothing is charged."""
    alignments: dict[str, str | list[StepConfig]] = Field(default_factory=dict)
    """Named alignments: "a+b", or a list of steps."""
    verifiers: dict[str, dict[str, dict[str, Any] | None]] = Field(default_factory=dict)
    """Verifiers under names of your own: a name, then one verifier with its options."""
    default_alignment: str = "direct"
    """What a request gets that names no alignment."""
    prompts: list[Path] = Field(default_factory=list)
    """Folders of prompt files; later ones replace earlier ones and ours."""
    stores: Annotated[Path | str, BeforeValidator(place_of)] | None = None
    """The folder of the stores of norms and demonstrations, or a PostgreSQL database that several servers share
    (postgresql://USER@HOST/DATABASE); default: `stores` in $HEEDFUL_HOME."""
    starter_stores: bool = True
    """Whether the stores `norms` and `demos` are made from the starter sets where they are missing."""
    embedder: str = BUNDLED
    """The sentence-transformers model that embeds for the stores: the bundled one, a folder or a Hugging Face id."""
    request_timeout: Annotated[float, Field(gt=0)] = 600.0
    """Seconds a request may take, hidden calls included."""
    head_timeout: Annotated[float, Field(gt=0)] = 30.0
    """Seconds that a request's line and headers may take to come; then 408."""
    body_timeout: Annotated[float, Field(gt=0)] = 30.0
    """Seconds that a request's body may take, and one more for every KiB of it that has come; then 408."""
    write_timeout: Annotated[float, Field(gt=0)] = 60.0
    """Seconds in which a client has to take some of its answer (1 KiB for each); else it is cut off."""
    shutdown_grace: Annotated[int, Field(ge=0)] = 30
    """Seconds that running streams get to finish after SIGTERM."""
    max_body_bytes: Annotated[int, Field(gt=0)] = 64 * 1024 * 1024
    max_waiting_bytes: Annotated[int, Field(gt=0)] | None = None
    """Bytes of bodies of more than 64 KiB that are held for requests which are not admitted yet; further ones wait
    unread. At least max_body_bytes; default: eight times that."""
    api_key_env: str | None = None
    """The environment variable with a key that may do everything; where there is one, clients must send a key."""
    keys: list[KeySettings] = Field(default_factory=list)
    """Keys that are deployed by file, beside those that `heedful keys` makes."""
    tenants: dict[Annotated[str, Field(pattern=TENANT)], TenantSettings] = Field(default_factory=dict)
    """Tenants by name, beside those that `heedful tenants` makes. `default` is who needs no key."""
    limits_storage: Annotated[str, Field(pattern=r"^rediss?://|^redis\+unix://|^unix://")] | None = None
    """A Redis (redis://HOST:PORT/0) in which several processes count requests and tokens a minute together; default:
    each its own."""
    admission: AdmissionSettings | None = None
    """How many requests are worked on at once; default: all that come."""
    floor: FloorSettings = FloorSettings()
    """What holds for everyone, whatever a request asks for; a tenant's own comes on top."""
    metrics: Literal["open", "admin", "none"] = "admin"
    """Who may read /metrics, which names the tenants and tells what they use: an admin of the tenant `default`, which
    is everybody where no keys are wanted; or whoever reaches the port. With "none" requests are not counted."""
    access_log: str | None = None
    """The file of the access log, one JSON line a request; "-" is standard output."""
    telemetry: TelemetrySettings | None = None
    """Where spans and the GenAI conventions' metrics go; None: nowhere, and nothing of it is loaded."""
    page: bool = True
    """Whether the page is served at `/` and `/playground`."""
    reports: Path | None = None
    """A folder of evaluations' and benchmarks' records, one folder each, that the page shows; nobody writes there."""
    cors_origins: list[str] = Field(default_factory=list)
    """Origins of web pages that may call the API from a browser."""

    @field_validator("max_waiting_bytes")
    @classmethod
    def _holds_a_body(cls, size: int | None, info: ValidationInfo) -> int | None:
        if size is not None and size < info.data.get("max_body_bytes", 0):
            raise ValueError("less than max_body_bytes: the largest body would wait for ever")
        return size

    @property
    def room_for_bodies(self) -> int:
        """Bytes, for all requests to one worker that are not admitted yet."""
        all_of_them = self.max_waiting_bytes or _BODIES * self.max_body_bytes
        return max(self.max_body_bytes, all_of_them // self.workers)

    def api_key(self) -> str | None:
        """The key of `api_key_env`. Raises ConfigError where its variable is not set."""
        if self.api_key_env is None:
            return None
        if not (key := os.environ.get(self.api_key_env)):
            raise ConfigError(f"api_key_env: the environment variable {self.api_key_env} is not set")
        return key


def load(path: Path | None, overrides: dict[str, Any]) -> Config:
    """The file's settings, then the command line's over them. Raises ConfigError."""
    settings = _read(path) if path else {}
    settings |= {key: value for key, value in overrides.items() if value is not None}
    return _validated(settings, str(path or "command line"))


def with_upstream(config: Config, upstream: dict[str, Any]) -> Config:
    """The same configuration with one more upstream. Raises ConfigError."""
    settings = config.model_dump()
    return _validated(settings | {"upstreams": [*settings["upstreams"], upstream]}, "command line")


def _validated(settings: dict[str, Any], where: str) -> Config:
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{where}: {problems}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        settings = load_yaml(path.read_bytes()) or {}
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except YamlError as error:
        raise ConfigError(f"{path}:{error.line}: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: the file must be a mapping of settings")
    # Paths in a file are relative to the file, wherever the server is started.
    folders = settings.get("prompts")
    if isinstance(folders, list):
        settings["prompts"] = [path.parent / str(folder) for folder in folders]
    upstreams = settings.get("upstreams")
    for upstream in upstreams if isinstance(upstreams, list) else []:
        if isinstance(upstream, dict) and upstream.get("api_key_file"):
            upstream["api_key_file"] = path.parent / str(upstream["api_key_file"])
    keys = settings.get("keys")
    for key in keys if isinstance(keys, list) else []:
        if isinstance(key, dict) and isinstance(key.get("file"), str):
            key["file"] = path.parent / key["file"]
    if isinstance(log := settings.get("access_log"), str) and log != "-":
        settings["access_log"] = str(path.parent / log)
    for folder in ("stores", "reports"):
        if isinstance(settings.get(folder), str) and not is_postgres(settings[folder]):
            settings[folder] = path.parent / settings[folder]
    return settings
