"""Decision records: every door's answers, whole, streamed, cut off or failed, and what explains them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from upstream_fixtures import Gate, Proxy, Reply, ScriptedUpstream, before, chunk, completion, streamed
from waiting import HANG

from heedful.retrieval.store.stores import Stores
from heedful.server.config import Config
from heedful.strategies.scripted import ScriptedEngine, ScriptedModel

Serving = Callable[..., AbstractContextManager[str]]
HI = [{"role": "user", "content": "Hi there"}]
BODIES: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": HI, "user": "ann"},
    "completions": {"prompt": "Hi there", "user": "ann"},
    "responses": {"input": "Hi there", "safety_identifier": "ann"},
    "messages": {"messages": HI, "max_tokens": 99, "metadata": {"user_id": "ann"}},
}
POLICY = {"verifiers": [{"policy": {"words": ["bad"]}}]}


def kept(tmp_path: Path, texts: str = "full", **more: Any) -> Config:
    """Records of those who need no key."""
    tenants: Any = {"default": {"records": {"texts": texts}}}
    return Config(stores=tmp_path, tenants=tenants, **more)


def records(url: str, **query: Any) -> list[dict[str, Any]]:
    found = httpx.get(f"{url}/v1/alignment/records", params=query)
    assert found.status_code == 200, found.text
    data: list[dict[str, Any]] = found.json()["data"]
    return data


def ask(url: str, path: str, **fields: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/{path}", json={**BODIES[path], **fields})


def events(answer: httpx.Response) -> list[Any]:
    lines = [line[5:].strip() for line in answer.text.splitlines() if line.startswith("data:")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def id_in(path: str, answer: httpx.Response, stream: bool) -> str:
    """The id that the client was given."""
    body = events(answer)[0] if stream else answer.json()
    inner = {"responses": "response", "messages": "message"}.get(path) if stream else None
    found: str = (body[inner] if inner else body)["id"]
    return found


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", BODIES)
def test_every_door_is_recorded(serving: Serving, tmp_path: Path, path: str, stream: bool) -> None:
    engine = ScriptedEngine(lambda call: ["Hello", ", ", "world"])
    with serving(engine, config=kept(tmp_path)) as url:
        answer = ask(url, path, model="scripted@principles", stream=stream)
        assert answer.status_code == 200
        (record,) = records(url)
        one = httpx.get(f"{url}/v1/alignment/records/{id_in(path, answer, stream)}")
    assert one.json() == record
    assert (record["tenant"], record["key_id"], record["users"]) == ("default", None, ["ann"])
    assert (record["route"], record["stream"], record["status"]) == (f"/v1/{path}", stream, 200)
    assert (record["model"], record["alignment"], record["error"]) == ("scripted", "principles", None)
    assert record["plan"][0]["principles"] and list(record["plan"][1]) == ["direct"]
    assert [step["step"] for step in record["trace"]] == ["principles"]
    assert record["question"] == {"text": "Hi there"}
    said = record["answers"][0]
    assert said["text"] == "Hello, world" and said["finish_reason"] in ("stop", "end_turn", "completed")
    assert record["usage"]["completion_tokens"] == len("Hello, world")
    assert record["stages"]["direct"]["calls"] == 1
    assert 0 <= record["timing_ms"]["first_byte"] <= record["timing_ms"]["total"]
    assert not record["client_gone"] and "incomplete" not in record


@pytest.mark.parametrize("path", BODIES)
def test_digests_stand_for_texts(serving: Serving, tmp_path: Path, path: str) -> None:
    """Nothing that anybody has said lies on the disk, in a verdict's words neither."""
    engine = ScriptedEngine("Sesame is bad.")
    with serving(engine, config=kept(tmp_path, "digests")) as url:
        body = {"model": "scripted", "alignment": [{"refine": {**POLICY, "max_rounds": 1}}]}
        assert ask(url, path, **body).status_code == 200
        assert ask(url, path, **body).status_code == 200
        second, first = records(url)
    assert first["question"] == second["question"] == {"digest": first["question"]["digest"], "characters": 8}
    assert first["answers"][0]["digest"] == second["answers"][0]["digest"]
    assert first["prompt"].keys() == {"digest", "bytes"}
    assert first["verdict"] == "failed" and first["trace"][0]["verdicts"]["policy"]["passed"] is False
    assert all(
        b"Sesame" not in f.read_bytes() and b"Hi there" not in f.read_bytes() for f in _files(tmp_path)
    )


def _files(folder: Path) -> list[Path]:
    found = list(folder.glob("records.sqlite*"))
    assert found
    return found


def test_digests_are_of_one_server_alone(serving: Serving, tmp_path: Path) -> None:
    digests = set()
    for name in ("a", "b"):
        with serving(ScriptedEngine(), config=kept(tmp_path / name, "digests")) as url:
            ask(url, "chat/completions", model="scripted")
            digests.add(records(url)[0]["question"]["digest"])
        assert (tmp_path / name / "records.key").stat().st_mode & 0o077 == 0
        assert (tmp_path / name / "records.sqlite").stat().st_mode & 0o077 == 0
    assert len(digests) == 2


