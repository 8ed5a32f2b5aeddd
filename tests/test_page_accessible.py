"""Every view and tab under axe and in a narrow window; from a question to a mended norm by keyboard alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest
import report_records
from page_fixtures import PAGE, Open, Tab
from playwright.async_api import expect

from heedful.benchmarks.scripts.stories import SEARCH, teller
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.stores import Stores
from heedful.server.config import Config
from heedful.strategies import Call
from heedful.strategies.scripted import ScriptedEngine

pytestmark = PAGE
Serving = Callable[..., AbstractContextManager[str]]
RULE = "May I share a photo? With their consent."
REFINE = {"refine": {"verifiers": [{"policy": {"words": ["guarantee"]}}], "max_rounds": 1}}
BEST = {"best_of_n": {"n": 2, "verifiers": [{"policy": {"words": ["guarantee"]}}]}}
COLUMN = """async ([model, steps]) => { const { setup } = await import("./page/views/compare/state.js");
   setup.patch({ columns: [{ ...setup.get().columns[0], model, alignment: steps }] }); }"""


def reply(call: Call) -> str:
    told = str(call.messages)
    return "Ask them first." if RULE in told else "Post it, there is a guarantee."


@pytest.fixture(scope="module")
def server(serving: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Norms, an answer that was recorded, and the records of an evaluation."""
    folder = tmp_path_factory.mktemp("accessible")
    report_records.write_evaluation(folder / "reports" / "first", ["small"], ["direct", "principles"], 4)
    stores = Stores(folder / "stores", word_embedder(dimension=64))
    stores.add_starters()
    settings = {
        "stores": str(stores.folder),
        "reports": folder / "reports",
        "tenants": {"default": {"records": {"texts": "full"}}},
    }
    engines = (ScriptedEngine(reply, model="plain"), teller())
    with serving(*engines, config=Config.model_validate(settings), stores=stores) as url:
        body = {"messages": [{"role": "user", "content": "May I share a photo?"}], "alignment": ["norms"]}
        httpx.post(f"{url}/v1/chat/completions", json={"model": "plain", **body}).raise_for_status()
        yield url
    stores.close()


@pytest.fixture(params=[1280, 390])
def width(request: pytest.FixtureRequest) -> int:
    return int(request.param)


async def fits(tab: Tab) -> None:
    """axe finds nothing serious (a narrow window has the same elements), and nothing is wider than the window."""
    if tab.page.viewport_size["width"] > 500:
        await tab.accessible()
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert await tab.page.evaluate(wide) <= 0, tab.page.url


async def every_tab(tab: Tab, where: Any, names: list[str]) -> None:
    tabs = where.get_by_role("tablist").first.get_by_role("tab")
    await expect(tabs).to_have_count(len(names))
    assert [await each.inner_text() for each in await tabs.all()] == names
    for each in await tabs.all():
        await each.click()
        await expect(each).to_have_attribute("aria-selected", "true")
        await expect(where.locator(".loading")).to_have_count(0)
        await fits(tab)


async def test_why(server: str, opened: Open, width: int) -> None:
    tab = await opened(f"{server}/", width=width)
    page, dialog = tab.page, tab.page.get_by_role("dialog")
    parts = ["Steps", "Prompt", "Cost", "JSON"]
    for model, steps, names in (
        ("plain", ["norms", {"demos": {"k": 2}}, {"principles": {"mode": "cot"}}, REFINE], parts),
        ("plain", [BEST], parts[:1]),
        ("teller", [{"rain": SEARCH}], ["Steps", "Tree", *parts[1:]]),
    ):
        await expect(page.get_by_label("Question", exact=True)).to_be_visible()
        await page.evaluate(COLUMN, [model, steps])
        await page.get_by_label("Question", exact=True).fill("May I share a photo?")
        await page.keyboard.press("Enter")
        await expect(page.get_by_label("Answer A", exact=True)).to_have_attribute("aria-busy", "false")
        await page.get_by_role("button", name="Why").click()
        if len(names) > 1:
            await every_tab(tab, dialog, names)
        else:
            await expect(dialog.get_by_role("heading", name="Best of n")).to_be_visible()
            await fits(tab)
        await page.keyboard.press("Escape")
        await page.get_by_role("button", name="Clear").click()


async def test_compares_dialogs(server: str, opened: Open, width: int) -> None:
    tab = await opened(f"{server}/", width=width)
    page, dialog = tab.page, tab.page.get_by_role("dialog")
    await fits(tab)
    await page.get_by_role("button", name="512 tokens").click()
    await page.get_by_role("button", name="Column", exact=True).click()
    await page.get_by_role("button", name="Column", exact=True).click()
    await page.get_by_label("Question", exact=True).fill("May I?")
    await page.keyboard.press("Enter")
    await expect(page.locator('article[aria-busy="false"]')).to_have_count(4)
    await page.get_by_role("button", name="Edit question 1").click()
    await fits(tab)
    await page.get_by_role("button", name="Cancel").click()
    await page.get_by_role("button", name="Request of A").click()
    await every_tab(tab, dialog, ["curl", "Python", "JSON"])
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name="Steps and options of B").click()
    await every_tab(tab, dialog, ["Form", "JSON"])
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name="Votes").click()
    await fits(tab)


