"""Calls that only judge, under a floor: they carry no enforced words, and no word of theirs leaves.

What is enforced binds what a client reads. A judge's prompt is its method's or the operator's own (a guard model has
the template that it was trained with, a claim is held against a text), and norms in it would change the verdict.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest

from heedful.retrieval import Item
from heedful.server.access.client import Client, Role, Tenant
from heedful.server.access.settings import FloorSettings
from heedful.server.config import Config
from heedful.strategies import Call, Capability, Resources
from heedful.strategies.scripted import ScriptedEngine
from heedful.strategies.types import text_of

Serving = Callable[..., AbstractContextManager[str]]
RULES = "=== Principles"
ASKED = "Is the moon made of the finest cheese?"
CLAIM = "The moon is made of the finest cheese."
SAID = "quagmire"
KEY = "a-key-of-somebody-else"
BY_WORDS = Capability.CHAT | Capability.COMPLETION


def _told(call: Call) -> str:
    return "\n".join(map(text_of, call.messages))


@pytest.fixture
async def ready(resources: Resources) -> Resources:
    stores = resources.stores
    assert stores is not None
    store, _ = await stores.make("moon")
    await stores.add(store, [Item(CLAIM, id="moon")])
    return resources


WAYS: dict[str, tuple[list[Any], str]] = {
    # The steps of the request's own, and what the judge says.
    "guard": ([{"refine": {"verifiers": [{"guard": {"format": "qwen3guard"}}], "max_rounds": 0}}], SAID),
    "evidence": (
        [{"refine": {"verifiers": [{"evidence": {"store": "moon"}}], "max_rounds": 0}}],
        "Supported",
    ),
    "a gate's guard": ([{"gate": {"verifiers": [{"guard": {"format": "qwen3guard"}}]}}], SAID),
    "a gate's self": ([{"gate": {"verifiers": ["self"]}}], "No"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_judge_is_told_nothing_that_is_enforced(serving: Serving, ready: Resources, way: str) -> None:
    steps, verdict = WAYS[way]
    said = f"Safety: Safe\nCategories: {SAID}" if verdict == SAID else verdict
    judged: list[Call] = []

    def reply(call: Call) -> str:
        if RULES in _told(call):
            return CLAIM
        judged.append(call)
        return said

    engine = ScriptedEngine(reply, capabilities=BY_WORDS)
    config = Config(floor=FloorSettings(enforce=("principles",)))
    stores = ready.stores
    assert stores is not None
    clients = {KEY: Client(Tenant("default"), Role.USER, "k1")}
    with serving(engine, config=config, stores=stores, clients=clients) as url:
        body = {
            "model": "scripted",
            "messages": [{"role": "user", "content": ASKED}],
            "alignment": {"pipeline": steps, "trace": True},
        }
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers={"x-api-key": KEY})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["choices"][0]["message"]["content"] == CLAIM
    # The judge was asked, and what answers the client has heard the floor.
    assert len(judged) == 1 and len(engine.calls) == 2
    assert all("Principles" not in _told(call) for call in judged)
    # The verdict is told, and not the judge's words.
    assert any("verifiers" in step or "passed" in step for step in told["alignment"]["trace"])
    assert SAID not in answer.text and RULES not in answer.text


def test_who_goes_on_in_the_conversation_has_heard_it_all(serving: Serving) -> None:
    """`self` and `norms` ask as the conversation's next turn, and a correction is one."""

    def reply(call: Call) -> str:
        last = text_of(call.messages[-1])
        return CLAIM if last == ASKED else "Yes" if "Yes" in last else f"{SAID} it is."

    engine = ScriptedEngine(reply, capabilities=BY_WORDS)
    config = Config(floor=FloorSettings(enforce=("principles",), trace="own"))
    with serving(engine, config=config) as url:
        body = {
            "model": "scripted",
            "messages": [{"role": "user", "content": ASKED}],
            "alignment": {"pipeline": [{"refine": {"verifiers": ["self"], "max_rounds": 1}}], "trace": True},
        }
        answer = httpx.post(f"{url}/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert len(engine.calls) > 3
    assert all(text_of(call.messages[0]).startswith(RULES) for call in engine.calls)


def test_a_judge_without_a_verdict_is_not_quoted(serving: Serving) -> None:
    engine = ScriptedEngine(lambda call: CLAIM if RULES in _told(call) else SAID, capabilities=BY_WORDS)
    floor: Any = {"enforce": ["principles"], "verify": {"verifiers": ["guard"]}, "trace": "own"}
    with serving(engine, config=Config(floor=FloorSettings.model_validate(floor))) as url:
        body = {"model": "scripted", "messages": [{"role": "user", "content": ASKED}]}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body)
    assert answer.status_code == 502 and json.loads(answer.text)["error"]["code"] == "no_verdict"
    assert SAID not in answer.text and CLAIM not in answer.text
