"""The page over a real model: the bundled chat model, as `heedful serve` serves it."""

from __future__ import annotations

import re

import pytest
from page_fixtures import PAGE, Open
from playwright.async_api import expect

pytestmark = [*PAGE, pytest.mark.engine]


async def test_two_alignments_of_the_bundled_model(chat_server: str, opened: Open) -> None:
    tab = await opened(chat_server)
    page = tab.page
    await expect(page.get_by_role("button", name="None of these models takes images")).to_be_disabled()
    await page.get_by_role("button", name="512 tokens").click()
    await page.get_by_label("Max tokens").fill("24")
    await page.get_by_label("Temperature").fill("0")
    await page.get_by_label("Alignment of B").select_option("house")
    await page.get_by_label("Question", exact=True).fill("What colour is the sky?")
    await page.keyboard.press("Enter")
    for name in "AB":
        answer = page.get_by_label(f"Answer {name}", exact=True)
        await expect(answer).to_have_attribute("aria-busy", "false")
        assert re.search(r"\w+ \w+", await answer.locator(".compare-text").inner_text())
        figures = await answer.locator("dd").all_inner_texts()
        assert 1 <= int(figures[2]) <= 24 and figures[3] == "none"
    await page.get_by_label("Answer B", exact=True).get_by_role("button", name="Why").click()
    await expect(page.get_by_role("dialog")).to_contain_text("principles/house@3")
