"""OpenTelemetry: decides which requests are traced, and sends spans and metrics by OTLP from a thread of its own.

Everything of OpenTelemetry's is loaded here and in the two modules beside it, and only where it is configured.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from importlib.metadata import version
from queue import Full, Queue
from typing import Any
from uuid import uuid4

from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.environment_variables import OTEL_SERVICE_NAME
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Decision
from opentelemetry.trace import SpanKind, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from heedful.server.access.key_text import holds_key
from heedful.server.log import bug
from heedful.server.observe.facts import Facts
from heedful.server.observe.genai_metrics import GenAIMetrics
from heedful.server.observe.semconv import Names, Provider, names_of
from heedful.server.observe.settings import TelemetrySettings
from heedful.server.observe.spans import GivenIds, SpanWriter
from heedful.server.observe.tracing import COUNTED, EVERYTHING
from heedful.strategies.trace import MOST_SPANS, Origin, Span

_FAREWELL = 5.0  # seconds
_WAITING = 4096  # requests whose spans wait to be made
_OPT_IN = "OTEL_SEMCONV_STABILITY_OPT_IN"
_CONTEXT = frozenset({b"traceparent", b"tracestate"})
_W3C = TraceContextTextMapPropagator()


class Telemetry:
    """A sink, and what `Tracing` asks at a request's start.

    `providers`: who answers for each model. `dropped` is called for each request whose spans are left out.
    """

    def __init__(
        self,
        settings: TelemetrySettings,
        providers: Mapping[str, Provider],
        dropped: Callable[[], None],
    ) -> None:
        self._settings, self._dropped = settings, dropped
        self._names = _names(settings)
        # Whose figures they are: those of several workers are each by itself.
        given = {"service.version": version("heedful"), "service.instance.id": str(uuid4())}
        if not os.environ.get(OTEL_SERVICE_NAME) and "service.name=" not in os.environ.get(
            "OTEL_RESOURCE_ATTRIBUTES", ""
        ):
            given["service.name"] = "heedful"
        resource = Resource.create(given)
        self._ids = GivenIds()
        # Which requests are traced is decided at their start, by the sampler of OTEL_TRACES_SAMPLER.
        unused = TracerProvider(shutdown_on_exit=False)
        self._sampler, self._new_trace = unused.sampler, unused.id_generator.generate_trace_id
        self._tracers = TracerProvider(ALWAYS_ON, resource, id_generator=self._ids, shutdown_on_exit=False)
        if settings.traces:
            # A search's spans come all at once, at its request's end.
            room = None if os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE") else 8 * MOST_SPANS
            self._tracers.add_span_processor(BatchSpanProcessor(_span_exporter(settings), room))
        self._meters: MeterProvider | None = None
        if settings.metrics:
            reader = PeriodicExportingMetricReader(_metric_exporter(settings))
            self._meters = MeterProvider([reader], resource, shutdown_on_exit=False)
        meters = self._meters or NoOpMeterProvider()
        tracer = self._tracers.get_tracer("heedful", version("heedful"))
        self._spans = SpanWriter(tracer, self._ids, self._names, providers)
        self._metrics = GenAIMetrics(meters.get_meter("heedful", version("heedful")), self._names, providers)
        self._waiting: Queue[Facts | None] = Queue(_WAITING)
        self._thread = threading.Thread(target=self._work, name="telemetry", daemon=True)
        self._thread.start()

    def begin(self, facts: Facts, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Takes up the caller's trace or begins one."""
        carrier = {k.decode(): v.decode("latin-1") for k, v in headers if k in _CONTEXT and not holds_key(v)}
        context = _W3C.extract(carrier)
        parent = get_current_span(context).get_span_context()
        trace_id = parent.trace_id if parent.is_valid else self._new_trace()
        name = f"{facts.method} {facts.path}"
        sampled = False
        if self._settings.traces:
            found = self._sampler.should_sample(context, trace_id, name, SpanKind.SERVER)
            sampled = found.decision is Decision.RECORD_AND_SAMPLE
        trace = facts.trace
        trace.watched = EVERYTHING if sampled or self._settings.metrics else COUNTED
        trace.content = self._settings.content and sampled
        trace.origin = Origin(
            trace_id,
            parent.span_id if parent.is_valid else None,
            1 if sampled else 0,
            parent.trace_state.to_header() if parent.is_valid else "",
        )
        trace.root = Span(trace, "request", name, None, {})
        trace.root.start = facts.began

    def __call__(self, facts: Facts) -> None:
        try:
            self._waiting.put_nowait(facts)
        except Full:
            self._dropped()

    def close(self) -> None:
        """Sends what waits, and ends; a collector that is not there can't hold it up for long."""
        deadline = time.monotonic() + _FAREWELL
        with suppress(Full):
            self._waiting.put(None, timeout=_FAREWELL)
        self._thread.join(_FAREWELL)
        ends = [self._tracers.shutdown, *([self._meters.shutdown] if self._meters is not None else [])]
        closing = [threading.Thread(target=end, daemon=True) for end in ends]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while (facts := self._waiting.get()) is not None:
            try:
                _book(facts)
                if (origin := facts.trace.origin) is not None and origin.flags:
                    self._spans.write(facts)
                if self._meters is not None:
                    self._metrics.record(facts)
            except Exception as error:
                bug(error)


def _book(facts: Facts) -> None:
    """What only the end of a request has told of its one call: an answer that was passed on as it came."""
    calls = [span for span in facts.trace.spans if span.kind == "call"]
    if facts.usage is not None and len(calls) == 1 and "prompt_tokens" not in calls[0].facts:
        usage = facts.usage
        calls[0].set(prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)


def _names(settings: TelemetrySettings) -> Names:
    latest = "gen_ai_latest_experimental" in os.environ.get(_OPT_IN, "").split(",")
    return names_of(settings.semconv or ("genai-0.1" if latest else "1.36"))


def _protocol(settings: TelemetrySettings, signal: str) -> str:
    variables = (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    return settings.protocol or next(filter(None, map(os.environ.get, variables)), "http/protobuf")


def _span_exporter(settings: TelemetrySettings) -> Any:
    if _protocol(settings, "TRACES") == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as Grpc

        return Grpc(endpoint=settings.endpoint)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as Http

    return Http(endpoint=_path(settings, "v1/traces"))


def _metric_exporter(settings: TelemetrySettings) -> Any:
    if _protocol(settings, "METRICS") == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as Grpc

        return Grpc(endpoint=settings.endpoint)
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as Http

    return Http(endpoint=_path(settings, "v1/metrics"))


def _path(settings: TelemetrySettings, path: str) -> str | None:
    return None if settings.endpoint is None else f"{settings.endpoint.rstrip('/')}/{path}"
