"""What a client may ask of a trace beside its notes: the prompt, so many nodes, and each note while it streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractContextManager, aclosing
from typing import Any

import httpx
import pytest
from anthropic import Anthropic
from openai import OpenAI
from rain.conftest import by_chance, model
from waiting import HANG

from heedful.retrieval.store.stores import Stores
from heedful.server.access.settings import FloorSettings
from heedful.server.config import Config
from heedful.server.live import with_notes
from heedful.strategies import Capability, ChatRequest, Context, EngineUnavailable, Plan, Resources, Run
from heedful.strategies.added import prompt_parts
from heedful.strategies.scripted import ALL, ScriptedEngine

Serving = Callable[..., AbstractContextManager[str]]
RAIN = {"rain": {"seed": 3, "similarity": False, "min_visits": 2, "max_iterations": 9, "children": 3}}
ASK = [{"role": "user", "content": "May I share a photo of my neighbour?"}]
MARK = ": heedful "


def searching(**more: Any) -> ScriptedEngine:
    """Judges that half of what it writes is good."""
    return ScriptedEngine("I drafted this.", extend=model(5, by_chance(5, 0.6)), model="tree", **more)


@pytest.fixture(scope="module")
def url(serving: Serving, stores: Stores) -> Iterator[str]:
    plain = ScriptedEngine(lambda call: ["Ask ", "first."], model="plain")
    base = ScriptedEngine(
        lambda call: "Ask.", model="base", capabilities=ALL & ~Capability.CHAT & ~Capability.PREFILL
    )
    with serving(searching(), plain, base, stores=stores) as address:
        yield address


def post(url: str, alignment: Any, path: str = "/v1/chat/completions", **fields: Any) -> httpx.Response:
    body = {"model": "tree", "messages": ASK, "max_tokens": 24, "alignment": alignment} | fields
    return httpx.post(url + path, json=body, timeout=HANG)


def streamed(text: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A stream's notes, and its events."""
    lines = [line for line in text.split("\n") if line]
    notes = [json.loads(line.removeprefix(MARK)) for line in lines if line.startswith(MARK)]
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return notes, [json.loads(each) for each in data if each != "[DONE]"]


