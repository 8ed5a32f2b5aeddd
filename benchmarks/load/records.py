"""What a latency measurement writes down: one JSON line for each request."""

from __future__ import annotations

import msgspec

from heedful.server.cli.errors import CommandError


class BenchError(CommandError):
    """A measurement that can't be made: a bad file or option (named), or an endpoint that refuses."""


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a cell (a model, an alignment, a load).

    Times are seconds since the cell began. Latency counts from `intended`: when the load's plan said it was to be
    sent, which in a closed loop is when it was `sent`. A request with an `error` counts in no latency figure.
    """

    model: str
    alignment: str
    load: str
    """`closed 8` (eight at a time) or `poisson 2.0` (so many a second on average)."""
    index: int
    seed: int
    """The run's seed plus the index; with `--seeded` what the model was to sample with."""
    intended: float
    sent: float
    first_token: float | None = None
    """When the first piece of text came (or of reasoning, or of a tool call)."""
    last_token: float | None = None
    end: float
    """When the response was over."""
    gaps: list[float] = []
    """Seconds between the pieces of text, in order."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """All that models wrote for this answer, hidden calls included, as the endpoint's usage says."""
    answer_tokens: int = 0
    """Of `completion_tokens`, those of the text that the client got."""
    hidden_tokens: int = 0
    """The others."""
    calls: int = 1
    error: str | None = None

    @property
    def cell(self) -> str:
        return f"{self.model}@{self.alignment}/{self.load}"

    @property
    def key(self) -> str:
        return f"{self.cell}/{self.index}"

    @property
    def latency(self) -> float:
        """Seconds from when it was to be sent to the end of the response."""
        return self.end - self.intended

    @property
    def ttft(self) -> float | None:
        """Seconds from when it was to be sent to the first piece of text."""
        return None if self.first_token is None else self.first_token - self.intended
