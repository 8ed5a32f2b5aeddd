"""The page in Debian's Chromium: one browser for the whole run, a context of its own for each test.

Tests of the page are coroutines in one loop of the whole run, whose modules say `pytestmark = PAGE`: Playwright's
synchronous API would leave its own loop running in the thread of every other test.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from waiting import HANG

PAGE = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.page]
CHROMIUM = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)
PATIENCE = HANG * 1000 / 10
"""Milliseconds that a page may take to show something."""
SERIOUS = ("serious", "critical")
AXE = "async (options) => (await axe.run(document, options)).violations"

Open = Callable[..., Awaitable["Tab"]]


@dataclass
class Tab:
    """One page and what went wrong in it: errors of its scripts, and what its policy has blocked."""

    page: Any
    wrong: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    """Parts of messages that a test brings about."""

    def notes(self, fault: str | None) -> None:
        if fault is not None:
            self.wrong.append(fault)

    def faults(self) -> list[str]:
        return [text for text in self.wrong if not any(part in text for part in self.expected)]

    async def accessible(self) -> None:
        """Raises AssertionError with what axe finds serious, in light; in dark with what of that hangs on colours."""
        from axe_playwright_python.base import AXE_SCRIPT

        found = []
        # Run in the page's own world by the debugger, so that its policy needs no exception.
        if not await self.page.evaluate("'axe' in window"):
            await self.page.evaluate(AXE_SCRIPT)
        for scheme, rules in (("light", {}), ("dark", {"runOnly": ["color-contrast"]})):
            await self.page.emulate_media(color_scheme=scheme)
            for violation in await self.page.evaluate(AXE, {"resultTypes": ["violations"], **rules}):
                if violation["impact"] in SERIOUS:
                    nodes = [(n["html"][:200], n["failureSummary"][:300]) for n in violation["nodes"]]
                    found.append((scheme, violation["id"], nodes))
        assert not found


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Any]:
    """Chromium, or a skipped test that says why."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here to show the page in: apt-get install chromium")
    from playwright.async_api import async_playwright, expect

    expect.set_options(timeout=PATIENCE)
    options = ["--disable-dev-shm-usage", "--disable-gpu"]
    if os.geteuid() == 0:
        options.append("--no-sandbox")
    async with async_playwright() as playwright:
        made = await playwright.chromium.launch(executable_path=CHROMIUM, args=options, timeout=PATIENCE)
        yield made
        await made.close()


def _fault(said: Any) -> str | None:
    """What the console says of one; a test's server may be down before its tab is closed."""
    return said.text if said.type == "error" and "ERR_CONNECTION_REFUSED" not in said.text else None


@pytest_asyncio.fixture(loop_scope="session")
async def opened(browser: Any) -> AsyncIterator[Open]:
    """`await opened(url, width=390, dark=True)`: a Tab with storage of its own. At the end no script has failed and
    nothing was blocked, or was asked of another machine."""
    tabs, contexts = [], []

    async def open(url: str, *, width: int = 1280, dark: bool = False, **more: Any) -> Tab:
        context = await browser.new_context(
            viewport={"width": width, "height": 844 if width < 500 else 900},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
            **more,
        )
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        tab = Tab(await context.new_page())
        tabs.append(tab)
        page = tab.page
        page.on("pageerror", lambda error: tab.notes(str(error)))
        page.on("console", lambda said: tab.notes(_fault(said)))
        known = ("/".join(url.split("/")[:3]), "data:", "blob:")
        page.on("request", lambda asked: tab.notes(None if asked.url.startswith(known) else asked.url))
        await page.goto(url)
        return tab

    yield open
    await asyncio.gather(*(context.close() for context in contexts))
    assert not [fault for tab in tabs for fault in tab.faults()]