def below(nodes: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for node in nodes:
        yield node
        yield from below(node.get("children", []))


def answer_of(events: list[dict[str, Any]]) -> str:
    return "".join(e["choices"][0]["delta"].get("content", "") for e in events if e["choices"])


# -- while it streams


def test_a_search_is_told_as_it_goes_on(url: str) -> None:
    """Each inner search, each commit; what is heard makes the tree that the trace shows at the end."""
    wish = {"live": True, "nodes": 10_000}
    notes, events = streamed(post(url, {"pipeline": [RAIN], "trace": wish}, stream=True).text)
    (final,) = (note for note in events[-1]["alignment"]["trace"] if "commits" in note)
    searches = [note["search"] for note in notes if "search" in note]
    assert [s["number"] for s in searches] == list(range(1, final["searches"] + 1))
    assert sum(s["rewind"] for s in searches) == final["rewinds"] > 0
    heard = [note["commit"] for note in notes if "commit" in note]
    assert heard == final["commits"] and final["nodes_left_out"] == 0
    nodes = {node["search"]: node for commit in heard for node in below(commit["children"])}
    new = {s["node"]: s for s in searches if s["number"] == s["node"]}
    assert all(new[number]["text"] == node["text"] for number, node in nodes.items())
    for commit in heard:
        for node in below(commit["children"]):
            assert all(new[child["search"]]["parent"] == node["search"] for child in node.get("children", []))
    assert sum(node.get("rewinds", 0) for node in nodes.values()) <= final["rewinds"]
    (last,) = (note for note in notes if "outcome" in note)
    assert "commits" not in last and last["searches"] == final["searches"]
    assert answer_of(events) == "".join(commit["text"] for commit in heard)


def test_nobody_hears_who_has_not_asked(url: str) -> None:
    for trace in (True, {"live": False}, {"prompt": True}, False):
        assert MARK not in post(url, {"pipeline": [RAIN], "trace": trace}, stream=True).text
    whole = post(url, {"pipeline": [RAIN], "trace": {"live": True}}).json()
    assert whole["alignment"]["trace"] and whole["choices"][0]["message"]["content"]


def test_every_step_is_told_before_the_first_word(url: str) -> None:
    steps = ["norms", {"refine": {"verifiers": [{"policy": {"words": ["nothing"]}}]}}]
    text = post(url, {"pipeline": steps, "trace": {"live": True}}, stream=True, model="plain").text
    notes, events = streamed(text)
    assert [note["step"] for note in notes] == ["norms", "refine"] and notes[1]["text"] == "Ask first."
    assert notes == events[-1]["alignment"]["trace"] and text.rindex(MARK) < text.index("data: ")


def test_official_clients_pass_the_notes_over(url: str) -> None:
    extra = {"alignment": {"pipeline": [RAIN], "trace": {"live": True}}}
    client = OpenAI(base_url=f"{url}/v1", api_key="none", timeout=HANG, max_retries=0)
    message: Any = ASK[0]
    chunks = list(
        client.chat.completions.create(
            model="tree", messages=[message], max_tokens=24, stream=True, extra_body=extra
        )
    )
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    anthropic = Anthropic(base_url=url, api_key="none", timeout=HANG, max_retries=0)
    with anthropic.messages.stream(
        model="tree", messages=[message], max_tokens=24, extra_body=extra
    ) as stream:
        assert "".join(stream.text_stream) == said != ""
    response = client.responses.create(
        model="tree", input=ASK[0]["content"], max_output_tokens=24, stream=True, extra_body=extra
    )
    assert "".join(event.delta for event in response if event.type == "response.output_text.delta") == said


def test_what_fails_before_the_first_thing_is_told_is_a_plain_error(serving: Serving) -> None:
    with serving(ScriptedEngine(lambda _: EngineUnavailable("it is down"), model="down")) as url:
        answer = post(url, {"name": "principles", "trace": {"live": True}}, stream=True, model="down")
    assert answer.status_code == 503 and "it is down" in answer.json()["error"]["message"]


async def test_closing_the_stream_stops_the_work(resources: Resources) -> None:
    engine = ScriptedEngine(lambda _: ["Ask ", "first."])
    plan, run = Plan.of("test", [], resources), Run(engine, resources)

    async def pieces() -> AsyncGenerator[bytes, None]:
        async with aclosing(plan.stream(ChatRequest("m", tuple(ASK), {}, True), run)) as events:
            async for _ in events:
                run.trace.note("direct", heard=True)
                yield b"piece"
                await asyncio.Event().wait()

    told = with_notes(pieces(), run.trace, plan)
    assert (await anext(told)).startswith(MARK.encode()) and await anext(told) == b"piece"
    async with asyncio.timeout(HANG):
        await told.aclose()
    assert engine.aborted == 1 and not run.trace.listeners


# -- how much of a tree


def test_a_client_says_how_many_nodes(url: str) -> None:
    options = {**RAIN["rain"], "trace_nodes": 5}
    told = {}
    for nodes in (None, 0, 10_000):
        wish = True if nodes is None else {"nodes": nodes}
        trace = post(url, {"pipeline": [{"rain": options}], "trace": wish}).json()["alignment"]["trace"]
        (note,) = (note for note in trace if "commits" in note)
        told[nodes] = sum(1 for commit in note["commits"] for _ in below(commit["children"]))
        assert (note["nodes_left_out"] == 0) == (nodes == 10_000)
    assert told[None] == 5 and told[0] == 0 and told[10_000] > 5


def test_a_search_that_a_budget_ended_shows_what_was_open(url: str) -> None:
    options = {**RAIN["rain"], "max_iterations": 90, "min_visits": 80, "max_drafted_tokens": 400}
    body = post(url, {"pipeline": [{"rain": options}], "trace": {"nodes": 10_000}}, max_tokens=60).json()
    (note,) = (note for note in body["alignment"]["trace"] if "commits" in note)
    taken = "".join(node["text"] for node in below(note["open"]["children"]) if node.get("taken"))
    assert note["open"]["searches"] > 0 and taken
    committed = "".join(commit["text"] for commit in note["commits"])
    assert committed + taken == body["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("trace", "param"),
    [
        ({"colour": 1}, "alignment.trace.colour"),
        ({"live": 1}, "alignment.trace.live"),
        ({"prompt": "yes"}, "alignment.trace.prompt"),
        ({"nodes": 10_001}, "alignment.trace.nodes"),
        ({"nodes": -1}, "alignment.trace.nodes"),
        ({"nodes": True}, "alignment.trace.nodes"),
    ],
)
def test_what_can_not_be_asked(url: str, trace: dict[str, Any], param: str) -> None:
    error = post(url, {"name": "direct", "trace": trace}).json()["error"]
    assert error["param"] == param


# -- the prompt


def said(parts: list[dict[str, Any]]) -> str:
    return "".join(part.get("text", "") for part in parts)


def own(parts: list[dict[str, Any]]) -> str:
    return "".join(part.get("text", "") for part in parts if not part.get("added"))


def test_the_prompt_with_what_was_added_marked(url: str) -> None:
    """All that the model was sent, and of it exactly the client's own words unmarked."""
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "How <norms>a photo</norms>?"},
    ]
    steps = ["principles", "demos", "norms"]
    body = post(url, {"pipeline": steps, "trace": {"prompt": True}}, messages=messages, model="plain").json()
    told = body["alignment"]["prompt"]["messages"]
    assert "prompt" not in post(url, {"pipeline": steps, "trace": True}, model="plain").json()["alignment"]
    assert told[0]["role"] == "system" and said(told[0]["parts"]).endswith("Be brief.")
    kept = [own(m["parts"]) for m in told if not m.get("added")]
    assert kept == ["Be brief.", "Hello", "Hi.", "How ‹norms>a photo‹/norms>?"]
    added = [m for m in told if m.get("added")]
    assert added and all(not own(m["parts"]) for m in added)
    assert "<norms>" in said(told[-1]["parts"])


