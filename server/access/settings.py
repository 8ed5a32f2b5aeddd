"""What an operator sets for everyone and for each tenant: the parts of heedful.yaml that are about people."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

StepConfig = str | dict[str, dict[str, Any] | None]
"""A step of an alignment, or a verifier: a name, or a name with its options."""
AtLeastOne = Annotated[int, Field(ge=1)]
TENANT = r"^[a-z0-9][a-z0-9_-]{0,63}$"


class Settings(BaseModel):
    """Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class VerifySettings(Settings):
    """What every finished answer must pass, whoever decodes it. Options as `refine` has them."""

    verifiers: Annotated[tuple[StepConfig, ...], Field(min_length=1, max_length=32)]
    unresolved: Literal["withhold", "release"] = "withhold"
    on_error: Literal["fail", "pass"] = "fail"
    verifier_timeout: Annotated[float, Field(gt=0, le=600)] = 30.0
    keep_alive: Annotated[float, Field(ge=0.01, le=600)] = 10.0
    """Seconds between comments in a stream while a sentence waits for its verdict."""


class AllowSettings(Settings):
    """What a request may choose. None: anything. What the operator has named (an alignment of the configuration, a
    verifier of it) may use more than this."""

    alignments: tuple[str, ...] | None = None
    """Alignments and strategies by name; those that are not here can't be a step of an inline pipeline either."""
    models: tuple[str, ...] | None = None
    verifiers: tuple[str, ...] | None = None
    stores: tuple[str, ...] | None = None
    paths: tuple[str, ...] | None = None
    """Other paths of upstreams, below /v1, such as `images` or `audio/speech`. Under a floor None means none."""
    fields: tuple[str, ...] = ()
    """Fields of a request's body that go to the engine beside those that are known to change no prompt."""
    n: AtLeastOne | None = None
    """The most choices of a request, and the most samples of a strategy."""
    max_tokens: AtLeastOne | None = None
    """The most tokens of an answer; also what a request gets that names no limit."""
    max_seconds: Annotated[float, Field(gt=0)] | None = None
    parallel_leaves: AtLeastOne | None = None
    max_rounds: Annotated[int, Field(ge=0)] | None = None
    steps: AtLeastOne | None = None
    """The most steps of an alignment that a request makes up."""


class FloorSettings(Settings):
    """What holds whatever a request asks for."""

    gate: tuple[dict[str, Any], ...] = ()
    """Gates before all else: for each the options of the step `gate`."""
    enforce: tuple[StepConfig, ...] = ()
    """Context steps that run first."""
    verify: VerifySettings | None = None
    allow: AllowSettings = AllowSettings()
    trace: Literal["off", "own", "full"] | None = None
    """How much a request may see of what was done: nothing, its own steps, or all. None: "full" on a server without
    keys and for admins, else "own"."""


class LimitSettings(Settings):
    """Per key and per tenant alike; hidden calls' tokens count."""

    requests_per_minute: AtLeastOne | None = None
    tokens_per_minute: AtLeastOne | None = None
    concurrent: AtLeastOne | None = None
    tokens_per_day: AtLeastOne | None = None
    tokens_per_month: AtLeastOne | None = None


class AdmissionSettings(Settings):
    """How many requests the server works on at once, and what becomes of the others."""

    running: AtLeastOne
    waiting: Annotated[int, Field(ge=0)] = 1000
    """Places in line; who finds none has 503 and may try again."""
    per_tenant: AtLeastOne | None = None
    """The most that one tenant has under way, so that another finds room at once. None: all."""

    def share(self, number: int, of: int) -> AdmissionSettings:
        """What one of several workers may have, so that all together keep to these. Each can have one request."""
        waiting = self.waiting // of + (number < self.waiting % of)
        per_tenant = None if self.per_tenant is None else self.per_tenant // of
        running = self.running // of + (number < self.running % of)
        return AdmissionSettings(running=running, waiting=waiting, per_tenant=per_tenant)


class RecordSettings(Settings):
    """Whether decision records are kept, for how long, and what of the texts."""

    keep_days: Annotated[float, Field(gt=0)] = 30
    texts: Literal["digests", "full"] = "digests"


class TenantSettings(Settings):
    """One tenant."""

    floor: FloorSettings = FloorSettings()
    limits: LimitSettings = LimitSettings()
    records: RecordSettings | None = None
    reads: tuple[str, ...] = ()
    """Stores of others that its answers may use and nobody of it may write: shared base stores."""


class KeySettings(Settings):
    """A key that is deployed by file: its text in a variable or a file, or its digest here; one of the three."""

    tenant: Annotated[str, Field(pattern=TENANT)]
    role: Literal["user", "author", "admin"] = "user"
    name: str = ""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    env: str | None = None
    file: Path | None = None
    expires: datetime | None = None
    """Without an offset: UTC."""
    stores: tuple[str, ...] = ()
    """The stores that an author may write; none named: all of the tenant's own."""
    limits: LimitSettings = LimitSettings()

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(source is not None for source in (self.sha256, self.env, self.file)) != 1:
            raise ValueError("give exactly one of sha256, env and file")
        if self.stores and self.role != "author":
            raise ValueError("stores: for the role author only; admins write all, users none")
        return self
