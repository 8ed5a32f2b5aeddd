"""What a request may choose, by the operator's `allow`: names, options, caps, paths; and what it is shown of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest
from upstream_fixtures import DONE, Reply, ScriptedUpstream, before, chunk

from heedful.retrieval.store.stores import Stores
from heedful.server.config import Config
from heedful.strategies.scripted import ScriptedEngine

Proxy = Callable[..., AbstractContextManager[str]]
CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "Hi"}]
ALLOW: dict[str, Any] = {
    "alignments": ["house", "best_of_n", "refine", "norms", "rain", "principles", "gate"],
    "models": ["ours", "same"],
    "verifiers": ["toxicity", "polite"],
    "stores": ["norms"],
    "paths": ["images"],
    "fields": ["chat_template_kwargs"],
    "n": 2,
    "max_tokens": 100,
    "max_seconds": 5,
    "max_rounds": 1,
    "parallel_leaves": 2,
    "steps": 2,
}
SETTINGS: dict[str, Any] = {
    "alignments": {"house": ["principles", {"best_of_n": {"n": 8, "verifiers": ["secret"]}}]},
    "verifiers": {
        "polite": {"policy": {"words": ["rude"]}},
        "secret": {"policy": {"words": ["x"]}},
    },
}


@pytest.fixture(scope="module", params=["server", "tenant"])
def url(request: Any, _upstream: ScriptedUpstream, proxy: Proxy, stores: Stores) -> Iterator[str]:
    floor = {"allow": ALLOW}
    held = {"floor": floor} if request.param == "server" else {"tenants": {"default": {"floor": floor}}}
    models = {"ours": "theirs", "others": "theirs2", "same": "same"}
    upstream = before(_upstream, models=models, other_paths=True)
    config = Config(upstreams=[upstream], fallbacks={"ours": ["others"]}, **SETTINGS, **held)
    with proxy(config, ScriptedEngine(model="here"), stores=stores) as url:
        yield url


@pytest.fixture
def post(url: str, _upstream: ScriptedUpstream) -> Callable[..., httpx.Response]:
    _upstream.reset()

    def send(path: str = "/v1/chat/completions", headers: Any = None, **body: Any) -> httpx.Response:
        return httpx.post(f"{url}{path}", json={"model": "ours", **body}, headers=headers)

    return send


Post = Callable[..., httpx.Response]


@pytest.mark.parametrize(
    "spec",
    [
        "house",  # its own `n` and verifier are the operator's affair
        ["norms"],
        {"pipeline": [{"norms": {"max_tokens": 800}}]},  # what is looked up, not what is written
        [{"refine": {"verifiers": ["toxicity", {"toxicity": {}}, "polite"]}}],
        "principles",
        None,
    ],
)
def test_what_may_be_chosen(post: Post, spec: Any) -> None:
    assert post(messages=HI, alignment=spec).status_code == 200


@pytest.mark.parametrize(
    "spec, status",
    [
        ("direct", 404),
        ("urial", 404),
        ("house+urial", 404),
        ("nothing", 404),
        (["direct"], 404),
        ([{"urial": {}}], 404),
        ([{"nothing": {}}], 404),
        ("principles+principles+principles", 400),
        ([{"norms": {"store": "demos"}}], 404),
        ([{"refine": {"verifiers": ["self"]}}], 404),
        ([{"refine": {"verifiers": ["secret"]}}], 404),
        ([{"refine": {"verifiers": [{"guard": {"model": "others"}}]}}], 404),
        ([{"refine": {"max_rounds": 2}}], 400),
        ([{"principles": {"mode": "cot", "max_reasoning_tokens": 101}}], 400),  # written, if for itself
        ([{"best_of_n": {"n": 3}}], 400),
        ([{"best_of_n": {"n": 2.5}}], 400),
        ([{"rain": {"max_tokens": 101}}], 400),
        ([{"rain": {"value": ["self"]}}], 404),
        ([{"rain": {"value": [{"guard": {"model": "others"}}]}}], 404),
        ([{"rain": {"max_seconds": 6}}], 400),
        ([{"rain": {"parallel_leaves": 3}}], 400),
        ([{"gate": {"on": {"passed": "direct"}}}], 404),
        ([{"gate": {"on": {"passed": "house+urial"}}}], 404),
        ([{"gate": {"on": {"flagged": "best_of_n"}}}], 400),  # which takes more samples by itself
        ([{"gate": {"verifiers": ["self"]}}], 404),
    ],
)
def test_what_may_not(post: Post, _upstream: ScriptedUpstream, spec: Any, status: int) -> None:
    answer = post(messages=HI, alignment=spec)
    assert answer.status_code == status, answer.text
    assert "secret" not in answer.text.partition("known:")[2] and not _upstream.asked
    if isinstance(spec, str):
        for way in ({"headers": {"x-alignment": spec}}, {"model": f"ours@{spec}"}):
            assert post(messages=HI, **way).status_code == status


def test_options_that_are_left_open_are_within_the_caps(post: Post, _upstream: ScriptedUpstream) -> None:
    assert post(messages=HI, alignment=[{"best_of_n": {"verifiers": ["toxicity"]}}]).status_code == 200
    assert _upstream.asked[0].body["n"] == 2


@pytest.mark.parametrize("model", ["others", "here", "theirs", "others@house", "OURS", "ours/", "ours\u200b"])
@pytest.mark.parametrize(
    "path, body",
    [
        ("/v1/chat/completions", {"messages": HI}),
        ("/v1/completions", {"prompt": "Hi"}),
        ("/v1/responses", {"input": "Hi"}),
        ("/v1/messages", {"messages": HI, "max_tokens": 5}),
        ("/v1/messages/count_tokens", {"messages": HI}),
        ("/v1/embeddings", {"input": "Hi"}),
        ("/v1/alignment/score", {"messages": HI, "answers": ["a"]}),
        ("/v1/moderations", {"input": "Hi"}),
        ("/v1/images/generations", {"prompt": "Hi"}),
    ],
)
def test_other_models(post: Post, _upstream: ScriptedUpstream, path: str, body: Any, model: str) -> None:
    answer = post(path, **{**body, "model": model})
    assert answer.status_code == 404 and not _upstream.asked
    assert "others" not in answer.json()["error"]["message"].partition("known:")[2]


def test_a_fallback_is_a_choice_of_a_model(post: Post, _upstream: ScriptedUpstream) -> None:
    _upstream.answers(Reply.json({"error": {"message": "down"}}, status=503))
    assert post(messages=HI).status_code == 503
    assert {asked.body["model"] for asked in _upstream.asked} == {"theirs"}


@pytest.mark.parametrize(
    "path, body, fields",
    [
        ("/v1/chat/completions", {"messages": HI}, ["max_tokens", "max_completion_tokens"]),
        ("/v1/completions", {"prompt": "Hi"}, ["max_tokens"]),
        ("/v1/responses", {"input": "Hi"}, ["max_output_tokens"]),
        ("/v1/messages", {"messages": HI}, ["max_tokens"]),
    ],
)
def test_caps_of_an_answer(
    post: Post, _upstream: ScriptedUpstream, path: str, body: Any, fields: list[str]
) -> None:
    for field in fields:
        for value in (101, 10**9, "50", 50.5, 1e9, True, [1]):
            answer = post(path, **{**body, field: value})
            assert answer.status_code == 400 and field in answer.text, value
    for value in (3, 128, "2", 2.0, True):
        assert post(path, **{"max_tokens": 10} | body | {"n": value}).status_code == 400
    assert not _upstream.asked
    if path != "/v1/messages":
        assert post(path, **body).status_code == 200
        sent = _upstream.last.body
        most = 16 if path == "/v1/completions" else 100
        assert sent.get("max_tokens", sent.get("max_completion_tokens")) == most


def test_a_cap_holds_for_names_that_stand_twice(url: str, _upstream: ScriptedUpstream) -> None:
    """What goes on is what was read, and not the client's own bytes."""
    for path, body in (
        (CHAT, b'"messages": [{"role": "user", "content": "Hi"}]'),
        ("/v1/completions", b'"prompt": "Hi"'),
    ):
        _upstream.reset()
        twice = b'{"model": "same", "n": 9, "n": 1, "max_tokens": 9999, "max_tokens": 9, %s}' % body
        httpx.post(f"{url}{path}", content=twice, headers={"content-type": "application/json"})
        assert _upstream.last.raw.count(b'"n"') == 1 and b"9999" not in _upstream.last.raw


