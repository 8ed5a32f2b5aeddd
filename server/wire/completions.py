"""OpenAI's legacy completions: the same events, with `text` in place of a message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heedful.server.wire.chat import ChatWire, usage_object
from heedful.strategies import Answer


class CompletionWire(ChatWire):
    """A text completion, from an engine that writes that format itself or from an aligned chat."""

    chunk_object = "text_completion"
    whole_object = "text_completion"

    def _choice(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        text = choice["text"] if "text" in choice else choice.get("delta", {}).get("content") or ""
        rest = {k: v for k, v in choice.items() if k not in ("delta", "text")}
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": None, **rest}

    def whole(self, answer: Answer, alignment: Mapping[str, Any] | None) -> dict[str, Any]:
        extra = answer.extra if self._untouched else {}
        body = {**self._head, **extra, "object": self.whole_object}
        body["choices"] = [
            {
                "index": choice.index,
                "text": choice.text,
                "logprobs": choice.logprobs,
                "finish_reason": choice.finish_reason,
                **choice.extra,
            }
            for choice in answer.choices
        ]
        body["usage"] = usage_object(answer.usage)
        return body if alignment is None else body | {"alignment": alignment}
