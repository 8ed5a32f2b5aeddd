"""One request's material as its record: made in a process of its own, after the answer has gone out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from heedful.retrieval.items import iso
from heedful.server.access.key_text import without_keys
from heedful.server.records.digests import Digests
from heedful.server.records.said import ReadAnswer, SaidChoice, said
from heedful.server.records.wire import Failure, Material
from heedful.strategies.types import text_of

# Fields of a request, in any of its APIs, that hold what a model reads.
_PROMPT = (
    "messages prompt suffix input instructions system tools tool_choice functions response_format text "
    "output_config output_format prediction documents"
).split()
_LARGEST = 1 << 20  # bytes of a prompt or an answer that are kept as texts
_NUMBERS = (int, float)  # a tuple: this is done for every answer
_RETRIEVED = {"norms": "norms", "demos": "demonstrations"}  # steps, and where their items stand in a record


@dataclass(frozen=True, slots=True)
class Entry:
    """A record, and beside it what it is found by."""

    id: str
    at: float
    tenant: str
    keep_days: float
    key_id: str | None
    users: tuple[str, ...]
    model: str | None
    alignment: str | None
    verdict: str | None
    body: bytes
    """The record as JSON."""


def entry(made: Material, answered: bytes, digests: Digests) -> Entry:
    """The record. `answered`: the answer as it went out."""
    answer = said(answered)
    full, asked, steps = made.full, made.fields, made.steps
    verdict = _verdict(steps, answer)
    users = tuple(dict.fromkeys(digests.name(user) for user in _users(asked)))
    # The one that the client got; what failed before there was one has the request's own.
    id = digests.name(answer.id or made.response_id or made.id)
    at = round(made.came, 6)  # as fine as ISO 8601 is written
    record = {
        "object": "alignment.record",
        "id": id,
        "request_id": made.id,
        "time": iso(at),
        "tenant": made.tenant,
        "key_id": made.key_id,
        "users": users,
        "route": made.route,
        "stream": asked.get("stream") is True,
        "model": made.model,
        "alignment": made.alignment,
        "plan": made.plan,
        "floor": made.floor,
        **{place: list(_used(steps, step)) for step, place in _RETRIEVED.items()},
        "trace": _trace(steps, None if full else digests),
        "verdict": verdict,
        "rounds": max((n for n in (s.get("round") for s in steps) if isinstance(n, int)), default=0),
        "usage": _usage(made, answer),
        "stages": made.stages,
        "parameters": {k: v for k, v in asked.items() if isinstance(v, _NUMBERS) and k != "stream"},
        "question": _told(question(asked), full, digests),
        "prompt": _prompt(asked, full, digests),
        "answers": [_answer(i, c, full, digests) for i, c in sorted(answer.choices.items())],
        "status": made.status,
        "error": _error(made.error, answer, full),
        "client_gone": made.gone,
        "timing_ms": {
            "total": round(made.total, 1),
            "first_byte": None if made.first is None else round(made.first, 1),
        },
    }
    if not answer.readable or made.answer_cut:
        record["incomplete"] = "the answer was too long, or in a format that is not known here"
    body = without_keys(msgspec.json.encode(record))
    model, alignment = made.model, made.alignment
    return Entry(id, at, made.tenant, made.keep_days, made.key_id, users, model, alignment, verdict, body)


def question(body: Mapping[str, Any]) -> str:
    """The last thing that a user said, in any of the APIs' bodies; "" where there is no text."""
    asked = body.get("messages", body.get("input", body.get("prompt")))
    if isinstance(asked, str):
        return asked
    for message in reversed(asked if isinstance(asked, list) else []):
        if isinstance(message, dict) and message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, list):  # the Responses API has a name of its own for text
                content = [{**p, "type": "text"} for p in content if isinstance(p, dict) and "text" in p]
            return text_of({"content": content})
    return ""


def _users(body: Mapping[str, Any]) -> Iterator[str]:
    metadata = body.get("metadata")
    named = metadata.get("user_id") if isinstance(metadata, dict) else None
    for user in (body.get("user"), body.get("safety_identifier"), named):
        if isinstance(user, int) and not isinstance(user, bool):
            yield str(user)
        elif isinstance(user, str) and user:
            yield user


