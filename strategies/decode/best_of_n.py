"""Several answers sampled at once, and the best one kept."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from heedful.strategies.answer import Answer, Choice, collect, settled
from heedful.strategies.decode.aborted import book
from heedful.strategies.decode.rejection import Race, Rank
from heedful.strategies.engine import Capability
from heedful.strategies.errors import MissingCapability, RequestError
from heedful.strategies.likelihood import log_likelihoods
from heedful.strategies.run import DecodingStrategy, Resources, Run, Streaming
from heedful.strategies.tasks import together
from heedful.strategies.thinking import spoken
from heedful.strategies.types import Call, Chunk, Context, Event, Finish, Usage, choices_wanted
from heedful.strategies.verifiers.panel import Panel, Verified
from heedful.strategies.verifiers.reading import calls_tools, text_to_judge


@dataclass(frozen=True)
class BestOfN(Verified):
    """Samples `n` answers in one batch and returns the one that the verifiers score highest.

    As soon as a finished one passes them all, the rest are aborted. Tool calls are judged by name and arguments. With
    no `verifiers` the answer with the highest mean log-probability wins, and none is aborted. A client that asks for
    several choices gets so many of the best. At temperature 0 all samples are one, and one is drawn. `on_error`,
    `verifier_timeout` and `keep_alive` are those of `refine`. `reject`: the share of the samples that is broken off
    at each check, the worst by what they have said so far (speculative rejection; 0: none). The first check comes
    once all have `reject_after` tokens, the next at twice as many. Each sample is then a call of its own. `by`:
    "contrast" asks no verifiers and takes the answer that context strategies have made likelier the most, by
    log p(y | their prompt) - log p(y | the client's own) (ICDPO, Song et al. 2024, arXiv 2402.09320).
    """

    n: Annotated[int, Field(ge=1, le=128)] = 4
    by: Literal["verifiers", "contrast"] = "verifiers"
    reject: Annotated[float, Field(ge=0, lt=1)] = 0.0
    reject_after: Annotated[int, Field(ge=1, le=4096)] = 32
    step: ClassVar[str] = "best_of_n"

    def ready(self, resources: Resources) -> DecodingStrategy:
        if self.by == "contrast" and self.reject:
            raise RequestError(
                "best_of_n: reject goes by verifiers, and by: contrast by whole answers; give one of the two",
                param="alignment.best_of_n.reject",
                code="invalid_option",
            )
        return Choosing(self, self.assemble(resources))


@dataclass(frozen=True)
class Choosing(DecodingStrategy):
    """`BestOfN` with its panel of verifiers."""

    options: BestOfN
    panel: Panel
    streaming: ClassVar[Streaming] = "buffer"

    @property
    def needs(self) -> Capability:
        if self.options.by == "contrast":
            return Capability.CHAT | Capability.TOKENS
        return self.panel.needs if self.options.verifiers else Capability.LOGPROBS

    async def stream(self, context: Context, run: Run) -> AsyncGenerator[Event, None]:
        search = _Search(self, context, run)
        async with aclosing(settled(search.best(), self.options.keep_alive)) as events:
            async for event in events:
                yield event


class _Search:
    """The samples of one request, judged as they finish."""

    def __init__(self, choosing: Choosing, context: Context, run: Run) -> None:
        self._options, self._panel = choosing.options, choosing.panel
        self._context, self._run = context, run
        self._wanted = choices_wanted(context.params)
        self._samples: dict[int, Choice] = {}
        self._ranks: dict[int, Rank] = {}
        self._passed: set[int] = set()
        self._enough = asyncio.Event()
        self._finish: Finish | None = None

    async def best(self) -> Answer:
        """The best answers, as many as the client wants, best first."""
        changed = (self._context.messages, self._context.prompt) != (self._context.original.messages, None)
        if self._by_contrast and not changed:
            raise RequestError(
                "best_of_n: by: contrast compares the prompt that context strategies make with the client's own, and "
                "none has changed it; put norms, principles or demos before it",
                param="alignment.best_of_n.by",
            )
        # Equal samples are no choice, and engines refuse to draw them.
        greedy = self._context.params.get("temperature") == 0
        n = self._wanted if greedy else max(self._options.n, self._wanted)
        racing = self._options.reject > 0 and n > self._wanted
        usage, extra = await (self._race(n) if racing else self._sample(n))
        missing = [] if racing else [i for i in range(n) if i not in self._samples]
        if missing and not self._enough.is_set():
            # A server that knows no `n`: the rest are asked for one by one.
            await together(self._single(i) for i in missing)
        if self._by_contrast:
            await self._contrast()
        order = sorted(self._ranks, key=lambda i: self._ranks[i], reverse=True)[: self._wanted]
        self._run.trace.note(
            "best_of_n",
            samples=n,
            judged=len(self._ranks),
            chosen=order,
            passed=[i in self._passed for i in order],
        )
        return Answer([self._chosen(i, place) for place, i in enumerate(order)], usage, extra)

    async def _sample(self, n: int) -> tuple[Usage, Mapping[str, Any]]:
        """One call for all. It ends early where enough have passed."""
        call = self._context.with_params(n=n, **self._scoring()).call(stream=True)
        reading = asyncio.ensure_future(self._read(call))
        enough = asyncio.ensure_future(self._enough.wait())
        try:
            await asyncio.wait({reading, enough}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reading.result()
        finally:
            reading.cancel()
            enough.cancel()
            await asyncio.gather(reading, enough, return_exceptions=True)
        if self._finish is not None:
            return self._finish.usage, self._finish.extra
        self._run.trace.note("best_of_n", aborted=n - len(self._ranks))
        return await book(self._run, call, [c.text for c in self._samples.values()]), {}

    async def _race(self, n: int) -> tuple[Usage, Mapping[str, Any]]:
        """A call for each, the worst broken off on the way."""
        calls = [self._single_call(index, stream=True) for index in range(n)]
        race = Race(self._run, calls, rank=self._so_far, finished=self._over)
        options = self._options
        await race.run(
            share=options.reject, after=options.reject_after, wanted=self._wanted, enough=self._enough
        )
        self._run.trace.note("best_of_n", rejected=[{"choice": i, "tokens": t} for i, t in race.rejected])
        return race.usage, race.extra

    async def _so_far(self, choice: Choice) -> Rank:
        """How a sample ranks that is not over; one that has said nothing yet comes last."""
        text = text_to_judge(spoken(choice))
        if not text:
            return (-math.inf,)
        if self._options.verifiers:
            return (await self._panel.judge(self._context, text, self._run)).rank
        mean = self._mean_logprob(choice)
        return (-math.inf,) if mean is None else (mean,)

    async def _over(self, choice: Choice) -> Rank:
        self._samples[choice.index] = choice
        await self._judge(choice)
        return self._ranks[choice.index]

    async def _read(self, call: Call) -> None:
        """Takes the samples in, and has each judged once it is finished."""
        judging: dict[int, asyncio.Future[None]] = {}

        def judge(choice: Choice) -> None:
            if choice.index not in judging:  # its end may be told twice
                judging[choice.index] = asyncio.ensure_future(self._judge(choice))

        try:
            async with aclosing(self._run.engine.chat(call)) as events:
                async for event in events:
                    if isinstance(event, Finish):
                        self._finish = event
                        break
                    for piece in event.choices if isinstance(event, Chunk) else ():
                        choice = self._samples.setdefault(index := piece.get("index", 0), Choice(index))
                        choice.add(piece)
                        if piece.get("finish_reason") is not None:
                            judge(choice)
            for choice in self._samples.values():  # whose end was not told
                judge(choice)
            await asyncio.gather(*judging.values())
        finally:
            for task in judging.values():
                task.cancel()
            await asyncio.gather(*judging.values(), return_exceptions=True)

    def _single_call(self, index: int, *, stream: bool) -> Call:
        params = dict(self._context.params) | {"n": 1} | self._scoring()
        if isinstance(params.get("seed"), int):
            params["seed"] += index
        return replace(self._context, params=params).call(stream=stream)

    async def _single(self, index: int) -> None:
        answer = await collect(self._run.engine.chat(self._single_call(index, stream=False)))
        for choice in answer.choices[:1]:
            choice.index = index
            self._samples[index] = choice
            await self._judge(choice)

    async def _judge(self, choice: Choice) -> None:
        note = self._run.trace.note
        if self._options.verifiers and (spoke := spoken(choice)) is not choice:
            note("best_of_n", choice=choice.index, left_out="the model's thoughts, which are not judged")
            self._samples[choice.index] = choice = spoke
        text, passed = text_to_judge(choice), False
        if self._by_contrast:
            self._ranks[choice.index] = (-math.inf,)
            return  # all at once, when all are there
        if not text:
            # A sample without a word is the last that goes out.
            note("best_of_n", choice=choice.index, passed_through="no text")
            self._ranks[choice.index] = (-math.inf,)
        elif self._options.verifiers:
            judgement = await self._panel.judge(self._context, text, self._run)
            self._ranks[choice.index], passed = judgement.rank, judgement.passed
            score = round(judgement.score, 4)
            facts = {"score": score, "passed": passed, "verdicts": judgement.facts}
            note("best_of_n", choice=choice.index, text=text, **facts)
        elif (mean := self._mean_logprob(choice)) is None:
            # Engines report none for the tokens of tool calls.
            note("best_of_n", choice=choice.index, text=text, mean_logprob=None)
            self._ranks[choice.index] = (-math.inf, 1.0)
        else:
            self._ranks[choice.index] = (mean,)
            note("best_of_n", choice=choice.index, text=text, mean_logprob=round(mean, 4))
        if passed:
            self._passed.add(choice.index)
            if len(self._passed) >= self._wanted:
                self._enough.set()

    async def _contrast(self) -> None:
        """Ranks all samples by how much likelier the contexts have made them, in one batch of scores."""
        texts = {i: choice.text for i, choice in self._samples.items() if choice.text}
        if not texts:
            return
        client = Context.of(self._context.original)
        answers, engine = list(texts.values()), self._run.engine
        told, plain = await together(log_likelihoods(c, answers, engine) for c in (self._context, client))
        for i, with_them, without in zip(texts, told, plain, strict=True):
            gain = sum(with_them) - sum(without)
            self._ranks[i] = (gain,)
            self._run.trace.note("best_of_n", choice=i, text=texts[i], gain=round(gain, 4))

    def _mean_logprob(self, choice: Choice) -> float | None:
        steps = (choice.logprobs or {}).get("content") or []
        values = [step.get("logprob") for step in steps if isinstance(step, dict)]
        numbers = [float(v) for v in values if isinstance(v, int | float)]
        if not numbers and calls_tools(choice):
            return None
        if not numbers:
            engine = self._run.engine
            engine.habits.lacks |= Capability.LOGPROBS
            raise MissingCapability(
                "strategy 'best_of_n' needs logprobs from its engine to choose without verifiers, and model "
                f"{engine.model!r} turns out to report no log-probabilities; name verifiers",
                param="alignment.best_of_n.verifiers",
            )
        return sum(numbers) / len(numbers)

    def _scoring(self) -> dict[str, Any]:
        return {} if self._options.verifiers or self._by_contrast else {"logprobs": True}

    @property
    def _by_contrast(self) -> bool:
        return self._options.by == "contrast"

    def _chosen(self, index: int, place: int) -> Choice:
        """The sample as the client asked for it."""
        choice = self._samples[index]
        asked = self._context.params.get("logprobs")
        return replace(choice, index=place, logprobs=choice.logprobs if asked else None)
