"""A search's trace in the page: how long a tree of 10,000 nodes takes from the click on "Why" until it is drawn.

The answer is made up (the server's part of a stream is given to the browser as it would come); all else is the page
itself in a headless Chromium. Beside it how long a frame's drawing takes while the tree is moved about.

Run: python page_tree.py [--json FILE] [--nodes 10000]. It needs Chromium, and `pip install 'heedful[studies]'`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from playwright.async_api import Browser, Page, Route, async_playwright

from heedful.benchmarks.machine import machine
from heedful.benchmarks.scripts.page import busy, serving
from heedful.strategies.scripted import ScriptedEngine

OPENINGS, COMMITS, MOVES = 7, 160, 60
WORDS = " ask your neighbour first, a face is personal: data. if they agree keep it small and when".split(" ")
OPEN = """async () => { const began = performance.now();
  document.querySelector(".compare-tools .button:has(+ .icon)").click();
  const canvas = () => document.querySelector(".why-picture canvas");
  const drawn = () => canvas()?.width > 300 && document.querySelector(".why-node");
  while (!drawn()) await new Promise(requestAnimationFrame);
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  const ms = performance.now() - began;
  return { ms, nodes: Number(document.querySelector(".why-picture").dataset.nodes) - 1 }; }"""
MOVE = """async (moves) => { const canvas = document.querySelector(".why-picture canvas"); const took = [];
  for (let i = 0; i < moves; i++) {
    canvas.dispatchEvent(new WheelEvent("wheel", { deltaX: 40, deltaY: 25, cancelable: true }));
    await new Promise((done) => requestAnimationFrame((at) => setTimeout(() => {
      took.push(performance.now() - at); done(); })));
  }
  return took; }"""


def note(nodes: int) -> dict[str, Any]:
    """A search's note with so many nodes, as RAIN's traces are shaped: a few branches, some of them deep."""
    rng, number, commits = random.Random(1), 0, []

    def node(**more: Any) -> dict[str, Any]:
        nonlocal number
        number += 1
        value, visits = round(rng.uniform(-1, 1), 4), rng.randint(1, 40)
        text = "".join(f" {rng.choice(WORDS)}" for _ in range(3))
        figures = {"visits": visits, "weight": visits + 0.2, "value": value, "prior": 0.1}
        return {"text": text, "search": number, **figures, **more}

    for i in range(COMMITS):
        upto = nodes * (i + 1) // COMMITS
        children = [taken := node(committed=True)]
        alive = [children]
        while number < upto:
            grown = node(**({"rewinds": 1} if rng.random() < 0.3 else {}))
            rng.choice(alive[-12:]).append(grown)
            if rng.random() < 0.6:
                alive.append(grown.setdefault("children", []))
        for each in _all(children):
            if each.get("children") == []:
                del each["children"]
        commits.append({"text": taken["text"], "searches": upto - nodes * i // COMMITS, "children": children})
    return {
        "step": "rain",
        "at_ms": 9000.0,
        "choice": 0,
        "seed": 1,
        "mode": "fast",
        "outcome": "searched",
        "seconds": 9.0,
        "searches": number,
        "rewinds": number // 3,
        "commits": commits,
        "nodes_left_out": 0,
    }


def _all(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for node in nodes for each in (node, *_all(node.get("children", [])))]


def answer(nodes: int) -> bytes:
    """A stream whose last event has the trace."""
    told = note(nodes)
    text = "".join(commit["text"] for commit in told["commits"])
    usage = {"rain": {"calls": 20_000, "prompt_tokens": 10**6, "completion_tokens": 10**5}}
    alignment = {"name": "rain", "pipeline": ["rain"], "usage": usage, "answer": None, "trace": [told]}
    events = [
        {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": "stop"}]},
        {"choices": [], "alignment": alignment},
    ]
    return (
        b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"
    )


async def opening(browser: Browser, url: str, body: bytes) -> tuple[dict[str, Any], Page]:
    page = await browser.new_page(viewport={"width": 1280, "height": 900})
    await page.route(
        "**/v1/chat/completions", partial(Route.fulfill, body=body, content_type="text/event-stream")
    )
    await page.goto(url)
    await page.get_by_label("Question", exact=True).fill("What should I do?")
    await page.keyboard.press("Enter")
    await page.get_by_role("button", name="Why").first.wait_for()
    await page.locator('article[aria-busy="false"]').first.wait_for()
    session = await page.context.new_cdp_session(page)
    # Of the page's own thread, too: a busy machine is no fault of the page's.
    await session.send("Performance.enable", {"timeDomain": "threadTicks"})
    before = await busy(session)
    found = await page.evaluate(OPEN)
    return {**found, "busy_ms": (await busy(session) - before) * 1000}, page


async def measure(nodes: int) -> dict[str, Any]:
    body = answer(nodes)
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with serving(ScriptedEngine(model="made-up")) as url:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=options)
            found = []
            for _ in range(OPENINGS):
                told, page = await opening(browser, url, body)
                found.append(told)
                near = await page.evaluate(MOVE, MOVES)
                await page.get_by_role("button", name="All of it").click()
                far = await page.evaluate(MOVE, MOVES)
                await page.close()
            version = browser.version
            await browser.close()
    times = sorted(each["ms"] for each in found)
    return {
        "nodes": found[0]["nodes"],
        "trace_bytes": len(body),
        "opened_ms": {"median": round(median(times)), "slowest": round(times[-1]), "openings": OPENINGS},
        "page_thread_ms": round(median(each["busy_ms"] for each in found)),
        "frame_ms": {"near": _frame(near), "whole tree": _frame(far)},
        "browser": f"Chromium {version}, headless, 1280 × 900",
        "machine": machine(),
    }


def _frame(took: list[float]) -> dict[str, float]:
    """From a frame's beginning until it is drawn."""
    return {"median": round(median(took), 1), "longest": round(max(took), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--nodes", type=int, default=10_000)
    given = parser.parse_args()
    found = asyncio.run(measure(given.nodes))
    text = json.dumps(found, indent=2, ensure_ascii=False)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
