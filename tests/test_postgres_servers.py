"""Servers that share one PostgreSQL: real ones before a fake upstream, and stores that move in and out."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner
from upstream_fixtures import ScriptedUpstream
from waiting import HANG

from heedful.benchmarks.postgres_server import postgres
from heedful.retrieval import Filter, Item
from heedful.retrieval.embedding.embedder import Embedder
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.stores import Stores
from heedful.server.cli import store_copy
from heedful.server.cli.main import app
from heedful.server.config import Config, ConfigError, load
from heedful.strategies.scripted import ScriptedEngine

Serving = Callable[..., AbstractContextManager[str]]
STORES = "/v1/alignment/stores"


def _ask(http: httpx.Client, question: str) -> httpx.Response:
    body = {
        "model": "m@norms",
        "messages": [{"role": "user", "content": question}],
        "alignment": {"trace": True},
    }
    return http.post("/v1/chat/completions", json=body)


def _used(answer: httpx.Response) -> list[str]:
    return [norm["text"] for norm in answer.json()["alignment"]["trace"][0]["used"]]


@pytest.fixture
def replicas(
    serving: Serving, postgres_url: str, tmp_path: Path
) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """Two servers with all their own but the database."""
    with ExitStack() as stack:
        clients = []
        for name in ("a", "b"):
            stores = Stores(postgres_url, word_embedder(dimension=256), folder=tmp_path / name)
            stack.callback(stores.close)
            stores.create("norms")
            url = stack.enter_context(serving(ScriptedEngine(model="m"), stores=stores))
            clients.append(stack.enter_context(httpx.Client(base_url=url, timeout=HANG)))
        yield clients[0], clients[1]


def test_a_norm_written_through_one_is_in_the_next_answer_of_the_other(
    replicas: tuple[httpx.Client, httpx.Client],
) -> None:
    a, b = replicas
    items = f"{STORES}/norms/items"
    for i in range(5):
        a.post(items, json={"id": "dog", "text": f"Dogs of size {i} may come.", "mandatory": True})
        assert _used(_ask(b, "May I bring my dog?")) == [f"Dogs of size {i} may come."]
        assert b.get(f"{items}/dog").headers["etag"] == f'"{i + 1}"'
    late = a.post(items, json={"id": "dog", "text": "Anew."}, headers={"if-match": '"3"'})
    assert late.status_code == 412 and b.delete(f"{items}/dog").status_code == 200
    assert _used(_ask(a, "May I bring my dog?")) == []
    assert len(a.get(f"{STORES}/norms/history/dog").json()["data"]) == 5


def test_a_database_that_is_away_is_a_503_and_back_without_a_restart(
    serving: Serving, tmp_path: Path
) -> None:
    with postgres(shared_buffers="16MB") as server:
        stores = Stores(server.url, word_embedder(dimension=256), folder=tmp_path)
        stores.create("norms")[0].add([Item("Dogs may come.")])
        with (
            serving(ScriptedEngine(model="m"), stores=stores) as url,
            httpx.Client(base_url=url, timeout=HANG) as http,
        ):
            assert _used(_ask(http, "May dogs come?")) == ["Dogs may come."]
            server.kill()
            for answer in (
                _ask(http, "May dogs come?"),
                http.post(f"{STORES}/norms/items", json={"text": "Cats may come."}),
                http.get(f"{STORES}/norms"),
            ):
                error = answer.json()["error"]
                assert (answer.status_code, error["code"]) == (503, "retrieval_failed")
                assert "the database of the stores" in error["message"]
            plain = {"model": "m", "messages": [{"role": "user", "content": "Hello."}]}
            assert http.post("/v1/chat/completions", json=plain).status_code == 200  # which needs no store
            server.start()
            end = time.monotonic() + HANG
            while (answer := _ask(http, "May dogs come?")).status_code == 503:
                assert time.monotonic() < end
            assert _used(answer) == ["Dogs may come."]
            http.post(f"{STORES}/norms/items", json={"text": "Cats may come."}).raise_for_status()
        stores.close()


def test_two_real_servers_on_one_database(
    heedful_serve: Callable[..., AbstractContextManager[tuple[str, subprocess.Popen[bytes]]]],
    upstream: ScriptedUpstream,
    postgres_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As processes. Neither needs the embedding model for what is asked here."""
    monkeypatch.setenv("HEEDFUL_HOME", str(tmp_path))
    config = tmp_path / "heedful.yaml"
    config.write_text(f"stores: {postgres_url}\nstarter_stores: false\n")
    arguments = ("--config", str(config), "--upstream", upstream.url, "--model", "theirs")
    with (
        heedful_serve(*arguments, log=tmp_path / "a.log") as (a, _),
        heedful_serve(*arguments, log=tmp_path / "b.log") as (b, _),
    ):

        def heed() -> list[bool]:
            listed = [httpx.get(f"{url}/v1/models", timeout=HANG).json()["data"] for url in (a, b)]
            return ["theirs@norms" in [model["id"] for model in models] for models in listed]

        assert heed() == [False, False]
        embedder = word_embedder()
        stores = Stores(postgres_url, embedder)
        stores.create("norms")
        end = time.monotonic() + HANG
        while heed() != [True, True]:
            assert time.monotonic() < end
        stores.close()
        embedder.close()


