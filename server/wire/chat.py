"""OpenAI's chat completions: events to chunks, answers to one object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from heedful.strategies import Answer, Chunk, Finish, HeedfulError, Usage

encode = msgspec.json.encode


def sse(payload: bytes) -> bytes:
    """One server-sent event."""
    return b"data: " + payload + b"\n\n"


DONE = sse(b"[DONE]")


def usage_object(usage: Usage) -> dict[str, Any]:
    total = usage.prompt_tokens + usage.completion_tokens
    return {
        "prompt_tokens": usage.prompt_tokens,
        "total_tokens": total,
        "completion_tokens": usage.completion_tokens,
        **usage.extra,
    }


class ChatWire:
    """One response in the making.

    `untouched` says that chunks come from a single engine call, so that those which already are this format go
    out byte by byte; else they are written anew under this response's own id.
    """

    chunk_object = "chat.completion.chunk"
    whole_object = "chat.completion"

    def __init__(self, *, id: str, created: int, model: str, untouched: bool, include_usage: bool) -> None:
        self._head = {"id": id, "object": self.chunk_object, "created": created, "model": model}
        self._untouched = untouched
        self._include_usage = include_usage
        self._begun: set[int] = set()

    def chunk(self, chunk: Chunk) -> bytes:
        if self._untouched and chunk.raw is not None:
            return sse(chunk.raw)
        return sse(encode({**self._head, "choices": [self._choice(c) for c in chunk.choices]}))

    def _choice(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        """The role goes with a choice's first piece, once, however many engine calls it is made from."""
        index = choice.get("index", 0)
        delta = {k: v for k, v in choice.get("delta", {}).items() if k != "role"}
        if index not in self._begun:
            self._begun.add(index)
            delta = {"role": "assistant", **delta}
        return {"index": index, "logprobs": None, "finish_reason": None, **choice, "delta": delta}

    def end(self, finish: Finish, alignment: Mapping[str, Any] | None) -> bytes:
        """The closing events: usage where the client wants it, the trace where it asked, then [DONE]."""
        if not self._include_usage and alignment is None:
            return DONE
        head = {**self._head, **(finish.extra if self._untouched else {}), "object": self.chunk_object}
        last: dict[str, Any] = {**head, "choices": []}
        if self._include_usage:
            last["usage"] = usage_object(finish.usage)
        if alignment is not None:
            last["alignment"] = alignment
        return sse(encode(last)) + DONE

    def error(self, error: HeedfulError) -> bytes:
        """One error event, and no [DONE] after it."""
        return sse(encode(error.body()))

    def whole(self, answer: Answer, alignment: Mapping[str, Any] | None) -> dict[str, Any]:
        """A complete response."""
        extra = answer.extra if self._untouched else {}
        body = {**self._head, **extra, "object": self.whole_object}
        body["choices"] = [
            {
                "index": choice.index,
                "message": {"role": "assistant", "content": None, **choice.message},
                "logprobs": choice.logprobs,
                "finish_reason": choice.finish_reason,
                **choice.extra,
            }
            for choice in answer.choices
        ]
        body["usage"] = usage_object(answer.usage)
        return body if alignment is None else body | {"alignment": alignment}
