"""/v1/moderations: the verifiers' verdicts in OpenAI's shape; an upstream's where it has one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from openai import BadRequestError, InternalServerError, NotFoundError, OpenAI
from upstream_fixtures import Proxy, Reply, ScriptedUpstream, before

from heedful.server.config import Config
from heedful.strategies.scripted import ScriptedEngine

Client = Callable[[str], OpenAI]
RUDE = "You are a stupid idiot and I hate you."
KIND = "Bread is baked from flour and water."


@pytest.fixture
def own(scripted_server: str, client: Client) -> OpenAI:
    """A server without upstreams."""
    return client(scripted_server)


def test_a_text_and_several(own: OpenAI) -> None:
    one = own.moderations.create(input=RUDE)
    assert one.model == "toxicity" and len(one.results) == 1 and one.results[0].flagged
    assert one.results[0].categories.harassment and one.results[0].category_scores.harassment > 0.5
    several = own.moderations.create(input=[KIND, RUDE, KIND])
    assert [r.flagged for r in several.results] == [False, True, False]
    parts: list[Any] = [{"type": "text", "text": KIND}, {"type": "text", "text": RUDE}]
    assert [r.flagged for r in own.moderations.create(input=parts).results] == [True]


def test_verifiers_of_choice(own: OpenAI) -> None:
    policy = {"verifiers": [{"policy": {"words": ["flour"]}}]}
    result = own.moderations.create(input=[KIND, "Rain."], extra_body=policy).results
    assert [r.flagged for r in result] == [True, False]
    assert result[0].to_dict()["categories"]["policy"] is True  # type: ignore[index]
    both = {"verifiers": ["toxicity", {"policy": {"words": ["flour"]}}]}
    answer = own.moderations.create(input=KIND, extra_body=both)
    assert answer.model == "toxicity+policy" and answer.results[0].flagged


def test_a_model_as_the_judge(serving: Any, client: Client) -> None:
    said = ["unsafe\nS1", "safe"]
    with serving(ScriptedEngine(lambda call: said.pop(0))) as url:
        guard = {"verifiers": ["guard"]}
        results = [client(url).moderations.create(input=KIND, extra_body=guard).results[0] for _ in range(2)]
    assert [r.flagged for r in results] == [True, False]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": 5}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "image_url", "image_url": {"url": "x"}}]}, "input.0"),
        ({"input": "x", "model": 5}, "model"),
        ({"input": "x", "verifiers": "toxicity"}, "verifiers"),
        ({"input": "x", "verifiers": ["nobody"]}, "verifiers"),
        ({"input": "x", "model": "toxicity", "verifiers": ["toxicity"]}, "verifiers"),
        ({"input": "x", "verifiers": ["norms"]}, "verifiers"),
        ({"input": "x", "alignment": "principles"}, "alignment"),
    ],
)
def test_what_is_wrong_is_named(own: OpenAI, body: dict[str, Any], param: str) -> None:
    with pytest.raises((BadRequestError, NotFoundError)) as told:
        own.post("/moderations", body=body, cast_to=object)
    assert str(told.value.body["param"]).startswith(param), told.value  # type: ignore[index]


def test_an_unknown_model(own: OpenAI) -> None:
    with pytest.raises(NotFoundError, match="toxicity"):
        own.moderations.create(input="x", model="omni-moderation-latest")


def test_an_upstream_that_has_one_answers(proxied: str, upstream: ScriptedUpstream, client: Client) -> None:
    result = {"flagged": True, "categories": {"hate": True}, "category_scores": {"hate": 0.9}}
    upstream.answers(Reply.json({"id": "modr-1", "model": "theirs", "results": [result]}))
    asked = client(proxied).moderations.with_raw_response
    answer = asked.create(input=KIND)
    assert answer.parse().id == "modr-1" and answer.headers["x-heedful-alignment"] == "none"
    assert upstream.last.path == "/v1/moderations"
    assert client(proxied).moderations.create(input=KIND, model="ours").id == "modr-1"
    assert upstream.last.body == {"input": KIND, "model": "theirs"}
    assert client(proxied).moderations.create(input=RUDE, model="toxicity").model == "toxicity"


def test_one_that_has_none_is_asked_once(upstream: ScriptedUpstream, proxy: Proxy, client: Client) -> None:
    upstream.answers(Reply.json({"error": {"message": "Not Found"}}, status=404))
    with proxy(Config(upstreams=[before(upstream)])) as url:
        for _ in range(3):
            assert client(url).moderations.create(input=RUDE).results[0].flagged
    assert len(upstream.asked) == 1


def test_its_faults_are_its_own(upstream: ScriptedUpstream, proxy: Proxy, client: Client) -> None:
    upstream.answers(Reply.json({"error": {"message": "broken"}}, status=500))
    with proxy(Config(upstreams=[before(upstream)])) as url, pytest.raises(InternalServerError):
        client(url).moderations.create(input=RUDE)
