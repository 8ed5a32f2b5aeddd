"""OpenAI's Responses API: events to its stream, answers to its response object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from heedful.server.api.blocks import Block, Blocks, BlockStep, blocks_of
from heedful.strategies import Answer, Chunk, Finish, HeedfulError, Usage

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_PREFIX = {"text": "msg", "reasoning": "rs", "tool": "fc"}
_EVENTS = {"text": "output_text", "reasoning": "reasoning_text", "tool": "function_call_arguments"}
CUSTOM_INPUT = "input"
"""A custom tool takes a text and not an object; the model sees it as a function with this one argument."""


class ResponsesWire:
    """One response in the making.

    `echo` are the request's fields that a response repeats, `custom` the names of tools whose input is a text;
    `logprobs` says whether the client asked for them.
    """

    def __init__(
        self,
        *,
        id: str,
        created: int,
        model: str,
        echo: Mapping[str, Any],
        custom: frozenset[str] = frozenset(),
        logprobs: bool = False,
    ) -> None:
        self._id, self._custom, self._logprobs = id, custom, logprobs
        self._head = {"id": id, "object": "response", "created_at": created, "model": model, **echo}
        self._blocks = Blocks()
        self._sequence = 0

    def chunk(self, chunk: Chunk) -> bytes:
        return self._begin() + b"".join(map(self._step, self._blocks.add(chunk)))

    def end(self, finish: Finish, alignment: Mapping[str, Any] | None) -> bytes:
        last = self._begin() + b"".join(map(self._step, self._blocks.end()))
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
            "output": [self._item(b, self._status(b, blocks)) for b in blocks.all],
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

    def _step(self, step: BlockStep) -> bytes:
        block = step.block
        where: dict[str, Any] = {"item_id": self._item_id(block), "output_index": block.index}
        if block.kind != "tool":
            where["content_index"] = 0
        if step.what == "open":
            return self._opened(block, where)
        if step.what == "close":
            return self._closed(block, where)
        if block.name in self._custom:
            return b""  # the input is inside the arguments, and goes out when it is whole
        extra = {"logprobs": self._shown(step.logprobs)} if block.kind == "text" else {}
        return self._event(f"response.{_EVENTS[block.kind]}.delta", **where, delta=step.text, **extra)

    def _opened(self, block: Block, where: Mapping[str, Any]) -> bytes:
        empty = Block(block.index, block.kind, id=block.id, name=block.name)
        item = self._item(empty, "in_progress") | ({} if block.kind == "tool" else {"content": []})
        opened = self._event("response.output_item.added", output_index=block.index, item=item)
        if block.kind == "tool":
            return opened
        return opened + self._event("response.content_part.added", **where, part=self._part(empty))

    def _closed(self, block: Block, where: Mapping[str, Any]) -> bytes:
        item = self._item(block, self._status(block, self._blocks))
        if item["type"] == "custom_tool_call":
            name = "response.custom_tool_call_input"
            closed = self._event(f"{name}.delta", **where, delta=item["input"])
            closed += self._event(f"{name}.done", **where, input=item["input"])
        elif block.kind == "tool":
            facts = {"arguments": item["arguments"], "name": block.name}
            closed = self._event("response.function_call_arguments.done", **where, **facts)
        else:
            extra = {"logprobs": self._shown(block.logprobs)} if block.kind == "text" else {}
            closed = self._event(f"response.{_EVENTS[block.kind]}.done", **where, text=block.text, **extra)
            closed += self._event("response.content_part.done", **where, part=self._part(block))
        return closed + self._event("response.output_item.done", output_index=block.index, item=item)

    def _item_id(self, block: Block) -> str:
        prefix = "ctc" if block.name in self._custom else _PREFIX[block.kind]
        return f"{prefix}_{self._id.removeprefix('resp_')}_{block.index}"

    @staticmethod
    def _status(block: Block, blocks: Blocks) -> str:
        """An answer that was cut short was cut short in its last item."""
        cut = blocks.finish_reason in _INCOMPLETE and block is blocks.all[-1]
        return "incomplete" if cut else "completed"

    def _item(self, block: Block, status: str) -> dict[str, Any]:
        item: dict[str, Any] = {"id": self._item_id(block), "status": status}
        if block.name in self._custom:
            call = {"call_id": block.id, "name": block.name, "input": _custom_input(block.text)}
            return {"type": "custom_tool_call", **item, **call}
        if block.kind == "tool":
            # No arguments at all are an empty object, to whoever reads them as JSON.
            arguments = block.text or ("{}" if status == "completed" else "")
            call = {"call_id": block.id, "name": block.name, "arguments": arguments}
            return {"type": "function_call", **item, **call}
        if block.kind == "reasoning":
            return {"type": "reasoning", **item, "summary": [], "content": [self._part(block)]}
        return {"type": "message", **item, "role": "assistant", "content": [self._part(block)]}

    def _part(self, block: Block) -> dict[str, Any]:
        if block.kind == "reasoning":
            return {"type": "reasoning_text", "text": block.text}
        logprobs = self._shown(block.logprobs)
        return {"type": "output_text", "text": block.text, "annotations": [], "logprobs": logprobs}

    def _shown(self, logprobs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [_logprob(step) for step in logprobs] if self._logprobs else []


def _logprob(step: Mapping[str, Any]) -> dict[str, Any]:
    """A token as this API has it: always with its bytes."""
    shown = _token(step)
    shown["top_logprobs"] = [_token(top) for top in step.get("top_logprobs") or []]
    return shown


def _token(step: Mapping[str, Any]) -> dict[str, Any]:
    token = str(step.get("token", ""))
    given = step.get("bytes")
    return {
        "token": token,
        "logprob": step.get("logprob"),
        "bytes": list(token.encode()) if given is None else given,
    }


def _custom_input(arguments: str) -> str:
    """The text for a custom tool, out of the function call that the model wrote."""
    try:
        value = msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, RecursionError):
        return arguments
    text = value.get(CUSTOM_INPUT, "") if isinstance(value, dict) else value
    return text if isinstance(text, str) else arguments


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
