"""An answer as a sequence of blocks (reasoning, text, tool calls): what Anthropic's and OpenAI's newer APIs share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from heedful.strategies import Answer, Chunk

Kind = Literal["reasoning", "text", "tool"]
Step = Literal["open", "delta", "close"]


@dataclass(slots=True)
class Block:
    """One block. `text` is what it holds so far: words, or a tool call's arguments."""

    index: int
    kind: Kind
    text: str = ""
    id: str = ""
    name: str = ""
    place: int = 0
    """Of a tool call: which one, as the chunks count them."""


class Blocks:
    """Sorts the first choice's chunks into blocks; one is open at a time."""

    def __init__(self) -> None:
        self.all: list[Block] = []
        self.finish_reason: str | None = None
        self.stop: str | None = None
        """The stop string that ended the answer, where the engine says so."""
        self._open: Block | None = None

    def add(self, chunk: Chunk) -> Iterator[tuple[Step, Block, str]]:
        """What the chunk does: opens a block, adds text to one, closes one."""
        for choice in chunk.choices:
            if choice.get("index", 0) == 0:
                yield from self._delta(choice.get("delta") or {})
                self.finish_reason = choice.get("finish_reason") or self.finish_reason
                if isinstance(reason := choice.get("stop_reason"), str):
                    self.stop = reason

    def end(self) -> Iterator[tuple[Step, Block, str]]:
        """Closes what is open."""
        if self._open is not None:
            yield "close", self._open, ""
            self._open = None

    def _delta(self, delta: Mapping[str, Any]) -> Iterator[tuple[Step, Block, str]]:
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if thought and isinstance(thought, str):
            yield from self._text("reasoning", thought)
        text = delta.get("content") or delta.get("refusal")
        if text and isinstance(text, str):
            yield from self._text("text", text)
        for i, call in enumerate(delta.get("tool_calls") or []):
            yield from self._tool(call.get("index", i), call)

    def _text(self, kind: Kind, text: str) -> Iterator[tuple[Step, Block, str]]:
        block = self._open
        if block is None or block.kind != kind:
            block = Block(len(self.all), kind)
            yield from self._switch(block)
        block.text += text
        yield "delta", block, text

    def _tool(self, place: int, call: Mapping[str, Any]) -> Iterator[tuple[Step, Block, str]]:
        function = call.get("function") or {}
        block = next((b for b in self.all if b.kind == "tool" and b.place == place), None)
        if block is None:
            name = function.get("name") or ""
            block = Block(len(self.all), "tool", "", call.get("id") or f"call_{place}", name, place)
            yield from self._switch(block)
        if piece := function.get("arguments"):
            block.text += piece
            yield "delta", block, piece

    def _switch(self, block: Block) -> Iterator[tuple[Step, Block, str]]:
        yield from self.end()
        self.all.append(block)
        self._open = block
        yield "open", block, ""


def blocks_of(answer: Answer) -> Blocks:
    """A whole answer's blocks."""
    blocks = Blocks()
    for choice in answer.choices[:1]:
        reason = {"finish_reason": choice.finish_reason, "stop_reason": choice.extra.get("stop_reason")}
        for _ in blocks.add(Chunk([{"index": 0, "delta": choice.message, **reason}])):
            pass
    return blocks
