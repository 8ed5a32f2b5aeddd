"""Anthropic's Messages API: events to its stream, answers to its message, errors to its shape."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from heedful.server.http import json_response
from heedful.server.wire.blocks import Block, Blocks, Step, blocks_of
from heedful.strategies import Answer, Chunk, ContextOverflow, Finish, HeedfulError, Usage

_STOP = {
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}

_OVERFLOW = re.compile(r"maximum context length is \d+", re.IGNORECASE)


def error_body(error: HeedfulError) -> dict[str, Any]:
    """An error as Anthropic writes it."""
    kind = _ERRORS.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": _words(error)}}


def _words(error: HeedfulError) -> str:
    """Anthropic's clients tell an overflow by these words."""
    if isinstance(error, ContextOverflow):
        return f"prompt is too long: {error.used} tokens > {error.limit} maximum"
    if error.code == "context_length_exceeded" or _OVERFLOW.search(error.message):
        numbers = re.search(r"maximum context length is (\d+) tokens\D+(\d+) ", error.message)
        counted = f": {numbers[2]} tokens > {numbers[1]} maximum" if numbers else ""
        return f"prompt is too long{counted} ({error.message})"
    return error.message


def error_response(error: HeedfulError) -> Any:
    return json_response(error_body(error), error.status, error.headers)


def _event(name: str, /, **body: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode({"type": name, **body}))


def _usage(usage: Usage) -> dict[str, Any]:
    cached = (usage.extra.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return {
        "input_tokens": usage.prompt_tokens - cached,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.completion_tokens,
    }


class MessagesWire:
    """One message in the making."""

    def __init__(self, *, id: str, model: str) -> None:
        self._head = {"id": id, "type": "message", "role": "assistant", "model": model}
        self._blocks = Blocks()
        self._begun = False

    def chunk(self, chunk: Chunk) -> bytes:
        return self._begin() + b"".join(map(_step, self._blocks.add(chunk)))

    def end(self, finish: Finish, alignment: Mapping[str, Any] | None) -> bytes:
        more = {} if alignment is None else {"alignment": alignment}
        # The prompt's tokens are known only now; clients take these figures over those of the start.
        return (
            self._begin()
            + b"".join(map(_step, self._blocks.end()))
            + _event("message_delta", delta=_stopped(self._blocks), usage=_usage(finish.usage))
            + _event("message_stop", **more)
        )

    def error(self, error: HeedfulError) -> bytes:
        return b"event: error\ndata: " + msgspec.json.encode(error_body(error)) + b"\n\n"

    def whole(self, answer: Answer, alignment: Mapping[str, Any] | None) -> dict[str, Any]:
        blocks = blocks_of(answer)
        content = [_content(b) for b in blocks.all]
        body = {**self._head, "content": content, **_stopped(blocks), "usage": _usage(answer.usage)}
        return body if alignment is None else body | {"alignment": alignment}

    def _begin(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        nothing: dict[str, Any] = {
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(Usage()),
        }
        return _event("message_start", message={**self._head, **nothing})


def _step(step: Step) -> bytes:
    block = step.block
    if step.what == "open":
        empty = Block(block.index, block.kind, id=block.id, name=block.name)
        return _event("content_block_start", index=block.index, content_block=_content(empty))
    if step.what == "close":
        return _event("content_block_stop", index=block.index)
    if not step.text:
        return b""
    delta = {
        "text": {"type": "text_delta", "text": step.text},
        "reasoning": {"type": "thinking_delta", "thinking": step.text},
        "tool": {"type": "input_json_delta", "partial_json": step.text},
    }[block.kind]
    return _event("content_block_delta", index=block.index, delta=delta)


def _stopped(blocks: Blocks) -> dict[str, Any]:
    """Why the answer ended. A stop string is named only where the engine says which it was."""
    if blocks.stop is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": blocks.stop}
    reason = _STOP.get(blocks.finish_reason or "", "end_turn")
    if reason == "end_turn" and any(b.kind == "tool" for b in blocks.all):
        reason = "tool_use"
    return {"stop_reason": reason, "stop_sequence": None}


def _content(block: Block) -> dict[str, Any]:
    """A content block; at its start it is empty."""
    if block.kind == "text":
        return {"type": "text", "text": block.text}
    if block.kind == "reasoning":
        return {"type": "thinking", "thinking": block.text, "signature": ""}
    return {"type": "tool_use", "id": block.id, "name": block.name, "input": _input(block.text)}


def _input(arguments: str) -> dict[str, Any]:
    """A tool's arguments. A model may write what is no JSON object; the client gets that text whole."""
    try:
        value = msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"arguments": arguments}
