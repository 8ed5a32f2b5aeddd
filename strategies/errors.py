"""Everything that can go wrong on the way from a request to an answer.

HeedfulError
├── RequestError            400  the request can't be served as it stands; says which field and how to mend it
│   ├── NotFound            404  it names a model, an alignment or a store that does not exist
│   ├── MissingCapability   400  the chosen strategy needs something that this engine does not have
│   └── ContextOverflow     400  the conversation is longer than the model reads
├── BudgetSpent             429  the tokens that its asker may spend are spent
├── RetrievalError          503  a store or an embedder failed
├── VerifierError           503  a verifier failed, so nobody knows whether the answer may go out
│   └── NoVerdict           502  a model that was to judge said something else
├── EngineError             500  the engine failed on this request
│   ├── EngineUnavailable   503  the engine is down or full
│   └── DeadlineExceeded    504  the request's time was up
└── StrategyError           500  a strategy broke its contract (ours or a third party's)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import ClassVar

_SHOWN = 200  # characters of a name that nobody knows: a client may send megabytes


class HeedfulError(Exception):
    """Base of all errors that reach a client, always in OpenAI's error shape.

    `param` is the request field at fault; `code` a short machine-readable reason; `headers` go out with the
    response (Retry-After and the like); `extra` are further fields that an engine put into its error.
    """

    status: int = 500
    type: str = "server_error"
    default_code: ClassVar[str | None] = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int | None = None,
        type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code if code is not None else self.default_code
        self.headers = dict(headers or {})
        self.extra: Mapping[str, object] = {}
        if status is not None:
            self.status = status
        if type is not None:
            self.type = type

    def body(self) -> dict[str, object]:
        """The error as OpenAI writes it."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": {**error, **self.extra}}


class RequestError(HeedfulError):
    status = 400
    type = "invalid_request_error"


class NotFound(RequestError):
    status = 404

    @classmethod
    def among(cls, what: str, name: str, known: Iterable[str], *, param: str, code: str) -> NotFound:
        """An error that lists what there is instead."""
        names = ", ".join(sorted(known)) or "none"
        shown = name if len(name) <= _SHOWN else name[:_SHOWN] + "…"
        return cls(f"unknown {what} {shown!r}; known: {names}", param=param, code=code)


class MissingCapability(RequestError):
    default_code = "missing_capability"


class ContextOverflow(RequestError):
    """In OpenAI's words: well-known clients tell it by them, and by the code, from other bad requests.

    `limit` and `used` are tokens; `what` resulted in the latter.
    """

    default_code = "context_length_exceeded"

    def __init__(
        self, limit: int, used: int, *, param: str, what: str = "your messages", mend: str = ""
    ) -> None:
        super().__init__(
            f"This model's maximum context length is {limit} tokens. However, {what} resulted in {used} tokens. "
            + (mend or "Please reduce the length of the messages."),
            param=param,
        )
        self.limit, self.used = limit, used


class BudgetSpent(HeedfulError):
    """No request error, which strategies may catch and go on from: whoever pays does not pay more.

    Clients are told not to try again, whatever the status says.
    """

    status = 429
    type = "insufficient_quota"
    default_code = "budget_spent"

    def __init__(self, message: str, *, code: str | None = None, retry_after: float | None = None) -> None:
        headers = {"x-should-retry": "false"}
        if retry_after is not None:
            headers["retry-after"] = str(math.ceil(retry_after))
        super().__init__(message, code=code, headers=headers)


class RetrievalError(HeedfulError):
    status = 503
    default_code = "retrieval_failed"


class VerifierError(HeedfulError):
    status = 503
    default_code = "verifier_failed"


class NoVerdict(VerifierError):
    """Asked again, such a model says the same: clients are told not to try."""

    status = 502
    default_code = "no_verdict"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"x-should-retry": "false"})


class EngineError(HeedfulError):
    default_code = "engine_error"


class EngineUnavailable(EngineError):
    status = 503
    default_code = "engine_unavailable"


class DeadlineExceeded(EngineError):
    status = 504
    default_code = "deadline_exceeded"


class StrategyError(HeedfulError):
    default_code = "strategy_failed"