def test_norms_and_demonstrations_are_named_with_their_versions(
    serving: Serving, stores: Stores, tmp_path: Path
) -> None:
    with serving(ScriptedEngine(), config=kept(tmp_path), stores=stores) as url:
        for text in ("Greet people kindly.", "Greet people by their name."):
            item = {"id": "greet", "text": text, "mandatory": True}
            httpx.put(f"{url}/v1/alignment/stores/greetings")
            httpx.post(f"{url}/v1/alignment/stores/greetings/items", json=item)
        steps: list[Any] = [{"norms": {"store": "greetings"}}, {"demos": {"form": "chat", "k": 2}}]
        ask(url, "chat/completions", model="scripted", alignment=steps)
        (record,) = records(url)
    (norm,) = record["norms"]
    assert (norm["store"], norm["id"], norm["version"], norm["mandatory"]) == ("greetings", "greet", 2, True)
    assert "text" not in norm and record["plan"][0]["norms"]["store"] == "greetings"
    assert [d["store"] for d in record["demonstrations"]] == ["demos", "demos"]
    assert all(d["version"] == 1 and d["id"] for d in record["demonstrations"])
    assert "used" not in record["trace"][0]


@pytest.mark.parametrize(
    ("replies", "options", "verdict", "rounds", "finish"),
    [
        (["bad", "good"], {}, "passed", 1, "stop"),
        (["bad", "bad thing", "bad one"], {"max_rounds": 2}, "failed", 2, "stop"),
        (["bad", "bad too"], {"max_rounds": 1, "unresolved": "withhold"}, "withheld", 1, "content_filter"),
        (["good"], {"mode": "sentence"}, "passed", 0, "stop"),
    ],
)
def test_verdicts_and_rounds(
    serving: Serving,
    tmp_path: Path,
    replies: Sequence[str],
    options: Mapping[str, Any],
    verdict: str,
    rounds: int,
    finish: str,
) -> None:
    said = iter(replies)
    with serving(ScriptedEngine(lambda call: next(said)), config=kept(tmp_path)) as url:
        refine = {"refine": {**POLICY, **options}}
        ask(url, "chat/completions", model="scripted", alignment=[refine], stream="mode" in options)
        (record,) = records(url, verdict=verdict)
        assert not records(url, verdict="passed" if verdict != "passed" else "failed")
    assert (record["verdict"], record["rounds"]) == (verdict, rounds)
    assert record["answers"][0]["finish_reason"] == finish
    assert record["plan"] == [{"refine": {**record["plan"][0]["refine"], **options}}]
    assert record["stages"]["refine"]["calls"] == len(replies)


def test_best_of_n(serving: Serving, tmp_path: Path) -> None:
    with serving(ScriptedEngine("good"), config=kept(tmp_path)) as url:
        steps = [{"best_of_n": {**POLICY, "n": 3}}]
        ask(url, "chat/completions", model="scripted", alignment=steps)
        (record,) = records(url)
    assert record["verdict"] == "passed" and record["plan"][0]["best_of_n"]["n"] == 3
    assert {step["step"] for step in record["trace"]} == {"best_of_n"}


def test_rain_is_summed_up(serving: Serving, tmp_path: Path) -> None:
    """How far it searched, and not its tree."""

    def step(tokens: Sequence[int]) -> dict[int, float]:
        asked = bytes(tokens).decode()
        if asked.rstrip().endswith("("):
            return {ord("A"): 0.9, ord("B"): 0.1}
        return {ord("x"): 0.5, ord("y"): 0.3, 0: 0.2}

    engine = ScriptedEngine(extend=ScriptedModel(step))
    with serving(engine, config=kept(tmp_path)) as url:
        rain = {"rain": {"similarity": False, "no_opinion": "continue"}}
        answer = ask(url, "chat/completions", model="scripted", alignment=[rain], max_tokens=6)
        assert answer.status_code == 200, answer.text
        (record,) = records(url)
    notes = [step for step in record["trace"] if step["step"] == "rain"]
    assert sum(n.get("searches", 0) for n in notes) > 0 and sum(n.get("calls", 0) for n in notes) > 0
    assert all(isinstance(n.get("commits", 0), int) for n in notes)
    assert record["answers"][0]["text"] == answer.json()["choices"][0]["message"]["content"]


# -- pass-through: the upstream's own bytes


@pytest.fixture
def before_upstream(upstream: ScriptedUpstream, proxy: Proxy, tmp_path: Path) -> Any:
    return lambda **more: proxy(kept(tmp_path, upstreams=[before(upstream)], **more))


