"""Measures cell after cell, and goes on where a killed run stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from heedful.server.bench.arrivals import Closed, Load
from heedful.server.bench.client import Endpoint
from heedful.server.bench.records import BenchError, Request
from heedful.server.bench.stream import Reading
from heedful.server.bench.targets import Target
from heedful.server.bench.tokens import answer_tokens, calls, count
from heedful.server.bench.workload import Workload
from heedful.server.journal import Journal
from heedful.server.machine import machine

Told = Callable[[str, float], None]
"""Progress: what is being measured, and the share done."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What all cells of one folder have in common: figures made with other settings do not belong beside them."""

    url: str
    prompts: str
    requests: int
    warmup: int
    max_tokens: int
    ignore_eos: bool
    seed: int
    seeded: bool
    """Whether requests carry a sampling seed."""


def opened(folder: Path, settings: Settings) -> Journal[Request]:
    """The folder's records, new or as an earlier run left them.

    Raises BenchError where the earlier run had other settings or another machine, and JournalError for a bad line.
    """
    path = folder / "latency.run.json"
    here = {"settings": asdict(settings), "machine": machine()}
    if path.exists():
        there = json.loads(path.read_text())
        for part, names in (("settings", here["settings"]), ("machine", ("cpu", "cores"))):
            for name in names:
                old, new = there.get(part, {}).get(name), here[part][name]
                if old != new:
                    raise BenchError(
                        f"{folder}: was measured with {name} {old!r}, and now it is {new!r}: "
                        f"take the same, or another --out"
                    )
    else:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(here, indent=1) + "\n")
    return Journal(folder / "latency.jsonl", Request)


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement: a model under an alignment and a load."""

    target: Target
    load: Load
    settings: Settings
    workload: Workload

    @property
    def name(self) -> str:
        return f"{self.target.model}@{self.target.alignment}/{self.load.name}"

    async def measure(self, endpoint: Endpoint, told: Callable[[int], None]) -> list[Request]:
        """Warms up, measures, and only then counts tokens and builds records: nothing else runs meanwhile."""
        settings = self.settings
        warm = Closed(self.load.concurrency)

        async def warm_up(index: int, _: float | None) -> None:
            await endpoint.stream(self._body(-1 - index), time.perf_counter)

        await warm.run(settings.warmup, warm_up, time.perf_counter)
        bodies = [self._body(index) for index in range(settings.requests)]
        answers: list[tuple[int, float, float, float, Reading]] = []
        began = time.perf_counter()

        def clock() -> float:
            return time.perf_counter() - began

        async def send(index: int, intended: float | None) -> None:
            sent = clock()
            reading = await endpoint.stream(bodies[index], clock)
            answers.append((index, sent if intended is None else intended, sent, clock(), reading))
            told(len(answers))

        await self.load.run(settings.requests, send, clock)
        return await self._records(endpoint, sorted(answers, key=lambda a: a[0]))

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

    async def _records(
        self, endpoint: Endpoint, answers: list[tuple[int, float, float, float, Reading]]
    ) -> list[Request]:
        readings = [reading for *_, reading in answers]
        tokens = [None if r.error else answer_tokens(r.usage, self.target) for r in readings]
        untold = [i for i, r in enumerate(readings) if tokens[i] is None and not r.error]
        if untold:
            counted = await count(endpoint, self.target, ["".join(readings[i].pieces) for i in untold])
            for i, number in zip(untold, counted, strict=True):
                tokens[i] = min(number, readings[i].usage.completion_tokens)
        return [
            Request(
                model=self.target.model,
                alignment=self.target.alignment,
                load=self.load.name,
                index=index,
                seed=self._seed(index),
                intended=intended,
                sent=sent,
                first_token=reading.first,
                last_token=reading.last,
                end=end,
                gaps=reading.gaps,
                prompt_tokens=reading.usage.prompt_tokens,
                completion_tokens=reading.usage.completion_tokens,
                answer_tokens=answer or 0,
                hidden_tokens=0 if answer is None else reading.usage.completion_tokens - answer,
                calls=calls(reading.usage),
                error=reading.error,
            )
            for (index, intended, sent, end, reading), answer in zip(answers, tokens, strict=True)
        ]


async def sweep(endpoint: Endpoint, cells: Sequence[Cell], journal: Journal[Request], told: Told) -> None:
    """Measures every cell that the journal has not whole.

    A cell cut off half-way is measured again from its start: what its requests met is no longer there. So is one in
    which nothing was answered. Raises BenchError where the endpoint has gone.
    """
    for done, cell in enumerate(cells):

        def report(answered: int, cell: Cell = cell, done: int = done) -> None:
            told(cell.name, (done + answered / cell.settings.requests) / len(cells))

        report(0)
        if not _whole(cell, journal):
            await endpoint.get("/models")  # still there? else all that follows would be errors
            for record in await cell.measure(endpoint, report):
                journal.add(record)
        report(cell.settings.requests)


def _whole(cell: Cell, journal: Journal[Request]) -> bool:
    keys = [f"{cell.name}/{index}" for index in range(cell.settings.requests)]
    return all(key in journal for key in keys) and any(journal[key].error is None for key in keys)
