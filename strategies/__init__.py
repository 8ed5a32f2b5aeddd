"""Alignment strategies: they know neither HTTP nor vLLM, only the Engine protocol that they define."""

from heedful.strategies.answer import Answer, Choice, ask, collect
from heedful.strategies.engine import Capability, Continuation, Engine, Extension, Habits, Ledger
from heedful.strategies.errors import (
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