async def test_norms(server: str, opened: Open, width: int) -> None:
    tab = await opened(f"{server}/#/norms", width=width)
    page, dialog = tab.page, tab.page.get_by_role("dialog")
    await expect(page.locator(".norms-store").first).to_be_visible()
    await fits(tab)
    await page.get_by_role("button", name="New store").click()
    await fits(tab)
    await page.keyboard.press("Escape")
    await page.locator(".norms-store", has_text="103 norms").click()
    await page.get_by_role("button", name="Filters").click()
    await page.get_by_label("Search by meaning").fill("photos")
    await expect(page.locator(".norms-score").first).to_be_visible()
    await fits(tab)
    await page.locator(".norms-item").first.click()
    await expect(dialog.get_by_role("tab").first).to_be_visible()
    await every_tab(tab, dialog, ["Edit", "What would change", "History (1)"])
    await dialog.get_by_role("button", name="End").click()
    await fits(tab)
    for left in (1, 0):  # one after the other: two at once would both be for the upper one
        await page.keyboard.press("Escape")
        await expect(dialog).to_have_count(left)
    await page.get_by_role("button", name="Import").click()
    await dialog.get_by_label("Text").fill('{"text": "One."}\nno line')
    await expect(dialog.get_by_role("status")).to_contain_text("1 bad line")
    await fits(tab)
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name="Add", exact=True).click()
    await every_tab(tab, dialog, ["Write", "What would change"])


async def test_records_reports_and_running(server: str, opened: Open, width: int) -> None:
    tab = await opened(f"{server}/#/records", width=width)
    page, main = tab.page, tab.page.get_by_role("main")
    await expect(page.locator("a.records-row").first).to_be_visible()
    await fits(tab)
    await page.locator("a.records-row").first.click()
    await expect(main.get_by_role("tab").first).to_be_visible()
    await every_tab(tab, main.locator(".records-more-of"), ["Why", "Norms then and now", "Replay", "Record"])
    await page.get_by_role("link", name="Reports").click()
    await page.get_by_role("button", name="first").click()
    await page.get_by_role("list", name="Items").get_by_role("button").first.click()
    await fits(tab)
    await page.goto(f"{server}/#/reports/try")
    await page.get_by_label("Questions", exact=True).fill("One?\nTwo?")
    await page.get_by_role("button", name="Ask 4 times").click()
    await expect(page.get_by_text("4 of 4 answers", exact=True)).to_be_visible()
    await fits(tab)
    await page.get_by_role("link", name="Running").click()
    await expect(page.get_by_role("row", name="direct")).to_be_visible()
    await fits(tab)


async def tab_to(tab: Tab, name: str, role: str = "button", most: int = 60) -> None:
    """Presses Tab until what has that name has the focus."""
    wanted = tab.page.get_by_role(role, name=name, exact=True).first
    for _ in range(most):
        await tab.page.keyboard.press("Tab")
        if await wanted.evaluate("(element) => element === document.activeElement"):
            return
    raise AssertionError(f"{most} times Tab do not lead to {name}")


async def test_from_a_bad_answer_to_a_mended_norm_by_keyboard(server: str, opened: Open) -> None:
    """Whose norm it is that an answer heeded leads to where it is mended, and from there back to the question."""
    tab = await opened(f"{server}/")
    page, press = tab.page, tab.page.keyboard.press
    await expect(page.get_by_label("Question", exact=True)).to_be_visible()
    await page.evaluate(COLUMN, ["plain", ["norms"]])
    await tab_to(tab, "Question", "textbox")
    await page.keyboard.type("May I share a photo?")
    await press("Enter")
    await expect(page.get_by_label("Answer A", exact=True)).to_contain_text("Post it")
    await page.evaluate("document.activeElement.blur()")
    await tab_to(tab, "Why")
    await press("Enter")
    norm = page.get_by_role("dialog").locator("a.mono").first
    await expect(norm).to_be_visible()
    named = (await norm.inner_text()).split(" ")[0]
    await tab_to(tab, await norm.inner_text(), "link")
    await press("Enter")
    await expect(page).to_have_url(f"{server}/#/norms/norms/{named}")
    drawer = page.get_by_role("dialog")
    await expect(drawer.locator("code").first).to_have_text(f"norms/{named}")
    await tab_to(tab, "Norm", "textbox")
    await press("Control+A")
    await page.keyboard.type(RULE)
    await press("Control+Enter")
    await expect(drawer).to_contain_text("it is in the very next answer")
    await expect(drawer.get_by_role("button", name="Ask again in Compare")).to_be_focused()
    await press("Enter")
    await expect(page.get_by_label("Answer A", exact=True)).to_contain_text("Ask them first.")
