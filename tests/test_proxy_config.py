"""Upstreams from the configuration and the command line, and how their abilities are found out."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from openai import OpenAI
from upstream_fixtures import Asked, Proxy, Reply, ScriptedUpstream, before, completion
from waiting import HANG

from heedful.server.config import Config, ConfigError, load

Client = Callable[[str], OpenAI]
REFUSED = Reply.json({"error": {"message": "no such thing"}}, status=400)
MISSING = Reply.json({"detail": "Not Found"}, status=404)
TEXT = {"id": "c", "choices": [{"index": 0, "text": "x", "finish_reason": "length", "token_ids": [7]}]}


def talking(*, logprobs: bool = False, prefill: bool = False, raw: bool = False, tokens: bool = False) -> Any:
    """An upstream that can do so much and no more, as such servers behave."""

    def answer(asked: Asked) -> Reply:
        if asked.path == "/tokenize":
            return Reply.json({"tokens": [7, 8], "count": 2}) if tokens else MISSING
        body = asked.body
        if asked.path == "/v1/completions":
            listed = isinstance(body["prompt"], list)
            return Reply.json(TEXT) if raw and (tokens or not listed) else MISSING
        if prefill and body.get("continue_final_message") and body.get("add_generation_prompt"):
            return REFUSED  # the two exclude each other
        if not logprobs and body.get("logprobs"):
            return REFUSED
        whole = completion()
        if body.get("logprobs"):
            whole["choices"][0]["logprobs"] = {"content": [{"token": "x", "logprob": -0.1}]}
        return Reply.json(whole)

    return answer


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ({}, ["chat"]),
        ({"logprobs": True}, ["chat", "logprobs"]),
        ({"logprobs": True, "raw": True}, ["chat", "completion", "logprobs"]),
        ({"prefill": True}, ["chat", "prefill"]),
        (
            {"logprobs": True, "prefill": True, "raw": True, "tokens": True},
            ["chat", "completion", "prefill", "logprobs", "tokens"],
        ),
    ],
)
def test_abilities_are_probed(
    upstream: ScriptedUpstream, proxy: Proxy, kind: dict[str, bool], found: list[str]
) -> None:
    upstream.answers(talking(**kind))
    upstream.models = [{"id": "theirs", "max_model_len": 512}]
    with proxy(Config(upstreams=[before(upstream, models={}, capabilities=None)])) as url:
        entry = httpx.get(f"{url}/v1/models/theirs").json()
        assert entry["capabilities"] == found and entry["capabilities_known_by"].startswith("probed")
        assert entry["max_model_len"] == 512
        probes = len(upstream.asked)
        httpx.post(f"{url}/v1/chat/completions", json={"model": "theirs", "messages": [{"role": "user"}]})
        assert len(upstream.asked) == probes + 1  # once at start, and never again
    assert all(a.body.get("max_tokens", 1) <= 2 for a in upstream.asked[:probes])


def test_an_upstream_that_wants_each_clients_key_starts_as_chat(
    upstream: ScriptedUpstream, proxy: Proxy
) -> None:
    upstream.answers(Reply.json({"error": {"message": "who are you?"}}, status=401))
    with proxy(Config(upstreams=[before(upstream, capabilities=None)])) as url:
        entry = httpx.get(f"{url}/v1/models/ours").json()
    assert entry["capabilities"] == ["chat"] and "who are you?" in entry["capabilities_known_by"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"url": "ftp://x"}, "upstreams.0.url"),
        ({"url": "http://me:secret@x/v1"}, "not into the URL"),
        ({"url": "http://x/v1", "colour": 1}, "upstreams.0.colour"),
        ({"url": "http://x/v1", "capabilities": ["magic"]}, "upstreams.0.capabilities.0"),
        ({"url": "http://x/v1", "models": {"a": {"colour": 1}}}, "upstreams.0.models.a.colour"),
        ({"url": "http://x/v1", "retries": -1}, "upstreams.0.retries"),
    ],
)
def test_a_bad_upstream_is_named(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, {"upstreams": [settings]})
    assert told in str(caught.value)


def _serve(*arguments: str, command: str = "serve") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "heedful.server", command, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "250", "NO_COLOR": "1"},
    )


def test_what_can_not_start_says_why(
    upstream: ScriptedUpstream, tmp_path: Path, heedful_here: Callable[..., tuple[int, str]]
) -> None:
    config = tmp_path / "heedful.yaml"
    up = f"url: {upstream.url}, capabilities: [chat]"
    for text, told in (
        (f"upstreams: [{{{up}}}]", "name its models: it does not list them"),
        (f"upstreams: [{{{up}, models: [a], api_key_env: NOT_SET}}]", "NOT_SET is not set"),
        (f"upstreams: [{{{up}, models: [a], api_key_file: none}}]", f"{tmp_path / 'none'}: No such file"),
        (f"upstreams: [{{{up}, models: [a]}}, {{{up}, models: [a]}}]", "two models are called 'a'"),
        (f"upstreams: [{{{up}, models: [a]}}]\nfallbacks: {{a: [b]}}", "fallbacks.a: unknown model 'b'"),
        (
            f"upstreams: [{{{up}, models: [a]}}]\nprices: {{b: {{prompt: 1, completion: 2}}}}",
            "prices.b: no such model; known: a",
        ),
    ):
        config.write_text(text)
        status, said = heedful_here("serve", "--config", str(config), "--port", "0")
        assert status == 2 and told in said, said
    for arguments, told in (
        (["--model", "a"], "belong to --upstream"),
        (
            ["--upstream", upstream.url, "--model", "a", "--max-model-len", "9"],
            "no such option: --max-model-len",
        ),
        (["--upstream", "nonsense"], "must be an http"),
    ):
        status, said = heedful_here("serve", *arguments)
        assert status == 2 and told in said, said


def test_serve_without_a_file(
    upstream: ScriptedUpstream,
    client: Client,
    heedful_serve: Callable[..., AbstractContextManager[tuple[str, Any]]],
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    with heedful_serve("--upstream", upstream.url, "--model", "theirs", log=log) as (url, process):
        answer = client(url).chat.completions.create(
            model="theirs@principles", messages=[{"role": "user", "content": "Hi"}]
        )
        assert answer.choices[0].message.content == "Hello"
        assert upstream.last.headers["authorization"] == "Bearer test"
        assert "model theirs (chat" in log.read_text() and "probed" in log.read_text()
        process.terminate()
        assert process.wait(HANG) == 0


def test_a_proxy_loads_the_embedding_model_at_its_first_use(
    upstream: ScriptedUpstream,
    client: Client,
    heedful_serve: Callable[..., AbstractContextManager[tuple[str, Any]]],
    tmp_path: Path,
) -> None:
    def loaded(pid: int) -> bool:
        here = psutil.Process(pid)
        mapped = (m.path for process in (here, *here.children()) for m in process.memory_maps())
        return any("libtorch" in path for path in mapped)

    with heedful_serve("--upstream", upstream.url, "--model", "theirs", log=tmp_path / "log") as (
        url,
        process,
    ):
        assert not loaded(process.pid)
        client(url).chat.completions.create(
            model="theirs@norms", messages=[{"role": "user", "content": "May I read my friend's letters?"}]
        )
        assert "<norms>" in upstream.last.body["messages"][-1]["content"]
        assert loaded(process.pid)


def test_models_shows_what_upstreams_can_do(upstream: ScriptedUpstream) -> None:
    upstream.answers(talking(logprobs=True, raw=True))
    upstream.models = [{"id": "one", "max_model_len": 512}, {"id": "two"}]
    run = _serve("--upstream", upstream.url, command="models")
    assert run.returncode == 0, run.stderr
    lines = [line for line in run.stdout.splitlines() if line.split()[:1] in (["one"], ["two"])]
    assert len(lines) == 2 and all("chat, completion, logprobs" in line for line in lines)
    assert "512" in lines[0] and "probed" in lines[0]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (
            "model: m\nserved_name: Müller\n".encode("latin-1"),
            ":2: is not UTF-8 (byte 0xfc): save it as UTF-8",
        ),
        ("model: m\n".encode("utf-16"), ":1: is UTF-16; save it as UTF-8"),
        ("model: m\n".encode("utf-16-le"), ":1: is UTF-16; save it as UTF-8"),
        (b"model: m\nhost: a\x07b\n", ":2: holds the character U+0007"),
        (b"model: m\nhost: 2026-13-45\n", "a value can't be read: month must be in 1..12"),
        (b"model: " + b"[" * 5000, "nested too deeply"),
        (b"model: [\n", ":2: expected"),
        (b"- model\n", "must be a mapping"),
        (b"upstreams: 5\n", "upstreams: Input should be a valid list"),
        (b"1: 2\n", "1: "),
    ],
)
def test_a_file_that_can_not_be_read_is_named_with_its_line(data: bytes, told: str, tmp_path: Path) -> None:
    file = tmp_path / "heedful.yaml"
    file.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert str(caught.value).startswith(str(file)) and told in str(caught.value)


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "heedful.yaml"
    file.write_bytes("\ufeffmodel: m\r\n".encode())
    assert load(file, {}).model == "m"


def test_a_key_file_holds_the_key_and_nothing_else(
    upstream: ScriptedUpstream, proxy: Proxy, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_bytes("\ufeffsk-0123456789\r\n".encode())
    with proxy(Config(upstreams=[before(upstream, api_key_file=file)])) as url:
        httpx.post(f"{url}/v1/chat/completions", json={"model": "ours", "messages": [{"role": "user"}]})
    assert upstream.last.headers["authorization"] == "Bearer sk-0123456789"
    for data, told in (
        ("sk-0123456789".encode("utf-16"), "not UTF-8"),
        (b"sk-0123456789\nsk-second", "the key alone"),
        ("sk-Ключ".encode(), "plain characters"),
        (b" \n", "is empty"),
    ):
        file.write_bytes(data)
        config = Config(upstreams=[before(upstream, api_key_file=file)])
        with pytest.raises(ValueError, match=told) as caught:
            config.upstreams[0].key()
        assert "sk-" not in str(caught.value)
