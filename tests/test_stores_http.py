"""Stores over HTTP and on the command line, and their use by strategies in a server."""

from __future__ import annotations

import concurrent.futures
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from openai import OpenAI
from typer.testing import CliRunner

from heedful.retrieval.embedding.embedder import Embedder
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.stores import Stores
from heedful.server.cli import store as store_cli
from heedful.server.cli.main import app
from heedful.server.config import Config
from heedful.strategies.scripted import ScriptedEngine

Serving = Callable[..., AbstractContextManager[str]]


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine(context_length=100_000, model="m")


@pytest.fixture
def http(
    serving: Serving, engine: ScriptedEngine, place: Path | str, tmp_path: Path
) -> Iterator[httpx.Client]:
    stores = Stores(place, word_embedder(dimension=256), folder=tmp_path)
    with (
        serving(engine, stores=stores, config=Config(max_body_bytes=50_000)) as url,
        httpx.Client(base_url=f"{url}/v1/alignment/stores") as client,
    ):
        assert client.put("/norms").status_code == 201
        yield client
    stores.close()


def test_the_life_of_a_store(http: httpx.Client) -> None:
    assert http.put("/norms").status_code == 200
    about = http.get("/norms").json()
    assert (about["items"], about["index"], about["dimension"]) == (0, "flat", 256)
    http.put("/laws")
    assert [s["name"] for s in httpx.get(str(http.base_url).rstrip("/")).json()["data"]] == ["laws", "norms"]
    assert http.delete("/laws").json() == {"name": "laws", "deleted": True}
    missing = http.get("/laws")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "store_not_found"
    assert "known: norms" in missing.json()["error"]["message"]
    assert http.put("/No%20Name").status_code == 400


