"""OpenAI's Responses API: events to its stream, answers to its response object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from heedful.server.wire.blocks import Block, Blocks, Step, blocks_of
from heedful.strategies import Answer, Chunk, Finish, HeedfulError, Usage

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_PREFIX = {"text": "msg", "reasoning": "rs", "tool": "fc"}


class ResponsesWire:
    """One response in the making. `echo` are the request's fields that a response repeats."""

    def __init__(self, *, id: str, created: int, model: str, echo: Mapping[str, Any]) -> None:
        self._id = id
        self._head = {"id": id, "object": "response", "created_at": created, "model": model, **echo}
        self._blocks = Blocks()
        self._sequence = 0

    def chunk(self, chunk: Chunk) -> bytes:
        return self._begin() + b"".join(self._step(*step) for step in self._blocks.add(chunk))

    def end(self, finish: Finish, alignment: Mapping[str, Any] | None) -> bytes:
        last = self._begin() + b"".join(self._step(*step) for step in self._blocks.end())
        body = self._response(self._blocks, finish.usage, alignment)
        return last + self._event(f"response.{body['status']}", response=body)

    def error(self, error: HeedfulError) -> bytes:
        facts = {"code": error.code, "message": error.message, "param": error.param}
        failed = {"code": error.code or error.type, "message": error.message}
        body = {**self._head, "status": "failed", "error": failed, "incomplete_details": None, "output": []}
        return self._event("error", **facts) + self._event("response.failed", response=body)

    def whole(self, answer: Answer, alignment: Mapping[str, Any] | None) -> dict[str, Any]:
        return self._response(blocks_of(answer), answer.usage, alignment)

    def _response(self, blocks: Blocks, usage: Usage, alignment: Mapping[str, Any] | None) -> dict[str, Any]:
        why = _INCOMPLETE.get(blocks.finish_reason or "")
        body = {
            **self._head,
            "status": "incomplete" if why else "completed",
            "error": None,
            "incomplete_details": {"reason": why} if why else None,
            "output": [self._item(b, "incomplete" if why else "completed") for b in blocks.all],
            "usage": _usage(usage),
        }
        return body if alignment is None else body | {"alignment": alignment}

    def _event(self, name: str, /, **body: Any) -> bytes:
        payload = msgspec.json.encode({"type": name, "sequence_number": self._sequence, **body})
        self._sequence += 1
        return b"event: %s\ndata: %s\n\n" % (name.encode(), payload)

    def _begin(self) -> bytes:
        if self._sequence:
            return b""
        body = {
            **self._head,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "output": [],
        }
        return self._event("response.created", response=body) + self._event(
            "response.in_progress", response=body
        )

    def _step(self, step: Step, block: Block, text: str) -> bytes:
        id, at = self._item_id(block), {"output_index": block.index}
        where = {"item_id": id, **at}
        if block.kind != "tool":
            where["content_index"] = 0
        name = {"text": "output_text", "reasoning": "reasoning_text", "tool": "function_call_arguments"}[
            block.kind
        ]
        extra: dict[str, Any] = {"logprobs": []} if block.kind == "text" else {}
        if step == "delta":
            return self._event(f"response.{name}.delta", **where, delta=text, **extra)
        if step == "open":
            item = self._item(block, "in_progress") | ({} if block.kind == "tool" else {"content": []})
            opened = self._event("response.output_item.added", **at, item=item)
            if block.kind == "tool":
                return opened
            return opened + self._event("response.content_part.added", **where, part=_part(block))
        key = "arguments" if block.kind == "tool" else "text"
        named = {"name": block.name} if block.kind == "tool" else {}
        closed = self._event(f"response.{name}.done", **where, **{key: block.text}, **named, **extra)
        if block.kind != "tool":
            closed += self._event("response.content_part.done", **where, part=_part(block))
        return closed + self._event("response.output_item.done", **at, item=self._item(block, "completed"))

    def _item_id(self, block: Block) -> str:
        return f"{_PREFIX[block.kind]}_{self._id.removeprefix('resp_')}_{block.index}"

    def _item(self, block: Block, status: str) -> dict[str, Any]:
        id = self._item_id(block)
        if block.kind == "tool":
            call = {"call_id": block.id, "name": block.name, "arguments": block.text}
            return {"type": "function_call", "id": id, "status": status, **call}
        if block.kind == "reasoning":
            return {"type": "reasoning", "id": id, "summary": [], "content": [_part(block)], "status": status}
        return {"type": "message", "id": id, "status": status, "role": "assistant", "content": [_part(block)]}


def _part(block: Block) -> dict[str, Any]:
    if block.kind == "reasoning":
        return {"type": "reasoning_text", "text": block.text}
    return {"type": "output_text", "text": block.text, "annotations": [], "logprobs": []}


def _usage(usage: Usage) -> dict[str, Any]:
    cached = (usage.extra.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    thought = (usage.extra.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    details = usage.extra.get("alignment_details")
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        **({"alignment_details": details} if details else {}),
    }
