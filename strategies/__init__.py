"""Alignment strategies: they know neither HTTP nor vLLM, only the Engine protocol that they define.

A name's module is loaded when the name is asked for: who needs a type or two, as what writes records does, starts
without all strategies.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heedful.strategies.answer import Answer, Choice, ask, collect
    from heedful.strategies.engine import Capability, Continuation, Engine, Extension, Habits, Ledger
    from heedful.strategies.errors import (
        BudgetSpent,
        ContextOverflow,
        DeadlineExceeded,
        EngineError,
        EngineUnavailable,
        HeedfulError,
        MissingCapability,
        NotFound,
        NoVerdict,
        RequestError,
        RetrievalError,
        StrategyError,
        VerifierError,
    )
    from heedful.strategies.plan import Plan
    from heedful.strategies.run import ContextStrategy, DecodingStrategy, Resources, Run, Streaming
    from heedful.strategies.trace import Trace
    from heedful.strategies.types import (
        Call,
        ChatRequest,
        Chunk,
        Context,
        Event,
        Finish,
        KeepAlive,
        Message,
        Usage,
        text_of,
    )
    from heedful.strategies.verifiers import Verdict, Verifier

__all__ = [
    "BudgetSpent",
    "ContextOverflow",
    "Answer",
    "Call",
    "Capability",
    "ChatRequest",
    "Choice",
    "Chunk",
    "Context",
    "ContextStrategy",
    "Continuation",
    "DeadlineExceeded",
    "DecodingStrategy",
    "Engine",
    "EngineError",
    "EngineUnavailable",
    "Event",
    "Extension",
    "Finish",
    "Habits",
    "HeedfulError",
    "KeepAlive",
    "Ledger",
    "Message",
    "MissingCapability",
    "NoVerdict",
    "NotFound",
    "Plan",
    "RequestError",
    "Resources",
    "RetrievalError",
    "Run",
    "StrategyError",
    "Streaming",
    "Trace",
    "Usage",
    "Verdict",
    "Verifier",
    "VerifierError",
    "ask",
    "collect",
    "text_of",
]

_MODULES = ("errors", "types", "engine", "trace", "answer", "run", "verifiers", "plan")


def __getattr__(name: str) -> object:
    if name in __all__:
        for module in _MODULES:
            found = vars(import_module(f"{__name__}.{module}")).get(name)
            if found is not None:
                globals()[name] = found
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
