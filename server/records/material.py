"""What a record is made from: one request's facts as bytes, which the event loop can make in a few microseconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import msgspec

from heedful.server.access.settings import RecordSettings
from heedful.server.observe.facts import Facts
from heedful.server.records.wire import Failure, Material, encoded
from heedful.strategies import Plan
from heedful.strategies.trace import Trace

LARGE = 1 << 16
"""Bytes of a request and its answer that are encoded at once; more would keep others waiting."""
_LONG = 64  # steps of a trace, likewise
_MOST_PLANS = 256
_plans: dict[int, tuple[Plan, msgspec.Raw]] = {}
_NO_PLAN = msgspec.Raw(b"[]")
_PLAIN = (str, int, float)


def is_large(facts: Facts) -> bool:
    """Whether the event loop has no time for it."""
    return facts.received + facts.sent > LARGE or len(facts.trace.steps) > _LONG


def material(facts: Facts, settings: RecordSettings) -> bytes:
    """Of a request whose client is known. Raises what msgspec raises where it can't be written."""
    client, plan, run, usage, error = facts.client, facts.plan, facts.run, facts.usage, facts.error
    assert client is not None
    began, first = facts.began, facts.first
    made = Material(
        facts.id,
        facts.came,
        client.tenant.name,
        client.key_id,
        settings.keep_days,
        settings.texts == "full",
        facts.route,
        facts.fields,
        facts.model,
        None if plan is None else plan.name,
        _NO_PLAN if plan is None else _plan(plan),
        0 if plan is None else plan.fixed,
        [] if run is None else _steps(run.trace),
        {} if run is None else run.ledger.stages,
        None if usage is None else (usage.prompt_tokens, usage.completion_tokens),
        facts.usage_estimated,
        facts.response_id,
        facts.answer_cut,
        facts.status,
        None if error is None else Failure(error.type, error.code, error.status, error.message),
        facts.gone,
        (facts.ended - began) * 1000,
        None if first is None else (first - began) * 1000,
    )
    return encoded(made, facts.answered or ())


def _steps(trace: Trace) -> list[dict[str, Any]]:
    """The notes; of a search how much it has committed, and not its tree."""
    return [_without_tree(note) if "commits" in note else note for note in trace.steps]


def _without_tree(note: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(commits := note["commits"], list):
        return note
    return {name: value for name, value in note.items() if name != "open"} | {"commits": len(commits)}


def _plan(plan: Plan) -> msgspec.Raw:
    """Every step that ran, the floor's too, with its options. Most requests have the plan of others before them."""
    known = _plans.get(id(plan))
    if known is None or known[0] is not plan:
        vetting = [("verify", each) for each in plan.vetting]
        steps = [{name: _options(strategy)} for name, strategy in (*plan.contexts, plan.decoder, *vetting)]
        if len(_plans) >= _MOST_PLANS:
            _plans.clear()
        known = _plans[id(plan)] = plan, msgspec.Raw(msgspec.json.encode(steps, enc_hook=repr))
    return known[1]


def _options(value: Any) -> Any:
    """The fields of a strategy's dataclass; those of its `options` where it holds more than those."""
    if value is None or isinstance(value, _PLAIN):
        return value
    if isinstance(value, Mapping):
        return {str(k): _options(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_options(v) for v in value]
    # A verifier that only an operator sets up may hold keys.
    if not is_dataclass(value) or isinstance(value, type) or getattr(value, "configured_only", False):
        return type(value).__name__
    value = getattr(value, "options", value)
    return {f.name: _options(getattr(value, f.name)) for f in fields(value) if not f.name.startswith("_")}
