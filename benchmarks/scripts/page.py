"""The page in a browser: what it weighs, how soon it shows something, and whether four streams keep it from drawing.

Run: python page.py [--json FILE] [--seconds 20]. It needs Chromium (Debian's), and `pip install 'heedful[studies]'`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import socket
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import uvicorn
from playwright.async_api import Browser, CDPSession, Page, async_playwright

from heedful.benchmarks.machine import machine
from heedful.prompts import Prompts
from heedful.retrieval.store.stores import Stores
from heedful.server.alignments import Alignments
from heedful.server.app import create_app
from heedful.server.config import Config
from heedful.server.service import Service
from heedful.strategies import Call, Chunk, Event, Finish, Resources, Usage
from heedful.strategies.scripted import ScriptedEngine

COLUMNS, RATE, OPENINGS = 4, 100, 7  # streams, tokens a second of each, and how often the page is opened
TOO_LONG = 50  # milliseconds of a frame
WORDS = "Say plainly what you lent and when you need it back, and offer a plan that is easy to keep. ".split(
    " "
)
FRAMES = """() => { const frames = (window.frames_ = []); let last = performance.now();
  const next = (now) => { frames.push(now - last); last = now; requestAnimationFrame(next); };
  requestAnimationFrame(next); }"""


class Paced(ScriptedEngine):
    """Writes RATE tokens a second, without end to speak of, by the clock: a late one is made up for."""

    def __init__(self, seconds: float) -> None:
        super().__init__(model="paced")
        self._tokens = int(seconds * RATE)

    async def chat(self, call: Call) -> AsyncGenerator[Event, None]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for i in range(self._tokens):
            await asyncio.sleep(max(0.0, began + i / RATE - loop.time()))
            text = f"{WORDS[i % len(WORDS)]} "
            yield Chunk([{"index": 0, "delta": {"content": text}, "finish_reason": None}])
        yield Chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}])
        yield Finish(Usage(10, self._tokens))


@contextmanager
def serving(
    *engines: ScriptedEngine, stores: Stores | None = None, config: Config | None = None
) -> Iterator[str]:
    """heedful before the engines, in a thread of its own."""
    config = config or Config()
    alignments = Alignments(config, Resources(Prompts(), stores=stores))
    app = create_app(Service(config, {engine.model: engine for engine in engines}, alignments))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", http="httptools"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


async def opening(browser: Browser, url: str) -> dict[str, Any]:
    """The page opened with nothing remembered: all that it fetches, compressed, and when it first shows something."""
    context = await browser.new_context(viewport={"width": 1280, "height": 900})
    page = await context.new_page()
    await page.goto(url, wait_until="networkidle")
    await page.get_by_label("Question", exact=True).wait_for()
    found: dict[str, Any] = await page.evaluate(
        """() => { const all = ["resource", "navigation"].flatMap((kind) => performance.getEntriesByType(kind))
             .filter((each) => !each.name.includes("/v1/"));
           return { bytes: all.reduce((sum, each) => sum + each.encodedBodySize, 0), files: all.length,
             first_paint_ms: performance.getEntriesByName("first-contentful-paint")[0].startTime }; }"""
    )
    await context.close()
    return found


async def streaming(page: Page, seconds: float) -> dict[str, Any]:
    """The lengths of the frames while all columns stream."""
    for _ in range(COLUMNS - 2):
        await page.get_by_role("button", name="Column", exact=True).click()
    await page.get_by_role("button", name="512 tokens").click()
    await page.get_by_label("Max tokens").fill("")
    await page.get_by_label("Question", exact=True).fill("What should I do?")
    await page.keyboard.press("Enter")
    await page.locator(".compare-text").nth(COLUMNS - 1).wait_for()
    session = await page.context.new_cdp_session(page)
    # Of the page's own thread: on a busy machine frames are late that it had time for.
    await session.send("Performance.enable", {"timeDomain": "threadTicks"})
    before = await busy(session)
    await page.evaluate(FRAMES)
    browser = page.context.browser
    assert browser is not None
    await browser.start_tracing(page=page, categories=["disabled-by-default-devtools.timeline"])
    await page.locator('article[aria-busy="false"]').nth(COLUMNS - 1).wait_for(timeout=seconds * 5000)
    frames: list[float] = await page.evaluate("window.frames_")
    tasks = _tasks(await browser.stop_tracing())
    written = await page.locator("dd").nth(2).inner_text()
    frames = sorted(frames[1:])
    after = await busy(session)
    return {
        "columns": COLUMNS,
        "tokens_per_second_each": RATE,
        "tokens_each": int(written.replace(",", "")),
        "page_thread_busy": round((after - before) / (sum(frames) / 1000), 3),
        "longest_task_ms": round(max(tasks), 1),
        f"tasks_over_{TOO_LONG}_ms": sum(each > TOO_LONG for each in tasks),
        "frames": len(frames),
        "median_ms": round(median(frames), 1),
        "p99_ms": round(frames[int(0.99 * len(frames))], 1),
        "longest_ms": round(frames[-1], 1),
        f"over_{TOO_LONG}_ms": sum(each > TOO_LONG for each in frames),
    }


async def busy(session: CDPSession) -> float:
    """Seconds of a processor that the page's thread has used."""
    metrics = (await session.send("Performance.getMetrics"))["metrics"]
    return float(next(each["value"] for each in metrics if each["name"] == "TaskDuration"))


def _tasks(trace: bytes) -> list[float]:
    """The tasks of the page's thread, in milliseconds of a processor: what else the machine does is not in them."""
    events = json.loads(trace)["traceEvents"]
    named = {
        (e["pid"], e["tid"])
        for e in events
        if e["name"] == "thread_name" and "CrRendererMain" in str(e["args"])
    }
    own = [e for e in events if e["name"] == "RunTask" and (e["pid"], e["tid"]) in named and "tdur" in e]
    return [e["tdur"] / 1000 for e in own]


async def measure(seconds: float) -> dict[str, Any]:
    chromium = shutil.which("chromium")
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with serving(Paced(seconds)) as url:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=chromium, args=options)
            openings = [await opening(browser, url) for _ in range(OPENINGS)]
            page = await browser.new_page(viewport={"width": 1280, "height": 900})
            await page.goto(url)
            frames = await streaming(page, seconds)
            version = browser.version
            await browser.close()
    paints = sorted(each["first_paint_ms"] for each in openings)
    return {
        "page": {
            "files": openings[0]["files"],
            "compressed_bytes": openings[0]["bytes"],
            "first_paint_ms": {
                "median": round(median(paints)),
                "slowest": round(paints[-1]),
                "openings": OPENINGS,
            },
        },
        "streaming": frames,
        "browser": f"Chromium {version}, headless, 1280 × 900",
        "machine": {**machine(), "load_average": [round(each, 1) for each in os.getloadavg()]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    found = asyncio.run(measure(given.seconds))
    text = json.dumps(found, indent=2, ensure_ascii=False)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
