"""Under words that are enforced and no panel: what an upstream says of a failure does not quote them, at any API."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest
from floor_ways import CHAT, DOORS, SECRET, Door
from upstream_fixtures import DONE, LIMIT, Asked, Reply, ScriptedUpstream, before, chunk, completion, streamed

from heedful.server.access.settings import FloorSettings
from heedful.server.config import Config

Proxy = Callable[..., AbstractContextManager[str]]
WEB = httpx.Client(timeout=LIMIT)
SHAPES: dict[str, Callable[[str], bytes]] = {
    "nested": lambda said: b"data: " + json.dumps({"error": {"message": said, "code": "bad"}}).encode(),
    "a text": lambda said: b"data: " + json.dumps({"error": said}).encode(),
    "flat": lambda said: b"data: " + json.dumps({"object": "error", "message": said}).encode(),
    "an event's name": lambda said: b"event: error\ndata: " + json.dumps({"message": said}).encode(),
    "a comment": lambda said: b": " + said.replace("\n", " ").encode(),
    "escaped": lambda said: b'data: {"\\u0065rror": {"message": ' + json.dumps(said).encode() + b"}}",
    "no JSON": lambda said: b"data: " + said.replace("\n", " ").encode(),
}
"""How upstreams tell in a stream that something went wrong."""


@pytest.fixture(scope="module")
def url(_upstream: ScriptedUpstream, proxy: Proxy) -> Iterator[str]:
    floor = FloorSettings(enforce=("principles",), trace="own")
    with proxy(Config(upstreams=[before(_upstream)], floor=floor)) as url:
        yield url


def ask(url: str, door: Door, **more: Any) -> httpx.Response:
    return WEB.post(f"{url}{door.path}", json={"model": "ours", **door.body, **more}, headers=door.headers)


def enforced(asked: Asked) -> str:
    told = str(asked.body["messages"][0]["content"])
    assert told.startswith(SECRET)
    return told


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("door", DOORS.values(), ids=list(DOORS))
def test_in_a_stream(url: str, upstream: ScriptedUpstream, door: Door, shape: str) -> None:
    said: list[str] = []

    def breaks(asked: Asked) -> Reply:
        said.append(enforced(asked))
        return Reply.sse(chunk("All is well. "), SHAPES[shape](f"can't go on with: {said[-1]}") + b"\n\n")

    upstream.answers(breaks)
    answer = ask(url, door, stream=True)
    assert answer.status_code == 200 and "All is well." in answer.text
    assert SECRET not in answer.text and "Be helpful" not in answer.text
    # One error, in our shape, and nothing that calls the answer whole.
    told = [line[6:] for line in answer.text.split("\n") if line.startswith("data: ")]
    events = [json.loads(data) for data in told if data != "[DONE]"]
    failed = [e for e in events if e.get("error") or e.get("type") == "error"]
    assert len(failed) == 1 and "[DONE]" not in told and "message_stop" not in answer.text
    if door is CHAT:
        assert set(failed[0]) == {"error"} and events[-1] is failed[0]
        assert failed[0]["error"]["message"] and set(failed[0]["error"]) == {
            "message",
            "type",
            "param",
            "code",
        }
        assert shape != "nested" or failed[0]["error"]["code"] == "bad"


@pytest.mark.parametrize("size", [0, 2 << 20])
def test_in_place_of_an_answer(url: str, upstream: ScriptedUpstream, size: int) -> None:
    """A large one, too, which nobody looks into where nothing is enforced."""

    def fails(asked: Asked) -> Reply:
        return Reply.json({"pad": "x" * size, "error": {"message": f"can't take {enforced(asked)}"}})

    upstream.answers(fails)
    answer = ask(url, CHAT)
    assert answer.status_code == 502 and set(answer.json()) == {"error"}
    assert SECRET not in answer.text and "Be helpful" not in answer.text


def test_what_goes_well_goes_on(url: str, upstream: ScriptedUpstream) -> None:
    upstream.answers(Reply.sse(*streamed("One ", "two.")))
    told = ask(url, CHAT, stream=True).text
    pieces = [json.loads(line[6:]) for line in told.split("\n") if line.startswith("data: {")]
    assert [c["delta"].get("content") for p in pieces for c in p["choices"]] == [None, "One ", "two.", None]
    assert told.endswith(DONE.decode()) and pieces[-1]["choices"][0]["finish_reason"] == "stop"
    upstream.answers(Reply.json(completion("One.", system_fingerprint="fp")))
    whole = ask(url, CHAT).json()
    assert whole["choices"][0]["message"]["content"] == "One." and whole["system_fingerprint"] == "fp"
    assert whole["usage"]["total_tokens"] == 12


def test_where_nothing_is_enforced_the_bytes_are_the_upstreams(
    upstream: ScriptedUpstream, proxy: Proxy
) -> None:
    """A floor that only looks at the request, or bounds it, leaves the answer as it is."""
    gate: Any = {"verifiers": [{"policy": {"words": ["napalm"]}}]}
    floor = FloorSettings.model_validate({"gate": [gate], "allow": {"n": 2}})
    with proxy(Config(upstreams=[before(upstream)], floor=floor)) as url:
        upstream.answers(Reply.sse(*streamed("One ", "two.")))
        assert ask(url, CHAT, stream=True).content == b"".join(streamed("One ", "two."))
