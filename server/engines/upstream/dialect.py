"""What one model refuses that most take: learnt from its refusals, so that our own parameters never stand in the way.

Reasoning models want `max_completion_tokens` in place of `max_tokens` and no sampling parameters; strict servers
refuse what they do not know. A parameter that the client chose itself stays, and its refusal is the client's answer.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from heedful.strategies import HeedfulError, RequestError

T = TypeVar("T")
_LIMITS = ("max_tokens", "max_completion_tokens")
# What can be left out: the answer is drawn otherwise, or told with less beside it, but it is an answer.
_SPARE = frozenset(
    "temperature top_p top_k min_p presence_penalty frequency_penalty repetition_penalty seed stream_options "
    "reasoning_effort parallel_tool_calls user".split()
)
_CODES = frozenset({"unsupported_parameter", "unsupported_value", "unknown_parameter"})
_REFUSES = re.compile(
    r"unsupported|not supported|(?:not|n't) support|unrecogni[sz]ed|unknown|unexpected|not permitted|not allowed"
    r"|not accept|only the default|deprecated|extra_forbidden|cannot both|not compatible|cannot find field"
    r"|not available|no longer",
    re.IGNORECASE,
)
_CUT_SHORT = re.compile(r"could not finish the message|output limit was reached", re.IGNORECASE)
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_TRIES = 4


class Dialect:
    """One model's. `limit` is its name for the most tokens of an answer (None: whichever is sent)."""

    def __init__(self) -> None:
        self.limit: str | None = None
        self.refused: set[str] = set()
        """Parameters that it takes from nobody; only such as can be left out."""

    async def speak(
        self,
        body: Mapping[str, Any],
        client: Mapping[str, Any],
        send: Callable[[dict[str, Any]], Awaitable[T]],
    ) -> T:
        """Sends a chat's body as this model takes it, and at once again where a refusal teaches what that is.

        `client`: the fields that the client sent itself. Raises what `send` raises.
        """
        for _ in range(_TRIES):
            adapted = self.adapted(body, client)
            try:
                return await send(adapted)
            except RequestError as refusal:
                if not self.learn(refusal, adapted, client):
                    raise
        return await send(self.adapted(body, client))

    def adapted(self, body: Mapping[str, Any], client: Mapping[str, Any]) -> dict[str, Any]:
        left_out = {p for p in self.refused if p in body and not _chosen(p, body, client)}
        adapted = {k: v for k, v in body.items() if k not in left_out}
        if self.limit is not None:
            for other in _LIMITS:
                if other != self.limit and other in adapted:
                    value = adapted.pop(other)
                    adapted.setdefault(self.limit, value)
        return adapted

    def learn(self, refusal: HeedfulError, sent: Mapping[str, Any], client: Mapping[str, Any]) -> bool:
        """Whether the refusal is of something in `sent` that can be said in another way."""
        if refusal.status not in (400, 422):
            return False
        if str(refusal.code) not in _CODES and not _REFUSES.search(refusal.message):
            return False
        named = [p for p in sent if names(refusal, p)]
        spare = {p for p in named if p in _SPARE and not _chosen(p, sent, client)}
        self.refused |= spare
        limits = [p for p in named if p in _LIMITS]
        if len(limits) == 1:
            self.limit = _LIMITS[1 - _LIMITS.index(limits[0])]
        return bool(spare or len(limits) == 1)


def names(refusal: HeedfulError, parameter: str) -> bool:
    """Whether a refusal is about this parameter, by its `param` or in its words."""
    if refusal.param and parameter in re.split(r"[.\[\]]", str(refusal.param)):
        return True
    text = _CAMEL.sub("_", refusal.message).lower()
    return re.search(rf"(?<!\w){re.escape(parameter)}(?!\w)", text) is not None


def names_the_limit(refusal: HeedfulError) -> bool:
    return any(names(refusal, limit) for limit in _LIMITS)


def cut_short(refusal: HeedfulError) -> bool:
    """Whether a refusal is an answer in truth: one whose thinking took all its tokens."""
    return _CUT_SHORT.search(refusal.message) is not None


def _chosen(parameter: str, body: Mapping[str, Any], client: Mapping[str, Any]) -> bool:
    return parameter in client and client[parameter] == body[parameter]
