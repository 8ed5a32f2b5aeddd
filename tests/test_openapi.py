"""The document that clients and people read, and the types that it is made from."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import msgspec
import pytest

from heedful.server.api.bodies import fates, typed
from heedful.server.api.messages.request import MessagesBody
from heedful.server.app import OPERATIONS, openapi_document
from heedful.strategies import RequestError
from heedful.strategies.scripted import ScriptedEngine

Serving = Callable[..., AbstractContextManager[str]]


def test_people_see_it_in_a_browser_and_nothing_comes_from_elsewhere(serving: Serving) -> None:
    with serving(ScriptedEngine()) as url:
        page = httpx.get(f"{url}/docs")
        assert page.status_code == 200 and "swagger" in page.text.lower()
        sources = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(sources) == 3 and "url: 'openapi.json'" in page.text
        for source in sources:
            assert not re.match(r"\w+:|/", source), source
            assert httpx.get(f"{url}/{source}").status_code == 200
        assert "evil" not in httpx.get(f"{url}/docs", headers={"host": "evil.example"}).text
        assert httpx.get(f"{url}/openapi.json").json() == openapi_document()


def test_every_operation_is_in_it_with_its_body(serving: Serving) -> None:
    document: Any = openapi_document()
    for operation in OPERATIONS:
        path = re.sub(r"\{(\w+):\w+\}", r"{\1}", operation.path)
        described = document["paths"][path][operation.method.lower()]
        assert described["summary"] == operation.about
        assert ("requestBody" in described) == (operation.body is not None)
    chat = document["components"]["schemas"]["ChatBody"]
    assert chat["required"] == ["model", "messages"] and chat["properties"]["top_p"]["maximum"] == 1
    # What is refused is not offered; what is ignored says so.
    properties = document["components"]["schemas"]["ResponsesBody"]["properties"]
    assert not properties.keys() & fates(MessagesBody).refused.keys()
    assert (
        "previous_response_id" not in properties and "nothing is stored" in properties["store"]["description"]
    )


class Inner(msgspec.Struct):
    kind: str


class Body(msgspec.Struct):
    text: str
    parts: list[Inner] | None = None
    count: int | None = None


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({}, "text", "text: is required"),
        ({"text": None}, "text", "text: must be a string, and is null"),
        (
            {"text": "a", "parts": [{"kind": "x"}, 3]},
            "parts.1",
            "parts.1: must be an object, and is a whole number",
        ),
        ({"text": "a", "parts": [{}]}, "parts.0.kind", "parts.0.kind: is required"),
        ({"text": "a", "count": "3"}, "count", "count: must be a whole number, and is a string"),
    ],
)
def test_what_is_wrong_is_told_by_the_fields_name(fields: Any, param: str, words: str) -> None:
    with pytest.raises(RequestError) as refused:
        typed(fields, Body)
    assert (refused.value.param, refused.value.message) == (param, words)
