"""A panel that every answer must pass, whoever decodes it: nothing leaves before it has been judged.

A stream is held back per choice and goes out sentence by sentence, in the pieces in which it came; an answer that is
sent whole is judged whole. What is no text that can be judged, and no field that is known, does not leave at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Literal

from heedful.strategies.decode.aborted import book
from heedful.strategies.decode.direct import Direct
from heedful.strategies.decode.held import Held, HeldPiece
from heedful.strategies.engine import Capability
from heedful.strategies.errors import RequestError, StrategyError
from heedful.strategies.run import DecodingStrategy, Run, Streaming
from heedful.strategies.tasks import together
from heedful.strategies.types import Chunk, Context, Event, Finish, KeepAlive, Usage, choices_wanted, text_of
from heedful.strategies.verifiers.panel import Panel

# Of a request's parameters, those that a judge's own calls keep: they tell who asks and not how to answer.
_OF_THE_CALLER = frozenset({"user", "metadata", "service_tier", "safety_identifier"})


@dataclass(frozen=True, slots=True)
class Vetting:
    """What every answer must pass.

    `unresolved`: an answer that does not ends there with finish_reason "content_filter" ("withhold"), or goes out and
    the trace says so ("release"). `keep_alive`: seconds between comments in a stream that waits.
    """

    panel: Panel
    unresolved: Literal["withhold", "release"] = "withhold"
    keep_alive: float = 10.0


@dataclass(frozen=True)
class Vetted(DecodingStrategy):
    """`decoder` (whose name is `step`), its answer held back until it has passed."""

    step: str
    decoder: DecodingStrategy
    vetting: Vetting

    @property
    def needs(self) -> Capability:
        return self.decoder.needs | self.vetting.panel.needs

    @property
    def streaming(self) -> Streaming:
        return "buffer" if self.decoder.streaming == "buffer" else "sentence"

    async def stream(self, context: Context, run: Run) -> AsyncGenerator[Event, None]:
        _check(context)
        ready: asyncio.Queue[Chunk | KeepAlive | None] = asyncio.Queue()
        reading = asyncio.ensure_future(self._read(context, run, ready))
        reading.add_done_callback(lambda _: ready.put_nowait(None))
        try:
            while True:
                try:
                    async with asyncio.timeout(self.vetting.keep_alive):
                        event = await ready.get()
                except TimeoutError:
                    yield KeepAlive()
                    continue
                if event is None:
                    break
                yield event
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        yield reading.result()

    async def _read(
        self, context: Context, run: Run, ready: asyncio.Queue[Chunk | KeepAlive | None]
    ) -> Finish:
        """Reads the decoder's events, judges, and puts what may go out into `ready`. Returns the Finish."""
        judge = _Judge(self.vetting, context, run.floor("verify", run.within))
        choices: dict[int, _Choice] = {}
        within = run if isinstance(self.decoder, Vetted) else run.stage(self.step, run.within)
        before = run.ledger.calls
        async with aclosing(self.decoder.stream(context, within)) as events:
            async for event in events:
                if isinstance(event, Finish):
                    await together(choice.end() for choice in choices.values())
                    return Finish(_counted(event.usage))
                if isinstance(event, KeepAlive):
                    ready.put_nowait(KeepAlive())
                    continue
                pieces: dict[int, list[Mapping[str, Any]]] = {}
                for piece in event.choices:
                    pieces.setdefault(piece.get("index", 0), []).append(piece)
                for index in pieces.keys() - choices.keys():
                    choices[index] = _Choice(index, judge, ready)
                if len(pieces) == 1:  # as most have it: no task for each
                    ((index, each),) = pieces.items()
                    await choices[index].take(each)
                else:
                    await together(choices[index].take(each) for index, each in pieces.items())
                if len(choices) >= choices_wanted(context.params) and _settled(choices.values()):
                    break  # nothing that is still to come would leave
            else:
                raise StrategyError(f"strategy {self.step!r} ended without a Finish")
        return Finish(await self._booked(context, within, [c.held.all for c in choices.values()], before))

    async def _booked(self, context: Context, run: Run, texts: list[str], before: int) -> Usage:
        """The cost of a call that was broken off. Other decoders than the model's own have booked theirs."""
        if isinstance(self.decoder, Direct) or run.ledger.calls == before:
            call = run.ledger.last_cut(run.stage_name) or context.call()  # which the decoder has made
            return await book(run, call, texts)
        return Usage()


