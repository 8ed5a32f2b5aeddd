"""What a hostile client or upstream sends: answered as a mistake of theirs, in time linear in its length.

What took quadratic time (or worse) on the event loop is sent here in a size that would then take hours.
"""

from __future__ import annotations

import gzip
import json
import logging
from typing import Any

import httpx
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st
from upstream_fixtures import Asked, Proxy, Reply, ScriptedUpstream, before, chunk, completion, streamed

from heedful.retrieval.errors import InvalidItem
from heedful.retrieval.ingest import decoded, parse
from heedful.server.config import Config
from heedful.strategies.sentences import Splitter, ends, split

BODY: dict[str, Any] = {"model": "ours", "messages": [{"role": "user", "content": "Hi"}]}
SECRET = "sk-operator/secret-0123456789"


def chat(url: str, key: str = "sk-the-clients-own-key", **more: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(f"{url}/v1/chat/completions", json=BODY | more, headers=headers)


# -- time


@pytest.mark.parametrize("text", ["# a" + " " * 500_000 + "b", "# " + "# " * 200_000 + "b"])
def test_a_headings_spaces(text: str) -> None:
    (item,) = parse(text, "markdown").items
    assert item.text.endswith("b")


@pytest.mark.parametrize(
    ("line", "heading"), [("## Be kind ##", "Be kind"), ("#\tIt's C#", "It's C"), ("### ", ""), ("#no", None)]
)
def test_what_a_heading_is(line: str, heading: str | None) -> None:
    texts = [item.text for item in parse(f"{line}\nDo so.\n", "markdown").items]
    assert texts == [f"{heading}: Do so." if heading else f"{line} Do so." if heading is None else "Do so."]


@pytest.mark.parametrize("text", ["." * 1_000_000 + "x", ". " * 300_000, "1.\n" * 300_000, '."' * 500_000])
def test_rows_of_marks(text: str) -> None:
    assert "".join(split(text)) == text


@pytest.mark.parametrize("piece", ["word ", "a.", "1.\n", "...", '."', "1. "])
def test_an_answer_in_many_pieces(piece: str) -> None:
    splitter = Splitter()
    found = [sentence for _ in range(40_000) for sentence in splitter.feed(piece)]
    assert "".join(found + splitter.rest()) == piece * 40_000


@given(st.text("ab1. !?\n\"')。", max_size=60), st.integers(1, 5))
def test_the_sentences_that_are_whole_are_those_of_the_text_so_far(text: str, size: int) -> None:
    """But for marks that close in a later piece: those begin the next sentence."""
    splitter, held = Splitter(), ""
    for i in range(0, len(text), size):
        held += text[i : i + size]
        cuts = [0, *ends(held)]
        assert splitter.feed(text[i : i + size]) == [held[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]
        held = held[cuts[-1] :]


def test_an_upstreams_page_of_tags(proxied: str, upstream: ScriptedUpstream) -> None:
    for page in (b"<script " * 100_000, b"<script >" * 100_000, b"<" * 500_000):
        upstream.answers(Reply([page], 500, {"content-type": "text/html"}, length=True))
        assert chat(proxied).status_code == 500
    page = b"<html><HEAD><title>No</title></head><style>p {}</style><p>Down for <b>repairs</b></p>"
    upstream.answers(Reply([page], 502, {"content-type": "text/html"}, length=True))
    assert chat(proxied).json()["error"]["message"].endswith("answered HTTP 502: Down for repairs")


def test_a_form_of_many_fields(proxied: str, upstream: ScriptedUpstream) -> None:
    head = {"content-type": "application/x-www-form-urlencoded"}
    refused = httpx.post(f"{proxied}/v1/x", content=b"a=1&" * 500_000, headers=head)
    assert refused.status_code == 400 and "10000 fields" in refused.json()["error"]["message"]
    httpx.post(f"{proxied}/v1/x", content=b"model=ours&b=" + b"%41" * 20_000, headers=head)
    assert upstream.last.raw == b"model=theirs&b=" + b"A" * 20_000


def test_a_panel_without_end(proxied: str) -> None:
    refused = chat(proxied, alignment=[{"refine": {"verifiers": ["toxicity"] * 12_000}}])
    assert refused.status_code == 400 and "verifiers" in refused.json()["error"]["param"]


def test_a_header_of_many_columns() -> None:
    names = ",".join(f"c{i}" for i in range(200_000))
    assert "twice" in parse(f"{names},c7\n", "csv").problems[0][1]


# -- mistakes of clients


def test_what_a_client_got_wrong_is_a_400(proxied: str) -> None:
    asked = [
        httpx.get(f"{proxied}/v1/models?limit={'9' * 5000}", headers={"anthropic-version": "x"}),
        httpx.post(
            f"{proxied}/v1/responses", json={"model": "ours", "input": "x", "tools": [{"type": ["x"]}]}
        ),
    ]
    deep = b'{"model": "ours", "max_tokens": 5, "messages": [], "foo": ' + b"[" * 900 + b"]" * 900 + b"}"
    asked += [
        httpx.post(f"{proxied}/v1/{path}", content=deep)
        for path in ("chat/completions", "responses", "messages")
    ]
    for answer in asked:
        assert answer.status_code == 400, answer.text
    assert "nested" in asked[-1].json()["error"]["message"]


def test_many_brackets_are_not_deep(proxied: str, upstream: ScriptedUpstream) -> None:
    assert chat(proxied, metadata={"a": [[1, 2]] * 1000}).status_code == 200


def test_files_that_are_none() -> None:
    assert "no CSV" in parse("a" * 200_000, "csv").problems[0][1]
    with pytest.raises(InvalidItem, match="encoding"):
        decoded(b"x", "a\0b")


# -- what an upstream says


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_no_clients_key_in_an_answer_or_in_the_log(
    proxied: str, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    key = "sk-the-clients-own-key"
    upstream.answers(Reply.json({"error": {"message": f"bad key {key}"}}))
    body = {"model": "ours", "prompt": "x", "messages": BODY["messages"]}
    body.pop("messages" if path == "completions" else "prompt")
    answer = httpx.post(f"{proxied}/v1/{path}", json=body, headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 502 and "bad key ***" in answer.text
    assert key not in answer.text + caplog.text


@pytest.mark.parametrize("status", [401, 500])
def test_no_operators_key_however_it_is_written(
    upstream: ScriptedUpstream, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("THEIRS", SECRET)
    body = json.dumps({"error": {"message": f"bad key {SECRET}"}}).replace("/", "\\/").encode()
    upstream.answers(Reply([body], status, {"content-type": "application/json"}, length=True))
    with proxy(Config(upstreams=[before(upstream, api_key_env="THEIRS")])) as url:
        assert "bad key ***" in chat(url).text


@pytest.mark.parametrize(
    "headers", [{"retry-after-ms": "nan"}, {"retry-after": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"}]
)
def test_a_time_to_wait_that_is_none(
    upstream: ScriptedUpstream, proxy: Proxy, headers: dict[str, str]
) -> None:
    upstream.answers(Reply.json({"error": {"message": "slow down"}}, status=429, headers=headers))
    with proxy(Config(upstreams=[before(upstream, retries=1)])) as url:
        assert chat(url, alignment="principles").status_code == 429


DEEP = b"[" * 60_000


@pytest.mark.parametrize("alignment", ["direct", "principles"])
def test_deep_answers_are_the_upstreams_fault(
    proxied: str, upstream: ScriptedUpstream, alignment: str
) -> None:
    upstream.answers(Reply([DEEP], 500, {"content-type": "application/json"}, length=True))
    assert chat(proxied, alignment=alignment).json()["error"]["code"] != "internal_error"
    upstream.answers(Reply([DEEP], 200, {"content-type": "application/json"}, length=True))
    assert chat(proxied, alignment=alignment).status_code == 502
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "[" * 5000}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    upstream.answers(Reply.json({**completion(), "choices": [choice]}))
    body = {**BODY, "max_tokens": 9, "alignment": alignment}
    assert httpx.post(f"{proxied}/v1/messages", json=body).status_code < 500


def test_a_refusals_code_of_any_type(proxied: str, upstream: ScriptedUpstream) -> None:
    upstream.answers(Reply.json({"error": {"message": "no", "code": ["a"]}}, status=400))
    for wish in ("direct", {"name": "principles", "trace": True}):
        assert chat(proxied, alignment=wish).status_code == 400


def test_a_fallbacks_name_and_what_the_log_says_of_it(
    upstream: ScriptedUpstream, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    def by_model(asked: Asked) -> Reply:
        if asked.body["model"] == "theirs":
            forged = "down\nCRITICAL:root:forged\x1b[31m " + "x" * 10_000
            return Reply.json({"error": {"message": forged}}, status=503)
        return Reply.json(completion("here"))

    upstream.answers(by_model)
    models = {"ours": "theirs", "模型": "second"}
    with proxy(Config(upstreams=[before(upstream, models=models)], fallbacks={"ours": ["模型"]})) as url:
        answer = chat(url)
    assert answer.status_code == 200
    assert answer.headers["x-heedful-model"] == "%E6%A8%A1%E5%9E%8B"
    (line,) = (r.getMessage() for r in caplog.records if "in place of" in r.getMessage())
    assert "\n" not in line and "\x1b" not in line and len(line) < 1000


def test_one_bug_does_not_hide_another(caplog: pytest.LogCaptureFixture) -> None:
    from heedful.server.log import bug

    def first() -> None:
        raise ValueError("one")

    def second() -> None:
        raise ValueError("two")

    with caplog.at_level(logging.ERROR, "heedful.server"):
        for place in (first, first, second):
            try:
                place()
            except ValueError as error:
                bug(error)
    assert [str(r.exc_info[1]) for r in caplog.records if r.exc_info] == ["one", "two"]


WRONG: dict[str, dict[str, Any]] = {
    "finish_reason": {"finish_reason": {"a": 1}},
    "logprobs": {"logprobs": [1]},
    "logprobs.content": {"logprobs": {"content": "abc"}},
    "refusal": {"message": {"content": [{"type": "refusal", "refusal": "no"}], "refusal": 5}},
    "name": {
        "message": {"content": None, "tool_calls": [{"id": "a", "function": {"name": 5, "arguments": "{}"}}]}
    },
}


@pytest.mark.parametrize("alignment", ["principles", [{"refine": {"verifiers": ["toxicity"]}}]])
@pytest.mark.parametrize("field", WRONG)
def test_choices_that_no_api_has_are_the_upstreams_fault(
    proxied: str, upstream: ScriptedUpstream, field: str, alignment: Any
) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    upstream.answers(Reply.json({**completion(), "choices": [choice | WRONG[field]]}))
    for path in ("chat/completions", "messages", "responses"):
        if path == "chat/completions" and alignment == "principles":
            continue  # nobody reads it on its way: the client gets what the upstream gave
        body = {"model": "ours", "max_tokens": 9, "messages": BODY["messages"], "alignment": alignment}
        if path == "responses":
            body = {"model": "ours", "input": "Hi", "alignment": alignment}
        answer = httpx.post(f"{proxied}/v1/{path}", json=body)
        assert answer.status_code == 502, answer.text


def test_counts_of_any_type(proxied: str, upstream: ScriptedUpstream) -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": "3"}}
    upstream.answers(Reply.json({**completion(), "usage": usage}))
    answer = httpx.post(f"{proxied}/v1/messages", json=BODY | {"max_tokens": 9})
    assert answer.json()["usage"]["input_tokens"] == 5


@pytest.mark.parametrize("logprobs", [[1], {"tokens": [1]}, {"tokens": ["a"], "token_logprobs": ["b"]}])
def test_a_completions_logprobs_of_any_type(proxied: str, upstream: ScriptedUpstream, logprobs: Any) -> None:
    choice = {"index": 0, "text": "Hi", "finish_reason": "stop", "logprobs": logprobs}
    upstream.answers(Reply.json({"id": "a", "object": "text_completion", "choices": [choice]}))
    wish = [{"urial": {"form": "raw"}}]
    assert chat(proxied, alignment=wish).status_code == 502


def test_what_comes_behind_the_end_of_a_stream(proxied: str, upstream: ScriptedUpstream) -> None:
    whole = b"".join(streamed("Hi"))
    for piece in (b": bye\n\n", b"event: ping\ndata: {}\n\n"):
        upstream.answers(Reply.sse(whole + piece))
        assert b'"error"' not in chat(proxied, stream=True).content
    upstream.answers(Reply.sse(chunk("data: [DONE]\n\n"), cut=True))
    assert b'"error"' in chat(proxied, stream=True).content


def test_no_operators_key_in_a_header_or_a_stream_that_is_passed_on(
    upstream: ScriptedUpstream, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THEIRS", SECRET)
    head = {"x-debug": f"sent with Bearer {SECRET}", "x-own": "1", "x-kept": "2", "connection": "x-own"}
    error = b'data: {"error": {"message": "bad key ' + SECRET.encode() + b'"}}\n\n'
    with proxy(Config(upstreams=[before(upstream, api_key_env="THEIRS")])) as url:
        upstream.answers(Reply.sse(error, b"data: [DONE]\n\n", headers=head))
        streamed_answer = chat(url, stream=True)
        upstream.answers(Reply.json({}, headers=head))
        other = httpx.get(f"{url}/v1/files")
    assert "bad key ***" in streamed_answer.text
    for answer in (streamed_answer, other):
        assert SECRET not in answer.text + str(answer.headers)
        assert (answer.headers["x-kept"], answer.headers.get("x-own")) == ("2", None)


# -- ways round


FORM = "multipart/form-data; boundary=B"


def part(head: str, value: bytes) -> bytes:
    return f"--B\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + value + b"\r\n"


def test_a_models_other_name_behind_a_large_file(upstream: ScriptedUpstream, proxy: Proxy) -> None:
    """The length has been promised to the upstream by then: a clear error, and no wait for what never comes."""
    with proxy(Config(upstreams=[before(upstream, models=["base"])])) as url:
        for name, status in (("base", 200), ("base@direct", 400)):
            body = part('name="file"; filename="a"', b"x" * 600_000) + part('name="model"', name.encode())
            answer = httpx.post(
                f"{url}/v1/files", content=body + b"--B--\r\n", headers={"content-type": FORM}
            )
            assert answer.status_code == status, answer.text
        assert "put it first" in answer.json()["error"]["message"]


def test_a_form_names_one_model(proxied: str, upstream: ScriptedUpstream) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    answer = httpx.post(f"{proxied}/v1/rerank", content=b"model=theirs&model=ours", headers=form)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")
    assert not upstream.asked


@pytest.mark.parametrize(
    "path",
    [
        "chat/completions;x",
        "chat;x/completions",
        "chat/completions%20",
        "chat/%20completions",
        "alignment;x/y",
    ],
)
def test_our_paths_in_disguise(proxied: str, upstream: ScriptedUpstream, path: str) -> None:
    assert httpx.post(f"{proxied}/v1/{path}", json=BODY).status_code == 404
    assert not upstream.asked


def test_moderations_by_a_name_that_says_direct(proxied: str, upstream: ScriptedUpstream) -> None:
    upstream.answers(Reply.json({"id": "modr-1", "model": "theirs", "results": []}))
    body = {"input": "Hi", "model": "ours@direct", "alignment": "direct"}
    assert httpx.post(f"{proxied}/v1/moderations", json=body).status_code == 200
    assert upstream.last.body == {"input": "Hi", "model": "theirs"}


def test_two_upstreams_at_one_address(upstream: ScriptedUpstream, proxy: Proxy) -> None:
    other = before(upstream, models={"second": "their-second"})
    other["url"] = other["url"].removesuffix("/v1") + "/other/v1"
    with proxy(Config(upstreams=[before(upstream), other])) as url:
        where = {"x-heedful-upstream": upstream.url.split("/")[2]}
        for name, path in (("ours", "/v1/rerank"), ("second", "/other/v1/rerank")):
            answer = httpx.post(f"{url}/v1/rerank", json={"model": name}, headers=where)
            assert answer.status_code == 200 and upstream.last.path == path


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_a_body_of_empty_parts(proxied: str, coding: str) -> None:
    pack = gzip.compress if coding == "gzip" else zstd.compress
    for parts, status in ((2000, 200), (10_000, 400)):
        content = pack(b"") * parts + pack(json.dumps(BODY).encode())
        headers = {"content-encoding": coding}
        answer = httpx.post(f"{proxied}/v1/chat/completions", content=content, headers=headers)
        assert answer.status_code == status, answer.text
