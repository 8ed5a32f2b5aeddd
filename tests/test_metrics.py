"""GET /metrics, read by Prometheus's own parser; and that the dashboard and the alerts ask for what is there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from upstream_fixtures import Gate, Proxy, Reply, ScriptedUpstream, before, chunk, streamed
from waiting import HANG

from heedful.retrieval.store.stores import Stores
from heedful.server.config import Config
from heedful.strategies.scripted import ScriptedEngine, ScriptedModel

Serving = Callable[..., AbstractContextManager[str]]
Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]
OPERATE = Path(__file__).parent.parent / "docs" / "operate"
HI = [{"role": "user", "content": "May I tell a secret?"}]
UNTIL_DONE = {"model": "scripted", "messages": HI}


def _scrape(url: str) -> Figures:
    text = httpx.get(f"{url}/metrics", timeout=HANG).text
    found = [s for family in text_string_to_metric_families(text) for s in family.samples]
    keys = [(s.name, frozenset(s.labels.items())) for s in found]
    assert len(keys) == len(set(keys)), "a series stands there twice"
    return {key: s.value for key, s in zip(keys, found, strict=True)}


def _get(figures: Figures, name: str, **labels: str) -> float:
    """The sum of all series of a name that have these labels."""
    wanted = set(labels.items())
    return sum(value for (found, had), value in figures.items() if found == name and wanted <= had)


def _ask(url: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/chat/completions", json={**UNTIL_DONE, **body}, timeout=HANG)


def test_requests_and_tokens_by_whom(serving: Serving) -> None:
    config = Config(alignments={"house": ["principles"]})
    with serving(ScriptedEngine(), config=config) as url:
        usage = [_ask(url, alignment="house").json()["usage"] for _ in range(3)]
        _ask(url, alignment="house", stream=True)
        _ask(url, alignment=[{"principles": {"place": "system"}}])
        _ask(url, alignment="principles+direct")
        assert _ask(url, model="nobody").status_code == 404
        figures = _scrape(url)
    house = {"model": "scripted", "alignment": "house", "tenant": "default"}
    route = "/v1/chat/completions"
    assert _get(figures, "heedful_requests_total", route=route, status="200", **house) == 4
    assert _get(figures, "heedful_requests_total", model="none", status="404") == 1
    assert _get(figures, "heedful_errors_total", error="NotFound") == 1
    assert _get(figures, "heedful_requests_total", alignment="inline") == 2
    assert _get(figures, "heedful_request_seconds_count", **house) == 4
    assert _get(figures, "heedful_first_byte_seconds_count", **house) == 4
    told = usage[0]["completion_tokens"]
    assert _get(figures, "heedful_tokens_total", kind="completion", **house) == 4 * told
    assert _get(figures, "heedful_requests_running") == 0
    assert _get(figures, "heedful_engine_up", model="scripted") == 1
    assert "secret" not in str(figures)


def test_no_client_makes_up_a_label(serving: Serving) -> None:
    def labels(figures: Figures) -> set[tuple[str, str]]:
        return {pair for _, had in figures for pair in had if pair[0] != "le"}

    with serving(ScriptedEngine()) as url:
        _ask(url, alignment=[{"principles": {"place": "system"}}])
        _ask(url, model="nobody")
        httpx.get(f"{url}/v1/nothing")
        known = labels(_scrape(url))
        for i in range(20):
            _ask(url, alignment="+".join(["principles"] * (i + 2)))
            _ask(url, model=f"model-{i}", alignment=f"alignment-{i}")
            httpx.get(f"{url}/v1/path-{i}", headers={"x-api-key": f"key-{i}"})
        new = labels(_scrape(url)) - known
    assert new <= {("error", "RequestError"), ("status", "400")}


def test_what_strategies_do(serving: Serving, stores: Stores) -> None:
    answers = iter(["This is bad.", "This is better.", "This is bad."])
    refine: Any = {"refine": {"verifiers": ["clean", "broken"], "on_error": "pass", "max_rounds": 1}}
    verifiers: Any = {
        "clean": {"policy": {"deny": ["bad"]}},
        "broken": {"http": {"url": "http://127.0.0.1:9"}},
    }
    config = Config(verifiers=verifiers)
    with serving(ScriptedEngine(lambda _: next(answers)), config=config, stores=stores) as url:
        mended = _ask(url, alignment=["norms", refine])
        assert mended.json()["choices"][0]["message"]["content"] == "This is better."
        refine["refine"] |= {"max_rounds": 0, "unresolved": "withhold"}
        assert _ask(url, alignment=[refine]).json()["choices"][0]["finish_reason"] == "content_filter"
        figures = _scrape(url)
    assert _get(figures, "heedful_verdicts_total", verifier="clean", verdict="rejected") == 2
    assert _get(figures, "heedful_verdicts_total", verifier="clean", verdict="passed") == 1
    assert _get(figures, "heedful_verdicts_total", verifier="broken", verdict="passed_over") == 3
    assert _get(figures, "heedful_verifier_seconds_count", verifier="clean") == 3
    assert _get(figures, "heedful_refine_rounds_count") == 2
    assert _get(figures, "heedful_refine_rounds_sum") == 1
    assert _get(figures, "heedful_withheld_total") == 1
    assert _get(figures, "heedful_retrieval_seconds_count", store="norms") == 1
    assert _get(figures, "heedful_items_used_total", step="norms", store="norms") > 0
    assert _get(figures, "heedful_model_calls_total") == 3
    hidden = _get(figures, "heedful_hidden_tokens_total", kind="completion")
    assert 0 < hidden < _get(figures, "heedful_tokens_total", kind="completion")


def test_a_search_is_counted(serving: Serving) -> None:
    def step(tokens: Any) -> dict[int, float]:
        letters = {ord("a"): 0.5, ord("b"): 0.4, 0: 0.1}
        return {ord("A"): 0.6, ord("B"): 0.4} if bytes(tokens).endswith(b"answer is: (") else letters

    rain: Any = {"rain": {"effort": "low", "gate": False, "no_opinion": "continue", "similarity": False}}
    with serving(ScriptedEngine(extend=ScriptedModel(step))) as url:
        answer = _ask(url, alignment={"pipeline": [rain], "trace": True}, max_tokens=4).json()
        figures = _scrape(url)
    searches = [note for note in answer["alignment"]["trace"] if "searches" in note]
    assert _get(figures, "heedful_rain_searches_total") == sum(note["searches"] for note in searches) > 0
    assert _get(figures, "heedful_rain_rewinds_total") == sum(note["rewinds"] for note in searches)


def test_an_upstreams_health(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    with proxy(Config(upstreams=[before(upstream)])) as url:
        host = httpx.URL(upstream.url).netloc.decode()
        upstream.answers(Reply.json({"error": {"message": "no", "code": "made-up"}}, status=502))
        for _ in range(2):
            _ask(url, model="ours")
        assert _get(_scrape(url), "heedful_upstream_up", upstream=host) == 1
        upstream.hang_up_next = 1
        _ask(url, model="ours")
        figures = _scrape(url)
        assert _get(figures, "heedful_upstream_up", upstream=host) == 0
        assert _get(figures, "heedful_upstream_failures", upstream=host, error="http_502") == 2
        assert _get(figures, "heedful_upstream_failures", upstream=host, error="unreached") == 1
        upstream.answers(Reply.json({"error": {"message": "no"}}, status=400))
        _ask(url, model="ours")
        assert _get(_scrape(url), "heedful_upstream_up", upstream=host) == 1


def test_who_leaves_is_counted(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    gate = Gate()
    upstream.answers(Reply.sse(chunk("Hi"), gate, *streamed("there")))
    with proxy(Config(upstreams=[before(upstream)])) as url:
        for alignment in ("direct", "principles"):
            body = {"model": "ours", "messages": HI, "stream": True, "alignment": alignment}
            with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=HANG) as answer:
                pieces = answer.iter_bytes()
                assert next(pieces)
                assert _get(_scrape(url), "heedful_requests_running") == 1
            assert upstream.hung_up.acquire(timeout=HANG)
        while (figures := _scrape(url)) and _get(figures, "heedful_disconnects_total") < 2:
            pass
        assert _get(figures, "heedful_requests_running") == 0
        assert _get(figures, "heedful_requests_total", status="200") == 2


def test_a_stream_that_breaks_is_an_error(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    upstream.answers(Reply.sse(chunk("Hi"), cut=True))
    with proxy(Config(upstreams=[before(upstream)])) as url:
        for alignment in ("direct", "principles"):
            _ask(url, model="ours", stream=True, alignment=alignment)
        assert _get(_scrape(url), "heedful_errors_total", error="EngineError") == 2


def test_two_servers_in_one_process(serving: Serving) -> None:
    with serving(ScriptedEngine()) as one, serving(ScriptedEngine()) as two:
        _ask(one)
        assert _get(_scrape(one), "heedful_requests_total") == 1
        assert _get(_scrape(two), "heedful_requests_total") == 0


def test_keys_in_force(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "sesame")
    old = {"tenant": "acme", "sha256": "0" * 64, "expires": "2020-01-01"}
    new = {"tenant": "acme", "sha256": "1" * 64}
    settings = {"keys": [old, new], "api_key_env": "TEST_KEY", "tenants": {"acme": {}}, "metrics": "open"}
    config = Config.model_validate(settings)
    with serving(ScriptedEngine(), config=config) as url:
        assert _get(_scrape(url), "heedful_keys") == 2


def test_off_is_off(serving: Serving) -> None:
    with serving(ScriptedEngine(), config=Config(metrics="none")) as url:
        answer = _ask(url)
        assert "x-request-id" not in answer.headers
        assert _get(_scrape(url), "heedful_requests_total") == 0


def _expressions() -> list[str]:
    dashboard = json.loads((OPERATE / "dashboard.json").read_text())
    asked = [t["expr"] for panel in dashboard["panels"] for t in panel.get("targets", ())]
    asked += [v["query"]["query"] for v in dashboard["templating"]["list"] if v["type"] == "query"]
    groups = yaml.safe_load((OPERATE / "alerts.yaml").read_text())["groups"]
    return asked + [rule["expr"] for group in groups for rule in group["rules"]]


def test_dashboard_and_alerts_ask_for_what_is_there(serving: Serving) -> None:
    with serving(ScriptedEngine()) as url:
        text = httpx.get(f"{url}/metrics").text
    there: dict[str, str] = {}
    for family in text_string_to_metric_families(text):
        ends = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        there |= {family.name + end: family.type for end in ends}
    expressions = _expressions()
    named = {name for text in expressions for name in re.findall(r"\bheedful_\w+", text)}
    assert len(named) > 20
    assert named <= there.keys(), named - there.keys()
    for text in expressions:
        for name in re.findall(r"(?:rate|increase)\((heedful_\w+)", text):
            assert there[name] in ("counter", "histogram"), f"{name} does not only grow"


def test_every_label_that_is_asked_for_is_there(serving: Serving) -> None:
    from heedful.server.observe.metrics import Metrics

    has: dict[str, set[str]] = {}
    for metric in vars(Metrics(frozenset())).values():
        if hasattr(metric, "_labelnames"):
            has[metric._name] = {*metric._labelnames, "le", "instance"}
    for text in _expressions():
        for name, asked in re.findall(r"\b(heedful_\w+?)(?:_total|_bucket|_sum|_count)?\{([^}]*)\}", text):
            labels = set(re.findall(r"(\w+)=~?\"", asked))
            assert labels <= has[name], f"{name} has no {labels - has[name]}"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_takes_the_rules(serving: Serving) -> None:
    rules = subprocess.run(
        ["promtool", "check", "rules", str(OPERATE / "alerts.yaml")], capture_output=True, text=True
    )
    assert rules.returncode == 0, rules.stdout + rules.stderr
    with serving(ScriptedEngine()) as url:
        figures = httpx.get(f"{url}/metrics").text
    checked = subprocess.run(["promtool", "check", "metrics"], input=figures, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
