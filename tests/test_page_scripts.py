"""What the page's modules compute, asked in the browser that runs them."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from page_fixtures import PAGE, Open

from heedful.strategies.scripted import ScriptedEngine

pytestmark = PAGE
Serving = Callable[..., AbstractContextManager[str]]
TOKENS = re.compile(r"\s+|\w+|[^\s\w]")


@pytest.fixture(scope="module")
def server(serving: Serving) -> Iterator[str]:
    with serving(ScriptedEngine()) as url:
        yield url


def longest_common(a: list[str], b: list[str]) -> int:
    """The length of the longest common subsequence, by the textbook's table."""
    row = [0] * (len(b) + 1)
    for one in a:
        before = row
        row = [0]
        for j, other in enumerate(b):
            row.append(before[j] + 1 if one == other else max(before[j + 1], row[j]))
    return row[-1]


async def test_differences_lose_nothing_and_are_as_few_as_can_be(server: str, opened: Open) -> None:
    tab = await opened(server)
    ask = """async (pairs) => { const { differences } = await import("./page/core/diff.js");
        return pairs.map(([from, to]) => differences(from, to)); }"""
    rng = random.Random(7)
    # Words apart by commas, so that no space joins what the shortest script keeps apart.
    texts = [",".join(rng.choice("abcd") for _ in range(rng.randrange(1, 14))) for _ in range(400)]
    spaced = [" ".join(rng.choice("ab,") for _ in range(rng.randrange(0, 12))) for _ in range(400)]
    pairs = [*zip(texts[::2], texts[1::2], strict=True), *zip(spaced[::2], spaced[1::2], strict=True)]
    for (before, after), found in zip(pairs, await tab.page.evaluate(ask, pairs), strict=True):
        assert "".join(text for kind, text in found if kind != "added") == before
        assert "".join(text for kind, text in found if kind != "removed") == after
        if " " not in before + after:
            same = sum(len(TOKENS.findall(text)) for kind, text in found if kind == "same")
            assert same == longest_common(TOKENS.findall(before), TOKENS.findall(after)), (before, after)
    assert await tab.page.evaluate(ask, [["I can do it now.", "I will not do it."]]) == [
        [
            ["same", "I "],
            ["removed", "can"],
            ["added", "will not"],
            ["same", " do it"],
            ["removed", " now"],
            ["same", "."],
        ]
    ]


async def test_events_are_whole_however_they_are_cut(server: str, opened: Open) -> None:
    tab = await opened(server)
    text = ': keep-alive\n\nevent: tree\ndata: {"a":\ndata: 1}\n\ndata:é😀\r\n\r\n'
    text += "data: x\rdata: y\r\rid: 1\n\ndata: begun"
    ask = """async ([bytes, size]) => { const { events } = await import("./page/core/sse.js");
        const body = new ReadableStream({ start(to) {
          for (let i = 0; i < bytes.length; i += size) to.enqueue(Uint8Array.from(bytes.slice(i, i + size)));
          to.close(); } });
        const found = [];
        for await (const { event, data } of events(body)) found.push([event, data]);
        return found; }"""
    for size in (1, 2, 3, 5, 1000):
        found: Any = await tab.page.evaluate(ask, [list(text.encode()), size])
        assert found == [["tree", '{"a":\n1}'], ["", "é😀"], ["", "x\ny"]], size
