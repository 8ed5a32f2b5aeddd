"""The soak's requests: each kind made by dice, with what its answer may be."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

STORES = [f"soak{i}" for i in range(4)]
QUESTIONS = ["Hi!", "My friend never pays me back. What should I do?", "Is it fair?", "word " * 300]
SCRIPTED = [
    "direct",
    "principles",
    {"principles": {"mode": "cot"}},
    "urial",
    "urial+principles",
    "norms",
    "demos",
    {"refine": {"verifiers": ["toxicity"]}},
    {"refine": {"verifiers": ["toxicity", {"policy": {"deny": ["bread"]}}], "mode": "sentence"}},
    {"refine": {"verifiers": ["self"]}},
    {"best_of_n": {"n": 3, "verifiers": ["toxicity"]}},
    {"blockwise": {"n": 3, "max_tokens": 24}},
    {"tpo": {"n": 2, "max_rounds": 1, "max_feedback_tokens": 24, "verifiers": ["toxicity"]}},
    {"align3": {"behavior": ["Be brief."], "max_reasoning_tokens": 24}},
    {"rain": {"max_tokens": 24, "max_seconds": 5, "no_opinion": "continue", "similarity": False}},
    {"rain": {"max_tokens": 24, "soft": True, "effort": "low", "similarity": False}},
]
UPSTREAMS_OWN = b'"message":"no"'
ENDS = {
    "/v1/chat/completions": b"[DONE]",
    "/v1/completions": b"[DONE]",
    "/v1/messages": b"message_stop",
    "/v1/responses": b"response.",
}


@dataclass(frozen=True)
class Asked:
    """A request, and how its answer is judged."""

    kind: str
    method: str
    path: str
    body: bytes | None = None
    fine: tuple[int, ...] = (200,)
    """Statuses that this kind may be answered with."""
    ends: bytes = b""
    """What a stream says last; an error event may stand in its place."""
    torn_allowed: bool = False

    def wrong(self, status: int, body: bytes) -> str:
        """What is wrong with an answer; empty where nothing is."""
        if status == 500 and self.kind.startswith("faulty") and UPSTREAMS_OWN in body:
            return ""  # the upstream's word, passed on
        if status not in self.fine:
            return f"status {status}"
        if status >= 400:
            try:
                return "" if json.loads(body)["error"]["message"] else "an error without a message"
            except (ValueError, KeyError, TypeError):
                return "an error of another shape"
        if self.kind.startswith("faulty") and body.startswith(b"{"):
            return ""  # an upstream that answers a stream with an object: passed on as it is
        if self.ends and self.ends not in body and b'"error"' not in body:
            return "a stream without an end"
        if b"internal error" in body[-3000:]:
            return "an internal error in a stream"
        return ""


def chat(path: str, model: str, alignments: list[Any], fine: tuple[int, ...], most: int, name: str) -> Asked:
    question, stream = random.choice(QUESTIONS), random.random() < 0.6
    alignment = random.choice(alignments)
    body: dict[str, Any] = {"model": model, "stream": stream, "alignment": {"pipeline": [alignment]}}
    if random.random() < 0.2:
        body["alignment"]["trace"] = True
    if alignment == "direct" and path == "/v1/completions" and model == "scripted":
        alignment = "urial"  # it has no raw completions
    if isinstance(alignment, str):
        body["alignment"]["pipeline"] = alignment
    if path == "/v1/completions":
        body |= {"prompt": question, "max_tokens": most}
    elif path == "/v1/responses":
        body |= {"input": question, "max_output_tokens": max(most, 16)}
    else:
        body |= {"messages": [{"role": "user", "content": question}], "max_tokens": most}
    if stream and path.endswith("completions") and random.random() < 0.3:
        body["stream_options"] = {"include_usage": True}
    ends = ENDS[path] if stream else b""
    kind = f"{name} {path[4:]} {'streamed' if stream else 'whole'}"
    return Asked(kind, "POST", path, json.dumps(body).encode(), fine, ends, torn_allowed=name == "faulty")


def plain(model: str) -> Asked:
    """Without an alignment: the pass-through of an upstream."""
    stream = random.random() < 0.6
    body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "Hi"}]}
    ends = b"[DONE]" if stream else b""
    raw = json.dumps(body).encode()
    return Asked("faulty plain", "POST", "/v1/chat/completions", raw, FAULTS, ends, torn_allowed=True)


def score(model: str) -> Asked:
    body = {
        "model": model,
        "alignment": random.choice(["direct", "norms", "principles"]),
        "messages": [{"role": "user", "content": random.choice(QUESTIONS[:3])}],
        "answers": ["Yes.", "No, never.", "Perhaps."],
    }
    return Asked("score", "POST", "/v1/alignment/score", json.dumps(body).encode())


def embeddings(model: str) -> Asked:
    body = {"model": model, "input": [random.choice(QUESTIONS[:3]), f"number {random.random()}"]}
    return Asked("embeddings", "POST", "/v1/embeddings", json.dumps(body).encode())


def bad(model: str) -> Asked:
    """What a careless client sends."""
    whole = {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
    broken: list[Any] = [
        {**whole, "stop": 5, "alignment": "rain"},
        {**whole, "messages": 3},
        {**whole, "alignment": "nobody"},
        {**whole, "alignment": {"pipeline": [{"refine": {"rounds": -1}}]}},
        {**whole, "model": "nobody"},
        {**whole, "messages": [{"role": "user", "content": "x" * 200_000}], "alignment": "principles"},
        [1, 2],
    ]
    body = json.dumps(random.choice(broken)).encode()[: random.choice([None, None, 20])]
    return Asked("bad", "POST", "/v1/chat/completions", body, (200, 400, 404, 422))


def store() -> Asked:
    """One thing done to a store that others write, search and delete at the same time."""
    base = f"/v1/alignment/stores/{random.choice(STORES)}"
    items = [{"id": f"i{random.randint(0, 2000)}", "text": f"Norm {random.random()}"} for _ in range(60)]
    tags = random.choice([None, ["a"], [f"t{random.randint(0, 50)}"]])
    for item in items:
        item |= {"tags": tags} if tags else {}  # type: ignore[dict-item]
    query: dict[str, Any] = {"query": random.choice(QUESTIONS), "k": 5}
    query |= {"tags": tags} if tags else {}
    lines = "\n".join(json.dumps(item) for item in {i["id"]: i for i in items}.values())
    made: list[tuple[str, str, str, bytes | None, float]] = [
        ("make", "PUT", "", None, 3),
        (
            "add",
            "POST",
            "/items",
            json.dumps({"items": list({i["id"]: i for i in items}.values())}).encode(),
            2,
        ),
        ("import", "POST", "/import", lines.encode(), 1),
        ("search", "POST", "/search", json.dumps(query).encode(), 8),
        ("list", "GET", "/items", None, 2),
        ("export", "GET", "/export", None, 1),
        ("history", "GET", f"/history/i{random.randint(0, 2000)}", None, 1),
        ("end", "DELETE", f"/items/i{random.randint(0, 2000)}", None, 1),
        ("drop", "DELETE", "", None, 0.3),
        ("all", "GET", "", None, 1),
    ]
    kind, method, rest, body, _ = random.choices(made, [m[-1] for m in made])[0]
    # 404: another client has just deleted it, or nobody made it yet. An export is then broken off, not ended.
    return Asked(f"store {kind}", method, base + rest, body, (200, 201, 404), torn_allowed=kind == "export")


FAULTS = (200, 400, 401, 403, 404, 408, 413, 422, 429, 502, 503, 504, 529)
"""What a failing upstream may turn into: everything but an error of ours."""
CHATS = ("/v1/chat/completions", "/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/completions")
RequestKind = Callable[[], Asked]


def scripted() -> list[RequestKind]:
    """All kinds, as often as they stand here."""
    kinds: list[RequestKind] = [
        partial(chat, p, "scripted", SCRIPTED, (200,), 40, "scripted") for p in 2 * CHATS
    ]
    kinds += [partial(chat, p, "faulty", UPSTREAM, FAULTS, 40, "faulty") for p in CHATS]
    kinds += [partial(plain, "faulty"), partial(plain, "faulty"), store, store, store]
    return [*kinds, partial(score, "scripted"), partial(bad, "scripted")]


UPSTREAM = [
    "direct",
    "principles",
    {"principles": {"mode": "cot"}},
    "norms",
    "demos",
    {"refine": {"verifiers": ["toxicity"]}},
    {"refine": {"verifiers": ["toxicity"], "mode": "sentence"}},
    {"best_of_n": {"n": 3, "verifiers": ["toxicity"]}},
]


def real(model: str) -> list[RequestKind]:
    """A bundled model's: short answers, since two cores write some 200 tokens a second. Time-outs are no fault."""
    fine = (200, 504)
    strategies: list[Any] = [*SCRIPTED[:-2]]
    strategies += [{"rain": {"max_tokens": 8, "max_seconds": 10, "no_opinion": "continue"}}]
    kinds: list[RequestKind] = [partial(chat, p, model, strategies, fine, 16, "real") for p in 2 * CHATS]
    kinds += [store, partial(score, model), partial(embeddings, "all-MiniLM-L6-v2"), partial(bad, model)]
    return kinds
