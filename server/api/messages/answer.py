"""Events to the Messages API's stream, answers to its message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from heedful.server.api.blocks import Block, Blocks, BlockStep, blocks_of
from heedful.server.shapes import anthropic_body
from heedful.strategies import Answer, Chunk, Finish, HeedfulError, Usage

_STOP = {
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}


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
        return b"event: error\ndata: " + msgspec.json.encode(anthropic_body(error)) + b"\n\n"

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


def _step(step: BlockStep) -> bytes:
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
