"""Two tenants with stores of the same names, ids and times: nothing of one shows at the other, whatever it asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from running import at_once
from tenants import serving_clients

from heedful.retrieval import Filter, InvalidItem, Item
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.readable import Readable
from heedful.retrieval.store.stores import Stores
from heedful.server.access.client import EVERYONE, Client, Role, Tenant
from heedful.server.access.settings import TenantSettings
from heedful.server.config import Config
from heedful.server.stores import drop_stores_of, stores_of
from heedful.strategies.scripted import ScriptedEngine

STORES = "/v1/alignment/stores"
# A word that stands in everything that is a tenant's: texts, scopes, tags, sources, answers, names of stores.
WORDS = {"acme": "zanzibar", "birch": "quagmire", EVERYONE: "hollyhock"}
SHARED = "The tide table is public."


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine(context_length=100_000, model="m")


@pytest.fixture
def seen() -> list[str]:
    """Texts that were embedded."""
    return []


@pytest.fixture
def stores(place: Path | str, tmp_path: Path, seen: list[str]) -> Iterator[Stores]:
    stores = Stores(place, word_embedder(dimension=256, seen=seen), folder=tmp_path)
    for tenant, word in WORDS.items():
        own = stores_of(stores, tenant)
        about: dict[str, Any] = {"scope": f"{word} town", "tags": (f"{word}-tag",), "source": f"{word} law"}
        for name in ("norms", f"{word}-only"):
            store, _ = own.create(name)
            store.add([Item(f"The {word} rule as it was.", id="k", **about)])
            store.add([Item(f"The {word} rule is kept.", id="k", **about)])
            store.add([Item(f"A {word} rule for all.", id="everywhere")])
            store.add([Item(f"Never forget {word}.", id="always", mandatory=True)])
            store.add([Item(f"The {word} rule that was.", id="ended", **about)])
            store.delete(["ended"])
        demos, _ = own.create("demos")
        demos.add([Item(f"How is a {word} rule kept?", answer=f"By {word}.", id="d", kind="demo")])
    stores.create("base")[0].add([Item(SHARED, id="tide", scope="harbour")])
    yield stores
    stores.close()


def _client(tenant: str, role: Role = Role.ADMIN, **more: Any) -> Client:
    settings = TenantSettings(reads=("base", "gone")) if tenant == "acme" else TenantSettings()
    return Client(Tenant(tenant, settings), role, f"key of {tenant}", **more)


@pytest.fixture
def asking(engine: ScriptedEngine, stores: Stores) -> Iterator[dict[str, httpx.Client]]:
    config = Config(alignments={"house": [{"norms": {"store": "zanzibar-only"}}]})
    clients = {tenant: _client(tenant) for tenant in WORDS}
    with serving_clients(engine, stores, clients, config) as asking:
        yield asking


def _ask(http: httpx.Client, question: str, *pipeline: Any, model: str = "m") -> httpx.Response:
    alignment = {"trace": True} | ({"pipeline": list(pipeline)} if pipeline else {})
    body = {"model": model, "messages": [{"role": "user", "content": question}], "alignment": alignment}
    return http.post("/v1/chat/completions", json=body)


def _everything(http: httpx.Client, others: str) -> Iterator[httpx.Response]:
    """Whatever might tell of another tenant, by a word that it has heard of."""
    yield http.get(STORES)
    yield http.get("/v1/models")
    yield http.get("/v1/models/m@house")
    yield http.get("/v1/alignment")
    for store in ("norms", f"{others}-only", f"tenants%2F{others}", f"..%2F{others}", "tenants"):
        base = f"{STORES}/{store}"
        for path in ("", "/items", "/items/k", "/items/ended", "/history/k", "/export", "/erasures"):
            yield http.get(f"{base}{path}")
        yield http.get(f"{base}/items", params={"as_of": "2999-01-01"})
        for more in ({}, {"scopes": [f"{others} town"]}, {"tags": [f"{others}-tag"]}, {"at": "2999-01-01"}):
            yield http.post(f"{base}/search", json={"query": "the rule is kept", "k": 50, **more})
        yield http.request("DELETE", f"{base}/items/none")
    question = f"What is the rule in {others} town?"
    for name in ("norms", f"{others}-only", f"shared/{others}-only", "shared/norms", f"../{others}/norms"):
        yield _ask(http, "What is the rule?", {"norms": {"store": name}})
        yield _ask(http, "What is the rule?", {"norms": {"store": ["norms", name], "k": 50}})
        yield _ask(http, "How is a rule kept?", {"demos": {"store": name}})
        verifiers = [{"evidence": {"store": name, "min_score": -1}}]
        yield _ask(http, "x", {"best_of_n": {"n": 1, "verifiers": verifiers}})
        judged = {"input": "The rule is kept in every town.", "verifiers": verifiers}
        yield http.post("/v1/moderations", json=judged)
    yield _ask(http, question, "norms")
    yield _ask(http, question, {"norms": {"scope": [f"{others} town"], "tags": [f"{others}-tag"]}})
    yield _ask(http, "What is the rule?", model="m@norms+demos")
    yield _ask(http, "What is the rule?", model="m@house")


@pytest.mark.parametrize(("me", "other"), [("acme", "birch"), ("birch", "acme"), ("acme", EVERYONE)])
def test_nothing_of_one_tenant_shows_at_another(
    asking: dict[str, httpx.Client], engine: ScriptedEngine, me: str, other: str
) -> None:
    answers = list(_everything(asking[me], WORDS[other]))
    # What one has asked with comes back in errors: what matters is all that one has not.
    told = [f"{a.text} {a.headers}".lower() for a in answers if WORDS[other] not in _sent(a)]
    assert len(told) > 30 and not [t for t in told if WORDS[other] in t]
    assert sum(WORDS[me] in t for t in told) > 10
    for answer in answers:
        assert answer.status_code in (200, 400, 404, 503), answer.text
        for secret in ("rule as it was", "rule is kept", "rule for all", "forget", "rule that was"):
            assert f"{WORDS[other]} {secret}" not in answer.text.lower()
        assert f"never forget {WORDS[other]}" not in answer.text.lower()
    prompts = [str(call.messages) for call in engine.calls]
    for secret in (f"A {WORDS[me]} rule for all.", f"By {WORDS[me]}."):
        assert any(secret in prompt for prompt in prompts)
    assert not any(f"A {WORDS[other]} rule for all." in p or f"By {WORDS[other]}." in p for p in prompts)


def _sent(answer: httpx.Response) -> str:
    return f"{answer.request.url} {answer.request.read().decode()}".lower()


def test_anothers_store_is_as_unknown_as_none(asking: dict[str, httpx.Client]) -> None:
    def told(http: httpx.Client, name: str) -> list[tuple[int, str]]:
        asked = [
            http.get(f"{STORES}/{name}{path}") for path in ("", "/items", "/items/k", "/history/k", "/export")
        ]
        asked.append(http.post(f"{STORES}/{name}/search", json={"query": "rule"}))
        asked.append(http.post(f"{STORES}/{name}/items", json={"text": "Mine."}))
        asked.append(http.post(f"{STORES}/{name}/import", content=b'{"text": "Mine."}'))
        asked.append(http.delete(f"{STORES}/{name}"))
        asked += [_ask(http, "The rule?", {step: {"store": name}}) for step in ("norms", "demos")]
        return [(a.status_code, a.text.replace(name, "NAME")) for a in asked]

    there = told(asking["birch"], "zanzibar-only")
    assert there == told(asking["birch"], "nobody-only") == told(asking["birch"], "hollyhock-only")
    assert {status for status, _ in there} == {404}
    assert asking["acme"].get(f"{STORES}/zanzibar-only").json()["items"] == 3


def test_the_same_names_are_each_ones_own(asking: dict[str, httpx.Client], place: Path | str) -> None:
    for tenant, word in WORDS.items():
        http = asking[tenant]
        assert http.get(f"{STORES}/norms/items/k").json()["text"] == f"The {word} rule is kept."
        assert len(http.get(f"{STORES}/norms/history/k").json()["data"]) == 2
        http.post(f"{STORES}/norms/items", json={"id": "new", "text": f"A new {word} rule."})
    asking["acme"].delete(f"{STORES}/norms/items/new")
    assert asking["birch"].get(f"{STORES}/norms/items/new").status_code == 200
    assert asking["acme"].delete(f"{STORES}/norms").status_code == 200
    assert asking["birch"].get(f"{STORES}/norms").json()["items"] == 4
    assert asking[EVERYONE].get(f"{STORES}/norms").json()["items"] == 4
    if isinstance(place, Path):  # the default tenant's are where they always were
        names = {"norms.db", "demos.db", "base.db", "hollyhock-only.db"}
        assert {p.name for p in place.glob("*.db")} == names
        assert (place / "tenants" / "birch" / "norms.db").is_file()


def test_scopes_that_a_question_names_are_ones_own(asking: dict[str, httpx.Client]) -> None:
    def scopes(tenant: str, question: str, **options: Any) -> Any:
        answer = _ask(asking[tenant], question, {"norms": options})
        return answer.json()["alignment"]["trace"][0]["scopes"]

    assert scopes("acme", "In Zanzibar town?") == ["zanzibar town"]
    assert scopes("birch", "In Zanzibar town?") is None
    assert scopes("birch", "In quagmire town and in Zanzibar town?") == ["quagmire town"]
    # Those of a shared store where it is read, and nowhere else.
    assert scopes("acme", "At the harbour?", store=["norms", "base"]) == ["harbour"]
    assert scopes("acme", "At the harbour?") is None
    assert scopes("birch", "At the harbour?") is None


def test_both_at_once(asking: dict[str, httpx.Client], engine: ScriptedEngine) -> None:
    def ask(tenant: str) -> tuple[str, str]:
        question = "What is the rule, and how is it kept?"
        return tenant, _ask(asking[tenant], question, {"norms": {"k": 50}}, "demos").text.lower()

    answers = at_once(*(lambda tenant=tenant: ask(tenant) for _ in range(12) for tenant in WORDS))
    for tenant, told in answers:
        assert f"never forget {WORDS[tenant]}" in told
        assert not [word for other, word in WORDS.items() if other != tenant and word in told]
    for call in engine.calls:
        assert sum(word in str(call.messages) for word in WORDS.values()) == 1


def test_what_one_has_asked_is_embedded_anew_for_the_other(
    asking: dict[str, httpx.Client], seen: list[str]
) -> None:
    """Else how soon an answer comes would tell that somebody has asked just this."""
    for tenant in ("acme", "acme", "birch", "birch", EVERYONE):
        asking[tenant].post(f"{STORES}/norms/search", json={"query": "Is it Tuesday?"})
        _ask(asking[tenant], "Is it Tuesday?", "norms")
        body = {"model": "words", "input": "Is it Tuesday?"}
        assert asking[tenant].post("/v1/embeddings", json=body).status_code == 200
    assert seen.count("Is it Tuesday?") == 3


def test_a_shared_store_is_read_and_not_written(asking: dict[str, httpx.Client]) -> None:
    acme, birch = asking["acme"], asking["birch"]
    for name in ("base", "shared/base"):
        used = _ask(acme, "When is the tide?", {"norms": {"store": name}}).json()["alignment"]["trace"][0][
            "used"
        ]
        assert [u["text"] for u in used] == [SHARED]
        refused = _ask(birch, "When is the tide?", {"norms": {"store": name}})
        assert (refused.status_code, refused.json()["error"]["param"]) == (404, "alignment.norms.store")
    known = _ask(acme, "x", {"norms": {"store": "nope"}}).json()["error"]["message"]
    assert known == "unknown store 'nope'; known: demos, norms, zanzibar-only, shared/base"
    # Over HTTP only one's own exist.
    assert acme.get(f"{STORES}/base").status_code == 404
    assert acme.post(f"{STORES}/base/items", json={"text": "Mine."}).status_code == 404
    assert acme.request("DELETE", f"{STORES}/base/items/tide", params={"erase": "true"}).status_code == 404
    assert "base" not in [s["name"] for s in acme.get(STORES).json()["data"]]
    # One's own comes first; the shared one keeps its longer name.
    acme.put(f"{STORES}/base")
    acme.post(f"{STORES}/base/items", json={"text": "The tide is mine."})
    for name, text in (("base", "The tide is mine."), ("shared/base", SHARED)):
        used = _ask(acme, "When is the tide?", {"norms": {"store": name}}).json()["alignment"]["trace"][0][
            "used"
        ]
        assert [u["text"] for u in used] == [text]


async def test_the_operators_names_are_not_to_be_taken(stores: Stores) -> None:
    """Where a name is the operator's, as in a floor, a tenant's store of that name does not take its place."""
    acme = stores.below("acme")
    acme.create("base")[0].add([Item("The tide is mine.")])
    plain, above = Readable(acme, ["base"]), Readable(acme, ["base"], above=True)
    for readable, name, text in ((plain, "base", "The tide is mine."), (above, "base", SHARED)):
        (hit,) = await readable.search(name, "tide", 1, Filter())
        assert hit.item.text == text
    assert above.has("hollyhock-only") and above.has("zanzibar-only") and not above.has("quagmire-only")
    assert "hollyhock-only" not in above.names()


def test_several_stores_rank_as_one(asking: dict[str, httpx.Client], engine: ScriptedEngine) -> None:
    acme = asking["acme"]
    acme.post(f"{STORES}/norms/items", json={"id": "tide", "text": "The tide table is public and free."})
    acme.post(f"{STORES}/norms/items", json={"id": "cat", "text": "Cats sleep."})
    options = {"store": ["base", "norms"], "k": 2, "scope": ["harbour"]}
    trace = _ask(acme, "The tide table is public.", {"norms": options}).json()["alignment"]["trace"][0]
    assert trace["store"] == ["base", "norms"]
    assert [(u["id"], u["store"]) for u in trace["used"]] == [
        ("norms/always", "norms"),
        ("base/tide", "base"),
        ("norms/tide", "norms"),
    ]
    scores = [u["score"] for u in trace["used"][1:]]
    assert scores == sorted(scores, reverse=True) and scores[0] == pytest.approx(1, abs=1e-3)
    tight = options | {"max_tokens": trace["used"][1]["tokens"] + trace["used"][0]["tokens"]}
    trace = _ask(acme, "The tide table is public.", {"norms": tight}).json()["alignment"]["trace"][0]
    assert [u["id"] for u in trace["used"]] == ["norms/always", "base/tide"]
    assert [(d["id"], d["store"]) for d in trace["dropped"]] == [("norms/tide", "norms")]
    # Twice the same is once; for the default tenant both names are the same store.
    twice = {"norms": {"store": ["norms", "shared/norms"], "k": 9}}
    used = _ask(asking[EVERYONE], "The rule?", twice).json()["alignment"]["trace"][0]["used"]
    assert len(used) == 3 and {u["store"] for u in used} == {"norms"}
    several = {"demos": {"store": ["demos", "zanzibar-only"], "diversity": 0.3}}
    used = _ask(acme, "How is a rule kept?", several).json()["alignment"]["trace"][0]["used"]
    assert [u["id"] for u in used] == ["demos/d"]
    assert _ask(acme, "x", {"norms": {"store": []}}).status_code == 400


def test_an_alignment_is_for_those_who_have_its_store(asking: dict[str, httpx.Client]) -> None:
    def listed(tenant: str) -> set[str]:
        return {entry["id"] for entry in asking[tenant].get("/v1/models").json()["data"]}

    assert "m@house" in listed("acme") and "house" in asking["acme"].get("/v1/alignment").json()["alignments"]
    assert "m@house" not in listed("birch") and "m@norms" in listed("birch")
    assert _ask(asking["acme"], "The rule?", model="m@house").status_code == 200
    refused = _ask(asking["birch"], "The rule?", model="m@house")
    assert refused.status_code == 404 and "zanzibar" not in refused.text
    # From the moment on at which there is one.
    asking["birch"].put(f"{STORES}/zanzibar-only")
    assert (
        "m@house" in listed("birch")
        and _ask(asking["birch"], "The rule?", model="m@house").status_code == 200
    )


def test_who_may_read_and_write(engine: ScriptedEngine, stores: Stores) -> None:
    clients = {
        "user": _client("acme", Role.USER),
        "author": _client("acme", Role.AUTHOR, stores=frozenset({"norms", "new"})),
        "any author": _client("acme", Role.AUTHOR),
        "admin": _client("acme"),
    }

    def may(http: httpx.Client, store: str) -> str:
        base = f"{STORES}/{store}"
        asked = [
            http.get(base),
            http.get(f"{base}/items"),
            http.get(f"{base}/items/k"),
            http.get(f"{base}/history/k"),
        ]
        asked += [http.get(f"{base}/export"), http.post(f"{base}/search", json={"query": "rule"})]
        reads = {a.status_code for a in asked}
        asked = [http.post(f"{base}/items", json={"id": "w", "text": "Written."})]
        asked += [http.delete(f"{base}/items/w"), http.post(f"{base}/import", content=b'{"text": "In."}')]
        writes = {a.status_code for a in (*asked, http.put(base))}
        erases = {http.delete(f"{base}/items/ended", params={"erase": "true"}).status_code}
        for statuses in (reads, writes, erases):
            assert statuses == {403} or 403 not in statuses
        return "".join(
            c if 403 not in s else "-" for c, s in zip("rwe", (reads, writes, erases), strict=True)
        )

    with serving_clients(engine, stores, clients) as asking:
        assert {who: (may(http, "norms"), may(http, "zanzibar-only")) for who, http in asking.items()} == {
            "user": ("---", "---"),
            "author": ("rw-", "---"),
            "any author": ("rw-", "rw-"),
            "admin": ("rwe", "rwe"),
        }
        assert asking["user"].get(STORES).status_code == 403
        assert [s["name"] for s in asking["author"].get(STORES).json()["data"]] == ["norms"]
        assert asking["author"].put(f"{STORES}/new").status_code == 201
        assert asking["author"].delete(f"{STORES}/new").status_code == 403
        # What may not be read heeds and answers all the same.
        assert _ask(asking["user"], "The rule?", "norms").status_code == 200
        assert asking["user"].get(f"{STORES}/none").text == asking["user"].get(
            f"{STORES}/norms"
        ).text.replace("'norms'", "'none'")


def test_a_deleted_tenants_stores_are_gone(asking: dict[str, httpx.Client], stores: Stores) -> None:
    assert drop_stores_of(stores, "acme") == ["demos", "norms", "zanzibar-only"]
    assert stores.left_below("acme") == [] and "acme" not in stores.tenants()
    assert asking["acme"].get(STORES).json()["data"] == []
    assert _ask(asking["acme"], "The rule?", "norms").status_code == 404
    assert asking["birch"].get(f"{STORES}/norms").json()["items"] == 3
    assert asking["acme"].put(f"{STORES}/norms").json()["items"] == 0
    for name in ("..", "a/b", "", "A"):
        with pytest.raises(InvalidItem):
            stores.below(name)
    with pytest.raises(ValueError, match="default"):
        drop_stores_of(stores, EVERYONE)
