"""One measurement: a model under an alignment and a load."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from heedful.benchmarks.load.arrivals import Closed, Load
from heedful.benchmarks.load.client import LoadEndpoint
from heedful.benchmarks.load.folder import LoadSettings
from heedful.benchmarks.load.records import RequestRecord
from heedful.benchmarks.load.stream import Reading
from heedful.benchmarks.load.targets import LoadTarget
from heedful.benchmarks.load.tokens import answer_tokens, calls, count
from heedful.benchmarks.load.workload import Workload


@dataclass(frozen=True, slots=True)
class _Answered:
    """A request that is over; times in seconds of the cell's clock."""

    index: int
    intended: float
    sent: float
    end: float
    reading: Reading


@dataclass(frozen=True, slots=True)
class Cell:
    """What is measured by itself: a model under an alignment and a load."""

    target: LoadTarget
    load: Load
    settings: LoadSettings
    workload: Workload

    @property
    def name(self) -> str:
        return f"{self.target.model}@{self.target.alignment}/{self.load.name}"

    async def measure(self, endpoint: LoadEndpoint, told: Callable[[int], None]) -> list[RequestRecord]:
        """Warms up, measures, and only then counts tokens and builds records: nothing else runs meanwhile."""
        settings = self.settings

        async def warm_up(index: int, _: float | None) -> None:
            await endpoint.stream(self._body(-1 - index), time.perf_counter)

        await Closed(self.load.concurrency).run(settings.warmup, warm_up, time.perf_counter)
        bodies = [self._body(index) for index in range(settings.requests)]
        answered: list[_Answered] = []
        began = time.perf_counter()

        def clock() -> float:
            return time.perf_counter() - began

        async def send(index: int, intended: float | None) -> None:
            sent = clock()
            reading = await endpoint.stream(bodies[index], clock)
            answered.append(_Answered(index, sent if intended is None else intended, sent, clock(), reading))
            told(len(answered))

        await self.load.run(settings.requests, send, clock)
        tokens = await self._answer_tokens(endpoint, [a.reading for a in answered])
        return [self._record(*pair) for pair in zip(answered, tokens, strict=True)]

    def _body(self, index: int) -> bytes:
        settings = self.settings
        body: dict[str, Any] = {
            "model": self.target.model,
            "messages": self.workload.messages(self.name, index),
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": settings.max_tokens,
        }
        if settings.seeded:
            body["seed"] = self._seed(index)
        if settings.ignore_eos:
            body["ignore_eos"] = True
        if self.target.spec is not None:
            body["alignment"] = self.target.spec
        return msgspec.json.encode(body)

    def _seed(self, index: int) -> int:
        # A warm-up (below 0) draws with seeds of its own.
        return self.settings.seed + index % 1_000_000

    async def _answer_tokens(self, endpoint: LoadEndpoint, readings: Sequence[Reading]) -> list[int]:
        tokens = [0 if r.error else answer_tokens(r.usage, self.target) for r in readings]
        untold = [r for r, number in zip(readings, tokens, strict=True) if number is None]
        if untold:
            counted = iter(await count(endpoint, self.target, ["".join(r.pieces) for r in untold]))
            tokens = [next(counted) if number is None else number for number in tokens]
        return [min(n or 0, r.usage.completion_tokens) for n, r in zip(tokens, readings, strict=True)]

    def _record(self, answered: _Answered, answer_tokens: int) -> RequestRecord:
        reading, usage = answered.reading, answered.reading.usage
        return RequestRecord(
            model=self.target.model,
            alignment=self.target.alignment,
            load=self.load.name,
            index=answered.index,
            seed=self._seed(answered.index),
            intended=answered.intended,
            sent=answered.sent,
            first_token=reading.first,
            last_token=reading.last,
            end=answered.end,
            gaps=reading.gaps,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            answer_tokens=answer_tokens,
            hidden_tokens=0 if reading.error else usage.completion_tokens - answer_tokens,
            calls=calls(usage),
            error=reading.error,
        )
