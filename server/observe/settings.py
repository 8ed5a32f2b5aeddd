"""What an operator sets about traces and logs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from heedful.server.access.settings import Settings

Semconv = Literal["1.36", "genai-0.1"]


class TelemetrySettings(Settings):
    """Spans and the GenAI conventions' metrics, sent by OTLP. What is left out comes from the OTEL_* variables."""

    endpoint: Annotated[str, Field(pattern=r"^https?://[^/:\s]+")] | None = None
    """The collector's base URL, such as http://127.0.0.1:4318."""
    protocol: Literal["grpc", "http/protobuf"] | None = None
    """Default: OTEL_EXPORTER_OTLP_PROTOCOL, or else http/protobuf."""
    traces: bool = True
    metrics: bool = True
    semconv: Semconv | None = None
    """The version of the GenAI conventions: "1.36" is what dashboards know, "genai-0.1" the repository of their own.
    Default: "genai-0.1" where OTEL_SEMCONV_STABILITY_OPT_IN has `gen_ai_latest_experimental`, else "1.36"."""
    content: bool = False
    """Whether spans hold what was asked and answered."""
