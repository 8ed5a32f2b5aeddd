"""OpenTelemetry: what a collector, a process of its own, receives of this server's requests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from collecting import Collector, collecting, receiver, rotel
from running import at_once
from upstream_fixtures import Gate, Proxy, Reply, ScriptedUpstream, before, chunk, completion, streamed
from waiting import HANG

from heedful.retrieval.store.stores import Stores
from heedful.server.access.settings import FloorSettings
from heedful.server.config import Config, ConfigError
from heedful.server.observe.settings import TelemetrySettings
from heedful.strategies import EngineError
from heedful.strategies.scripted import ScriptedEngine, ScriptedModel

Serving = Callable[..., AbstractContextManager[str]]
HI = [{"role": "user", "content": "May I tell a secret?"}]
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALLED = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "them=1"}


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans are sent as they end, not every five seconds."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with receiver() as found:
        yield found


def _config(collector: Collector, **more: Any) -> Config:
    telemetry = {"endpoint": collector.http, **more.pop("telemetry", {})}
    return Config(telemetry=TelemetrySettings.model_validate(telemetry), **more)


def _ask(url: str, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    asked = {"model": "scripted", "messages": HI, **body}
    return httpx.post(f"{url}/v1/chat/completions", json=asked, headers=headers, timeout=HANG)


def _of(collector: Collector, request_id: str) -> list[dict[str, Any]]:
    """All spans of one request, once its own has come, which is sent last."""

    def root(got: dict[str, list[dict[str, Any]]]) -> list[str]:
        spans = got["spans"]
        return [s["trace"] for s in spans if s["attributes"].get("heedful.request.id") == request_id]

    got = collector.wait(root)
    (trace,) = root(got)
    return [span for span in got["spans"] if span["trace"] == trace]


def _named(spans: list[dict[str, Any]], name: str) -> dict[str, Any]:
    (found,) = [span for span in spans if span["name"] == name]
    return found


def test_a_request_and_all_its_parts(serving: Serving, collector: Collector, stores: Stores) -> None:
    config = _config(collector, verifiers={"mine": {"policy": {"deny": ["nothing like it"]}}})
    pipeline = ["principles", "norms", {"refine": {"verifiers": ["mine"]}}]
    with serving(ScriptedEngine(), config=config, stores=stores) as url:
        answer = _ask(url, {**CALLED, "x-request-id": "all-parts"}, alignment=pipeline)
        assert answer.status_code == 200, answer.text
    spans = _of(collector, "all-parts")
    assert {s["trace"] for s in spans} == {TRACE} and {s["state"] for s in spans} == {"them=1"}
    root = _named(spans, "POST /v1/chat/completions")
    assert (root["parent"], root["kind"], root["error"]) == (CALLER, "server", False)
    assert root["resource"]["service.name"] == "heedful"
    told = root["attributes"]
    assert (told["gen_ai.operation.name"], told["gen_ai.request.model"]) == ("chat", "scripted")
    assert (told["gen_ai.provider.name"], told["gen_ai.system"]) == ("vllm", "vllm")
    assert (told["http.response.status_code"], told["heedful.tenant"]) == (200, "default")
    assert told["heedful.alignment"] == "inline" and told["heedful.pipeline"] == [
        "principles",
        "norms",
        "refine",
    ]
    stages = {name: _named(spans, f"stage {name}") for name in ("principles", "norms", "refine")}
    assert all(stage["parent"] == root["id"] for stage in stages.values())
    assert stages["norms"]["attributes"]["gen_ai.prompt.name"] == "norms/default"
    assert stages["norms"]["attributes"]["gen_ai.prompt.version"]
    assert _named(spans, "retrieval norms")["parent"] == stages["norms"]["id"]
    guardrail = _named(spans, "apply_guardrail mine")
    assert guardrail["parent"] == stages["refine"]["id"]
    assert guardrail["attributes"]["gen_ai.guardrail.result.value"] == "true"
    call = _named(spans, "chat scripted")
    assert (call["parent"], call["kind"]) == (stages["refine"]["id"], "internal")
    assert call["attributes"]["gen_ai.usage.output_tokens"] > 0
    assert "secret" not in str(spans), "no text without `content`"
    for span in spans:
        assert root["start"] <= span["start"] <= span["end"] <= root["end"] + 1000


def test_a_search_has_its_rewinds(serving: Serving, collector: Collector) -> None:
    def step(tokens: Sequence[int]) -> Mapping[int, float]:
        letters = {ord("a"): 0.5, ord("b"): 0.4, 0: 0.1}
        return {ord("A"): 0.6, ord("B"): 0.4} if bytes(tokens).endswith(b"answer is: (") else letters

    with serving(ScriptedEngine(extend=ScriptedModel(step)), config=_config(collector)) as url:
        rain = {"rain": {"effort": "low", "gate": False, "no_opinion": "continue", "similarity": False}}
        answer = _ask(url, {"x-request-id": "rain"}, alignment=[rain], max_tokens=4)
        assert answer.status_code == 200, answer.text
    spans = _of(collector, "rain")
    searches = [span for span in spans if span["name"] == "search rain"]
    assert searches and all("heedful.rewind" in span["attributes"] for span in searches)
    assert any(span["name"] == "text_completion scripted" for span in spans)


def test_the_upstream_sees_our_span(proxy: Proxy, upstream: ScriptedUpstream, collector: Collector) -> None:
    with proxy(_config(collector, upstreams=[before(upstream)])) as url:
        upstream.answers(Reply.sse(*streamed("Hi", " there")))
        for number, alignment in enumerate(("direct", "principles", "refine")):
            verifiers = {"refine": {"verifiers": [{"policy": {"deny": ["no such"]}}]}}
            asked = [verifiers] if alignment == "refine" else alignment
            stream = alignment != "refine"
            if not stream:
                upstream.answers(lambda asked: Reply.json(completion()))
            headers = {**CALLED, "x-request-id": f"onward-{number}"}
            answer = _ask(url, headers, model="ours", alignment=asked, stream=stream)
            assert answer.status_code == 200, answer.text
            seen = upstream.last.headers
            call = _named(_of_request(collector, f"onward-{number}"), "chat ours")
            assert seen["traceparent"] == f"00-{TRACE}-{call['id']}-01"
            assert seen["tracestate"] == "them=1"
            assert call["kind"] == "client" and call["attributes"]["server.address"] == "127.0.0.1"


def _of_request(collector: Collector, request_id: str) -> list[dict[str, Any]]:
    """The spans of one of several requests of one trace."""
    spans = _of(collector, request_id)
    (root,) = [s for s in spans if s["attributes"].get("heedful.request.id") == request_id]
    inside, more = {root["id"]}, True
    while more:
        found = {s["id"] for s in spans if s["parent"] in inside} - inside
        inside, more = inside | found, bool(found)
    return [s for s in spans if s["id"] in inside]


def test_who_is_not_sampled_is_passed_on_as_such(
    proxy: Proxy, upstream: ScriptedUpstream, collector: Collector
) -> None:
    with proxy(_config(collector, upstreams=[before(upstream)])) as url:
        unsampled = {"traceparent": f"00-{'1' * 32}-{CALLER}-00"}
        assert _ask(url, unsampled, model="ours").status_code == 200
        seen = upstream.last.headers["traceparent"]
        assert seen.startswith(f"00-{'1' * 32}-") and seen.endswith("-00") and CALLER not in seen
        assert (
            _ask(url, {"traceparent": "00-nonsense", "x-request-id": "new"}, model="ours").status_code == 200
        )
        spans = _of(collector, "new")
        assert _named(spans, "POST /v1/chat/completions")["parent"] == ""
    got = collector.wait(lambda got: True)
    assert not [s for s in got["spans"] if s["trace"] == "1" * 32]


def test_failures_are_errors_and_refusals_are_not(serving: Serving, collector: Collector) -> None:
    def fails(call: Any) -> Any:
        raise EngineError("the engine's own words", status=502)

    with serving(ScriptedEngine(fails), config=_config(collector)) as url:
        assert _ask(url, {"x-request-id": "failed"}, alignment="principles").status_code == 502
        assert _ask(url, {"x-request-id": "refused"}, model="nobody").status_code == 404
    failed = _of(collector, "failed")
    assert _named(failed, "POST /v1/chat/completions")["error"]
    call = _named(failed, "chat scripted")
    assert call["error"] and call["attributes"]["error.type"] == "502"
    assert "words" not in str(failed)
    assert not _named(_of(collector, "refused"), "POST /v1/chat/completions")["error"]


@pytest.mark.parametrize("alignment", ["direct", "principles", "refine"])
def test_who_leaves_in_the_middle(
    proxy: Proxy, upstream: ScriptedUpstream, collector: Collector, alignment: str
) -> None:
    gate = Gate()
    upstream.answers(Reply.sse(chunk("Hi. There. "), gate, *streamed("there")))
    name = f"left-{alignment}"
    # The first that a client hears of an answer that is judged whole are comments.
    policy = [{"refine": {"verifiers": [{"policy": {"deny": ["no such"]}}], "keep_alive": 0.1}}]
    body: dict[str, Any] = {"model": "ours", "messages": HI, "stream": True}
    body["alignment"] = policy if alignment == "refine" else alignment
    with proxy(_config(collector, upstreams=[before(upstream)])) as url:
        address, headers = f"{url}/v1/chat/completions", {"x-request-id": name}
        with httpx.stream("POST", address, json=body, headers=headers, timeout=HANG) as answer:
            assert next(answer.iter_bytes())
        assert upstream.hung_up.acquire(timeout=HANG)
        spans = _of(collector, name)
    root = _named(spans, "POST /v1/chat/completions")
    assert root["attributes"]["heedful.client_gone"] and not root["error"]
    call = _named(spans, "chat ours")
    assert call["end"] <= root["end"] + 1000 and not call["error"]


def test_many_at_once_keep_apart(serving: Serving, collector: Collector) -> None:
    with serving(ScriptedEngine(), config=_config(collector)) as url:
        ask = [partial(_ask, url, {"x-request-id": f"n{i}"}, alignment="principles") for i in range(32)]
        assert {answer.status_code for answer in at_once(*ask)} == {200}
        for i in range(32):
            spans = _of(collector, f"n{i}")
            names = sorted(s["name"] for s in spans)
            assert names == [
                "POST /v1/chat/completions",
                "chat scripted",
                "stage direct",
                "stage principles",
            ]


def test_texts_where_they_are_wanted(serving: Serving, collector: Collector) -> None:
    with serving(ScriptedEngine(), config=_config(collector, telemetry={"content": True})) as url:
        _ask(url, {"x-request-id": "texts"}, alignment="principles")
    call = _named(_of(collector, "texts"), "chat scripted")["attributes"]
    assert "May I tell a secret?" in call["gen_ai.input.messages"]
    assert '"role": "assistant"' in call["gen_ai.output.messages"]


def test_texts_under_a_floor(serving: Serving, collector: Collector) -> None:
    floor = FloorSettings.model_validate(
        {"gate": [{"redact": ["email"]}], "verify": {"verifiers": [{"policy": {"words": ["darn"]}}]}}
    )
    config = _config(collector, telemetry={"content": True}, floor=floor)
    mail = [{"role": "user", "content": "Write to bob@secret.example."}]
    with serving(ScriptedEngine(), config=config) as url:
        assert _ask(url, {"x-request-id": "floor"}, messages=mail).status_code == 200
        assert _ask(url, {"x-request-id": "none"}, messages=mail, model="no").status_code == 404
        assert _ask(url, {"x-request-id": "bad"}, messages=mail, chat_template="x").status_code == 400
    spans = _of(collector, "floor")
    call = _named(spans, "chat scripted")["attributes"]
    assert "[EMAIL_1]" in call["gen_ai.input.messages"] and call["gen_ai.output.messages"]
    assert "heedful.cancelled" not in call, "it had come to its end"
    assert "bob@" not in str([spans, _of(collector, "none"), _of(collector, "bad")])


@pytest.mark.parametrize("semconv", ["1.36", "genai-0.1"])
def test_the_names_of_a_version(serving: Serving, semconv: str) -> None:
    with receiver() as collector:
        with serving(ScriptedEngine(), config=_config(collector, telemetry={"semconv": semconv})) as url:
            _ask(url, {"x-request-id": semconv}, alignment="principles", stream=True)
        # The server is down: what it had to tell has been sent.
        got = collector.wait(lambda got: got["spans"] and got["metrics"])
    call = _named(got["spans"], "chat scripted")["attributes"]
    names = {metric["name"] for metric in got["metrics"]}
    server = {"gen_ai.server.request.duration", "gen_ai.server.time_to_first_token"}
    old = {"gen_ai.client.token.usage", "gen_ai.client.operation.duration"}
    new = {
        "gen_ai.client.inference.duration",
        "gen_ai.client.inference.time_to_first_chunk",
        "gen_ai.client.inference.usage.input_tokens",
        "gen_ai.client.inference.usage.output_tokens",
    }
    assert server <= names
    assert (old <= names, bool(new & names)) == ((True, False) if semconv == "1.36" else (False, True))
    assert ("gen_ai.system" in call) == (semconv == "1.36") and call["gen_ai.provider.name"] == "vllm"
    if semconv != "1.36":
        assert new <= names
        (used,) = [m for m in got["metrics"] if m["name"] == "gen_ai.client.inference.usage.output_tokens"]
        assert used["sum"] == call["gen_ai.usage.output_tokens"]


def test_the_standard_variables(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.grpc)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "aligned")
        monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "http,gen_ai_latest_experimental")
        with serving(ScriptedEngine(), config=Config(telemetry=TelemetrySettings())) as url:
            _ask(url, alignment="principles")
        got = collector.wait(lambda got: got["spans"] and got["metrics"])
    assert {(s["by"], s["resource"]["service.name"]) for s in got["spans"]} == {("grpc", "aligned")}
    assert "gen_ai.client.inference.duration" in {m["name"] for m in got["metrics"]}


def test_a_collector_that_is_not_there_harms_nobody(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    config = Config(telemetry=TelemetrySettings(endpoint="http://127.0.0.1:9"))
    with serving(ScriptedEngine(), config=config) as url:
        assert [_ask(url, alignment="principles").status_code for _ in range(5)] == [200] * 5


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.skipif(rotel() is None, reason="the collector `rotel` is not installed")
def test_through_a_real_collector(serving: Serving, tmp_path: Path, protocol: str) -> None:
    program = rotel()
    assert program is not None
    with collecting(program, tmp_path / "collector.log") as collector:
        endpoint = collector.grpc if protocol == "grpc" else collector.http
        settings = {"endpoint": endpoint, "protocol": protocol}
        with serving(ScriptedEngine(), config=_config(collector, telemetry=settings)) as url:
            _ask(url, {**CALLED, "x-request-id": "real"}, alignment="principles")
            spans = _of(collector, "real")
        collector.wait(lambda got: got["metrics"])
    assert _named(spans, "POST /v1/chat/completions")["parent"] == CALLER
    assert _named(spans, "chat scripted")["parent"] == _named(spans, "stage direct")["id"]


def test_nothing_of_it_is_loaded_where_it_is_off() -> None:
    program = """
import asyncio, sys
from heedful.prompts import Prompts
from heedful.server.alignments import Alignments
from heedful.server.app import create_app
from heedful.server.config import Config, ConfigError
from heedful.server.observe.settings import TelemetrySettings
from heedful.server.service import Service
from heedful.strategies import Resources
from heedful.strategies.scripted import ScriptedEngine
config = Config(telemetry=TelemetrySettings() if sys.argv[1] == "on" else None)
engine = ScriptedEngine()
service = Service(config, {"scripted": engine}, Alignments(config, Resources(Prompts())))
create_app(service)
print(*sys.modules)
"""

    def loaded(state: str) -> list[str]:
        command = [sys.executable, "-c", program, state]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    off, on = at_once(partial(loaded, "off"), partial(loaded, "on"))
    assert "opentelemetry" not in off and "opentelemetry" in on


def test_without_the_extra_it_says_so(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "heedful.server.observe.telemetry", None)
    config = Config(telemetry=TelemetrySettings())
    with pytest.raises(ConfigError, match="otel"), serving(ScriptedEngine(), config=config):
        pass