def test_a_raw_prompt_too(url: str) -> None:
    body = post(url, {"name": "urial", "trace": {"prompt": True}}, model="base").json()
    parts = body["alignment"]["prompt"]["parts"]
    assert own(parts) == ASK[0]["content"] and said(parts).startswith("#")


def test_parts_that_are_no_text() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    question = {"role": "user", "content": [{"type": "text", "text": "What?"}, image]}
    given = {"role": "user", "content": [{"type": "text", "text": "Rules."}, *question["content"]]}
    context = Context(ChatRequest("m", (question,)), (given,), {})
    (told,) = prompt_parts(context)["messages"]
    assert told["parts"] == [{"text": "Rules.", "added": True}, {"text": "What?"}, {"type": "image_url"}]
    assert "added" not in told


# -- what a floor hides


@pytest.mark.parametrize("shows", ["own", "full"])
def test_under_a_floor_each_sees_its_own(serving: Serving, stores: Stores, shows: Any) -> None:
    """Neither the operator's words nor those of hidden calls come by way of the prompt, the tree or the notes."""
    floor = FloorSettings(enforce=("principles",), trace=shows)
    wish = {"prompt": True, "live": True, "nodes": 10_000}
    with serving(searching(), config=Config(floor=floor), stores=stores) as url:
        answer = post(url, {"pipeline": [RAIN], "trace": wish}, stream=True)
        refined = post(url, {"pipeline": ["refine"], "trace": wish}).json()
    notes, events = streamed(answer.text)
    searches = [note["search"] for note in notes if "search" in note]
    assert searches and all(("text" in search) == (shows == "full") for search in searches)
    assert ("Principles" in answer.text) == (shows == "full")
    assert any(note.get("floor") for note in notes) == (shows == "full")
    assert (events[-1]["alignment"]["prompt"] is None) == (shows == "own")
    assert all("text" in note for note in refined["alignment"]["trace"] if "round" in note) == (
        shows == "full"
    )


def test_where_no_trace_is_shown_none_is_heard(serving: Serving) -> None:
    with serving(ScriptedEngine(), config=Config(floor=FloorSettings(trace="off"))) as url:
        answer = post(url, {"name": "direct", "trace": {"live": True}}, stream=True, model="scripted")
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "trace_not_allowed")
