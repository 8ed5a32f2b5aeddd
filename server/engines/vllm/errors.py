"""vLLM's exceptions and error objects, told in ours."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.exception_handling.error_response import create_error_response
from vllm.entrypoints.serve.exception_handling.handlers.validation import clean_loc_for_param
from vllm.entrypoints.serve.exception_handling.utils import sanitize_message
from vllm.exceptions import VLLMValidationError
from vllm.v1.engine.exceptions import EngineDeadError

from heedful.strategies import EngineError, EngineUnavailable, HeedfulError, NotFound, RequestError

_BY_STATUS: dict[int, type[HeedfulError]] = {404: NotFound, 503: EngineUnavailable}


def from_exception(error: Exception) -> HeedfulError:
    """Any exception of vLLM's serving classes or engine, with vLLM's own wording."""
    if isinstance(error, HeedfulError):
        return error
    if isinstance(error, ValidationError):
        return _from_validation(error)
    if isinstance(error, VLLMValidationError):
        # Its text repeats parameter and value in brackets; ours stand in `param`.
        message, param = str(error.args[0]), error.parameter
        return from_object({"message": sanitize_message(message), "param": param, "code": 400})
    if isinstance(error, EngineDeadError):
        return EngineUnavailable("the engine has died; this server is going down to be restarted")
    return from_response(create_error_response(error))


def from_response(response: ErrorResponse) -> HeedfulError:
    """An error that a serving class returned instead of raising."""
    return from_object(response.error.model_dump())


def from_object(error: dict[str, Any]) -> HeedfulError:
    """The `error` object of vLLM's JSON: its `code` is the HTTP status."""
    status = error.get("code") or 500
    message, param = error.get("message") or "engine error", error.get("param")
    if status in _BY_STATUS:
        return _BY_STATUS[status](message, param=param)
    if 400 <= status < 500:
        code = "context_length_exceeded" if "context length" in message else None
        return RequestError(message, param=param, status=status, code=code)
    return EngineError(message, param=param, status=status)


def _from_validation(error: ValidationError) -> RequestError:
    """The first problem, by field: a client mends one at a time.

    A union reports every branch; the one that took the value's type and then refused it says what is wrong.
    """
    problems = error.errors(include_url=False, include_input=False)
    same = [p for p in problems if p["loc"][:1] == problems[0]["loc"][:1]]
    first = next((p for p in same if not p["type"].endswith("_type")), same[0])
    cause = first.get("ctx", {}).get("error")
    param = getattr(cause, "parameter", None) or _field(first["loc"])
    message = str(first["msg"]).removeprefix("Value error, ")
    return RequestError(f"{param}: {message}" if param else message, param=param)


def _field(loc: tuple[int | str, ...]) -> str | None:
    """`messages.0.content`, without the class names of union branches that pydantic puts in between."""
    segments = clean_loc_for_param(loc).split(".")
    return ".".join(s for s in segments if s and not s[0].isupper()) or None
