"""Records in a browser: the list and its filters, a record with its norms then and now, and its replay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest
from page_fixtures import PAGE, Open
from playwright.async_api import expect

from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.stores import Stores
from heedful.server.access.client import Client, Role, Tenant
from heedful.server.access.settings import TenantSettings
from heedful.server.config import Config
from heedful.strategies import Call, EngineUnavailable
from heedful.strategies.scripted import ScriptedEngine
from heedful.strategies.types import text_of

pytestmark = PAGE
Serving = Callable[..., AbstractContextManager[str]]
HOSTILE = '<img src=x onerror="document.title=\'owned\'"><script>document.title="owned"</script>'
STORE = "/v1/alignment/stores/house"


def reply(call: Call) -> Any:
    said = text_of(call.messages[-1])
    if "broken" in said:
        return EngineUnavailable(f"out of sorts {HOSTILE}")
    if "hostile" in said:
        return HOSTILE
    return (
        "Use no flash."
        if "No flash" in said
        else "Use a flash in the garden."
        if "garden" in said
        else "Yes."
    )


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    stores = Stores(tmp_path_factory.mktemp("house"), word_embedder(dimension=256))
    yield stores
    stores.close()


def config(stores: Stores, texts: str = "full") -> Config:
    tenants = {"default": {"records": {"texts": texts}}}
    return Config.model_validate({"stores": str(stores.folder), "tenants": tenants})


@pytest.fixture(scope="module")
def server(serving: Serving, stores: Stores) -> Iterator[tuple[str, dict[str, str]]]:
    """Its address, and the ids of the answers by what was asked."""
    ids = {}
    with serving(ScriptedEngine(reply, model="tiny"), config=config(stores), stores=stores) as url:
        client = httpx.Client(base_url=url)

        def ask(
            name: str, question: str, alignment: Any, route: str = "chat/completions", **more: Any
        ) -> None:
            body = {
                "messages": [{"role": "user", "content": question}],
                "alignment": alignment,
                "user": "ann",
            }
            ids[name] = (
                client.post(f"/v1/{route}", json={"model": "tiny", **body, **more}).json().get("id", "")
            )

        client.put(STORE)
        for item in (
            {"id": "flash", "text": "No flash in the museum.", "source": HOSTILE, "mandatory": True},
            {"id": "bags", "text": "Bags stay at the desk."},
        ):
            client.post(f"{STORE}/items", json=item)
        client.put("/v1/alignment/stores/examples")
        example = {"text": "May I run in the hall?", "answer": "Better not."}
        client.post("/v1/alignment/stores/examples/items", json=example)
        varied = [{"demos": {"store": "examples", "k": 2, "diversity": 0.3}}]
        ask("varied", "May I run here?", varied, seed=7)
        for i in range(52):
            ask(f"filler {i}", f"Filler {i}?", "direct")
        ask("plain", "Is it rude to leave early?", "direct")
        ask("judged", "Say bad things", [{"refine": {"verifiers": [{"policy": {"words": ["Yes"]}}]}}])
        ask("hostile", f"hostile {HOSTILE}", "direct", user=HOSTILE)
        ask("broken", "broken", "direct")
        ask("museum", "Where may I take photos?", [{"norms": {"store": "house"}}], seed=7)
        changed = {"id": "flash", "text": "Flash only in the garden.", "mandatory": True}
        client.post(f"{STORE}/items", json=changed)
        client.delete(f"{STORE}/items/bags")
        yield url, ids


async def test_the_list_its_filters_and_its_pages(server: tuple[str, dict[str, str]], opened: Open) -> None:
    url, _ = server
    tab = await opened(f"{url}/#/records?alignment=direct")
    page = tab.page
    rows = page.locator("a.records-row")
    await expect(rows).to_have_count(50)
    await expect(rows.nth(2)).to_contain_text("Is it rude to leave early?")
    await expect(rows.nth(2)).to_contain_text("tiny · direct")
    await page.get_by_role("button", name="Older ones").click()
    await expect(rows).to_have_count(55)
    await expect(page.get_by_text("55 in all.")).to_be_visible()
    await tab.accessible()
    await page.get_by_label("Alignment").select_option("")
    await page.get_by_label("Verdict").select_option("failed")
    await expect(rows).to_have_count(1)
    await expect(rows).to_contain_text("failed, released")
    assert "verdict=failed" in page.url
    await page.get_by_role("button", name="Clear").click()
    await page.get_by_label("User").fill("nobody")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Nothing fits these filters")).to_be_visible()
    await page.get_by_label("User").fill("ann")
    await page.get_by_label("User").blur()
    await expect(rows).to_have_count(50)
    await page.get_by_label("Until").fill("2001-01-01T00:00")
    await expect(rows).to_have_count(0)
    narrow = await opened(f"{url}/#/records?verdict=failed&alignment=inline", width=390)
    await expect(narrow.page.locator("a.records-row").first).to_be_visible()
    await narrow.page.get_by_role("button", name="Filter (2)").click()
    await expect(narrow.page.get_by_label("Alignment")).to_have_value("inline")
    await narrow.accessible()


async def test_a_record_its_norms_then_and_now_and_a_replay_of_both(
    server: tuple[str, dict[str, str]], opened: Open
) -> None:
    url, _ = server
    tab = await opened(f"{url}/#/records?user=ann")
    page = tab.page
    await page.locator("a.records-row", has_text="Where may I take photos?").last.click()
    await expect(page.get_by_label("What was asked and answered")).to_contain_text("Use no flash.")
    await expect(page.get_by_role("tabpanel", name="Why")).to_contain_text(
        "No flash in the museum."
    )  # the trace has texts
    await page.get_by_role("tab", name="Norms then and now").click()
    items = page.locator(".records-items article")
    flash, bags = items.nth(0), items.nth(1)
    await expect(flash).to_contain_text("version 2 since")
    await expect(flash.locator("del").first).to_contain_text("No")
    await expect(flash.locator("ins").last).to_contain_text("garden")
    await expect(bags).to_contain_text("ended")
    await expect(page.get_by_text("2 of 2 are no longer")).to_be_visible()
    await tab.accessible()
    await page.get_by_role("tab", name="Replay").click()
    await page.get_by_role("button", name="Norms as they stood then").click()
    then = page.get_by_role("region", name="Norms as they stood then")
    await expect(then).to_contain_text("It was given the same norms, in the same versions.")
    await expect(then).to_contain_text("Word for word the same.")
    await page.get_by_role("button", name="Norms as they stand now").click()
    now = page.get_by_role("region", name="Norms as they stand now")
    await expect(now.locator("ins").first).to_be_visible()
    await expect(now).to_contain_text("garden")
    await expect(now).to_contain_text("house/flash: version 2, was 1")
    await expect(now).to_contain_text("house/bags was given then")
    await tab.accessible()
    await now.get_by_role("button", name="Why").click()
    await expect(page.get_by_role("dialog")).to_contain_text("Flash only in the garden.")
    await page.keyboard.press("Escape")
    await page.get_by_role("link", name="All records").click()
    await expect(page.get_by_label("User")).to_have_value("ann")


async def test_what_people_and_models_said_stays_text(
    server: tuple[str, dict[str, str]], opened: Open
) -> None:
    url, ids = server
    tab = await opened(f"{url}/#/records")
    page = tab.page
    await expect(page.locator("a.records-row", has_text="broken")).to_contain_text("503: out of sorts")
    await expect(page.locator("a.records-row", has_text="<script>").first).to_be_visible()
    for name in ("hostile", "museum"):
        for part in ("why", "norms", "replay", "record"):
            await page.goto(f"{url}/#/records/{ids[name]}?tab={part}")
            await expect(page.get_by_role("tabpanel").first).to_be_visible()
            assert await page.locator("main img, main script").count() == 0
    await page.goto(f"{url}/#/records/{ids['hostile']}?tab=replay")
    await page.get_by_role("button", name="Asked again").click()
    await expect(page.get_by_role("region", name="Asked again")).to_contain_text("<script>")
    assert await page.title() == "Records · heedful"
    await page.goto(f"{url}/#/records/{HOSTILE}")
    tab.expected = ["404", "400"]
    await expect(page.get_by_role("alert")).to_be_visible()


async def test_a_replay_says_what_it_can_not_tell_of_then(
    server: tuple[str, dict[str, str]], opened: Open
) -> None:
    url, ids = server
    tab = await opened(f"{url}/#/records/{ids['varied']}?tab=replay")
    panel = tab.page.get_by_role("tabpanel", name="Replay")
    await expect(panel).to_contain_text("by likeness alone, without the recorded diversity of 0.3")
    await tab.page.get_by_role("button", name="Norms as they stood then").click()
    then = tab.page.get_by_role("region", name="Norms as they stood then")
    await expect(then).to_contain_text("Word for word the same.")
    await tab.page.goto(f"{url}/#/records/{ids['museum']}?tab=replay")
    await expect(panel).to_contain_text("The same question, options and steps")
    await expect(panel).not_to_contain_text("diversity")


@pytest.fixture(scope="module")
def closed(serving: Serving, stores: Stores) -> Iterator[str]:
    settings, full = (TenantSettings.model_validate({"records": {"texts": t}}) for t in ("digests", "full"))
    clients = {
        "op": Client(Tenant("default", settings), Role.ADMIN),
        "clinic": Client(Tenant("clinic", full), Role.ADMIN),
        "user": Client(Tenant("default", settings), Role.USER),
    }
    engine = ScriptedEngine(reply, model="tiny")
    with serving(engine, config=config(stores, "digests"), stores=stores, clients=clients) as url:
        for key in ("op", "clinic"):
            body = {"messages": [{"role": "user", "content": "Secret?"}]}
            httpx.post(f"{url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"})
        yield url


@pytest.fixture(scope="module")
def plain(serving: Serving) -> Iterator[str]:
    with serving(ScriptedEngine(model="tiny")) as url:
        yield url


async def test_digests_and_others_records_can_not_be_replayed(closed: str, opened: Open) -> None:
    tab = await opened(f"{closed}/#/records")
    tab.expected = ["401"]
    page = tab.page
    await page.get_by_label("Key", exact=True).fill("op")
    await page.get_by_role("button", name="Use it").click()
    rows = page.locator("a.records-row")
    for row, why in ((1, "kept as digests"), (0, "of the tenant “clinic”")):
        await rows.nth(row).click()
        await page.get_by_role("tab", name="Replay").click()
        await expect(page.get_by_role("tabpanel", name="Replay")).to_contain_text(why)
        await page.get_by_role("link", name="All records").click()
    await expect(rows.nth(1)).to_contain_text("7 characters, kept as a digest")
    user = await opened(f"{closed}/#/records")
    user.expected = ["401"]
    await user.page.get_by_label("Key", exact=True).fill("user")
    await user.page.get_by_role("button", name="Use it").click()
    await expect(user.page.get_by_role("heading", name="Not with this key")).to_be_visible()


async def test_where_nothing_is_recorded_it_says_how(plain: str, opened: Open) -> None:
    tab = await opened(f"{plain}/#/records")
    await expect(tab.page.get_by_text("keep_days: 30")).to_be_visible()
    await tab.accessible()
