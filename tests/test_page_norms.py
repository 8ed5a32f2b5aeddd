"""Norms, in a browser: searched, mended from a bad answer, tried first, followed back in time, imported, erased."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from page_fixtures import PAGE, Open, Tab
from playwright.async_api import Route, expect
from test_roles import digest
from waiting import HANG

from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.stores import Stores
from heedful.server.access.settings import KeySettings
from heedful.server.config import Config
from heedful.strategies import Call
from heedful.strategies.scripted import ScriptedEngine
from heedful.strategies.types import text_of

pytestmark = PAGE
Serving = Callable[..., AbstractContextManager[str]]
HOSTILE = '<img src=x onerror="document.title=\'owned\'"><script>document.title="owned"</script>&lt;b&gt;'


def reply(call: Call) -> list[str]:
    """The model repeats the first rule that it was given, or what it knows by itself."""
    told = re.findall(r"^\d+\. (.*)$", "\n".join(map(text_of, call.messages)), re.MULTILINE)
    return re.findall(r"\S+\s*", told[0] if told else "Whenever you like.")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    stores = Stores(tmp_path_factory.mktemp("page"), word_embedder(dimension=256))
    for name in ("norms", "demos", "house"):
        stores.create(name)
    yield stores
    stores.close()


@pytest.fixture(scope="module")
def server(serving: Serving, shelf: Stores) -> Iterator[str]:
    with serving(ScriptedEngine(reply, model="tiny"), stores=shelf) as url:
        yield url


class Api:
    def __init__(self, url: str, store: str) -> None:
        self._http, self._path = httpx.Client(base_url=url, timeout=HANG), f"/v1/alignment/stores/{store}"

    def add(self, *items: dict[str, Any]) -> None:
        self._http.post(f"{self._path}/items", json={"items": list(items)}).raise_for_status()

    def history(self, id: str) -> list[dict[str, Any]]:
        data: list[dict[str, Any]] = self._http.get(f"{self._path}/history/{id}").json()["data"]
        return data

    def texts(self) -> list[str]:
        return [each["text"] for each in self._http.get(f"{self._path}/items").json()["data"]]

    def empty(self) -> None:
        for each in self._http.get(f"{self._path}/items").json()["data"]:
            self._http.delete(f"{self._path}/items/{each['id']}")


@pytest.fixture
def norms(server: str) -> Api:
    api = Api(server, "norms")
    api.empty()
    return api


async def compare(tab: Tab, question: str) -> None:
    page = tab.page
    for name, alignment in (("A", "norms"), ("B", "direct")):
        await page.get_by_label(f"Alignment of {name}").select_option(alignment)
    await page.get_by_label("Question", exact=True).fill(question)
    await page.keyboard.press("Enter")
    await expect(page.locator('article[aria-busy="false"]')).to_have_count(2)


async def test_a_bad_answer_is_mended_and_asked_again(server: str, norms: Api, opened: Open) -> None:
    norms.add({"id": "pool/late", "text": "The pool closes at eight.", "source": "House"})
    tab = await opened(f"{server}/")
    page = tab.page
    await compare(tab, "When does the pool close?")
    first = page.get_by_label("Answer A", exact=True)
    await expect(first).to_contain_text("House: The pool closes at eight.")
    await page.evaluate("location.hash = '#/norms/norms/pool%2Flate'")  # as a trace's link has it
    drawer = page.get_by_role("dialog")
    text = drawer.get_by_label("Norm", exact=True)
    await expect(text).to_have_value("The pool closes at eight.")
    await expect(drawer.get_by_role("button", name="Save as version 2")).to_be_disabled()
    await text.fill("The pool closes at nine.")
    await page.keyboard.press("Control+Enter")
    await expect(drawer).to_contain_text("Saved as version 2: it is in the very next answer.")
    await expect(drawer.get_by_role("button", name="Ask again in Compare")).to_be_focused()
    await tab.accessible()
    told: dict[str, str] = {}

    async def heard(
        route: Route,
    ) -> None:  # the browser itself may have let go of a stream's bytes when it is asked
        answered = await route.fetch()
        told[route.request.post_data or ""] = await answered.text()
        await route.fulfill(response=answered)

    await page.route("**/v1/chat/completions", heard)
    await page.keyboard.press("Enter")
    await expect(first).to_contain_text("House: The pool closes at nine.")
    (answer,) = (text for asked, text in told.items() if "norms" in asked)
    assert '"version":2' in re.sub(r"\s", "", answer)
    await expect(page.get_by_label("Answer B", exact=True)).to_contain_text("Whenever you like.")
    await expect(page.get_by_label("Turn 1", exact=True)).to_contain_text("When does the pool close?")


async def test_search_filters_and_pages(server: str, norms: Api, opened: Open) -> None:
    norms.add(*({"text": f"Rule number {i} of the garden"} for i in range(55)))
    norms.add(
        {"id": "sauna", "text": "Towels lie under you in the sauna.", "scope": "Bern", "tags": ["wet"]},
        {"id": "bound", "text": "Be kind.", "mandatory": True},
        {"id": "past", "text": "Masks are worn.", "valid_until": "2023-01-01"},
    )
    tab = await opened(f"{server}/#/norms/norms", width=390)
    page, items = tab.page, tab.page.locator(".norms-item")
    await expect(items).to_have_count(50)
    await page.get_by_role("button", name="More").click()
    await expect(items).to_have_count(58)
    await page.get_by_role("button", name="Filters").click()
    await page.get_by_label("Mandatory").select_option("true")
    await expect(items).to_have_text([re.compile("Be kind.")])
    await page.get_by_label("Mandatory").select_option("")
    await page.get_by_label("Tag").select_option("wet")
    await expect(items).to_have_count(1)
    await page.get_by_label("Tag").select_option("")
    await page.get_by_label("Valid").select_option("now")
    await page.get_by_label("Search by meaning").fill("towels in the sauna")
    await expect(items.first).to_contain_text("Towels lie under you")
    await expect(items.first.locator(".norms-score")).to_contain_text(re.compile(r"0\.[5-9]"))
    await expect(items.filter(has_text="Masks")).to_have_count(0)
    await page.reload()  # the address holds all of it
    await expect(items.first).to_contain_text("Towels lie under you")
    await tab.accessible()
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")


async def test_history_as_of_end_and_restore(server: str, norms: Api, opened: Open) -> None:
    norms.add({"id": "tip", "text": "Tips go to the waiter.", "scope": "Bern"})
    norms.add({"id": "tip", "text": "Tips go to all of the staff.", "scope": "Rome"})
    then = norms.history("tip")[0]["recorded"]
    tab = await opened(f"{server}/#/norms/norms/tip?tab=history")
    page, drawer = tab.page, tab.page.get_by_role("dialog", name="Norm of norms")
    second = drawer.get_by_role("listitem").filter(has=page.get_by_role("heading", name="Version 2"))
    await expect(second.locator("ins")).to_have_text(["all of ", "staff", "Rome"])
    await expect(second.locator("del")).to_have_text(["waiter", "Bern"])
    await tab.accessible()
    await drawer.get_by_role("button", name="Restore version 1").click()
    await expect(drawer).to_contain_text("Restored as version 3.")
    await drawer.get_by_role("button", name="End", exact=True).click()
    await page.get_by_role("button", name="End it").click()
    await expect(drawer).to_contain_text("Ended: no answer heeds it any more.")
    assert norms.texts() == []
    await page.goto(f"{server}/#/norms/norms?asOf={quote(then)}")
    await expect(page.locator(".norms-item")).to_have_text([re.compile("Tips go to the waiter.")])
    await page.get_by_role("button", name="Back to now").click()
    await expect(page.get_by_role("main")).to_contain_text("Nothing in this store yet")
    await page.goto(f"{server}/#/norms/norms/tip")
    await drawer.get_by_role("button", name="Restore version 2").click()
    await expect(drawer).to_contain_text("Restored as version 4.")
    assert norms.texts() == ["Tips go to all of the staff."]


async def test_two_who_edit_the_same_item(server: str, norms: Api, opened: Open) -> None:
    norms.add({"id": "bar", "text": "The bar opens at six."})
    tab = await opened(f"{server}/#/norms/norms/bar")
    tab.expected = ["412"]
    page, drawer = tab.page, tab.page.get_by_role("dialog")
    await drawer.get_by_label("Norm", exact=True).fill("The bar opens at five.")
    norms.add({"id": "bar", "text": "The bar opens at seven."})
    await drawer.get_by_role("button", name="Save as version 2").click()
    alert = drawer.get_by_role("alert")
    await expect(alert).to_contain_text("Somebody saved version 2 meanwhile")
    await expect(alert).to_contain_text("The bar opens at seven.")
    await expect(alert.locator("ins")).to_have_text(["five"])
    await tab.accessible()
    assert norms.texts() == ["The bar opens at seven."]
    await alert.get_by_role("button", name="Save mine over version 2").click()
    await expect(drawer).to_contain_text("Saved as version 3")
    assert norms.texts() == ["The bar opens at five."]
    await expect(page.get_by_role("alert")).to_have_count(0)
    await drawer.get_by_label("Norm", exact=True).fill("The bar is closed.")
    norms.add({"id": "bar", "text": "The bar opens at noon."})
    await drawer.get_by_role("button", name="Save as version 4").click()
    await drawer.get_by_role("button", name="Keep what stands").click()
    await expect(drawer.get_by_label("Norm", exact=True)).to_have_value("The bar opens at noon.")


async def test_an_import_shows_bad_lines_and_what_it_would_do(
    server: str, norms: Api, opened: Open, tmp_path: Path
) -> None:
    norms.add({"id": "a", "text": "Breakfast is from seven."})
    tab = await opened(f"{server}/#/norms/norms")
    page, dialog = tab.page, tab.page.get_by_role("dialog")
    await page.get_by_role("button", name="Import").click()
    rows = 'id,text\na,"Breakfast is from eight."\nb,Second\nb,Another\n'
    files = [{"name": "rules.csv", "mimeType": "text/csv", "buffer": rows.encode()}]
    await dialog.get_by_label("File", exact=True).set_input_files(files)
    table = dialog.get_by_role("table", name="Bad lines")
    await expect(table).to_contain_text("has the id of line 3")
    await expect(table.get_by_role("row").nth(1).get_by_role("cell").first).to_have_text("4")
    await expect(dialog).to_contain_text("1 to add · 1 to replace")
    await expect(dialog.locator("ins")).to_have_text(["eight"])
    button = dialog.get_by_role("button", name="Import 2 items")
    await expect(button).to_be_disabled()
    await tab.accessible()
    assert norms.texts() == ["Breakfast is from seven."]
    await dialog.get_by_label("Pass over 1 bad line").check()
    await button.click()
    await expect(page.locator(".norms-item")).to_have_count(2)
    assert norms.texts() == ["Breakfast is from eight.", "Second"]
    async with page.expect_download() as download:
        await page.get_by_role("button", name="Export").click()
    await (await download.value).save_as(tmp_path / "norms.jsonl")
    assert len((tmp_path / "norms.jsonl").read_bytes().splitlines()) == 2


async def test_a_norm_is_tried_before_it_is_added(server: str, norms: Api, opened: Open) -> None:
    norms.add({"id": "quiet", "text": "Quiet begins at ten."})
    tab = await opened(f"{server}/")
    page, drawer = tab.page, tab.page.get_by_role("dialog")
    await compare(tab, "When does the quiet begin in summer?")
    await page.evaluate("location.hash = '#/norms/norms?add=norm'")
    await drawer.get_by_label("Norm", exact=True).fill("In summer the quiet does begin at eleven.")
    await drawer.get_by_role("tab", name="What would change").click()
    await drawer.get_by_label("Other questions").fill("Cats?")
    await drawer.get_by_role("button", name="Try it").click()
    trials = drawer.get_by_role("article")
    await expect(trials.nth(1)).to_contain_text("another answer")
    await expect(trials.nth(1)).to_contain_text("was given to the model (likeness")
    await expect(trials.nth(1).locator("ins").first).to_be_visible()
    await expect(drawer.get_by_role("status")).to_contain_text("of 2 answers")
    await tab.accessible()
    assert norms.texts() == ["Quiet begins at ten."]
    await drawer.get_by_role("button", name="Add to norms").click()
    await expect(drawer).to_contain_text("Added: it is in the very next answer.")
    assert norms.texts()[1] == "In summer the quiet does begin at eleven."


async def test_a_good_answer_becomes_a_demonstration(server: str, norms: Api, opened: Open) -> None:
    tab = await opened(f"{server}/")
    page, drawer = tab.page, tab.page.get_by_role("dialog")
    Api(server, "demos").add({"text": "What is this?", "answer": "A store of demonstrations."})
    await compare(tab, "May I sing?")
    await page.get_by_role("button", name="Make answer B a demonstration").click()
    await expect(drawer.get_by_label("Question")).to_have_value("May I sing?")
    await expect(drawer.get_by_label("Good answer")).to_have_value("Whenever you like.")
    await expect(drawer.get_by_label("Store")).to_have_value("demos")
    await drawer.get_by_role("button", name="Add to demos").click()
    await expect(drawer).to_contain_text("Added")
    assert "May I sing?" in Api(server, "demos").texts()


async def test_erasing_is_asked_about(server: str, norms: Api, opened: Open) -> None:
    norms.add({"id": "gone", "text": "Ana Maier has room 12."})
    tab = await opened(f"{server}/#/norms/norms/gone")
    page = tab.page
    await page.get_by_role("button", name="Erase", exact=True).click()
    sure = page.get_by_role("dialog", name="Erase it for good?")
    await expect(sure.get_by_role("button", name="Erase every version")).to_be_disabled()
    await sure.get_by_label("Type erase to go on").fill("erase")
    await sure.get_by_role("button", name="Erase every version").click()
    await expect(page.get_by_role("main")).to_contain_text("Nothing in this store yet")
    assert [set(each) for each in norms.history("gone")] == [{"erased", "versions"}]


async def test_markup_in_every_field_is_text(server: str, norms: Api, opened: Open) -> None:
    house = Api(server, "house")
    fields = {"source": HOSTILE, "scope": HOSTILE, "tags": [HOSTILE], "meta": {HOSTILE: HOSTILE}}
    house.add({"id": HOSTILE, "text": HOSTILE, **fields}, {"text": HOSTILE, "answer": HOSTILE})
    house.add({"id": HOSTILE, "text": f"{HOSTILE} again", **fields, "scope": "", "mandatory": True})
    tab = await opened(f"{server}/#/norms/house?asOf=")
    page, drawer = tab.page, tab.page.get_by_role("dialog")
    await expect(page.locator(".norms-item").first).to_contain_text("<script>")
    await page.locator(".norms-item").last.click()
    await expect(drawer.get_by_label("Norm", exact=True)).to_have_value(f"{HOSTILE} again")
    await drawer.get_by_role("tab", name=re.compile("History")).click()
    await expect(drawer).to_contain_text(f"{HOSTILE} again")
    await drawer.get_by_role("tab", name="What would change").click()
    await drawer.get_by_label("Other questions").fill(HOSTILE)
    await drawer.get_by_role("button", name="Try it").click()
    await expect(drawer.get_by_role("article")).to_contain_text("was given to the model")
    await page.goto(f"{server}/#/norms/house")
    await page.get_by_role("button", name="Import").click()
    await drawer.get_by_label("Text").fill(f'{HOSTILE}\n{{"text": {HOSTILE!r}}}\n{{"text": "<b>x</b>"}}')
    await expect(drawer.locator(".norms-preview")).to_contain_text("<b>x</b>")
    assert "owned" not in await page.title()
    assert await page.locator("main img, dialog img, main script, dialog b").count() == 0


async def test_an_author_is_told_which_stores_are_not_its(
    serving: Serving, shelf: Stores, opened: Open
) -> None:
    key = KeySettings(tenant="default", role="author", sha256=digest("authors"), stores=("house",))
    config = Config(keys=[key])
    with serving(ScriptedEngine(reply, model="tiny"), stores=shelf, config=config) as url:
        tab = await opened(f"{url}/")
        tab.expected = ["401", "403"]
        page = tab.page
        await page.get_by_role("textbox", name="Key").fill("authors")
        await page.keyboard.press("Enter")
        await page.get_by_role("link", name="Norms").click()
        await expect(page.locator(".norms-store")).to_have_count(1)
        await expect(page.get_by_role("main")).to_contain_text("yours: house")
        await page.evaluate("location.hash = '#/norms/norms'")
        await expect(page.get_by_role("main")).to_contain_text("Not with this key")
        await expect(page.get_by_role("main")).to_contain_text("Your key may read and write house.")
        await expect(page.get_by_role("button", name="Add")).to_have_count(0)
        await tab.accessible()
        await page.evaluate("location.hash = '#/norms/house'")
        await expect(page.get_by_role("button", name="Add")).to_be_visible()
        await expect(page.get_by_role("button", name="Drop")).to_have_count(0)
