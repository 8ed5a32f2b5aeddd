"""The pictures of the page in docs/page/: every view over a scripted model, at 1280 px and 390 px.

Run: python screenshots.py [--out docs/page] [--only compare]. A view's pictures are one function below. It needs
Chromium (Debian's), and `pip install 'heedful[studies]'`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

from playwright.async_api import Page, async_playwright

from heedful.benchmarks.scripts.page import serving
from heedful.benchmarks.scripts.stories import SEARCH, teller
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.stores import Stores
from heedful.strategies import Call, Chunk, Event, Finish, Usage
from heedful.strategies.scripted import ScriptedEngine

PLAIN = """\
I'd start with a calm talk. Money between friends is awkward, so say plainly what you lent and when you need
it back. Offer a plan: small amounts each month are easier to keep. If nothing comes of it, decide what the
friendship is worth to you, and don't lend again."""
ALIGNED = """\
I'd begin with a calm, honest talk. Money between friends is awkward, so say plainly what you lent and why you
need it. Offer a plan: small amounts each month are easier to keep. I don't know what keeps them from paying;
ask before you judge. If nothing comes of it, decide what the friendship is worth to you, and lend no more."""
SIZES = {"wide": (1280, 800, False), "narrow": (390, 780, True)}
"""Width, height, and whether it is dark."""
Shot = Callable[[Page], Awaitable[None]]


class Told(ScriptedEngine):
    """Writes as a small model on a good machine does, and differently where it is told to heed something."""

    async def chat(self, call: Call) -> AsyncGenerator[Event, None]:
        aligned = any(m["role"] == "system" for m in call.messages) or "orm" in str(call.messages)
        words = re.findall(r"\S+\s*", (ALIGNED if aligned else PLAIN).replace("\n", " "))
        await asyncio.sleep(0.09 if aligned else 0.06)
        for word in words:
            await asyncio.sleep(0.01)
            yield Chunk([{"index": 0, "delta": {"content": word}, "finish_reason": None}])
        yield Chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}])
        yield Finish(Usage(len(str(call.messages)) // 4, len(words)))


async def compare(page: Page) -> None:
    """Two alignments side by side, with what differs."""
    await page.get_by_role("button", name="Differences").click()
    await page.get_by_label("Question", exact=True).fill("My friend never pays me back. What should I do?")
    await page.keyboard.press("Enter")
    await page.locator('article[aria-busy="false"]').nth(1).wait_for()
    await page.locator("ins").first.wait_for()


async def why(page: Page) -> None:
    """A search's tree, at a branch that was left."""
    await page.evaluate(
        """async (steps) => { const { setup } = await import("./page/views/compare/state.js");
           const column = { ...setup.get().columns[0], model: "teller", alignment: steps };
           setup.patch({ columns: [column], settings: { ...setup.get().settings, seed: 3 } }); }""",
        ["norms", {"rain": SEARCH}],
    )
    await page.get_by_label("Question", exact=True).fill("May I share a photo of my neighbour online?")
    await page.keyboard.press("Enter")
    await page.locator('article[aria-busy="false"]').wait_for()
    await page.get_by_role("button", name="Why").click()
    await page.get_by_role("treeitem", selected=True).focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowDown"):
        await page.keyboard.press(key)


async def norms(page: Page) -> None:
    """A store, looked through by meaning."""
    await page.locator(".norms-store", has_text="103 norms").click()
    await page.get_by_label("Search by meaning").fill("sharing private facts about a person")
    await page.locator(".norms-score").first.wait_for()


VIEWS: dict[str, Shot] = {"compare": compare, "norms": norms, "why": why}
"""By the view's name in its address; Why opens in Compare."""


async def shoot(out: Path, only: str | None) -> None:
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    chromium = shutil.which("chromium")
    with tempfile.TemporaryDirectory() as folder:
        stores = Stores(Path(folder), word_embedder(dimension=256))
        stores.add_starters()
        with serving(Told(model="tiny"), teller(), stores=stores) as url:
            async with async_playwright() as playwright:
                browser = await playwright.chromium.launch(executable_path=chromium, args=options)
                for name, show in VIEWS.items():
                    for size, (width, height, dark) in SIZES.items():
                        if only not in (None, name):
                            continue
                        page = await browser.new_page(
                            viewport={"width": width, "height": height},
                            color_scheme="dark" if dark else "light",
                            reduced_motion="reduce",
                        )
                        await page.goto(f"{url}/#/{'compare' if name == 'why' else name}")
                        await show(page)
                        await page.screenshot(path=out / f"{name}-{size}.png")
                        await page.close()
                await browser.close()
        stores.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/page"))
    parser.add_argument("--only", choices=VIEWS)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    asyncio.run(shoot(given.out, given.only))


if __name__ == "__main__":
    main()