def test_the_life_of_an_item(http: httpx.Client) -> None:
    made = http.post("/norms/items", json={"id": "a/b", "text": "Be kind.", "tags": ["x"]})
    assert (made.status_code, made.json()["ids"], made.json()["added"]) == (201, ["a/b"], ["a/b"])
    again = http.post(
        "/norms/items", json={"items": [{"id": "a/b", "text": "Be kinder."}, {"text": "Be fair."}]}
    )
    assert again.json()["replaced"] == ["a/b"]
    assert http.get("/norms/items/a/b").json()["text"] == "Be kinder."
    page = http.get("/norms/items", params={"limit": 1}).json()
    rest = http.get("/norms/items", params={"after": page["next_after"]}).json()
    assert [i["text"] for i in page["data"] + rest["data"]] == ["Be kinder.", "Be fair."]
    found = http.post("/norms/search", json={"query": "be fair", "k": 1}).json()["data"]
    assert [(f["text"], f["score"]) for f in found] == [("Be fair.", pytest.approx(1, abs=1e-4))]
    history = http.get("/norms/history/a/b").json()["data"]
    assert [v["text"] for v in history] == ["Be kind.", "Be kinder."]
    stood = http.get("/norms/items", params={"as_of": history[0]["recorded"]}).json()["data"]
    assert [i["text"] for i in stood] == ["Be kind."]
    assert http.delete("/norms/items/a/b").status_code == 200
    assert http.delete("/norms/items/a/b").json()["error"]["code"] == "item_not_found"
    assert len(http.get("/norms/history/a/b").json()["data"]) == 2
    assert http.get("/norms/history/nobody").status_code == 404


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"text": ""}, "text"),
        ({"text": 5}, "text"),
        ({"text": "x", "valid_from": "soon"}, "valid_from"),
        ({"text": "x", "color": 1}, "color"),
        ({"items": [{"text": "ok"}, {"text": "y", "kind": "rule"}]}, "items.1.kind"),
        ({"items": [{"text": "a", "id": "1"}, {"text": "b", "id": "1"}]}, "id"),
        ({"items": "x"}, "items"),
    ],
)
def test_bad_items_are_refused_whole(http: httpx.Client, body: dict[str, Any], param: str) -> None:
    refused = http.post("/norms/items", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    assert http.get("/norms").json()["items"] == 0


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "query"),
        ({"query": "x", "k": 0}, "k"),
        ({"query": "x", "kind": "law"}, "kind"),
        ({"query": "x", "tags": "a"}, "tags"),
        ({"query": "x", "at": "soon"}, "at"),
        ({"query": "x", "limit": 3}, "limit"),
    ],
)
def test_bad_searches_are_refused(http: httpx.Client, body: dict[str, Any], param: str) -> None:
    refused = http.post("/norms/search", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_files_in_and_out(http: httpx.Client) -> None:
    lines = "".join(json.dumps({"text": f"rule {i}", "scope": "Bern"}) + "\n" for i in range(300))
    assert http.post("/norms/import", content=lines).json()["added"] == 300
    assert http.post("/norms/import", content=lines).json()["unchanged"] == 300
    out = http.get("/norms/export").text
    assert len(out.splitlines()) == 300
    assert http.post("/norms/import", content=out).json()["unchanged"] == 300
    bad = http.post("/norms/import", content='{"text": "new rule"}\n{"no": 1}\n')
    assert bad.status_code == 400 and "line 2" in bad.json()["error"]["message"]
    assert http.get("/norms").json()["items"] == 300
    some = http.post("/norms/import?skip_bad=true", content='{"text": "new rule"}\n{"no": 1}\n').json()
    assert (some["added"], [b["line"] for b in some["bad"]]) == (1, [2])
    text = http.post("/norms/import?format=text&source=House", content="One.\n\nTwo.").json()
    assert text["added"] == 2
    assert http.post("/norms/import?format=xml", content="x").status_code == 400
    odd = http.post("/norms/import", content=b"\n\xff").json()["error"]
    assert odd["code"] == "invalid_encoding" and odd["message"].startswith(
        "line 2 is not UTF-8 (byte 2 is 0xff)"
    )
    assert http.post("/norms/import", content="x" * 60_000).status_code == 413


def test_a_norm_added_over_http_is_in_the_very_next_answer(
    http: httpx.Client, engine: ScriptedEngine, client: Callable[[str], OpenAI]
) -> None:
    chat = client(str(http.base_url).removesuffix("/v1/alignment/stores/"))

    def ask() -> dict[str, Any]:
        answer = chat.chat.completions.create(
            model="m@norms",
            messages=[{"role": "user", "content": "May I bring my dog?"}],
            extra_body={"alignment": {"trace": True}},
        )
        trace: dict[str, Any] = (answer.model_extra or {})["alignment"]["trace"][0]
        return trace

    assert ask()["used"] == []
    http.post("/norms/items", json={"text": "A dog may come if it is small.", "source": "House"})
    assert [n["text"] for n in ask()["used"]] == ["A dog may come if it is small."]
    assert "House: A dog may come" in str(engine.calls[-1].messages[-1]["content"])


def test_readers_and_writers_over_http_lose_nothing(http: httpx.Client) -> None:
    def write(i: int) -> int:
        return http.post("/norms/items", json={"text": f"rule number {i}"}).status_code

    def read(i: int) -> int:
        return http.post("/norms/search", json={"query": f"rule {i}"}).status_code

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        codes = list(pool.map(lambda i: (read if i % 4 else write)(i), range(200)))
    assert set(codes) == {200, 201}
    assert http.get("/norms").json()["items"] == 50


def test_a_server_without_stores_says_so(serving: Serving, engine: ScriptedEngine) -> None:
    with serving(engine) as url:
        assert httpx.get(f"{url}/v1/alignment/stores").status_code == 404
        assert "m@norms" not in [m["id"] for m in httpx.get(f"{url}/v1/models").json()["data"]]


# -- the command line, on files that a server may have open


@pytest.fixture
def heedful(place: Path | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    def words(model: str) -> Embedder:
        return word_embedder(dimension=256)

    monkeypatch.setattr(store_cli, "load", words)
    monkeypatch.setenv("HEEDFUL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HEEDFUL_STORES", str(place))
    monkeypatch.setenv("COLUMNS", "300")

    def run(*arguments: str, fails: bool = False) -> str:
        result = CliRunner().invoke(app, ["store", *arguments])
        assert bool(result.exception) == fails, result.output
        return str(result.exception) if fails else result.output

    return run


def test_the_command_line(heedful: Callable[..., str], tmp_path: Path) -> None:
    assert "made store norms" in heedful("add", "norms", "Be kind.", "--id", "k", "--source", "House")
    assert "replaced k" in heedful("add", "norms", "Be very kind.", "--id", "k", "--until", "2999-01-01")
    rules = tmp_path / "rules.md"
    rules.write_text("# Guests\nGreet them.\n")
    assert "1 added, 0 replaced, 0 unchanged" in heedful("import", "norms", str(rules), "--tag", "desk")
    assert "Guests: Greet them." in heedful("search", "norms", "greet guests", "-k", "1", "--tag", "desk")
    assert "norms" in heedful("list") and "words" in heedful("list")
    listed = [json.loads(line) for line in heedful("list", "norms").splitlines()]
    assert [i["text"] for i in listed] == ["Be very kind.", "Guests: Greet them."]
    assert heedful("history", "norms", "k").count("kind.") == 2
    out = tmp_path / "out.jsonl"
    heedful("export", "norms", str(out))
    assert "2 added" in heedful("import", "copy", str(out))
    heedful("delete", "norms", "k")
    assert "do not stand" in heedful("delete", "norms", "k", fails=True)
    assert "unknown store 'none'" in heedful("search", "none", "x", fails=True)
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "fine"}\nnonsense\n')
    assert "1 bad lines, nothing was imported" in heedful("import", "norms", str(bad), fails=True)
    assert "1 added" in heedful("import", "norms", str(bad), "--skip-bad")
    assert "made norms" not in heedful("starter")
    assert [line.split()[0] for line in heedful("list").splitlines()[-3:]] == ["copy", "demos", "norms"]


def test_a_running_server_sees_what_the_command_line_writes(
    http: httpx.Client, heedful: Callable[..., str], place: Path | str
) -> None:
    heedful("add", "norms", "Close the door.", "--folder", str(place))
    found = http.post("/norms/search", json={"query": "close the door"}).json()["data"]
    assert [f["text"] for f in found] == ["Close the door."]


# -- with real models


@pytest.fixture
def own_store(request: pytest.FixtureRequest) -> Callable[[str], AbstractContextManager[str]]:
    from contextlib import contextmanager

    @contextmanager
    def make(url: str) -> Iterator[str]:
        name = f"test-{uuid4().hex[:12]}"
        httpx.put(f"{url}/v1/alignment/stores/{name}").raise_for_status()
        try:
            yield name
        finally:
            httpx.delete(f"{url}/v1/alignment/stores/{name}").raise_for_status()

    return make


@pytest.mark.engine
def test_norms_with_a_real_model(
    chat_server: str, client: Callable[[str], OpenAI], own_store: Callable[[str], AbstractContextManager[str]]
) -> None:
    with own_store(chat_server) as name:
        items = f"{chat_server}/v1/alignment/stores/{name}/items"
        norm = {"text": "The swimming pool closes at nine in the evening.", "source": "Pool rules"}

        def ask(stream: bool) -> tuple[str, list[dict[str, Any]]]:
            pipeline = [{"norms": {"store": name}}]
            answer = client(chat_server).chat.completions.create(
                model="smollm2-135m-instruct",
                messages=[{"role": "user", "content": "How late may I swim?"}],
                max_tokens=24,
                temperature=0,
                extra_body={"alignment": {"pipeline": pipeline, "trace": True}},
            )
            record = (answer.model_extra or {})["alignment"]
            return answer.choices[0].message.content or "", record["trace"][0]["used"]

        before, none = ask(False)
        httpx.post(items, json=norm).raise_for_status()
        httpx.post(items, json={"text": "Bread is sold until noon."}).raise_for_status()
        after, used = ask(False)
        assert none == [] and used[0]["text"] == norm["text"] and used[0]["score"] > used[1]["score"]
        assert before != after


@pytest.mark.engine
def test_demos_with_a_real_base_model(base_server: str, client: Callable[[str], OpenAI]) -> None:
    answer = client(base_server).chat.completions.create(
        model="gemma-3-270m@demos",
        messages=[{"role": "user", "content": "Translate into French: Where is the library?"}],
        max_tokens=24,
        temperature=0,
        extra_body={"alignment": {"trace": True}},
    )
    record = (answer.model_extra or {})["alignment"]["trace"][0]
    assert record["form"] == "raw" and record["tokens"] == "exact"
    assert len(record["used"]) + len(record["dropped"]) == 20
    assert "Question:" not in (answer.choices[0].message.content or "")
    # Every token of every demonstration was counted with the model's own tokenizer.
    used = sum(u["tokens"] for u in record["used"])
    assert answer.usage and used < answer.usage.prompt_tokens < used + 60
