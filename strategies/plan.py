"""A plan: any number of context strategies, then one that decodes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Literal

from heedful.strategies import params
from heedful.strategies.arriving import Arriving
from heedful.strategies.decode.direct import Direct
from heedful.strategies.decode.floor import Vetted, Vetting
from heedful.strategies.enforced import check_kept, enforce
from heedful.strategies.engine import Capability
from heedful.strategies.errors import HeedfulError, MissingCapability, RequestError, StrategyError
from heedful.strategies.registry import build
from heedful.strategies.restore import restored
from heedful.strategies.retrieve import require_store
from heedful.strategies.run import ContextStrategy, DecodingStrategy, Resources, Run
from heedful.strategies.types import ChatRequest, Chunk, Context, Event, Finish, choices_wanted
from heedful.strategies.verifiers.panel import Panel

Step = tuple[str, dict[str, Any]]
"""A strategy's name and its options."""
Shows = Literal["off", "own", "full"]
"""How much of what was done a client may see: nothing, its own steps, or all."""


@dataclass(frozen=True, slots=True)
class Plan:
    """An alignment, ready to run. `name` is what the client called it by.

    The first `fixed` of the contexts are the server's floor: they run even where a gate has chosen another alignment,
    and nothing after them takes their words away. `vetting`: what the answer must pass, whoever decodes it.
    """

    name: str
    contexts: tuple[tuple[str, ContextStrategy], ...]
    decoder: tuple[str, DecodingStrategy]
    fixed: int = 0
    stores: frozenset[tuple[str, str]] = frozenset()
    """Stores that its options name, each with whose option it is, where nobody has looked for them yet."""
    vetting: tuple[Vetting, ...] = ()
    shows: Shows = "full"

    @classmethod
    def of(cls, name: str, steps: Sequence[Step], resources: Resources, *, param: str = "alignment") -> Plan:
        """Builds and checks a plan. Raises RequestError for a step that can't stand where it is.

        Where `resources` puts down the names of stores, whether they are there is the affair of `require_stores`.
        """
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
        return cls(name, tuple(contexts), decoder, stores=frozenset(resources.named or ()))

    @property
    def is_direct(self) -> bool:
        """Whether the model's own answer goes out untouched."""
        return not self.contexts and self.leaves_the_answer

    @property
    def leaves_the_answer(self) -> bool:
        """Whether what the model answers to the context goes out as it is."""
        return isinstance(self.decoder[1], Direct) and not self.vetting

    @property
    def on_the_floor(self) -> bool:
        """Whether something holds that the client has not chosen."""
        return bool(self.fixed or self.vetting)

    def forwards(self, context: Context) -> bool:
        """Whether what the model answers to this context goes out as it is."""
        return context.refusal is None and not context.restore and self._answering(context).leaves_the_answer

    @property
    def needs(self) -> Capability:
        """What all its strategies together require of an engine."""
        return reduce(lambda all, each: all | each[1].needs, self._needing, Capability.NONE)

    @property
    def steps(self) -> list[str]:
        """What the client has chosen."""
        return [name for name, _ in (*self.contexts[self.fixed :], self.decoder)]

    @property
    def _needing(self) -> tuple[tuple[str, ContextStrategy | DecodingStrategy | Panel], ...]:
        panels = (("verify", vetting.panel) for vetting in self.vetting)
        return *self.contexts, self.decoder, *panels

    def runs_on(self, capabilities: Capability) -> bool:
        """Whether an engine has what every strategy needs."""
        return not any(strategy.needs & ~capabilities for _, strategy in self._needing)

    def check(self, capabilities: Capability, *, model: str) -> None:
        """Raises MissingCapability where the engine lacks what a strategy needs."""
        lacking = ~capabilities
        for name, strategy in self._needing:
            if missing := strategy.needs & lacking:
                raise MissingCapability(
                    f"strategy {name!r} needs {', '.join(missing.names)} from its engine, and model {model!r} "
                    f"offers {', '.join(capabilities.names) or 'nothing of the kind'}",
                    param="alignment",
                )

    def finds_stores(self, resources: Resources) -> bool:
        """Whether `require_stores` raises nothing."""
        if not self.stores:
            return True
        return resources.stores is not None and all(resources.readable.has(store) for _, store in self.stores)

    def require_stores(self, resources: Resources) -> None:
        """Raises a RequestError where a store that it names is not there for these resources' tenant."""
        for strategy, store in sorted(self.stores):
            require_store(resources, strategy, store)

    async def prepare(self, request: ChatRequest, run: Run) -> Context:
        """Folds the context strategies over the request. Raises RequestError for a field of a wrong shape."""
        if not self.is_direct:
            params.check(request)
        context, chosen = Context.of(request), None
        if not self.fixed:
            return await self._fold(context, run)
        context, chosen = await enforce(context, self.contexts[: self.fixed], run)
        if context.refusal is not None:
            return context
        told, own = context, chosen or replace(self, contexts=self.contexts[self.fixed :])
        context = await own._fold(context, run)
        if context is not told:
            check_kept(told, context)
        return context if chosen is None or context.then is not None else replace(context, then=chosen)

    async def _fold(self, context: Context, run: Run) -> Context:
        """Until a gate answers itself, or has chosen the alignment that goes on."""
        for step, strategy in self.contexts:
            with _contract(step), run.span("stage", step) as span:
                context = await strategy.prepare(context, run.stage(step, span))
            if context.refusal is not None:
                return context
            if (chosen := context.then) is not None:
                context = await chosen._fold(replace(context, then=None), run)
                return context if context.then is not None else replace(context, then=chosen)
        return context

    def _answering(self, context: Context) -> Plan:
        """The plan that decodes: this one's, or that of the alignment which a gate has chosen. What holds, holds."""
        return self if context.then is None else replace(context.then, vetting=self.vetting)

    async def stream(self, asked: ChatRequest | Context, run: Run) -> AsyncGenerator[Event, None]:
        """The answer's events to a request, or to a context that is prepared already.

        The last is the Finish with the whole cost of the run.
        """
        context = asked if isinstance(asked, Context) else await self.prepare(asked, run)
        if context.refusal is not None:
            for index in range(choices_wanted(context.params)):
                yield Chunk.of(context.refusal, index=index, finish_reason="content_filter")
            yield Finish(run.ledger.split)
            return
        run.trace.given = context
        answering = self._answering(context)
        step, decoder = answering.decoder
        for vetting in reversed(self.vetting):  # the first is the last that looks
            decoder = Vetted(step, decoder, vetting)
        run.ledger.check()
        # `direct` is one call whose Finish comes by here: booked then, and not by one more reader of every event.
        books = answering.leaves_the_answer and "call" not in run.trace.watched
        finish: Finish | None = None
        arriving = Arriving()
        try:
            with _contract(step), run.span("stage", step) as span:
                # What is vetted tells the floor's calls from the decoder's by itself.
                within = run.inside(span) if self.vetting else run.stage(step, span)
                answer = decoder.stream(context, run if books else within)
                async with aclosing(restored(answer, context) if context.restore else answer) as events:
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
