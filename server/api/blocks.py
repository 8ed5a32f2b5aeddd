"""An answer as a sequence of blocks (reasoning, text, tool calls): what Anthropic's and OpenAI's newer APIs share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from heedful.strategies import Answer, Chunk, EngineError
from heedful.strategies.types import text_in

BlockKind = Literal["reasoning", "text", "tool"]
Logprobs = Sequence[Mapping[str, Any]]


class JsonEnd:
    """Follows the brackets of a growing text; each character is looked at once."""

    __slots__ = ("_begun", "_depth", "_escaped", "_quoted", "_seen")

    def __init__(self) -> None:
        self._seen = 0
        self._begun = False
        self._depth = 0
        self._quoted = self._escaped = False

    def reached(self, text: str) -> bool:
        """Whether all brackets of `text`, which only grows from call to call, are closed, once there was one."""
        for character in text[self._seen :]:
            if self._escaped:
                self._escaped = False
            elif self._quoted:
                self._escaped = character == "\\"
                self._quoted = character != '"'
            elif character == '"':
                self._quoted = True
            elif character in "{[":
                self._depth += 1
                self._begun = True
            elif character in "}]":
                self._depth -= 1
        self._seen = len(text)
        return self._begun and self._depth <= 0 and not self._quoted


@dataclass(slots=True)
class Block:
    """One block. `text` is what it holds so far: words, or a tool call's arguments; `said` how much has gone out."""

    index: int
    kind: BlockKind
    text: str = ""
    id: str = ""
    name: str = ""
    logprobs: list[Mapping[str, Any]] = field(default_factory=list)
    said: int = 0
    said_logprobs: int = 0
    end: JsonEnd = field(default_factory=JsonEnd)

    @property
    def whole(self) -> bool:
        """Whether nothing can follow, once another block has begun."""
        return self.kind != "tool" or self.end.reached(self.text)


class BlockStep(NamedTuple):
    """What goes out next: a block opens (empty), grows by `text`, or closes."""

    what: Literal["open", "delta", "close"]
    block: Block
    text: str = ""
    logprobs: Logprobs = ()


class Blocks:
    """Sorts the first choice's chunks into blocks. One is open at a time, and what has closed stays closed.

    Tool calls may come interleaved: those after the open one are held back until its arguments are whole.
    """

    def __init__(self) -> None:
        self.all: list[Block] = []
        self.finish_reason: str | None = None
        self.stop: str | None = None
        """The stop string that ended the answer, where the engine says so."""
        self._at = 0  # the block whose turn it is
        self._open = False
        self._calls: dict[Any, Block] = {}

    def add(self, chunk: Chunk) -> Iterator[BlockStep]:
        """What can go out with this chunk. Raises EngineError where it writes on in a call that has closed."""
        for choice in chunk.choices:
            if choice.get("index", 0) == 0:
                self._take(choice)
                yield from self._steps()

    def end(self) -> Iterator[BlockStep]:
        """All that is left."""
        yield from self._steps(last=True)

    def _take(self, choice: Mapping[str, Any]) -> None:
        delta = choice.get("delta") or {}
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if thought and isinstance(thought, str):
            self._running("reasoning").text += thought
        if text := text_in(delta.get("content")) or delta.get("refusal"):
            self._running("text").text += str(text)
        calls = delta.get("tool_calls") or []
        given = (choice.get("logprobs") or {}).get("content")
        if given and (text or not calls) and self._at < len(self.all) and self.all[-1].kind == "text":
            self.all[-1].logprobs += given
        for i, call in enumerate(calls):
            self._call(call.get("index", i), call)
        self.finish_reason = choice.get("finish_reason") or self.finish_reason
        if isinstance(reason := choice.get("stop_reason"), str):
            self.stop = reason

    def _running(self, kind: BlockKind) -> Block:
        """The last block where it is of this kind; else a new one."""
        if self._at < len(self.all) and self.all[-1].kind == kind:
            return self.all[-1]
        return self._new(Block(len(self.all), kind))

    def _new(self, block: Block) -> Block:
        self.all.append(block)
        return block

    def _call(self, place: Any, call: Mapping[str, Any]) -> None:
        function = call.get("function") or {}
        if (block := self._calls.get(place)) is None:
            block = self._new(Block(len(self.all), "tool", id=call.get("id") or f"call_{place}"))
            self._calls[place] = block
        block.name = block.name or function.get("name") or ""
        piece = function.get("arguments") or ""
        if block.index >= self._at:
            block.text += piece
        elif piece.strip():
            raise EngineError(
                f"the arguments of the tool call {block.name!r} went on after their end", status=502
            )

    def _steps(self, *, last: bool = False) -> Iterator[BlockStep]:
        while self._at < len(self.all):
            block = self.all[self._at]
            if not self._open:
                if not (last or block.name or block.kind != "tool"):
                    return  # its name is still to come
                self._open = True
                yield BlockStep("open", block)
            if block.said < len(block.text) or block.said_logprobs < len(block.logprobs):
                text, logprobs = block.text[block.said :], block.logprobs[block.said_logprobs :]
                block.said, block.said_logprobs = len(block.text), len(block.logprobs)
                yield BlockStep("delta", block, text, logprobs)
            if not (last or (self._at + 1 < len(self.all) and block.whole)):
                return
            self._open = False
            self._at += 1
            yield BlockStep("close", block)


def blocks_of(answer: Answer) -> Blocks:
    """A whole answer's blocks."""
    blocks = Blocks()
    for choice in answer.choices[:1]:
        reason = {"finish_reason": choice.finish_reason, "stop_reason": choice.extra.get("stop_reason")}
        chunk = Chunk([{"index": 0, "delta": choice.message, "logprobs": choice.logprobs, **reason}])
        for _ in (*blocks.add(chunk), *blocks.end()):
            pass
    return blocks
