"""One operation of the API: where it is, who answers it, and what goes in and out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from heedful.server.access.client import Role
from heedful.server.http import Handler


@dataclass(frozen=True, slots=True)
class Parameter:
    """Of the query, or a header."""

    name: str
    kind: Any
    place: Literal["query", "header"] = "query"
    about: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """`path` as Starlette routes it. Types are any that msgspec can describe."""

    method: Literal["GET", "PUT", "POST", "DELETE"]
    path: str
    handler: Handler
    about: str
    role: Role | None = field(kw_only=True)
    """Who may ask for it; None: who brings no key, too. Everything under /v1 has one."""
    body: Any = None
    body_media: str = "application/json"
    answer: Any = dict[str, Any]
    answer_media: str = "application/json"
    other_media: tuple[str, ...] = ()
    """Media types that the answer may have besides, of any content."""
    also: Mapping[int, str] = field(default_factory=dict)
    """Other statuses of the same answer, and when."""
    streams: bool = False
    """Whether the answer may be a stream of events, and the request name an alignment in a header."""
    parameters: tuple[Parameter, ...] = ()
    path_kinds: Mapping[str, Any] = field(default_factory=dict)
    """Types of the path's parameters that are not any text."""
    dialect: Literal["openai", "anthropic", "asker"] = "openai"
    """In whose shape errors are: "asker", of whoever asks."""
