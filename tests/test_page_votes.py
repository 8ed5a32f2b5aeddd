"""Blind votes in a browser: nothing tells whose answer is whose, and what is exported is an evaluation's folder."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from page_fixtures import PAGE, Open, Tab
from playwright.async_api import expect

from heedful.benchmarks.evals.folder import EvalFolder
from heedful.benchmarks.evals.table import rows
from heedful.benchmarks.report import inputs
from heedful.benchmarks.report.page import html
from heedful.strategies import Call
from heedful.strategies.scripted import ScriptedEngine

pytestmark = PAGE
Serving = Callable[..., AbstractContextManager[str]]


def reply(call: Call) -> str:
    return "A kind answer." if any(m["role"] == "system" for m in call.messages) else "A blunt answer."


@pytest.fixture(scope="module")
def server(serving: Serving) -> Iterator[str]:
    with serving(ScriptedEngine(reply, model="tiny"), ScriptedEngine(reply, model="large")) as url:
        yield url


async def ask(tab: Tab, text: str) -> Any:
    """Asks in a new conversation; resolves to the answers' texts once one can vote."""
    clear = tab.page.get_by_role("button", name="Clear")
    if await clear.is_enabled():
        await clear.click()
    await tab.page.get_by_label("Question", exact=True).fill(text)
    await tab.page.keyboard.press("Enter")
    await expect(tab.page.get_by_role("button", name="They are alike")).to_be_enabled()
    return await tab.page.locator(".compare-text").all_inner_texts()


async def vote(tab: Tab, text: str | None, said: list[str]) -> None:
    name = "They are alike" if text is None else f"{said.index(text) + 1} is better"
    await tab.page.get_by_role("button", name=name).click()


async def test_votes_are_blind_and_become_an_evaluation(server: str, opened: Open, tmp_path: Path) -> None:
    tab = await opened(server, accept_downloads=True)
    page = tab.page
    await page.get_by_role("button", name="Blind").click()
    await page.get_by_role("button", name="Votes").click()
    await page.get_by_role("dialog").get_by_label("Your name").fill("Ana")
    await page.keyboard.press("Escape")
    said = await ask(tab, "First?")
    turn = page.get_by_label("Turn 1", exact=True)
    shown = await turn.inner_text()
    for telling in ("principles", "direct", "tiny", "first token", "seed"):
        assert telling not in shown
    await expect(turn.get_by_role("button", name="Why")).to_have_count(0)
    await expect(page.locator("[aria-live]")).to_have_text("An answer is complete")  # nor to who listens
    await tab.accessible()
    await vote(tab, "A kind answer.", said)
    await expect(turn).to_contain_text("You voted for B (principles)")
    await expect(turn).to_contain_text("first token")
    await vote(tab, None, await ask(tab, "Second?"))
    orders = {tuple(said)}
    while len(orders) < 2:  # chance has both orders sooner or later
        orders.add(tuple(said := await ask(tab, "Third?")))
    await vote(tab, "A blunt answer.", said)
    # Another model: such votes are a folder of their own.
    await page.get_by_label("Model of A").select_option("large")
    await vote(tab, "A kind answer.", await ask(tab, "Fourth?"))
    await page.reload()  # they stay
    await page.get_by_role("button", name="Votes (4)").click()
    await tab.accessible()
    async with page.expect_download() as download:
        await page.get_by_role("button", name="Export").click()
    await (await download.value).save_as(tmp_path / "votes.zip")
    with zipfile.ZipFile(tmp_path / "votes.zip") as packed:
        assert packed.testzip() is None
        packed.extractall(tmp_path)

    folder = EvalFolder(tmp_path / "votes-1")
    records = folder.records()
    assert [item.messages[-1]["content"] for item in folder.items()] == ["First?", "Second?", "Third?"]
    assert {(a.model, a.alignment, a.text) for a in records.answers} == {
        ("tiny", "direct", "A blunt answer."),
        ("tiny", "principles", "A kind answer."),
    }
    assert all(a.cost.completion_tokens == a.cost.answer_tokens == len(a.text) for a in records.answers)
    for comparison in records.comparisons:
        assert comparison.judge == "human: Ana" and comparison.once
    # For `principles`, whichever stood first: better, alike, worse.
    told = [(c.preference, c.a) for c in records.comparisons]
    assert [p if a == "principles" else 1 - (p or 0) for p, a in told] == [1.0, 0.5, 0.0]
    by_b = {row.alignment: row for row in rows(tmp_path / "votes-1")}["principles"]
    assert by_b.figures["helpfulness"].value == 0.5 and by_b.figures["helpfulness"].n == 3
    assert "human: Ana" in html(inputs.read(tmp_path / "votes-1", tmp_path / "votes-2"))
    (other,) = EvalFolder(tmp_path / "votes-2").records().comparisons
    assert {other.a, other.b} == {"large@direct", "tiny@principles"} and other.model == "several models"

    await page.get_by_role("button", name="Forget all").click()
    await page.get_by_role("button", name="Forget 4 votes").click()
    await expect(page.get_by_role("dialog")).to_contain_text("No votes yet")
