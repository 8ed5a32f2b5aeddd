"""Prometheus: what is counted of requests, and what other parts of the server tell of themselves.

Each server has a registry of its own, so that several fit into one process; vLLM's figures stay in the library's.
Label sets are bounded: names of the configuration, and at most so many tenants and stores.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from heedful.server.observe.facts import Facts
from heedful.server.observe.labels import NONE, OTHER, Bounded, alignment_of
from heedful.server.observe.shared import all_figures
from heedful.strategies.trace import Span

if TYPE_CHECKING:
    from heedful.server.engines.served import ServedModel

_MOST_TENANTS, _MOST_STORES, _MOST_SERIES = 500, 200, 5000
# Seconds: from a proxy's answer to a long search.
_LONG = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0)
_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0)
_SHORT = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_OF_WHOM = ("model", "alignment", "tenant")


class _Series:
    """The counters of one model, alignment and tenant, looked up once."""

    __slots__ = ("calls", "first", "hidden", "seconds", "tokens", "token")

    def __init__(self, metrics: Metrics, labels: tuple[str, str, str]) -> None:
        self.seconds = metrics.seconds.labels(*labels)
        self.first = metrics.first_byte.labels(*labels)
        self.token = metrics.per_token.labels(*labels)
        self.calls = metrics.calls.labels(*labels)
        self.tokens = [metrics.tokens.labels(*labels, kind) for kind in ("prompt", "completion")]
        self.hidden = [metrics.hidden_tokens.labels(*labels, kind) for kind in ("prompt", "completion")]


class Metrics:
    """A sink (`count`), a few functions for other parts, and what /metrics shows (`scrape`)."""

    def __init__(self, named: Collection[str]) -> None:
        self._named, self._lost = named, 0
        self._tenant, self._store = Bounded(_MOST_TENANTS), Bounded(_MOST_STORES)
        self._series: dict[tuple[str, str, str], _Series] = {}
        self._requests: dict[tuple[Any, ...], Any] = {}
        self._followed: list[tuple[Gauge, Callable[[], float]]] = []
        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"heedful_{name}", text, labels, registry=registry)

        def gauge(
            name: str, text: str, *labels: str, of_all: Literal["livesum", "livemin", "livemax"] = "livesum"
        ) -> Gauge:
            """`of_all`: what is made of the figures of several workers."""
            return Gauge(f"heedful_{name}", text, labels, registry=registry, multiprocess_mode=of_all)

        def histogram(name: str, text: str, buckets: Iterable[float], *labels: str) -> Histogram:
            return Histogram(f"heedful_{name}", text, labels, buckets=tuple(buckets), registry=registry)

        self.requests = counter(
            "requests", "Requests; status 0: the client left before one.", "route", *_OF_WHOM, "status"
        )
        self.disconnects = counter("disconnects", "Clients that left before the answer's end.", "route")
        self.errors = counter("errors", "Requests that failed, also after the first bytes.", "route", "error")
        self.seconds = histogram("request_seconds", "From a request to its answer's end.", _LONG, *_OF_WHOM)
        self.first_byte = histogram(
            "first_byte_seconds", "From a request to the first bytes of its answer.", _LONG, *_OF_WHOM
        )
        self.per_token = histogram(
            "output_token_seconds", "Streams: time per token after the first bytes.", _TOKEN, *_OF_WHOM
        )
        self.tokens = counter("tokens", "Tokens, hidden ones included.", *_OF_WHOM, "kind")
        self.hidden_tokens = counter(
            "hidden_tokens", "Tokens of calls that are not the answer itself.", *_OF_WHOM, "kind"
        )
        self.calls = counter("model_calls", "Calls of models by strategies.", *_OF_WHOM)
        self.retrieval = histogram("retrieval_seconds", "Looking items up in a store.", _SHORT, "store")
        self.items = counter("items_used", "Norms and demonstrations given to models.", "step", "store")
        self.verdicts = counter(
            "verdicts", "Verdicts: passed, rejected, failed, passed_over.", "verifier", "verdict"
        )
        self.verifier_seconds = histogram("verifier_seconds", "Judging one answer.", _LONG, "verifier")
        self.rounds = histogram(
            "refine_rounds", "Rounds of correction of an answer that was refined.", (0, 1, 2, 3, 5, 8)
        )
        self.withheld = counter("withheld", "Answers, or their ends, that no round could mend.")
        self.searches = counter("rain_searches", "RAIN's inner searches.")
        self.rewinds = counter("rain_rewinds", "Inner searches that did not go on from the one before.")
        self.running = gauge("requests_running", "Requests under way.")
        self.tasks = gauge("asyncio_tasks", "Tasks of the event loop: they grow with the requests under way.")
        self.engine_up = gauge("engine_up", "1 while a model's engine lives.", "model", of_all="livemin")
        self.upstream_up = gauge(
            "upstream_up", "0 after three failures in a row.", "upstream", of_all="livemin"
        )
        self.upstream_failures = gauge(
            "upstream_failures", "Failed tries since the start, by kind.", "upstream", "error"
        )
        self.queue_length = gauge("queue_length", "Requests that wait to be admitted.")
        self.body_bytes = gauge("body_bytes", "Bytes of large bodies of requests that are not admitted yet.")
        self.bodies_waiting = gauge("bodies_waiting", "Large bodies that are not read, for lack of room.")
        self.queue_seconds = histogram("queue_seconds", "Waiting to be admitted.", _SHORT)
        self.refusals = counter(
            "refusals", "Requests refused by a limit, a budget or a full queue.", "reason", "tenant"
        )
        self.records_dropped = counter("records_dropped", "Decision records that could not be kept.")
        self.log_dropped = counter("access_log_dropped", "Lines of the access log that could not be written.")
        self.spans_dropped = counter("spans_dropped", "Requests whose spans could not be exported.")
        self.keys = gauge("keys", "Keys that are valid now.", of_all="livemax")
        build = gauge("build_info", "The server's version.", "version", of_all="livemax")
        build.labels(version("heedful")).set(1)

    # -- told by other parts

    def refused(self, reason: str, tenant: str) -> None:
        """`reason`: one of a few words, such as "requests_per_minute", "budget" or "queue_full"."""
        self.refusals.labels(reason, self._tenant(tenant)).inc()

    def waited(self, seconds: float) -> None:
        """A request has been admitted after so many seconds in the queue."""
        self.queue_seconds.observe(seconds)

    def follow(self, gauge: Gauge, figure: Callable[[], float]) -> None:
        """Shows what `figure` returns. (A Gauge's own `set_function` is not seen by other workers.)"""
        self._followed.append((gauge, figure))

    def records_lost(self, in_all: int) -> None:
        """So many decision records since the start."""
        self.records_dropped.inc(in_all - self._lost)
        self._lost = in_all

    # -- the sink

    def count(self, facts: Facts) -> None:
        """Counts one request."""
        model, plan = facts.model or NONE, facts.plan
        alignment = NONE if plan is None else alignment_of(plan, self._named)
        tenant = NONE if facts.client is None else self._tenant(facts.client.tenant.name)
        series = self._of(model, alignment, tenant)
        key = facts.route, model, alignment, tenant, facts.status
        if (counted := self._requests.get(key)) is None:
            labels = key if len(self._requests) < _MOST_SERIES else (OTHER, OTHER, OTHER, OTHER, facts.status)
            counted = self._requests.setdefault(labels, self.requests.labels(*map(str, labels)))
        counted.inc()
        series.seconds.observe(facts.ended - facts.began)
        if facts.first is not None:
            series.first.observe(facts.first - facts.began)
        if facts.gone:
            self.disconnects.labels(facts.route).inc()
        if facts.error is not None:
            self.errors.labels(facts.route, type(facts.error).__name__).inc()
        if facts.usage is not None:
            self._usage(facts, series)
        if facts.trace.spans:
            self._spans(facts.trace.spans)
        if facts.trace.steps:
            self._steps(facts.trace.steps)

    def _of(self, model: str, alignment: str, tenant: str) -> _Series:
        labels = model, alignment, tenant
        if (series := self._series.get(labels)) is None:
            if len(self._series) >= _MOST_SERIES:
                labels = OTHER, OTHER, OTHER
            series = self._series.setdefault(labels, _Series(self, labels))
        return series

    def _usage(self, facts: Facts, series: _Series) -> None:
        usage = facts.usage
        assert usage is not None
        series.tokens[0].inc(usage.prompt_tokens)
        series.tokens[1].inc(usage.completion_tokens)
        if facts.stream and facts.first is not None and usage.completion_tokens > 1 and not facts.gone:
            series.token.observe((facts.ended - facts.first) / (usage.completion_tokens - 1))
        if facts.run is not None and (calls := facts.run.ledger.calls):
            series.calls.inc(calls)
            if calls > 1 and (answer := facts.run.ledger.answer) is not None:
                series.hidden[0].inc(max(0, usage.prompt_tokens - answer.prompt_tokens))
                series.hidden[1].inc(max(0, usage.completion_tokens - answer.completion_tokens))

    def _spans(self, spans: Iterable[Span]) -> None:
        for span in spans:
            if span.end is None:
                continue
            if span.kind == "retrieval":
                self.retrieval.labels(self._store(span.name)).observe(span.end - span.start)
            elif span.kind == "verifier":
                verifier = span.name.partition("#")[0]
                self.verifier_seconds.labels(verifier).observe(span.end - span.start)
                if not span.cancelled:
                    self.verdicts.labels(verifier, _verdict(span)).inc()

    def _steps(self, steps: Iterable[Mapping[str, Any]]) -> None:
        rounds: dict[Any, int] = {}
        for step in steps:
            kind = step["step"]
            if isinstance(used := step.get("used"), list):
                store = step.get("store")  # or several, ranked as one
                name = str(store) if isinstance(store, str) else "+".join(store or ())
                self.items.labels(kind, self._store(name)).inc(len(used))
            if kind == "refine" and "round" in step:
                choice = step.get("choice")
                rounds[choice] = max(rounds.get(choice, 0), step["round"])
            if step.get("withheld"):
                self.withheld.inc()
            if kind == "rain" and "searches" in step:
                self.searches.inc(step["searches"])
                self.rewinds.inc(step["rewinds"])
        for most in rounds.values():
            self.rounds.observe(most)

    # -- the scrape

    def refresh(self, engines: Mapping[str, ServedModel], running: int) -> None:
        """Takes up what is so at this moment."""
        self.running.set(running)
        self.tasks.set(len(asyncio.all_tasks()))
        for gauge, figure in self._followed:
            gauge.set(figure())
        for name, engine in engines.items():
            self.engine_up.labels(name).set(not engine.dead)
            if (remote := engine.remote) is not None:
                host, health = remote.upstream.host, remote.upstream.health
                self.upstream_up.labels(host).set(health.up)
                for kind, times in health.failures.items():
                    self.upstream_failures.labels(host, kind).set(times)

    def text(self) -> bytes:
        """All figures in Prometheus's text format: vLLM's included, or those of all workers together."""
        if (of_all := all_figures()) is not None:
            return generate_latest(of_all)
        return generate_latest(self.registry) + generate_latest(REGISTRY)


def _verdict(span: Span) -> str:
    if span.error is not None:
        return "failed"
    if span.facts.get("passed_over"):
        return "passed_over"
    return "passed" if span.facts.get("passed") else "rejected"