@dataclass(frozen=True, slots=True)
class _Judge:
    """The panel on one request's answers."""

    vetting: Vetting
    context: Context
    run: Run

    async def passes(self, choice: int, text: str) -> bool:
        # The client's sampling parameters could bend a judge that is a model.
        params = {k: v for k, v in self.context.params.items() if k in _OF_THE_CALLER}
        judgement = await self.vetting.panel.judge(replace(self.context, params=params), text, self.run)
        self.run.trace.note(
            "verify",
            choice=choice,
            length=len(text),
            score=round(judgement.score, 4),
            passed=judgement.passed,
            verdicts=judgement.facts,
        )
        return judgement.passed

    @property
    def begun(self) -> str:
        """What the request has begun of the answer, which is judged with what goes on in it."""
        last = self.context.messages[-1] if self.context.messages else {}
        # Parts are put together as closely as any engine does it.
        return text_of(last, between="") if last.get("role") == "assistant" else ""


class _Choice:
    """One choice on its way out."""

    def __init__(self, index: int, judge: _Judge, ready: asyncio.Queue[Chunk | KeepAlive | None]) -> None:
        self._index, self._judge, self._ready = index, judge, ready
        # Of a structured answer the strings count as they read once decoded, and that is at its end.
        self._by_sentence = judge.context.original.stream and not _structured(judge.context.params)
        self._open = False
        """Whether all may leave: it has failed already, and is released."""
        self.held = Held(judge.begun, judge.context.params.get("stop"))
        self.withheld = False

    async def take(self, pieces: list[Mapping[str, Any]]) -> None:
        """Holds back what has come; lets go what has passed."""
        if self.withheld:
            return
        for piece in pieces:
            self.held.add(piece)
        if self.held.ended:
            await self.end()
            return
        for field, upto, text in self.held.sentences() if self._by_sentence else ():
            if not await self._judged(text):
                return
            self.held.passed(field, upto)
            self._release()

    async def end(self) -> None:
        """Judges all that is held back."""
        if self.withheld:
            return
        for text in self.held.unjudged():
            if not await self._judged(text):
                return
        self.held.passed_all()
        self._release()

    async def _judged(self, text: str) -> bool:
        """Whether what comes with this text may leave."""
        if self._open or text in self.held.known or await self._judge.passes(self._index, text):
            self.held.known.append(text)
            return True
        note = self._judge.run.trace.note
        if self._judge.vetting.unresolved == "release":
            note("verify", choice=self._index, released=True)
            self._open = True
            return True
        note("verify", choice=self._index, withheld=True)
        self.withheld = True
        delta = {} if self.held.out else {"content": ""}
        self._emit({"delta": delta, "finish_reason": "content_filter"})
        return False

    def _release(self) -> None:
        for piece in self.held.released():
            self._emit(piece)

    def _emit(self, piece: HeldPiece) -> None:
        self._ready.put_nowait(
            Chunk([{"index": self._index, "logprobs": None, "finish_reason": None, **piece}])
        )


def _settled(choices: Iterable[_Choice]) -> bool:
    """Whether all have ended, and one before its time."""
    listed = list(choices)
    return all(c.withheld or c.held.ended for c in listed) and any(
        c.withheld and not c.held.ended for c in listed
    )


def _structured(params: Mapping[str, Any]) -> bool:
    form = params.get("response_format")
    plain = form is None or (isinstance(form, Mapping) and form.get("type") == "text")
    return not plain or params.get("structured_outputs") is not None


def _check(context: Context) -> None:
    """Raises RequestError for answers that can't be judged."""
    modalities = context.params.get("modalities")
    if context.params.get("audio") or (modalities and modalities != ["text"]):
        field = "audio" if context.params.get("audio") else "modalities"
        raise RequestError(f"{field}: this server checks every answer, and reads text only", param=field)


def _counted(usage: Usage) -> Usage:
    """The usage's numbers: other things that an engine tells there have not been judged."""
    numbers: dict[str, Any] = {}
    for name, value in usage.extra.items():
        if isinstance(value, Mapping):
            numbers[name] = {k: v for k, v in value.items() if isinstance(v, int | float)}
        elif isinstance(value, int | float):
            numbers[name] = value
    return Usage(usage.prompt_tokens, usage.completion_tokens, numbers)
