"""The metrics of the GenAI conventions: of the models that are asked (client), and of this server's answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry.metrics import Histogram, Meter

from heedful.server.observe.facts import Facts
from heedful.server.observe.semconv import OPERATIONS, Names, Provider
from heedful.strategies import HeedfulError
from heedful.strategies.trace import Span

# The bounds that the conventions name.
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS = tuple(float(4**i) for i in range(14))
_FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_EACH = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)


class GenAIMetrics:
    """Records one request at a time. For one thread."""

    def __init__(self, meter: Meter, names: Names, providers: Mapping[str, Provider]) -> None:
        self._names, self._providers = names, providers

        def seconds(name: str, bounds: tuple[float, ...] = _SECONDS) -> Histogram:
            return meter.create_histogram(name, "s", explicit_bucket_boundaries_advisory=bounds)

        self._request = seconds("gen_ai.server.request.duration")
        self._first = seconds("gen_ai.server.time_to_first_token", _FIRST)
        self._each = seconds("gen_ai.server.time_per_output_token", _EACH)
        if names.old:
            self._duration = seconds("gen_ai.client.operation.duration")
            self._usage = meter.create_histogram(
                "gen_ai.client.token.usage", "{token}", explicit_bucket_boundaries_advisory=_TOKENS
            )
        else:
            self._duration = seconds("gen_ai.client.inference.duration")
            self._chunk = seconds("gen_ai.client.inference.time_to_first_chunk")
            self._used = {
                kind: meter.create_counter(f"gen_ai.client.inference.usage.{kind}_tokens", "{token}")
                for kind in ("input", "output")
            }
            self._operation = {
                kind: meter.create_histogram(
                    f"gen_ai.client.inference.operation.{kind}_tokens",
                    "{token}",
                    explicit_bucket_boundaries_advisory=_TOKENS,
                )
                for kind in ("input", "output")
            }

    def record(self, facts: Facts) -> None:
        """One request: its answer and the calls that it took."""
        for span in facts.trace.spans:
            if span.kind == "call" and not span.cancelled:
                self._call(span, facts)
        if facts.model is None or (operation := OPERATIONS.get(facts.route)) is None:
            return
        attributes = self._attributes(operation, facts.model, facts.error)
        self._request.record(facts.ended - facts.began, attributes)
        if facts.first is None or facts.error is not None or not facts.stream:
            return
        self._first.record(facts.first - facts.began, attributes)
        if facts.usage is not None and facts.usage.completion_tokens > 1 and not facts.gone:
            self._each.record((facts.ended - facts.first) / (facts.usage.completion_tokens - 1), attributes)

    def _call(self, span: Span, facts: Facts) -> None:
        given = span.facts
        attributes = self._attributes(span.name, str(given.get("model")), span.error)
        self._duration.record((span.end or facts.ended) - span.start, attributes)
        counts = {"input": given.get("prompt_tokens"), "output": given.get("completion_tokens")}
        if self._names.old:
            for kind, count in counts.items():
                if count is not None:
                    self._usage.record(count, attributes | {"gen_ai.token.type": kind})
            return
        if span.first is not None and given.get("stream"):
            self._chunk.record(span.first - span.start, attributes)
        for kind, count in counts.items():
            self._used[kind].add(count or 0, attributes | {"gen_ai.token.modality": "unknown"})
            if count is not None:
                self._operation[kind].record(count, attributes)

    def _attributes(self, operation: str, model: str, error: BaseException | None) -> dict[str, Any]:
        provider = self._providers.get(model, Provider("heedful"))
        attributes = self._names.provider(provider.name) | provider.attributes
        attributes |= {"gen_ai.operation.name": operation, "gen_ai.request.model": model}
        if error is not None:
            status = error.status if isinstance(error, HeedfulError) else type(error).__name__
            attributes["error.type"] = str(status)
        return attributes
