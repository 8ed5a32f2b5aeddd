"""What Anthropic's clients ask for beside messages: token counts, the list of models, errors they understand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import anthropic
import httpx
import pytest
from upstream_fixtures import Asked, Proxy, Reply, ScriptedUpstream, before

from heedful.server.config import Config
from heedful.strategies.scripted import ScriptedEngine

Serving = Callable[..., AbstractContextManager[str]]
HI: Any = [{"role": "user", "content": "Hi"}]
TOOLS: Any = [{"name": "look", "input_schema": {"type": "object"}}]


def api(url: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key="sk-ant-0123456789", max_retries=0)


@pytest.fixture(scope="module")
def scripted_url(serving: Serving) -> Iterator[str]:
    with serving(ScriptedEngine("ok")) as url:
        yield url


def test_what_the_model_will_see_is_counted(scripted_url: str) -> None:
    """The scripted engine's tokens are bytes, and its answers' usage counts the same."""
    client = api(scripted_url)

    def count(model: str = "scripted", **more: Any) -> int:
        return client.messages.count_tokens(model=model, messages=HI, **more).input_tokens

    plain = count()
    assert plain == len("<user>Hi\n<assistant>")
    assert count(system="Be brief.") == plain + len("<system>Be brief.\n")
    assert count(tools=TOOLS) > plain
    aligned = count("scripted@principles")
    assert aligned > plain + 100
    assert count("scripted@principles", extra_body={"alignment": "direct"}) == plain
    assert count("scripted@best_of_n") == plain
    beta = client.beta.messages.count_tokens(model="scripted", messages=HI, context_management={"edits": []})
    assert beta.input_tokens == plain and beta.context_management
    answer = client.messages.create(model="scripted@principles", max_tokens=5, messages=HI)
    assert aligned - answer.usage.input_tokens == len("<system>\n<user>\n<assistant>")


def test_a_vllm_upstream_counts_with_its_tokenizer(upstream: ScriptedUpstream, proxy: Proxy) -> None:
    config = Config(upstreams=[before(upstream, capabilities=["chat", "tokens"])])
    upstream.answers(Reply.json({"tokens": [1, 2, 3], "count": 3}))
    with proxy(config) as url:
        counted = api(url).messages.count_tokens(
            model="ours@principles",
            messages=HI,
            tools=TOOLS,
            thinking={"type": "enabled", "budget_tokens": 1024},
        )
    assert counted.input_tokens == 3 and upstream.last.path == "/tokenize"
    sent = upstream.last.body
    assert [m["role"] for m in sent["messages"]] == ["system", "user"]
    assert sent["tools"][0]["function"]["name"] == "look" and sent["add_generation_prompt"] is True
    assert sent["chat_template_kwargs"] == {"reasoning_effort": "low", "enable_thinking": True}


def test_an_upstream_that_counts_itself_is_asked(proxied: str, upstream: ScriptedUpstream) -> None:
    upstream.answers(Reply.json({"input_tokens": 9}))
    turns: Any = [
        {"role": "user", "content": "See"},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "c", "name": "look", "input": {"a": 1}}],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "blue"}]},
    ]
    asked: Any = {"messages": turns, "tools": TOOLS, "system": "Be brief."}
    assert api(proxied).messages.count_tokens(model="ours", **asked).input_tokens == 9
    assert upstream.last.path == "/v1/messages/count_tokens"
    assert upstream.last.body == {"model": "theirs", **asked}
    assert upstream.last.headers["authorization"] == "Bearer sk-ant-0123456789"
    api(proxied).messages.count_tokens(model="ours@principles", **asked)
    sent = upstream.last.body
    assert sent["system"].endswith("Be brief.") and len(sent["system"]) > 100
    assert sent["tools"] == TOOLS and "alignment" not in sent
    text = {"type": "text", "text": "See"}
    result = {"type": "tool_result", "tool_use_id": "c", "content": "blue"}
    assert [t["content"] for t in sent["messages"]] == [[text], turns[1]["content"], [result]]


def test_where_nobody_can_count_it_says_so(proxied: str, upstream: ScriptedUpstream) -> None:
    upstream.answers(Reply.json({"error": {"message": "no such path"}}, status=404))
    with pytest.raises(anthropic.BadRequestError, match="can't be counted: its upstream has neither"):
        api(proxied).messages.count_tokens(model="ours", messages=HI)
    upstream.answers(Reply.json({"error": {"message": "slow"}}, status=429))
    with pytest.raises(anthropic.RateLimitError, match="slow"):
        api(proxied).messages.count_tokens(model="ours", messages=HI)
    with pytest.raises(anthropic.BadRequestError, match=r"messages: "):
        api(proxied).messages.count_tokens(model="ours", messages=[])
    upstream.answers(Reply.json({"tokens": 3}))
    with pytest.raises(anthropic.InternalServerError, match="no input_tokens"):
        api(proxied).messages.count_tokens(model="ours", messages=HI)


def test_the_list_of_models(scripted_url: str) -> None:
    client = api(scripted_url)
    everything = list(client.models.list())
    names = [m.id for m in everything]
    assert names[:2] == ["scripted", "scripted@direct"] or "scripted" in names
    first = everything[0]
    assert (first.type, first.display_name, first.lifecycle) == ("model", "scripted", "active")
    assert first.created_at.year == 1970 and first.max_input_tokens == 8192
    page = client.models.list(limit=2)
    assert (page.first_id, page.last_id, page.has_more) == (names[0], names[1], True)
    assert [m.id for m in client.models.list(limit=2)] == names  # the client turns the pages
    before = client.models.list(before_id=names[3], limit=2)
    assert [m.id for m in before.data] == names[1:3] and before.has_more
    assert client.models.retrieve("scripted@principles").id == "scripted@principles"
    with pytest.raises(anthropic.NotFoundError, match="unknown model"):
        client.models.retrieve("nobody")
    for bad in ({"limit": 0}, {"limit": 1001}, {"after_id": "nobody"}):
        with pytest.raises(anthropic.BadRequestError, match=next(iter(bad))):
            client.models.list(**bad)
    theirs = httpx.get(f"{scripted_url}/v1/models").json()
    assert theirs["object"] == "list" and theirs["data"][0]["object"] == "model"


ANTHROPIC = {"anthropic-version": "2023-06-01"}


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "kind"),
    [
        ("GET", "/v1/messages", {}, 405, "invalid_request_error"),
        ("GET", "/v1/messages/count_tokens", {}, 405, "invalid_request_error"),
        ("POST", "/v1/messages/batches", {}, 404, "not_found_error"),
        ("GET", "/v1/messages/batches/b1/results", {}, 404, "not_found_error"),
        ("POST", "/v1/files", ANTHROPIC, 404, "not_found_error"),
        ("GET", "/v1/models/nobody", ANTHROPIC, 404, "not_found_error"),
        ("DELETE", "/v1/models", ANTHROPIC, 405, "invalid_request_error"),
        ("POST", "/v1/nothing", {}, 404, None),
        ("GET", "/v1/messagesx", {}, 404, None),
    ],
)
def test_errors_have_the_shape_of_the_one_who_asks(
    scripted_url: str, method: str, path: str, headers: dict[str, str], status: int, kind: str | None
) -> None:
    response = httpx.request(method, f"{scripted_url}{path}", headers=headers)
    assert response.status_code == status
    body = response.json()
    if kind is None:
        assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    else:
        assert body["type"] == "error" and body["error"]["type"] == kind
    assert ("allow" in response.headers) == (status == 405)


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/v1/chat/completions", "POST"),
        ("/v1/messages", "POST"),
        ("/v1/models", "GET, HEAD"),
        ("/v1/alignment/stores/norms", "DELETE, GET, HEAD, PUT"),
        ("/v1/alignment/stores/norms/items", "GET, HEAD, POST"),
    ],
)
def test_a_405_says_what_is_allowed(scripted_url: str, path: str, allow: str) -> None:
    response = httpx.patch(f"{scripted_url}{path}")
    assert (response.status_code, response.headers["allow"]) == (405, allow)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens", "/v1/messages/batches"])
def test_a_wrong_key_below_messages(
    upstream: ScriptedUpstream, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setenv("HERE", "sk-ant-other")
    with proxy(Config(upstreams=[before(upstream)], api_key_env="HERE")) as url:
        refused = httpx.post(f"{url}{path}", headers={"x-api-key": "wrong"}, json={})
        assert (refused.status_code, refused.json()["error"]["type"]) == (401, "authentication_error")
        assert refused.json()["type"] == "error"
        other = httpx.post(f"{url}/v1/chat/completions", json={})
        assert other.status_code == 401 and "type" not in other.json()


@pytest.mark.parametrize(
    ("type", "name", "field"),
    [
        ("bash_20250124", "bash", "restart"),
        ("text_editor_20250124", "str_replace_editor", "view_range"),
        ("text_editor_20250728", "str_replace_based_edit_tool", "insert_line"),
        ("memory_20250818", "memory", "new_path"),
    ],
)
def test_tools_that_the_client_runs_are_told_to_the_model(
    proxied: str, upstream: ScriptedUpstream, type: str, name: str, field: str
) -> None:
    tool: Any = {"type": type, "name": name}
    api(proxied).beta.messages.create(model="ours", max_tokens=9, messages=HI, tools=[tool])
    (sent,) = upstream.last.body["tools"]
    assert sent["function"]["name"] == name and sent["function"]["description"]
    assert {"command", field} <= set(sent["function"]["parameters"]["properties"])
    commands = json.dumps(sent["function"]["parameters"])
    assert ("undo_edit" in commands) == (type == "text_editor_20250124")


@pytest.mark.parametrize(
    ("type", "words"),
    [
        ("computer_20250124", "describe the tool as one of your own"),
        ("browser_toolset_20260801", "describe the tool as one of your own"),
        ("web_search_20250305", "is not one that a client runs"),
        ("code_execution_20250825", "is not one that a client runs"),
        ("mcp_toolset", "is not one that a client runs"),
        (3, "is not one that a client runs"),
    ],
)
def test_other_tools_are_refused_in_the_right_words(proxied: str, type: Any, words: str) -> None:
    body = {"model": "ours", "max_tokens": 9, "messages": HI, "tools": [{"type": type, "name": "t"}]}
    refused = httpx.post(f"{proxied}/v1/messages", json=body)
    assert refused.status_code == 400
    told = refused.json()["error"]["message"]
    assert told.startswith("tools.0: ") and words in told and "Anthropic" not in told


def test_documents_and_search_results(proxied: str, upstream: ScriptedUpstream) -> None:
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}
    blocks: Any = [
        {
            "type": "document",
            "title": "Law",
            "source": {"type": "text", "media_type": "text/plain", "data": "1."},
        },
        {"type": "document", "title": "a.pdf", "source": pdf},
        {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "two"}]}},
        {
            "type": "search_result",
            "title": "T",
            "source": "https://x.test",
            "content": [{"type": "text", "text": "c"}],
        },
    ]
    result = {"type": "tool_result", "tool_use_id": "c", "content": [{"type": "document", "source": pdf}]}
    turns: Any = [{"role": "user", "content": [result, *blocks]}]
    api(proxied).messages.create(model="ours", max_tokens=9, messages=turns)
    tool, user = upstream.last.body["messages"]
    assert tool == {"role": "tool", "tool_call_id": "c", "content": ""}
    data = "data:application/pdf;base64,JVBE"
    assert user["content"] == [
        {"type": "file", "file": {"filename": "document.pdf", "file_data": data}},
        {"type": "text", "text": "Law\n1."},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": data}},
        {"type": "text", "text": "two"},
        {"type": "text", "text": "T\nhttps://x.test\nc"},
    ]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (
            "messages",
            {"max_tokens": 5, "messages": [{"role": "user", "content": None}]},
            "messages.0.content",
        ),
        ("responses", {"input": [{"role": "user", "content": None}]}, "input.0.content"),
        ("chat/completions", {"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        ("chat/completions", {"messages": [{"role": "user"}]}, "messages.0.content"),
    ],
)
def test_content_that_is_null_is_told_as_such(scripted_url: str, path: str, body: Any, param: str) -> None:
    refused = httpx.post(f"{scripted_url}/v1/{path}", json={"model": "scripted", **body})
    told = refused.json()["error"]["message"]
    assert refused.status_code == 400 and told.startswith(f"{param}: ") and "null" in told


@pytest.mark.parametrize(
    ("text", "half"),
    [
        (r"\ud83d", r"\ud83d"),
        (r"a \ude00 b", r"\ude00"),
        (r"\ud83d\ud83d\ude00", r"\ud83d"),
        (r"\ud83d\u0041", r"\ud83d"),
        (r"\\\ud83d", r"\ud83d"),
    ],
)
def test_half_a_surrogate_pair_is_told_as_such(scripted_url: str, text: str, half: str) -> None:
    for path in ("messages", "chat/completions", "responses"):
        content = rb'{"model": "scripted", "messages": [{"role": "user", "content": "%s"}]}' % text.encode()
        refused = httpx.post(f"{scripted_url}/v1/{path}", content=content)
        assert refused.status_code == 400
        told = refused.json()["error"]["message"]
        assert f"{half} is half of a surrogate pair" in told and "truncated" not in told
    whole = rb'{"model": "scripted", "messages": [{"role": "user", "content": "\ud83d\ude00 \\ud83d"}]}'
    assert httpx.post(f"{scripted_url}/v1/chat/completions", content=whole).status_code == 200


def test_a_call_that_goes_on_after_its_end_is_an_error(proxied: str, upstream: ScriptedUpstream) -> None:
    """Nothing is written into a block that has closed, whatever comes."""

    def event(index: int, arguments: str, **name: str) -> bytes:
        call = {"index": index, "id": f"c{index}", "function": {**name, "arguments": arguments}}
        choice = {"index": 0, "delta": {"tool_calls": [call]}}
        return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"

    def script(asked: Asked) -> Reply:
        return Reply.sse(event(0, "{}", name="a"), event(1, "{}", name="b"), event(0, "junk"))

    upstream.answers(script)
    with pytest.raises(anthropic.APIStatusError, match="went on after their end"):
        for _ in api(proxied).messages.create(model="ours", max_tokens=9, messages=HI, stream=True):
            pass


def test_the_engine_counts_what_it_then_reads(chat_server: str) -> None:
    """Exactly, under an alignment and with tools; and a prompt that is too long is counted, not refused."""
    client = api(chat_server)
    cases: list[dict[str, Any]] = [
        {},
        {"system": "Be brief.", "tools": TOOLS},
        {"extra_body": {"alignment": "principles"}, "tools": TOOLS},
        {"extra_body": {"alignment": "urial"}},
    ]
    model = "smollm2-135m-instruct"
    for case in cases:
        counted = client.messages.count_tokens(model=model, messages=HI, **case).input_tokens
        usage = client.messages.create(model=model, max_tokens=1, messages=HI, **case).usage
        assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0)
    long: Any = [{"role": "user", "content": "word " * 6000}]
    assert client.messages.count_tokens(model=model, messages=long).input_tokens > 6000
