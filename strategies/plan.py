"""A plan: any number of context strategies, then one that decodes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from heedful.strategies import params
from heedful.strategies.arriving import Arriving
from heedful.strategies.decode.direct import Direct
from heedful.strategies.engine import Capability
from heedful.strategies.errors import HeedfulError, MissingCapability, RequestError, StrategyError
from heedful.strategies.registry import build
from heedful.strategies.run import ContextStrategy, DecodingStrategy, Resources, Run
from heedful.strategies.types import ChatRequest, Chunk, Context, Event, Finish

Step = tuple[str, dict[str, Any]]
"""A strategy's name and its options."""


@dataclass(frozen=True, slots=True)
class Plan:
    """An alignment, ready to run. `name` is what the client called it by."""

    name: str
    contexts: tuple[tuple[str, ContextStrategy], ...]
    decoder: tuple[str, DecodingStrategy]

    @classmethod
    def of(cls, name: str, steps: Sequence[Step], resources: Resources, *, param: str = "alignment") -> Plan:
        """Builds and checks a plan. Raises RequestError for a step that can't stand where it is."""
        contexts: list[tuple[str, ContextStrategy]] = []
        decoder: tuple[str, DecodingStrategy] | None = None
        for step, options in steps:
            strategy = build(step, options, param=param).ready(resources)
            if isinstance(strategy, DecodingStrategy):
                if decoder is not None:
                    raise RequestError(
                        f"{decoder[0]!r} and {step!r} both decode; an alignment has one decoding strategy",
                        param=param,
                        code="invalid_alignment",
                    )
                decoder = (step, strategy)
            else:
                contexts.append((step, strategy))
        if decoder is None:
            decoder = ("direct", Direct())
        return cls(name, tuple(contexts), decoder)

    @property
    def is_direct(self) -> bool:
        """Whether the model's own answer goes out untouched."""
        return not self.contexts and self.leaves_the_answer

    @property
    def leaves_the_answer(self) -> bool:
        """Whether what the model answers to the context goes out as it is."""
        return isinstance(self.decoder[1], Direct)

    @property
    def steps(self) -> list[str]:
        return [name for name, _ in self._all]

    @property
    def _all(self) -> tuple[tuple[str, ContextStrategy | DecodingStrategy], ...]:
        return *self.contexts, self.decoder

    def runs_on(self, capabilities: Capability) -> bool:
        """Whether an engine has what every strategy needs."""
        return not any(strategy.needs & ~capabilities for _, strategy in self._all)

    def check(self, capabilities: Capability, *, model: str) -> None:
        """Raises MissingCapability where the engine lacks what a strategy needs."""
        for name, strategy in self._all:
            if missing := strategy.needs & ~capabilities:
                raise MissingCapability(
                    f"strategy {name!r} needs {', '.join(missing.names)} from its engine, and model {model!r} "
                    f"offers {', '.join(capabilities.names) or 'nothing of the kind'}",
                    param="alignment",
                )

    async def prepare(self, request: ChatRequest, run: Run) -> Context:
        """Folds the context strategies over the request. Raises RequestError for a field of a wrong shape."""
        if not self.is_direct:
            params.check(request)
        context = Context.of(request)
        for step, strategy in self.contexts:
            with _contract(step):
                context = await strategy.prepare(context, run.stage(step))
        return context

    async def stream(self, asked: ChatRequest | Context, run: Run) -> AsyncGenerator[Event, None]:
        """The answer's events to a request, or to a context that is prepared already.

        The last is the Finish with the whole cost of the run.
        """
        context = asked if isinstance(asked, Context) else await self.prepare(asked, run)
        step, decoder = self.decoder
        run.ledger.check()
        # `direct` is one call whose Finish comes by here: booked then, and not by one more reader of every event.
        books = self.leaves_the_answer
        finish: Finish | None = None
        arriving = Arriving()
        try:
            with _contract(step):
                async with aclosing(decoder.stream(context, run if books else run.stage(step))) as events:
                    async for event in events:
                        if finish is not None:
                            raise StrategyError(f"strategy {step!r} went on after its Finish")
                        if isinstance(event, Finish):
                            finish = event
                            if books:
                                run.ledger.book(step, finish.usage)
                        else:
                            if books and isinstance(event, Chunk):
                                arriving.take(event)
                            yield event
        except Exception:
            books = books and arriving.pieces > 0  # refused, or down: it cost nothing
            raise
        finally:
            if books and finish is None:
                run.ledger.cut_off(step, call := context.call(), arriving.cost(call))
        if finish is None:
            raise StrategyError(f"strategy {step!r} ended without a Finish")
        yield Finish(run.ledger.usage(finish.usage), finish.extra)


@contextmanager
def _contract(step: str) -> Iterator[None]:
    """Names the strategy in whatever it did not foresee."""
    try:
        yield
    except HeedfulError:
        raise
    except Exception as error:
        raise StrategyError(f"strategy {step!r} failed: {type(error).__name__}") from error


def describe(run: Run, plan: Plan) -> dict[str, Any]:
    """The `alignment` object of a response whose client asked for the trace."""
    return {
        "name": plan.name,
        "pipeline": plan.steps,
        "usage": {stage: asdict(usage) for stage, usage in run.ledger.stages.items()},
        "trace": run.trace.steps,
    }
