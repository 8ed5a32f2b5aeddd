"""Those of a server that watch its requests, as the configuration has them."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from heedful.server.config import Config, ConfigError
from heedful.server.observe.access_log import AccessLog
from heedful.server.observe.facts import Sink
from heedful.server.observe.metrics import Metrics
from heedful.server.observe.tracing import COUNTED, Tracing

if TYPE_CHECKING:
    from heedful.server.engines.served import ServedModel


class Observers:
    """Metrics, access log and telemetry. `metrics` is there for other parts whether or not requests are counted.

    Raises ConfigError for a log that can't be written, and for telemetry where its packages are missing.
    """

    def __init__(self, config: Config, engines: Mapping[str, ServedModel], named: Collection[str]) -> None:
        self.metrics, self.tracing = Metrics(named), Tracing()
        self.sinks: list[Sink] = []
        self._closing: list[Callable[[], None]] = []
        if config.metrics != "none":
            self.sinks.append(self.metrics.count)
            self.tracing.watched = COUNTED
        if config.access_log is not None:
            try:
                log = AccessLog(config.access_log, named, self.metrics.log_dropped.inc)
            except OSError as error:
                raise ConfigError(f"access_log: {config.access_log}: {error.strerror}") from error
            self.sinks.append(log)
            self._closing.append(log.close)
        if config.telemetry is not None and os.environ.get("OTEL_SDK_DISABLED", "").lower() != "true":
            try:
                from heedful.server.observe.semconv import providers_of
                from heedful.server.observe.telemetry import Telemetry
            except ImportError as error:
                raise ConfigError(f"telemetry: install the extra 'otel': {error}") from error
            telemetry = Telemetry(config.telemetry, providers_of(engines), self.metrics.spans_dropped.inc)
            self.tracing.exporter = telemetry
            self.sinks.append(telemetry)
            self._closing.append(telemetry.close)

    def close(self) -> None:
        """Writes and sends what waits."""
        for close in self._closing:
            close()
