"""The resources of one request, and the two kinds of strategy that use them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from heedful.prompts import Prompt, Prompts, UnknownPrompt, Use
from heedful.retrieval.embedding.embedder import Embedder
from heedful.retrieval.store.readable import Readable
from heedful.retrieval.store.stores import Stores
from heedful.strategies.engine import Capability, Engine, Ledger
from heedful.strategies.errors import NotFound, RequestError, RetrievalError
from heedful.strategies.meter import MeteredEngine
from heedful.strategies.trace import NOTHING, Kind, Span, Trace
from heedful.strategies.types import Context, Event

if TYPE_CHECKING:
    from heedful.strategies.plan import Plan
    from heedful.strategies.verifiers.base import Verifier

FLOOR = "floor:"
"""What the stages of the server's floor are called by, before the step's name."""
Streaming = Literal["stream", "sentence", "buffer"]


@dataclass(frozen=True, slots=True)
class Resources:
    """What a tenant's requests share: the prompts, and its stores (with their embedder), where there are any."""

    prompts: Prompts
    stores: Stores | None = None
    reads: frozenset[str] = frozenset()
    """Stores above the tenant's own that its answers may use."""
    above: bool = False
    """Whether names of stores are the operator's, as in a floor (see `Readable`)."""
    verifiers: Mapping[str, Verifier] = field(default_factory=dict)
    """The configuration's own, by name."""
    alignment: Callable[[str], Plan] | None = None
    """Another alignment by name, for who chooses among them. Raises NotFound."""
    named: set[tuple[str, str]] | None = None
    """Where given, the stores that options name are put down here, each with whose option it is, for whoever knows
    later whose stores are meant; else they must be there when `ready` looks."""

    @property
    def readable(self) -> Readable:
        """The stores as strategies name them. Raises RetrievalError where there are none."""
        if self.stores is None:
            raise RetrievalError("this server has no stores")
        return Readable(self.stores, self.reads, above=self.above)

    @property
    def embedder(self) -> Embedder | None:
        """The stores' embedder."""
        return None if self.stores is None else self.stores.embedder

    def prompt(self, name: str, *, param: str, use: Use | None = None) -> Prompt:
        """The prompt that an option names. `use`: what is asked of it.

        Raises RequestError, with the option as `param`, where there is none, or where it is of another kind.
        """
        try:
            prompt = self.prompts.get(name)
        except UnknownPrompt as error:
            raise RequestError(str(error), param=param, code="prompt_not_found") from error
        if use is not None and (why := prompt.unfit(use)):
            raise RequestError(f"prompt {prompt.id} {why}", param=param, code="prompt_unfit")
        return prompt


@dataclass(frozen=True, slots=True)
class Run:
    """One request's resources. `deadline` is in the event loop's time; the server enforces it."""

    engine: Engine
    resources: Resources
    trace: Trace = field(default_factory=Trace)
    ledger: Ledger = field(default_factory=Ledger)
    deadline: float | None = None
    find: Callable[[str], Engine] | None = None
    """Another model of this server by name, for who must ask one. Raises NotFound."""
    stage_name: str = ""
    within: Span = NOTHING
    """The span that this part of the run belongs to."""
    enforced: list[str] = field(default_factory=list)
    """Words that steps of the floor have given to the model: what no error quotes."""

    @property
    def prompts(self) -> Prompts:
        return self.resources.prompts

    @property
    def stores(self) -> Readable:
        """Raises RetrievalError where there are none."""
        return self.resources.readable

    def stage(self, name: str, span: Span = NOTHING) -> Run:
        """The same run with the engine's cost booked under `name`, inside `span`."""
        engine = MeteredEngine(self.engine, self.ledger, name, self.trace, span)
        return replace(self, engine=engine, stage_name=name, within=span)

    def span(self, kind: Kind, name: str, **facts: Any) -> Span:
        """Begins a span of what is done here, to be used with `with`; costs nothing where nobody watches."""
        return self.trace.span(kind, name, self.within, **facts)

    def inside(self, span: Span) -> Run:
        """The same run, whose spans are parts of this one."""
        if not span:
            return self
        engine = self.engine.inside(span) if isinstance(self.engine, MeteredEngine) else self.engine
        return replace(self, engine=engine, within=span)

    def floor(self, name: str, span: Span = NOTHING) -> Run:
        """The same run for a step of the server's floor: its cost and its notes are told apart from the client's, and
        no store of a tenant's takes the place of one that the operator means."""
        staged = self.stage(f"{FLOOR}{name}", span)
        return replace(staged, trace=self.trace.of_floor(), resources=replace(self.resources, above=True))

    def other(self, model: str) -> Engine:
        """Another of the server's models, its cost booked under the same stage. Raises NotFound."""
        if self.find is None:
            raise NotFound.among(
                "model", model, [self.engine.model], param="alignment", code="model_not_found"
            )
        return MeteredEngine(self.find(model), self.ledger, self.stage_name, self.trace, self.within)

    def remaining(self) -> float | None:
        """Seconds until the deadline."""
        return None if self.deadline is None else self.deadline - asyncio.get_running_loop().time()


class Strategy(Protocol):
    """What is configured: a frozen dataclass whose fields are its options. Its kind is the class it derives from."""

    kind: ClassVar[Literal["context", "decoding"]]

    def ready(self, resources: Resources) -> ContextStrategy | DecodingStrategy:
        """What runs, called once per configuration. Raises RequestError if what an option names is not there."""
        ...


@runtime_checkable
class ContextStrategy(Strategy, Protocol):
    """Rewrites what the model will see. Composes freely, in order."""

    kind: ClassVar[Literal["context", "decoding"]] = "context"

    @property
    def needs(self) -> Capability:
        """What it requires of an engine: a class variable, or a property where options decide."""
        ...

    def ready(self, resources: Resources) -> ContextStrategy:
        return self

    async def prepare(self, context: Context, run: Run) -> Context: ...


@runtime_checkable
class DecodingStrategy(Strategy, Protocol):
    """Turns a context into the answer's events: chunks, then one Finish. Exactly one per plan."""

    kind: ClassVar[Literal["context", "decoding"]] = "decoding"

    @property
    def needs(self) -> Capability:
        """As a context strategy's."""
        ...

    @property
    def streaming(self) -> Streaming:
        """When text leaves: "stream" as it is generated, "sentence" by checked pieces, "buffer" when the answer is
        settled."""
        ...

    def ready(self, resources: Resources) -> DecodingStrategy:
        return self

    def stream(self, context: Context, run: Run) -> AsyncGenerator[Event, None]: ...
