"""The pictures of the page in docs/page/: every view over a scripted model, at 1280 px and 390 px.

Run: python screenshots.py [--out docs/page] [--only compare] [--all]. With `--all` each size in light and in dark. A
view's pictures are one function below. It needs Chromium (Debian's), and `pip install 'heedful[studies]'`.
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

import httpx
from playwright.async_api import Page, async_playwright

from heedful.benchmarks.scripts.page import serving
from heedful.benchmarks.scripts.stories import SEARCH, teller
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.stores import Stores
from heedful.server.config import Config
from heedful.strategies import Call, Chunk, Event, Finish, Usage
from heedful.strategies.scripted import ScriptedEngine
from heedful.strategies.types import text_of

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
OTHERS = {"wide-dark": (1280, 800, True), "narrow-light": (390, 780, False)}
PHOTO = "May I share a photo of my neighbour online?"
SUMS = "\n".join(f'{{"prompt": "What is {n} + {n + 7}?", "answer": "{2 * n + 7}"}}' for n in range(3, 43, 2))
Shot = Callable[[Page], Awaitable[None]]


class Told(ScriptedEngine):
    """Writes as a small model on a good machine does, and differently where it is told to heed something."""

    async def chat(self, call: Call) -> AsyncGenerator[Event, None]:
        aligned = any(m["role"] == "system" for m in call.messages) or "orm" in str(call.messages)
        said = _sum(text_of(call.messages[-1]), aligned) or (ALIGNED if aligned else PLAIN)
        words = re.findall(r"\S+\s*", said.replace("\n", " "))
        await asyncio.sleep(0.09 if aligned else 0.06)
        for word in words:
            await asyncio.sleep(0.01)
            yield Chunk([{"index": 0, "delta": {"content": word}, "finish_reason": None}])
        yield Chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}])
        yield Finish(Usage(len(str(call.messages)) // 4, len(words)))


def _sum(question: str, careful: bool) -> str | None:
    """The answer to a sum, at times a wrong one; carefully at fewer times. None where no sum is asked for."""
    if not (found := re.search(r"(\d+) \+ (\d+)", question)):
        return None
    one, other = map(int, found.groups())
    wrong = one % 7 in ((3,) if careful else (1, 3, 5))
    told = "Taking them together, that is" if careful else "That is"
    return f"{told} {one + other + (10 if wrong else 0)}."


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


async def records(page: Page) -> None:
    """A past answer, and its norms then and now."""
    await page.goto(page.url.partition("#")[0] + "#/records?alignment=norms")
    await page.locator("a.records-row").first.click()
    await page.get_by_role("tab", name="Norms then and now").click()
    await page.locator(".records-two").first.wait_for()


async def reports(page: Page) -> None:
    """Questions of one's own under two alignments: what got better, and two answers side by side."""
    await page.goto(page.url.partition("#")[0] + "#/reports/try")
    await page.get_by_label("Questions", exact=True).fill(SUMS)
    await page.get_by_label("Judged by").select_option("exact")
    await page.get_by_role("button", name="Ask 40 times").click()
    await page.get_by_text("40 of 40 answers", exact=True).wait_for()
    await page.get_by_role("button", name=re.compile(r"^better \d")).click()
    await page.get_by_role("list", name="Items").get_by_role("button").first.click()
    await page.get_by_role("article").wait_for()
    await page.evaluate("scrollTo(0, 0)")


async def running(page: Page) -> None:
    """Some requests a second, under three alignments."""
    await page.evaluate(
        """async ([model, question]) => { const messages = [{ role: "user", content: question }];
           const some = ["direct", "principles", "norms+refine"];
           for (const began = Date.now(); Date.now() - began < 11_000;) {
             await Promise.all(some.slice(0, 1 + Math.random() * 3).map((alignment) =>
               fetch("v1/chat/completions", { method: "POST", headers: { "content-type": "application/json" },
                 body: JSON.stringify({ model, messages, alignment }) }))); } }""",
        ["tiny", PHOTO],
    )


VIEWS: dict[str, Shot] = {
    "compare": compare,
    "norms": norms,
    "why": why,
    "records": records,
    "reports": reports,
    "running": running,
}
"""By the view's name in its address; Why opens in Compare."""


def past(url: str) -> None:
    """An answer that heeded norms, one of which has been changed since."""
    with httpx.Client(base_url=url, timeout=60) as client:
        body = {"model": "tiny", "messages": [{"role": "user", "content": PHOTO}]}
        for alignment in ("direct", "norms", "principles"):
            client.post("/v1/chat/completions", json=body | {"alignment": alignment}).raise_for_status()
        path = "/v1/alignment/stores/norms"
        (norm,) = client.post(f"{path}/search", json={"query": PHOTO, "k": 1}).json()["data"]
        changed = {name: norm[name] for name in ("id", "source", "tags") if name in norm}
        changed["text"] = f"{norm['text'].rstrip('.')}, and say where it will be shown."
        client.post(f"{path}/items", json=changed).raise_for_status()


async def shoot(out: Path, only: str | None, sizes: dict[str, tuple[int, int, bool]]) -> None:
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    chromium = shutil.which("chromium")
    with tempfile.TemporaryDirectory() as folder:
        stores = Stores(Path(folder), word_embedder(dimension=256))
        stores.add_starters()
        settings = {"stores": folder, "tenants": {"default": {"records": {"texts": "full"}}}}
        config = Config.model_validate(settings)
        with serving(Told(model="tiny"), teller(), stores=stores, config=config) as url:
            await asyncio.to_thread(past, url)
            async with async_playwright() as playwright:
                browser = await playwright.chromium.launch(executable_path=chromium, args=options)
                for name, show in VIEWS.items():
                    for size, (width, height, dark) in sizes.items():
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
    parser.add_argument("--all", action="store_true")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    asyncio.run(shoot(given.out, given.only, SIZES | OTHERS if given.all else SIZES))


if __name__ == "__main__":
    main()
