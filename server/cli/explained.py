"""A record for people: what was asked, which norms bound the answer, what verifiers made of it, what came out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from heedful.retrieval import StoreError, UnknownStore, Version
from heedful.retrieval.items import iso, time_of
from heedful.retrieval.store.backend import Backend, check_name_of_store
from heedful.server.access.client import EVERYONE
from heedful.server.terminal import plain

_FIRST = ("round", "choice", "at", "passed", "accepted", "score")  # of a note's facts


def explained(record: Mapping[str, Any], stores: Backend) -> RenderableType:
    """`stores`: they know what their items said then."""
    if record["object"] == "alignment.erasure":
        by = record.get("key_id") or "an administrator without a key"
        return Text.assemble(
            f"{record['erased']} records of a user of ",
            plain(record["tenant"], "bold"),
            f" were erased at {record['time']} by ",
            plain(by),
        )
    return Group(*_parts(record, stores))


def _parts(record: Mapping[str, Any], stores: Backend) -> Iterator[RenderableType]:
    yield _head(record)
    yield _title("asked")
    yield _said(record["question"])
    for place in ("norms", "demonstrations"):
        if record[place]:
            yield _title(f"{place}, as they stood then")
            yield _retrieved(record, place, stores)
    if record["trace"]:
        yield _title("what was done")
        yield _trace(record["trace"])
    yield _title("what came out")
    for answer in record["answers"]:
        yield _answer(answer)
    if record.get("error"):
        yield plain(f"error {_json(record['error'])}", "red")
    if record.get("client_gone"):
        yield Text("the client left before the end", style="yellow")
    yield _title("cost")
    yield _cost(record)


def _head(record: Mapping[str, Any]) -> Table:
    head = Table.grid(padding=(0, 2))
    facts = {
        "response": record["id"],
        "time": record["time"],
        "asked by": " · ".join(
            filter(
                None,
                (
                    record["tenant"],
                    record["key_id"] and f"key {record['key_id']}",
                    ", ".join(record["users"]),
                ),
            )
        ),
        "route": f"{record['route']}{' (stream)' if record['stream'] else ''} → {record['status']}",
        "model": record["model"] or "none",
        "alignment": record["alignment"] or "none",
        "plan": "\n".join(_step(step) for step in record["plan"]),
        "verdict": f"{record['verdict'] or 'nobody judged'}; rounds of correction: {record['rounds']}",
    }
    for name, value in facts.items():
        head.add_row(Text(name, style="bold"), plain(str(value)))
    head.columns[1].overflow = "fold"
    return head


def _step(step: Mapping[str, Any]) -> str:
    ((name, options),) = step.items()
    return f"{name} {_json(options)}" if options else str(name)


def _title(text: str) -> Text:
    return Text(f"\n{text}", style="bold cyan")


def _said(text: Mapping[str, Any]) -> Text:
    """A text, or its digest."""
    if text.get("text") is not None:
        return plain(text["text"])
    return Text(f"{text['characters']} characters, digest {text['digest']}", style="dim")


def _retrieved(record: Mapping[str, Any], place: str, stores: Backend) -> Table:
    table = Table("store", "id", "version", "why", "text then", "and since")
    table.columns[0].overflow = table.columns[1].overflow = "fold"  # not cut: whole names, on several lines
    for item in record[place]:
        why = "mandatory" if item.get("mandatory") else f"score {item.get('score')}"
        text, since = _then(stores, record, item)
        table.add_row(plain(str(item["store"])), plain(item["id"]), str(item["version"]), why, text, since)
    return table


def _history(stores: Backend, tenant: str, store: str, id: str) -> list[Version]:
    """Of an item of a store as a tenant's answers name it: its own, or one of the server's that it reads."""
    name = store.removeprefix("shared/")
    check_name_of_store(name)  # a record's word, and no address
    own = stores if tenant == EVERYONE else stores.below(tenant)
    return (own if name == store and own.has(name) else stores).history(name, id)


def _then(stores: Backend, record: Mapping[str, Any], used: Mapping[str, Any]) -> tuple[Text, Text]:
    """What an item said in the version of that time, and what has become of it."""
    answered = time_of(record["time"], "time") + record["timing_ms"]["total"] / 1000
    try:
        history = _history(stores, record["tenant"], str(used["store"]), used["id"])
    except UnknownStore:
        return Text("not known any more", style="yellow"), Text("the store was deleted")
    except StoreError as error:
        return Text("can't be read", style="red"), plain(str(error))
    # One that was written since then is another, which has the id of an erased one.
    version = next((v for v in history if v.version == used["version"] and v.began <= answered), None)
    if version is None:
        return Text("erased", style="yellow"), Text("erased")
    item = version.item
    says = " → ".join(filter(None, (item.text, item.answer)))
    text = plain(f"{item.source}: {says}" if item.source else says)
    if version.ended is None:
        return text, Text("still stands")
    last = history[-1]
    if last.ended is None:
        return text, Text(f"version {last.version} since {iso(last.began)}")
    return text, Text(f"ended {iso(last.ended)}")


def _trace(steps: Iterable[Mapping[str, Any]]) -> Table:
    table = Table("ms", "step", "what")
    for step in steps:
        facts = {k: v for k, v in step.items() if k not in ("step", "at_ms", "verdicts", "dropped")}
        facts = {k: facts[k] for k in _FIRST if k in facts} | facts
        lines = [", ".join(f"{k} {v if isinstance(v, str) else _json(v)}" for k, v in facts.items())]
        lines += [f"  {name}: {_verdict(v)}" for name, v in (step.get("verdicts") or {}).items()]
        lines += [
            f"  left out {d['id']} (version {d.get('version')}): {d['reason']}"
            for d in step.get("dropped", ())
        ]
        table.add_row(str(step["at_ms"]), plain(step["step"]), plain("\n".join(filter(None, lines))))
    return table


def _verdict(verdict: Any) -> str:
    if not isinstance(verdict, dict):
        return _json(verdict)
    passed = "passed" if verdict.get("passed") else "FAILED"
    rest = {k: v for k, v in verdict.items() if k != "passed"}
    return f"{passed} {', '.join(f'{k} {v if isinstance(v, str) else _json(v)}' for k, v in rest.items())}"


def _answer(answer: Mapping[str, Any]) -> Text:
    lines = [Text(f"choice {answer['index']}, {answer['finish_reason'] or 'unfinished'}: ", style="dim")]
    lines.append(_said(answer))
    for call in answer.get("tool_calls", ()):
        lines += [plain(f"\n  calls {call['name']} with "), _said(call["arguments"])]
    return Text.assemble(*lines)


def _cost(record: Mapping[str, Any]) -> Table:
    table = Table("stage", "calls", "prompt tokens", "completion tokens")
    for stage, cost in record["stages"].items():
        table.add_row(plain(stage), *(str(cost[k]) for k in ("calls", "prompt_tokens", "completion_tokens")))
    usage, timing = record["usage"] or {}, record["timing_ms"]
    table.add_row("all", "", *(str(usage.get(k, "?")) for k in ("prompt_tokens", "completion_tokens")))
    table.caption = f"{timing['total']} ms, the first byte after {timing['first_byte']} ms"
    return table


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
