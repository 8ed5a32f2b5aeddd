"""A request's spans as OpenTelemetry has them, made once it is over."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
    set_span_in_context,
)

from heedful.server.access.key_text import without_keys
from heedful.server.observe.facts import Facts
from heedful.server.observe.semconv import OPERATIONS, Names, Provider
from heedful.strategies import HeedfulError
from heedful.strategies.context.gate import Gating
from heedful.strategies.trace import Span

_KINDS = {"request": SpanKind.SERVER, "call": SpanKind.CLIENT}
_REFUSED, _OURS = 400, 500  # what a client has wrong is no error of a server's span


class GivenIds(IdGenerator):
    """Spans keep the ids under which other machines know them already. For one thread."""

    trace_id = span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


class SpanWriter:
    """Hands a request's spans to a tracer. For one thread."""

    def __init__(
        self, tracer: Tracer, ids: GivenIds, names: Names, providers: Mapping[str, Provider]
    ) -> None:
        self._tracer, self._ids, self._names, self._providers = tracer, ids, names, providers

    def write(self, facts: Facts) -> None:
        """All of one request, its own span last. What a task that was left alone has not ended ends with it."""
        trace, origin = facts.trace, facts.trace.origin
        assert origin is not None and trace.root
        state = TraceState.from_header([origin.state]) if origin.state else TraceState()
        # The clock's time at the zero of perf_counter.
        zero = facts.came - facts.began

        def inside(span_id: int | None, *, remote: bool = False) -> Context:
            if span_id is None:
                return Context()
            there = SpanContext(origin.trace_id, span_id, remote, TraceFlags(TraceFlags.SAMPLED), state)
            return set_span_in_context(NonRecordingSpan(there), Context())

        def write(span: Span, name: str, attributes: dict[str, Any], within: Context) -> None:
            self._ids.trace_id, self._ids.span_id = origin.trace_id, span.id
            kind = _KINDS.get(span.kind, SpanKind.INTERNAL)
            if kind is SpanKind.CLIENT and "server.address" not in attributes:
                kind = SpanKind.INTERNAL  # in this process
            told = {key: value for key, value in attributes.items() if value is not None}
            written = self._tracer.start_span(
                name, within, kind, told, start_time=_nanoseconds(zero + span.start)
            )
            if span.error is not None:
                written.set_attribute("error.type", _kind_of(span.error))
                written.set_status(Status(StatusCode.ERROR, type(span.error).__name__))
            written.end(_nanoseconds(zero + (span.end or facts.ended)))

        root = trace.root
        root.close()
        root.end, root.error = facts.ended, None
        if facts.error is not None and (facts.error.status >= _OURS or facts.status < _REFUSED):
            root.error = facts.error  # or what broke after the first bytes
        route = facts.route if facts.route != "other" else None
        name = f"{facts.method} {route}" if route else facts.method
        prompts = _prompts(trace.steps)
        for span in trace.spans:
            part, attributes = self._part(span, prompts)
            write(span, part, attributes, inside((span.parent or root).id))
        write(root, name, self._request(facts, route), inside(origin.parent_id, remote=True))

    def _request(self, facts: Facts, route: str | None) -> dict[str, Any]:
        model, plan, client, usage = facts.model, facts.plan, facts.client, facts.usage
        attributes: dict[str, Any] = {
            "http.request.method": facts.method,
            "http.route": route,
            "http.response.status_code": facts.status or None,
            "heedful.request.id": facts.id,
            "heedful.tenant": client.tenant.name if client else None,
            "heedful.key.id": client.key_id if client else None,
            "heedful.client_gone": facts.gone or None,
            "heedful.spans.left_out": facts.trace.left_out or None,
        }
        if model is not None and plan is not None:
            attributes |= self._names.provider(self._provider(model).name) | {
                "gen_ai.operation.name": OPERATIONS.get(facts.route),
                "gen_ai.request.model": model,
                "gen_ai.request.stream": facts.stream or None,
                "gen_ai.response.id": facts.response_id,
                "heedful.alignment": plan.name,
                "heedful.pipeline": plan.steps,
            }
            for field, name in (
                ("temperature", "temperature"),
                ("max_tokens", "max_tokens"),
                ("top_p", "top_p"),
            ):
                if isinstance(value := facts.fields.get(field), int | float):
                    attributes[f"gen_ai.request.{name}"] = value
        if usage is not None:
            attributes["gen_ai.usage.input_tokens"] = usage.prompt_tokens
            attributes["gen_ai.usage.output_tokens"] = usage.completion_tokens
        if facts.first is not None and facts.stream:
            attributes["gen_ai.response.time_to_first_chunk"] = facts.first - facts.began
        messages = facts.fields.get("messages")
        if facts.trace.content and isinstance(messages, list) and not _redacted(facts):
            attributes["gen_ai.input.messages"] = _written(messages)
        return attributes

    def _part(self, span: Span, prompts: Mapping[str, tuple[str, str]]) -> tuple[str, dict[str, Any]]:
        given = span.facts
        if span.kind == "call":
            return self._call(span)
        if span.kind == "stage":
            prompt = prompts.get(span.name, (None, None))
            attributes: dict[str, Any] = {"heedful.stage": span.name}
            return f"stage {span.name}", attributes | {
                "gen_ai.prompt.name": prompt[0],
                "gen_ai.prompt.version": prompt[1],
            }
        if span.kind == "retrieval":
            return f"retrieval {span.name}", {
                "gen_ai.operation.name": "retrieval",
                "gen_ai.data_source.id": span.name,
            }
        if span.kind == "verifier":
            verifier = span.name.partition("#")[0]
            return f"apply_guardrail {verifier}", {
                "gen_ai.operation.name": "apply_guardrail",
                "gen_ai.guardrail.component.name": verifier,
                "gen_ai.guardrail.result.type": "passed" if "passed" in given else None,
                "gen_ai.guardrail.result.value": str(given["passed"]).lower() if "passed" in given else None,
                "gen_ai.evaluation.score.value": given.get("score"),
                "heedful.passed_over": given.get("passed_over") or None,
            }
        return f"search {span.name}", {
            "heedful.choice": given.get("choice"),
            "heedful.rewind": given.get("rewind"),
            "heedful.value": given.get("value"),
        }

    def _call(self, span: Span) -> tuple[str, dict[str, Any]]:
        given, operation = span.facts, span.name
        model = str(given.get("model"))
        provider = self._provider(model)
        attributes = self._names.provider(provider.name) | provider.attributes
        attributes |= {
            "gen_ai.operation.name": operation,
            "gen_ai.request.model": model,
            "gen_ai.request.stream": given.get("stream") or None,
            "gen_ai.request.choice.count": n if (n := given.get("n", 1)) != 1 else None,
            "gen_ai.usage.input_tokens": given.get("prompt_tokens"),
            "gen_ai.usage.output_tokens": given.get("completion_tokens"),
            "heedful.stage": given.get("stage"),
            "heedful.cancelled": span.cancelled or None,
        }
        if span.first is not None and given.get("stream"):
            attributes["gen_ai.response.time_to_first_chunk"] = span.first - span.start
        if content := given.get("content"):
            asked = [_message(role, text) for role, text in content["input"]]
            attributes["gen_ai.input.messages"] = _written(asked)
            said = [_message("assistant", content["output"])]
            attributes["gen_ai.output.messages"] = _written(said)
        return f"{operation} {model}", attributes

    def _provider(self, model: str) -> Provider:
        return self._providers.get(model, Provider("heedful"))


def _message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "content": text}]}


def _redacted(facts: Facts) -> bool:
    """Whether values of the request were, or would have been, kept from all who come after: its calls have it as it
    left. So too where no plan was found, which may have been one that does."""
    steps = () if facts.plan is None else facts.plan.contexts
    gates = [step for _, step in steps if isinstance(step, Gating)]
    noted = any(step.get("redacted") for step in facts.trace.steps)
    return facts.plan is None or noted or any(gate.redactor.patterns for gate in gates)


def _written(messages: Sequence[Any]) -> str:
    """As JSON, without the keys that somebody may have put into them."""
    return without_keys(json.dumps(messages, ensure_ascii=False).encode("utf-8", "replace")).decode()


def _prompts(steps: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    """The prompt of each stage, name and version, as its notes tell."""
    found = {}
    for step in steps:
        if isinstance(prompt := step.get("prompt"), str):
            name, _, number = prompt.partition("@")
            found[step["step"]] = name, number
    return found


def _kind_of(error: BaseException) -> str:
    """A word of ours: an upstream's own may be anything."""
    return str(error.status) if isinstance(error, HeedfulError) else type(error).__name__


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