@pytest.fixture
def heedful(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    def words(model: str) -> Embedder:
        return word_embedder(model, dimension=64)

    monkeypatch.setattr(store_copy, "load", words)

    def run(*arguments: str, fails: bool = False) -> str:
        result = CliRunner().invoke(app, ["store", *arguments])
        assert bool(result.exception) == fails, result.output
        return result.output + (str(result.exception) if fails else "")

    return run


def _whole(place: Path | str, tenant: str | None) -> list[Any]:
    """All that a store promises to keep."""
    embedder = word_embedder("words", dimension=64)
    stores = Stores(place, embedder)
    store = (stores if tenant is None else stores.below(tenant)).get("norms")
    with store.whole() as versions:
        kept = [(v.version, None if v.vector is None else v.vector.tolist()) for v in versions]
    standing = [item.id for item in store]
    then = [version.item.text for _, version in store.page(as_of=store.history("k")[0].began)]
    found = store.search(embedder.embed_now(["be kind"])[0], 10, Filter())
    scores = [(hit.item.id, hit.version, round(hit.score, 3)) for hit in found]
    told = [
        kept,
        standing,
        then,
        scores,
        store.erasures(),
        len(store),
        store.vectors(["k"]).tolist(),
    ]
    stores.close()
    embedder.close()
    return told


def test_a_store_moves_in_and_out_with_its_history(
    heedful: Callable[..., str], postgres_url: str, tmp_path: Path
) -> None:
    embedder = word_embedder("words", dimension=64)
    stores = Stores(tmp_path / "from", embedder)
    for tenant in (None, "acme"):
        store = (stores if tenant is None else stores.below(tenant)).create("norms")[0]
        store.add([Item("be kind", id="k", scope="Bern", tags=("b", "a"), meta={"n": [1.5, None, "\x00"]})])
        store.add([Item("be very kind", id="k", valid_until=1e10, mandatory=True)])
        store.add([Item(f"rule {i} of {tenant}", id=f"r{i}") for i in range(2500)])
        store.add([Item("was", id="gone", source="Ünïcode \u2028"), Item("secret", id="secret")])
        store.delete(["gone", "r7"])
        store.erase(["secret"], "key 7")
    stores.close()
    embedder.close()
    told = heedful("copy", str(tmp_path / "from"), postgres_url)
    assert "copied norms: 2503 versions" in told and "copied norms of acme: 2503 versions" in told
    told = heedful("copy", postgres_url, str(tmp_path / "back"), "--tenant", "acme", "--store", "norms")
    assert told.count("copied") == 1
    for tenant in (None, "acme"):
        assert _whole(tmp_path / "from", tenant) == _whole(postgres_url, tenant)
    assert _whole(tmp_path / "back", "acme") == _whole(tmp_path / "from", "acme")
    # What is in the way stays as it is, and is told.
    before = _whole(postgres_url, None)
    told = heedful("copy", str(tmp_path / "from"), postgres_url, fails=True)
    assert "not copied: norms: " in told and "norms of acme: " in told and "not empty" in told
    assert _whole(postgres_url, None) == before
    assert "there is no store 'laws'" in heedful(
        "copy", postgres_url, str(tmp_path / "x"), "--store", "laws", fails=True
    )
    # And it goes on: the next version follows the last.
    stores = Stores(postgres_url, word_embedder("words", dimension=64))
    store = stores.get("norms")
    store.add([Item("be kinder", id="k"), Item("was again", id="gone")])
    assert [v.version for v in store.history("k")] == [1, 2, 3]
    assert [v.version for v in store.history("gone")] == [1, 2]
    stores.close()


def test_where_stores_are_is_a_folder_or_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "heedful.yaml"
    for said, meant in (
        ("norms", tmp_path / "norms"),
        ("postgresql://heedful@db/heedful?schema=house", "postgresql://heedful@db/heedful?schema=house"),
    ):
        file.write_text(json.dumps({"stores": said}))
        assert load(file, {}).stores == meant
    assert load(None, {"stores": "postgres://db/x"}).stores == "postgres://db/x"
    assert Config(stores="here").stores == Path("here")
    with pytest.raises(ConfigError, match="stores"):
        load(None, {"stores": 5})
