"""Sentence by sentence: each is judged as the draft is written, and goes out once it has passed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from heedful.strategies.answer import Choice
from heedful.strategies.budget import count
from heedful.strategies.decode.aborted import book
from heedful.strategies.decode.refine.correct import correction, text_params
from heedful.strategies.engine import Capability
from heedful.strategies.errors import RequestError
from heedful.strategies.run import Run
from heedful.strategies.sentences import Splitter
from heedful.strategies.tasks import together
from heedful.strategies.thinking import Thoughts
from heedful.strategies.types import (
    Call,
    Chunk,
    Context,
    Event,
    Finish,
    KeepAlive,
    Message,
    Usage,
    choices_wanted,
    text_in,
)
from heedful.strategies.verifiers.panel import Judgement
from heedful.strategies.verifiers.reading import calls_tools, text_to_judge

if TYPE_CHECKING:
    from heedful.strategies.decode.refine.refine import Refining

JudgedPiece = str | Choice
"""What is judged and goes out at once: a sentence, or the tools that an answer calls."""
_CALLS = ("tool_calls", "function_call")
_NO_OTHER = frozenset({"content", "role", *_CALLS})


async def by_sentence(refining: Refining, context: Context, run: Run) -> AsyncGenerator[Event, None]:
    """All choices, each a draft of its own, in whatever order their sentences pass."""
    if context.params.get("logprobs"):
        raise RequestError(
            "logprobs: sentences that may be written anew have none; use refine with mode 'whole'",
            param="logprobs",
        )
    ready: asyncio.Queue[Chunk | None] = asyncio.Queue()
    n = choices_wanted(context.params)
    writers = [_Writer(refining, context, run, i, n, ready.put_nowait) for i in range(n)]
    task = asyncio.ensure_future(together(w.write() for w in writers))
    task.add_done_callback(lambda _: ready.put_nowait(None))
    try:
        while True:
            try:
                async with asyncio.timeout(refining.options.keep_alive):
                    chunk = await ready.get()
            except TimeoutError:
                yield KeepAlive()
                continue
            if chunk is None:
                break
            yield chunk
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    usages = task.result()
    yield Finish(usages[0] if n == 1 else sum(usages, Usage()))


@dataclass(slots=True)
class _Writer:
    """One choice in the making.

    `released` is what has gone out; `failed` are the attempts at the piece that is due, with their verdicts.
    `usage` is what the calls have cost, `under_way` whether one has not come to its end, `given_up` whether a piece
    that has failed has gone out.
    """

    refining: Refining
    context: Context
    run: Run
    index: int
    n: int
    emit: Callable[[Chunk], None]
    released: str = ""
    rounds: int = 0
    failed: list[tuple[Judgement, JudgedPiece]] = field(default_factory=list)
    usage: Usage | None = None
    under_way: bool = False
    given_up: bool = False
    finish_reason: str | None = None

    async def write(self) -> Usage:
        """Writes it to the end; returns what its own calls have cost."""
        call: Call | None = self._draft()
        while call is not None:
            arrived: list[str] = []
            instead: list[Message] | None = None
            self.under_way = True
            try:
                async with aclosing(self._sentences(call, arrived)) as sentences:
                    async for piece in sentences:
                        if (instead := await self._judge(piece)) is not None:
                            break
            except RequestError as error:
                # A draft that can't be written is the client's affair; a correction (too long, say) is ours.
                if not self.failed or arrived:
                    raise
                self.run.trace.note("refine", choice=self.index, stopped=error.message)
                self.under_way = False
                instead = self._unmended()
            if instead is None and self.failed:
                self.run.trace.note("refine", choice=self.index, stopped="the correction is empty")
                instead = self._unmended()
            if self.under_way:
                self._spend(await book(self.run, call, ["".join(arrived)]))
            call = await self._call(instead) if instead else None
        self.emit(Chunk.of(index=self.index, finish_reason=self.finish_reason))
        return self.usage or Usage()

    async def _judge(self, piece: JudgedPiece) -> list[Message] | None:
        """Releases a piece that may go out. Else returns the conversation that goes on in place of this one.

        An empty one: nothing more is said.
        """
        if isinstance(piece, str) and not piece.strip():
            if not self.failed:
                self._release(piece)
            return None
        judgement = await self.refining.panel.judge(self.context, self._so_far(piece), self.run)
        self.run.trace.note(
            "refine",
            choice=self.index,
            round=self.rounds,
            at=len(self.released),
            text=piece if isinstance(piece, str) else text_to_judge(piece),
            score=round(judgement.score, 4),
            passed=judgement.passed,
            verdicts=judgement.facts,
        )
        if judgement.passed:
            self._release(piece)
            return None
        self.failed.append((judgement, piece))
        if not self.given_up and self.rounds < self.refining.options.max_rounds:
            self.rounds += 1
            return self._correction(piece, judgement.critique)
        return self._unmended(piece)

    def _so_far(self, piece: JudgedPiece) -> str:
        """The answer with this piece, as verifiers read it."""
        if isinstance(piece, str):
            return self.released + piece
        return "\n".join(filter(None, (self.released, text_to_judge(piece))))

    def _unmended(self, latest: JudgedPiece | None = None) -> list[Message] | None:
        """What happens to a piece that no round could mend; `latest` is the attempt whose call goes on."""
        if self.refining.options.unresolved == "withhold":
            self.run.trace.note("refine", choice=self.index, withheld=True)
            self.finish_reason = "content_filter"
            return []
        _, best = max(self.failed, key=lambda attempt: attempt[0].rank)
        self._release(best)
        # What stands at fault now can't be mended by any sentence after it.
        self.given_up = True
        if isinstance(best, Choice):
            return []  # a tool's turn comes next
        return None if best == latest else self._resumption()

    def _release(self, piece: JudgedPiece) -> None:
        self.failed.clear()
        if isinstance(piece, str):
            self.released += piece
            self.emit(Chunk.of(piece, index=self.index))
        else:
            self.finish_reason = piece.finish_reason
            self.emit(replace(piece, finish_reason=None).chunk())

    async def _sentences(self, call: Call, arrived: list[str]) -> AsyncGenerator[JudgedPiece, None]:
        """The sentences of one call's text, as they become whole, and last the tools it calls; what is neither goes
        out at once."""
        splitter, thoughts = Splitter("" if self._continues else self.released), Thoughts()
        called = Choice(self.index)
        fresh = bool(self.released)
        async with aclosing(self.run.engine.chat(call)) as events:
            async for event in events:
                if isinstance(event, Finish):
                    self.under_way = False
                    self._spend(event.usage)
                    whole: list[JudgedPiece] = [*splitter.feed(thoughts.rest()), *splitter.rest()]
                    if calls_tools(called):
                        called.finish_reason = self.finish_reason
                        whole.append(called)
                    if thoughts.found:
                        left_out = "the model's thoughts, which are not judged"
                        self.run.trace.note("refine", choice=self.index, left_out=left_out)
                elif isinstance(event, Chunk):
                    arrived.append(text := "".join(self._text(c, called) for c in event.choices))
                    whole = [*splitter.feed(thoughts.feed(text))]
                else:
                    continue
                for piece in whole:
                    yield _spaced(self.released, piece) if fresh and isinstance(piece, str) else piece
                    fresh = False

    def _text(self, choice: Mapping[str, Any], called: Choice) -> str:
        """The text of a choice of a chunk; what it calls is gathered in `called`."""
        self.finish_reason = choice.get("finish_reason") or self.finish_reason
        delta = choice.get("delta") or {}
        if calls := {k: v for k, v in delta.items() if k in _CALLS and v}:
            called.add({"delta": calls})
        other = {k: v for k, v in delta.items() if k not in _NO_OTHER and v is not None}
        if other:
            self.emit(Chunk([{"index": self.index, "delta": other}]))
        return text_in(delta.get("content"))

    def _spend(self, usage: Usage) -> None:
        self.usage = usage if self.usage is None else self.usage + usage

    # -- the calls: the draft, a correction from the sentence at fault on, and what follows a sentence of another call

    @property
    def _continues(self) -> bool:
        """Whether the engine goes on in a message that we have begun."""
        return Capability.PREFILL in self.run.engine.capabilities

    def _draft(self) -> Call:
        params = {k: v for k, v in self.context.params.items() if k != "n"}
        if isinstance(params.get("seed"), int):
            params["seed"] += self.index
        return Call(self.context.messages, params, stream=True)

    def _correction(self, piece: JudgedPiece, critique: str) -> list[Message]:
        prompt = self.run.prompts.get(self.refining.options.prompt)
        part = "sentence" if self._continues or not self.released else "sentence_after"
        if not isinstance(piece, str) and not self.released:
            part = "correct"
        answer = self._so_far(piece)
        return correction(self.context, prompt, answer, critique, part=part, released=self.released)

    def _resumption(self) -> list[Message]:
        if self._continues:
            return list(self.context.messages)
        asked = self.run.prompts.get(self.refining.options.prompt).render("go_on")
        return [
            *self.context.messages,
            {"role": "assistant", "content": self.released},
            {"role": "user", "content": asked},
        ]

    async def _call(self, messages: list[Message]) -> Call | None:
        """A call for the rest of the answer; None where the client's limit is reached."""
        shift = self.n * self.rounds + self.index
        tools = any(isinstance(piece, Choice) for _, piece in self.failed)
        temperature = self.refining.options.temperature
        params = text_params(self.context, shift=shift, temperature=temperature, tools=tools)
        if self.released:
            for limit in ("max_tokens", "max_completion_tokens"):
                if isinstance(params.get(limit), int):
                    params[limit] -= await count(self.run.engine, self.released)
                    if params[limit] < 1:
                        self.finish_reason = "length"
                        return None
            if self._continues:
                messages = [*messages, {"role": "assistant", "content": self.released}]
                params |= {"continue_final_message": True, "add_generation_prompt": False}
        self.finish_reason = None
        return Call(tuple(messages), params, stream=True)


def _spaced(before: str, sentence: str) -> str:
    """The sentence with a space before it where a model that began a new message left it out."""
    joins = before[-1:].isascii() and not before[-1:].isspace() and not sentence[:1].isspace()
    return f" {sentence}" if joins else sentence