def test_many_prompts_are_many_choices(post: Post) -> None:
    assert post("/v1/completions", prompt=["a", "b"]).status_code == 200
    for more in ({"prompt": ["a", "b", "c"]}, {"prompt": ["a", "b"], "n": 2}, {"prompt": "a", "best_of": 3}):
        assert post("/v1/completions", **more).status_code == 400
    assert post("/v1/completions", prompt=[1, 2, 3, 4]).status_code == 200  # one prompt, as tokens


def test_fields_that_the_operator_lists(post: Post, _upstream: ScriptedUpstream) -> None:
    assert post(messages=HI, chat_template_kwargs={"enable_thinking": False}).status_code == 200
    assert _upstream.last.body["chat_template_kwargs"] == {"enable_thinking": False}
    answer = post(messages=HI, truncate_prompt_tokens=5)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "truncate_prompt_tokens"
    assert "allow.fields" in answer.text


def test_other_paths(url: str, post: Post, _upstream: ScriptedUpstream) -> None:
    _upstream.answers(Reply.json({"data": []}))
    assert post("/v1/images/generations", prompt="Hi").status_code == 200
    for path in ("/v1/audio/speech", "/v1/imagesx/y", "/v1/rerank"):
        assert post(path).status_code == 404
    asked = len(_upstream.asked)
    form = {"prompt": "Hi"}
    without: list[Any] = [
        {"json": form},
        {"data": form},
        {"content": b"raw", "headers": {"content-type": "text/plain"}},
        {"content": b"[]", "headers": {"content-type": "application/json"}},
        {"content": b""},
        {"files": {"a": b"x"}},
    ]
    for body in without:  # the upstream would take a model of its own
        assert httpx.post(f"{url}/v1/images/edits", **body).status_code == 400, body
    others: list[Any] = [{"data": {"model": "others"}}, {"data": {"model": "others"}, "files": {"a": b"x"}}]
    for body in others:
        assert httpx.post(f"{url}/v1/images/edits", **body).status_code == 404
    assert len(_upstream.asked) == asked
    twice = b'{"model": "others", "model": "ours", "prompt": "Hi"}'
    httpx.post(f"{url}/v1/images/edits", content=twice, headers={"content-type": "application/json"})
    assert _upstream.last.raw.count(b'"model"') == 1 and _upstream.last.body["model"] == "theirs"


