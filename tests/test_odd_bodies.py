"""Bodies that are odd, and taken all the same, or refused by the name of the field.

Found by sending two hundred thousand to this server and to the one before its bodies were types.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest

from heedful.retrieval.store.stores import Stores
from heedful.server.engines.prompt_tokens import tokenize_body
from heedful.strategies import RequestError
from heedful.strategies.scripted import ScriptedEngine

Serving = Callable[..., AbstractContextManager[str]]
HI: Any = [{"role": "user", "content": "Hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": HI, "alignment": "principles"},
    "completions": {"prompt": "Hi", "alignment": "principles"},
    "responses": {"input": "Hi"},
    "messages": {"messages": HI, "max_tokens": 5},
    "messages/count_tokens": {"messages": HI},
}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("model", [{}, {"model": None}, {"model": "scripted@direct"}])
def test_the_only_model_may_be_left_out(serving: Serving, path: str, model: dict[str, Any]) -> None:
    with serving(ScriptedEngine()) as url:
        told = httpx.post(f"{url}/v1/{path}", json=BODIES[path] | model)
        assert told.status_code == 200, told.text


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("messages", {"thinking": {"type": "enabled", "budget_tokens": 2048.0}}),
        ("messages", {"thinking": {"type": "adaptive"}}),
        ("messages/count_tokens", {"max_tokens": "16"}),
        ("chat/completions", {"stream_options": {"include_usage": 1}, "stream": True}),
        ("chat/completions", {"alignment": {"pipeline": "principles"}}),
        ("chat/completions", {"alignment": {"name": ["principles"]}}),
    ],
)
def test_taken_as_it_is(serving: Serving, path: str, more: dict[str, Any]) -> None:
    with serving(ScriptedEngine()) as url:
        told = httpx.post(f"{url}/v1/{path}", json=BODIES[path] | more)
        assert told.status_code == 200, told.text


@pytest.mark.parametrize("odd", ["abc", [1], 3])
def test_a_templates_fields_are_an_object(odd: Any) -> None:
    with pytest.raises(RequestError) as refused:
        tokenize_body(HI, {"chat_template_kwargs": odd})
    assert refused.value.param == "chat_template_kwargs"


def test_a_verifiers_options_are_an_object(serving: Serving) -> None:
    with serving(ScriptedEngine()) as url:
        told = httpx.post(f"{url}/v1/moderations", json={"input": "Hi", "verifiers": [{"toxicity": 3}]})
        assert told.status_code == 400 and told.json()["error"]["param"] == "verifiers.toxicity"


@pytest.mark.parametrize("key", ["", "a`b", "x` - at `$k", "y" * 100_000])
def test_an_unknown_field_is_named_and_no_more(serving: Serving, stores: Stores, key: str) -> None:
    with serving(ScriptedEngine(), stores=stores) as url:
        told = httpx.post(f"{url}/v1/alignment/stores/norms/search", json={"query": "a", key: 1})
        error = told.json()["error"]
        assert told.status_code == 400 and (error["param"] or "") == key[:200]
        assert len(error["message"]) < 500
