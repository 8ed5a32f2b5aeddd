"""The model's own answer, as it comes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import ClassVar

from heedful.strategies.engine import Capability
from heedful.strategies.run import DecodingStrategy, Run, Streaming
from heedful.strategies.types import Context, Event


@dataclass(frozen=True)
class Direct(DecodingStrategy):
    """Hands the context to the engine and its events back, unchanged."""

    needs: ClassVar[Capability] = Capability.NONE
    streaming: ClassVar[Streaming] = "stream"

    def stream(self, context: Context, run: Run) -> AsyncGenerator[Event, None]:
        return run.engine.chat(context.call())