def test_verifiers_of_moderations(post: Post) -> None:
    assert post("/v1/moderations", model="polite", input="So rude.").json()["results"][0]["flagged"]
    for more in ({"model": "secret"}, {"model": "polite+self"}, {"model": None, "verifiers": ["self"]}):
        assert post("/v1/moderations", input="x", **more).status_code == 404


def test_lists_show_what_may_be_chosen(url: str) -> None:
    models = {entry["id"] for entry in httpx.get(f"{url}/v1/models").json()["data"]}
    may = [f"@{name}" for name in ALLOW["alignments"] if name not in ("rain", "gate")]
    assert models - {f"{m}@gate" for m in ALLOW["models"]} == {
        m + at for m in ALLOW["models"] for at in ("", *may)
    }
    assert httpx.get(f"{url}/v1/models/others").status_code == 404
    told = httpx.get(f"{url}/v1/alignment").json()
    assert set(told["strategies"]) == {*ALLOW["alignments"]} - {"house"}
    assert set(told["alignments"]) <= {*ALLOW["alignments"]} and set(told["verifiers"]) == {"toxicity"}


def test_a_stream_that_is_only_capped_passes_as_it_is(url: str, _upstream: ScriptedUpstream) -> None:
    _upstream.reset()
    _upstream.answers(Reply.sse(chunk("Hello.", odd="kept"), DONE))
    answer = httpx.post(f"{url}/v1/chat/completions", json={"model": "ours", "messages": HI, "stream": True})
    assert json.loads(answer.text.split("\n")[0][6:])["choices"][0]["delta"]["odd"] == "kept"