def _told(text: str, full: bool, digests: Digests) -> dict[str, Any]:
    """A text, or what stands for it."""
    if full and len(text) <= _LARGEST:
        return {"text": text}
    return {"digest": digests.of(text), "characters": len(text)}


def _prompt(body: Mapping[str, Any], full: bool, digests: Digests) -> dict[str, Any]:
    given = {name: body[name] for name in _PROMPT if name in body}
    data = msgspec.json.encode(given, order="deterministic")
    if full and len(data) <= _LARGEST:
        return given
    return {"digest": digests.of(data), "bytes": len(data)}


def _answer(index: int, choice: SaidChoice, full: bool, digests: Digests) -> dict[str, Any]:
    out = {"index": index, "finish_reason": choice.finish_reason, **_told(choice.text, full, digests)}
    if thoughts := "".join(choice.reasoning):
        out["reasoning"] = _told(thoughts, full, digests)
    if choice.calls:
        out["tool_calls"] = [
            {"name": call["name"], "arguments": _told(call["arguments"], full, digests)}
            for call in choice.calls.values()
        ]
    return out


def _used(steps: Sequence[Mapping[str, Any]], step: str) -> Iterator[dict[str, Any]]:
    """What was retrieved and given to the model: which version of which item. The store has its text."""
    for note in steps:
        if note["step"] == step:
            for used in note.get("used", ()):
                if used.get("extra"):  # the plan has its text
                    continue
                yield {"store": note.get("store"), **_reference(used)}


def _reference(item: Mapping[str, Any]) -> dict[str, Any]:
    named = {k: v for k, v in item.items() if k not in ("text", "source", "answer")}
    if store := named.get("store"):  # of several that were looked through as one, where it leads the id
        named["id"] = named["id"].removeprefix(f"{store}/")
    return named


def _trace(steps: Sequence[Mapping[str, Any]], digests: Digests | None) -> list[Any]:
    """The notes, without what stands elsewhere in the record or in a store."""
    notes: list[Any] = []
    for step in steps:
        note = dict(step)
        if note["step"] in _RETRIEVED:
            note.pop("used", None)
            dropped = [_reference(item) for item in note.pop("dropped", ())]
        else:
            dropped = []
        note = digests.trace(note) if digests else note
        notes.append(note | {"dropped": dropped} if dropped else note)
    return notes


def _verdict(steps: Sequence[Mapping[str, Any]], answer: ReadAnswer) -> str | None:
    """How the verifiers left it: "passed", "failed" (and released all the same), "withheld", None: nobody judged."""
    filtered = any(c.finish_reason in ("content_filter", "refusal") for c in answer.choices.values())
    if filtered or any(step.get("withheld") is True for step in steps):
        return "withheld"
    passed: dict[Any, bool] = {}
    for step in steps:
        value, place = step.get("passed"), (step["step"], step.get("choice"), step.get("at"))
        if isinstance(value, bool):  # of a correction as well, which takes the place of what it corrects
            passed[place] = passed.get(place, False) or value
        elif isinstance(value, list):  # of those that were chosen; the others did not go out
            passed = {p: v for p, v in passed.items() if p[0] != step["step"]}
            passed[place] = all(value)
    return ("passed" if all(passed.values()) else "failed") if passed else None


def _usage(made: Material, answer: ReadAnswer) -> dict[str, Any] | None:
    if made.usage is not None:
        told: dict[str, Any] = dict(zip(("prompt_tokens", "completion_tokens"), made.usage, strict=True))
        return told | {"estimated": True} if made.usage_estimated else told
    given = answer.usage
    prompt = given.get("prompt_tokens", given.get("input_tokens"))
    completion = given.get("completion_tokens", given.get("output_tokens"))
    return {"prompt_tokens": prompt, "completion_tokens": completion} if given else None


def _error(error: Failure | None, answer: ReadAnswer, full: bool) -> dict[str, Any] | None:
    """What went wrong. Its message may quote a client or a model."""
    if error is not None:
        told = {"type": error.type, "code": error.code, "status": error.status}
        return told | {"message": error.message} if full else told
    if answer.error is not None:
        return {k: v for k, v in answer.error.items() if full or k in ("type", "code", "status")}
    return None