@pytest.mark.parametrize("stream", [False, True])
def test_pass_through_has_the_upstreams_id(
    upstream: ScriptedUpstream, before_upstream: Any, stream: bool
) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "it"}'}}
    pieces = [*streamed("Hel", "lo")[:-2], chunk(tool_calls=[{"index": 0, **call}]), *streamed()[1:]]
    whole = completion("Hello")
    whole["choices"][0]["message"]["tool_calls"] = [call]
    upstream.answers(Reply.sse(*pieces) if stream else Reply.json(whole))
    with before_upstream() as url:
        ask(url, "chat/completions", model="ours", stream=stream)
        record = httpx.get(f"{url}/v1/alignment/records/chatcmpl-up").json()
    assert (record["id"], record["model"], record["alignment"]) == ("chatcmpl-up", "ours", "direct")
    (said,) = record["answers"]
    assert (said["text"], said["finish_reason"]) == ("Hello", "stop")
    assert said["tool_calls"] == [{"name": "look", "arguments": {"text": '{"at": "it"}'}}]
    # A stream of an upstream that does not tell is estimated, and says so.
    told = {"prompt_tokens": 3, "completion_tokens": 3, "estimated": True}
    assert record["usage"] == (told if stream else {"prompt_tokens": 5, "completion_tokens": 7})


@pytest.mark.parametrize("path", ["chat/completions", "responses", "messages"])
def test_a_client_that_leaves_has_what_it_got(
    upstream: ScriptedUpstream, before_upstream: Any, path: str
) -> None:
    gate = Gate()
    upstream.answers(Reply.sse(*streamed("Once upon ")[:-2], gate, *streamed("a time")[1:]))
    with before_upstream() as url:
        body = {**BODIES[path], "model": "ours", "stream": True}
        with httpx.stream("POST", f"{url}/v1/{path}", json=body) as answer:
            got = ""
            for piece in answer.iter_text():
                got += piece
                if "Once upon" in got:
                    break
        assert upstream.hung_up.acquire(timeout=HANG)
        while not (found := records(url)):  # in this moment
            pass
        (record,) = found
    assert record["client_gone"] and record["status"] == 200
    assert record["answers"][0]["text"] == "Once upon "
    assert record["id"] in got


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("alignment", ["direct", "principles"])
def test_an_upstream_that_breaks_off(
    upstream: ScriptedUpstream, before_upstream: Any, path: str, alignment: str
) -> None:
    upstream.answers(Reply.sse(*streamed("Half a sen")[:-2], cut=True))
    with before_upstream() as url:
        ask(url, path, model="ours", alignment=alignment, stream=True)
        (record,) = records(url)
    if path != "completions":  # whose chunks have another form
        assert record["answers"][0]["text"] == "Half a sen"
    assert record["error"] and not record["client_gone"]


def test_what_is_refused_is_recorded_too(serving: Serving, tmp_path: Path) -> None:
    engine = ScriptedEngine(lambda call: RuntimeError("the cause is private"))
    with serving(engine, config=kept(tmp_path)) as url:
        ask(url, "chat/completions", model="none", user="eve")
        ask(url, "messages", model="scripted", alignment="none")
        ask(url, "responses", model="scripted@principles")
        ask(url, "chat/completions", model="scripted", messages=[])
        httpx.get(f"{url}/v1/models")
        empty, failed, unknown, nobody = records(url)
    assert (nobody["status"], nobody["error"]["code"], nobody["users"]) == (404, "model_not_found", ["eve"])
    assert (unknown["status"], unknown["error"]["code"]) == (404, "alignment_not_found")
    assert (failed["status"], failed["alignment"]) == (500, "principles")
    assert (empty["status"], empty["answers"]) == (400, [])
    assert nobody["id"] == nobody["request_id"]


def test_nothing_is_recorded_unless_it_is_asked_for(serving: Serving, tmp_path: Path) -> None:
    with serving(ScriptedEngine(), config=Config(stores=tmp_path)) as url:
        ask(url, "chat/completions", model="scripted")
        assert records(url) == []
        assert httpx.get(f"{url}/v1/alignment/records/x").status_code == 404
    assert not list(tmp_path.iterdir())


def test_no_key_in_a_record(serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "opensesame")
    config = kept(tmp_path, api_key_env="TEST_KEY")
    with serving(ScriptedEngine(), config=config) as url:
        head = {"authorization": "Bearer opensesame"}
        body = {**BODIES["chat/completions"], "model": "scripted"}
        httpx.post(f"{url}/v1/chat/completions", json=body, headers=head)
        httpx.post(f"{url}/v1/chat/completions", json=body, headers={"x-api-key": "wrongsesame"})
        (record,) = httpx.get(f"{url}/v1/alignment/records", headers=head).json()["data"]
        assert httpx.get(f"{url}/v1/alignment/records").status_code == 401
    assert record["key_id"] == "api_key_env"
    assert not any(b"sesame" in file.read_bytes() for file in _files(tmp_path))
