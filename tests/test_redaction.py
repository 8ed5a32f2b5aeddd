"""Values redacted and put back: whatever the text, and however the answer is cut into pieces."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful.strategies import (
    ChatRequest,
    Chunk,
    Context,
    Event,
    Finish,
    Plan,
    RequestError,
    Resources,
    Run,
    Usage,
    collect,
)
from heedful.strategies.context.redact import Redactor
from heedful.strategies.restore import Restorer
from heedful.strategies.scripted import ScriptedEngine

MAIL, CARD, IBAN, PHONE = (
    "ann@example.org",
    "4111 1111 1111 1111",
    "DE89 3704 0044 0532 0130 00",
    "+49 30 1234567",
)
ALL = Redactor.of(
    ["email", "card", "iban", "phone", {"ticket": r"T-\d+", "quoted": r'"\w+\n'}], param="redact"
)
PIECES = st.sampled_from(
    [
        MAIL,
        CARD,
        IBAN,
        PHONE,
        "T-17",
        '"a\n',
        "[",
        "]",
        "[EMAIL_",
        "[EMAIL_1]",
        "[EMAIL_2]",
        "1]",
        " ",
        "x",
        "[[",
        "Ü🜁",
    ]
)


def _context(*texts: Any) -> Context:
    messages = tuple({"role": "user", "content": text} for text in texts)
    return Context.of(ChatRequest("m", messages))


def _cut(text: str, cuts: Sequence[int]) -> list[str]:
    places = [0, *sorted({c % (len(text) + 1) for c in cuts}), len(text)]
    return [text[a:b] for a, b in zip(places, places[1:], strict=False)]


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=12).map("".join), st.lists(st.integers(0, 1000), max_size=8))
def test_what_is_put_back_is_the_original(text: str, cuts: list[int]) -> None:
    clean, found = ALL.redact(_context(text))
    redacted = clean.messages[0]["content"]
    restorer = Restorer(found)
    assert "".join([*(restorer.feed(p) for p in _cut(redacted, cuts)), restorer.rest()]) == text


def test_each_value_is_found_and_the_same_one_has_the_same_placeholder() -> None:
    clean, found = ALL.redact(
        _context(f"{MAIL}, {CARD} 12/27, {IBAN} and {PHONE}", f"{MAIL} bob@example.org")
    )
    assert [m["content"] for m in clean.messages] == [
        "[EMAIL_1], [CARD_1] 12/27, [IBAN_1] and [PHONE_1]",
        "[EMAIL_1] [EMAIL_2]",
    ]
    assert found["[CARD_1]"] == CARD and clean.original.messages == clean.messages
    for harmless in (
        "4111 1111 1111 1112",
        "DE88 3704 0044 0532 0130 00",
        "12345678",
        "on 2024-05-06",
        "a@b",
    ):
        assert ALL.redact(_context(harmless))[1].keys() - {"[PHONE_1]"} == set(), harmless


def test_a_clients_own_placeholders_are_not_mixed_up_with_ours() -> None:
    clean, found = ALL.redact(_context(f"[EMAIL_1] is not {MAIL}"))
    assert clean.messages[0]["content"] == "[EMAIL_1] is not [EMAIL_2]" and found == {"[EMAIL_2]": MAIL}


def test_all_of_a_message_is_looked_through_and_json_stays_json() -> None:
    arguments = json.dumps({"to": f"x\n{MAIL}", "n": 4111111111111111, "fine": [1, None]})
    calls = [{"id": "T-1", "type": "function", "function": {"name": "mail", "arguments": arguments}}]
    parts = [{"type": "text", "text": MAIL}, {"type": "image_url", "image_url": {"url": f"http://{MAIL}/"}}]
    messages = (
        {"role": "system", "content": MAIL},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "T-1", "content": "T-2"},
    )
    clean, found = ALL.redact(Context.of(ChatRequest("m", messages)))
    system, user, assistant, tool = clean.messages
    assert system["content"] == user["content"][0]["text"] == "[EMAIL_1]" and user["content"][1] is parts[1]
    told = json.loads(assistant["tool_calls"][0]["function"]["arguments"])
    assert told == {"to": "x\n[EMAIL_1]", "n": "[CARD_1]", "fine": [1, None]}
    assert (
        assistant["tool_calls"][0]["id"] == tool["tool_call_id"] == "T-1" and tool["content"] == "[TICKET_1]"
    )


def test_a_value_may_go_on_in_the_next_part() -> None:
    def parts(*texts: str) -> list[Any]:
        return [{"type": "text", "text": text} for text in texts]

    picture = {"type": "image_url", "image_url": {"url": "http://x/"}}
    half, other = MAIL[:5], MAIL[5:]  # ann@e
    content = [*parts(f"Ask {half}", f"{other} now"), picture, *parts("or", MAIL), picture, *parts(half)]
    clean, found = ALL.redact(Context.of(ChatRequest("m", ({"role": "user", "content": content},))))
    assert found == {"[EMAIL_1]": MAIL}
    left = [*parts("Ask [EMAIL_1] now"), picture, *parts("or", "[EMAIL_1]"), picture, *parts(half)]
    assert clean.messages[0]["content"] == left


def test_what_can_not_be_is_refused() -> None:
    for bad in ("mail", {"x": "(?=a)"}, {"1": "a"}, {"a b": "a"}):
        with pytest.raises(RequestError, match="gate: redact"):
            Redactor.of([bad], param="p")


class Saying(ScriptedEngine):
    """Streams the given chunks."""

    def __init__(self, chunks: Sequence[Sequence[dict[str, Any]]]) -> None:
        super().__init__()
        self.chunks = chunks

    async def chat(self, call: Any) -> AsyncGenerator[Event, None]:
        self.calls.append(call)
        for choices in self.chunks:
            yield Chunk(choices)
        yield Finish(Usage(1, 1))


def _pieces(text: str, size: int) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]


async def _said(resources: Resources, chunks: Sequence[Sequence[dict[str, Any]]], **params: Any) -> Any:
    plan = Plan.of("g", [("gate", {"redact": ["email", {"quote": '".*"'}]})], resources)
    request = ChatRequest("m", ({"role": "user", "content": f'{MAIL} "a\\b"'},), params, True)
    engine = Saying(chunks)
    answer = await collect(plan.stream(request, Run(engine, resources)))
    assert engine.calls[0].messages[0]["content"] == "[EMAIL_1] [QUOTE_1]"
    return answer


@pytest.mark.parametrize("size", range(1, 12))
async def test_every_text_of_every_choice_is_restored(size: int, resources: Resources) -> None:
    chunks: list[list[dict[str, Any]]] = []
    for piece in _pieces("thinks of [EMAIL_1] [", size):
        chunks.append([{"index": 1, "delta": {"reasoning_content": piece}}])
    for piece in _pieces("[[EMAIL_1] and [EMAIL_1 or [QUOTE_1][", size):
        chunks.append([{"index": i, "delta": {"content": piece}} for i in (0, 1)])
    for piece in _pieces('{"a": ["[QUOTE_1]", "[EMAIL_1]"]}', size):
        call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": piece}}
        chunks.append([{"index": 1, "delta": {"tool_calls": [call]}}])
    chunks.append([{"index": i, "delta": {}, "finish_reason": "stop"} for i in (0, 1)])
    first, second = (await _said(resources, chunks, n=2)).choices
    assert first.text == second.text == f'[{MAIL} and [EMAIL_1 or "a\\b"['
    assert second.message["reasoning_content"] == f"thinks of {MAIL} ["
    (call,) = second.message["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"a": ['"a\\b"', MAIL]}


async def test_json_stays_json(resources: Resources) -> None:
    chunks = [[{"index": 0, "delta": {"content": '{"a": "[QUOTE_1]"}'}}]]
    answer = await _said(resources, chunks, response_format={"type": "json_object"})
    assert json.loads(answer.text) == {"a": '"a\\b"'}


async def test_restoring_can_be_left_out_and_gates_compose(resources: Resources) -> None:
    steps: list[tuple[str, dict[str, Any]]] = [
        ("gate", {"redact": ["email"]}),
        ("gate", {"redact": [{"n": r"\d+"}], "restore": False}),
    ]
    engine = ScriptedEngine(lambda call: call.messages[0]["content"])
    run = Run(engine, resources)
    request = ChatRequest("m", ({"role": "user", "content": f"{MAIL} 42"},))
    answer = await collect(Plan.of("g", steps, resources).stream(request, run))
    assert answer.text == f"{MAIL} [N_1]" and engine.calls[0].messages[0]["content"] == "[EMAIL_1] [N_1]"
    assert [step["redacted"] for step in run.trace.steps] == [{"email": 1}, {"n": 1}]
    assert MAIL not in json.dumps(run.trace.steps)


@pytest.mark.parametrize(("role", "name"), [("user", "[EMAIL_1]"), ("tool", MAIL)])
def test_the_name_of_who_speaks(role: str, name: str) -> None:
    context = Context.of(ChatRequest("m", ({"role": role, "name": MAIL, "content": "Hi"},)))
    assert ALL.redact(context)[0].messages[0]["name"] == name
