"""What a load asks of an engine that batches: a discrete-event simulation, one event a step of the engine.

The engine is a continuous batcher as vLLM's is (Yu et al. 2022, "Orca", section 3.1; Kwon et al. 2023, section 4.5):
each step gives every answer that is being written one token, and reads waiting prompts in the order in which they
came, at most so many tokens a step. What a step takes is measured, not reckoned from a card's data sheet.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class EngineCosts:
    """An engine's measured times."""

    curve: Sequence[tuple[int, float]]
    """Seconds of a step that writes for so many answers at once: (answers, seconds), ascending; straight lines
    between the points, and on from the last two."""
    prompt_token: float
    """Seconds that a step takes longer for each token of a prompt that it reads."""
    most_answers: int = 256
    """vLLM's max_num_seqs."""
    most_tokens: int = 8192
    """Tokens a step, read and written: vLLM's max_num_batched_tokens."""

    def step(self, answers: int, prompt_tokens: int) -> float:
        """Seconds of a step."""
        return self.writing(answers) + self.prompt_token * prompt_tokens

    def writing(self, answers: int) -> float:
        """Seconds of a step that reads nothing."""
        curve = self.curve
        if answers <= curve[0][0] or len(curve) == 1:
            return curve[0][1]
        at = next((i for i, (most, _) in enumerate(curve) if answers <= most), len(curve) - 1)
        (n0, t0), (n1, t1) = curve[at - 1], curve[at]
        return t0 + (t1 - t0) * (answers - n0) / (n1 - n0)


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One call of a model: what it reads that no cache has, and what it writes."""

    prompt_tokens: int
    completion_tokens: int
    """Of each of its answers; at least 1."""
    answers: int = 1
    """Written at once from one prompt (`n`)."""


@dataclass(frozen=True, slots=True)
class Demand:
    """All that one request asks for: its calls one after the other."""

    calls: tuple[ModelCall, ...]
    before: float = 0.0
    """Seconds outside the engine, such as retrieval's."""


@dataclass(frozen=True, slots=True)
class Served:
    """One request of a simulation, in seconds since its start."""

    arrived: float
    ended: float

    @property
    def latency(self) -> float:
        return self.ended - self.arrived


@dataclass(slots=True)
class _Request:
    arrived: float
    calls: deque[ModelCall]


@dataclass(slots=True)
class _Sequence:
    """One answer of a call."""

    group: _Group
    unread: int
    unwritten: int


@dataclass(slots=True)
class _Group:
    """The answers of one call, which is over with the last of them."""

    request: _Request
    left: int


@dataclass(slots=True)
class BatchingEngine:
    """One engine: what waits, and what is in its batch."""

    costs: EngineCosts
    waiting: deque[_Sequence] = field(default_factory=deque)
    reading: deque[_Sequence] = field(default_factory=deque)
    writing: list[_Sequence] = field(default_factory=list)

    @property
    def load(self) -> int:
        """Answers that wait or are being worked on."""
        return len(self.waiting) + len(self.reading) + len(self.writing)

    def take(self, request: _Request) -> None:
        """Begins a request's next call. Of several answers from one prompt the first reads it for all."""
        call = request.calls.popleft()
        group = _Group(request, call.answers)
        for i in range(call.answers):
            self.waiting.append(
                _Sequence(group, call.prompt_tokens if i == 0 else 1, max(1, call.completion_tokens))
            )

    def step(self) -> tuple[float, list[_Request]]:
        """Does one step: the seconds it takes, and the requests of which a call is over with it."""
        costs = self.costs
        while self.waiting and len(self.reading) + len(self.writing) < costs.most_answers:
            self.reading.append(self.waiting.popleft())
        room, read = costs.most_tokens - len(self.writing), 0
        written = list(self.writing)
        while self.reading and room > read:
            first = self.reading[0]
            piece = min(first.unread, room - read)
            first.unread -= piece
            read += piece
            if first.unread:
                break
            written.append(
                self.reading.popleft()
            )  # the step that reads a prompt's end writes the first token
        took = costs.step(len(written), read)
        ended: list[_Request] = []
        self.writing = []
        for sequence in written:
            sequence.unwritten -= 1
            if sequence.unwritten:
                self.writing.append(sequence)
                continue
            sequence.group.left -= 1
            if not sequence.group.left:
                ended.append(sequence.group.request)
        return took, ended


def simulate(
    costs: EngineCosts, arrivals: Iterable[tuple[float, Demand]], *, engines: int = 1
) -> list[Served]:
    """Serves requests that arrive at given seconds, ascending, on so many engines alike; each call goes to the one
    that has least to do. Returns them in the order in which they end."""
    fleet = [BatchingEngine(costs) for _ in range(engines)]
    busy = [False] * engines
    events: list[tuple[float, int, Callable[[float], None]]] = []
    order = itertools.count()
    served: list[Served] = []

    def at(when: float, what: Callable[[float], None]) -> None:
        heapq.heappush(events, (when, next(order), what))

    def ask(request: _Request, now: float) -> None:
        if not request.calls:
            served.append(Served(request.arrived, now))
            return
        least = min(range(engines), key=lambda i: fleet[i].load)
        fleet[least].take(request)
        if not busy[least]:
            busy[least] = True
            at(now, lambda now: run(least, now))

    def run(which: int, now: float) -> None:
        if not fleet[which].load:
            busy[which] = False
            return
        took, ended = fleet[which].step()

        def over(now: float) -> None:
            for request in ended:
                ask(request, now)
            run(which, now)

        at(now + took, over)

    for when, work in arrivals:
        request = _Request(when, deque(work.calls))
        at(when + work.before, lambda now, request=request: ask(request, now))  # type: ignore[misc]
    while events:
        now, _, what = heapq.heappop(events)
        what(now)
    return served


def poisson(
    rate: float, requests: int, draw: Callable[[random.Random], Demand], seed: int = 0
) -> list[tuple[float, Demand]]:
    """So many requests, `rate` a second on average at random; what each is, `draw` says."""
    rng = random.Random(seed)
    now, made = 0.0, []
    for _ in range(requests):
        now += rng.expovariate(rate)
        made.append((now, draw(rng)))
    return made
