"""The running server in a browser: what its figures say, and how Prometheus' text is read, odd or not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import httpx
import pytest
from page_fixtures import PAGE, Open
from playwright.async_api import Route, expect

from heedful.server.access.client import Client, Role, Tenant
from heedful.server.config import Config
from heedful.strategies.scripted import ScriptedEngine

pytestmark = PAGE
Serving = Callable[..., AbstractContextManager[str]]
ODD = r"""
# HELP a A counter. # TYPE b
# TYPE a counter
a{x="1",y="with \"quotes\", \\ and } and \n ends"} 3 1700000000000
a{ x = "2" , } 4e1
a 2.5
b NaN
c +Inf
d{le="+Inf"} -Inf
e{x="unended 1
f
g{x=1} 2
9h 3
h:i_j	7
{x="1"} 5
k abc
"""
LATER = """
h_bucket{le="0.1",of="x"} 2
h_bucket{le="1.0",of="x"} 6
h_bucket{le="+Inf",of="x"} 8
h_bucket{le="0.1",of="y"} 0
h_bucket{le="1.0",of="y"} 4
h_bucket{le="+Inf",of="y"} 4
n_total{of="x"} 12
n_total{of="y"} 1
"""
EARLIER = """
h_bucket{le="0.1",of="x"} 2
h_bucket{le="1.0",of="x"} 2
h_bucket{le="+Inf",of="x"} 2
n_total{of="x"} 2
n_total{of="y"} 9
"""
SCRIPT = """async ([odd, earlier, later]) => {
  const { parse, sum, grown, buckets, quantile, valuesOf } = await import("/page/views/running/prometheus.js");
  const told = ({ labels, value }) => [labels, String(value)];
  const read = [...parse(odd)].map(([name, samples]) => [name, samples.map(told)]);
  const [was, now] = [parse(earlier), parse(later)];
  const of = (name) => (labels) => labels.of === name;
  return {
    read: Object.fromEntries(read),
    windows: [...parse("a 1\\r\\nb 2\\r\\n").keys()],
    sum: [sum(now, "n_total"), sum(now, "n_total", of("x")), sum(now, "nothing")],
    grown: [grown(was, now, "n_total", of("x")), grown(was, now, "n_total", of("y")), grown(was, now, "nothing")],
    values: valuesOf(now, "n_total", "of"),
    recent: buckets(was, now, "h", of("x")).map(([bound, n]) => [String(bound), n]),
    quantiles: [
      quantile(0.5, buckets(null, now, "h")), quantile(0.5, buckets(was, now, "h", of("x"))),
      quantile(0.99, buckets(was, now, "h", of("x"))), quantile(0.5, buckets(now, now, "h")), quantile(0.5, []),
      quantile(0.5, [[1, 3]]), quantile(0, buckets(null, now, "h")),
    ],
    anew: buckets(now, was, "h", of("x")).map(([, n]) => n),
  };
}"""


@pytest.fixture(scope="module")
def server(serving: Serving) -> Iterator[str]:
    """It outlives the tabs, which ask for figures until they are closed."""
    with serving(ScriptedEngine(lambda call: ["Well", ", yes."], model="tiny")) as url:
        yield url


@pytest.fixture(scope="module")
def closed(serving: Serving) -> Iterator[str]:
    clients = {"clinic": Client(Tenant("clinic"), Role.ADMIN), "op": Client(Tenant("default"), Role.ADMIN)}
    config = Config(metrics="admin")
    with serving(ScriptedEngine(model="tiny"), config=config, clients=clients) as url:
        yield url


async def test_odd_metrics_are_read_or_passed_over(server: str, opened: Open) -> None:
    tab = await opened(server)
    told: dict[str, Any] = await tab.page.evaluate(SCRIPT, [ODD, EARLIER, LATER])
    quoted = {"x": "1", "y": 'with "quotes", \\ and } and \n ends'}
    assert told["read"] == {
        "a": [[quoted, "3"], [{"x": "2"}, "40"], [{}, "2.5"]],
        "b": [[{}, "NaN"]],
        "c": [[{}, "Infinity"]],
        "d": [[{"le": "+Inf"}, "-Infinity"]],
        "h:i_j": [[{}, "7"]],
    }
    assert told["windows"] == ["a", "b"]
    assert told["sum"] == [13, 12, None] and told["values"] == ["x", "y"]
    assert told["grown"] == [10, 1, None]  # a counter that fell was begun anew
    assert told["recent"] == [["0.1", 0], ["1", 4], ["Infinity", 6]]
    all_half, recent, beyond, *none, least = told["quantiles"]
    assert abs(all_half - (0.1 + 0.9 * 4 / 8)) < 1e-9 and abs(recent - (0.1 + 0.9 * 3 / 4)) < 1e-9
    assert beyond == 1 and none == [None, None, None] and least == 0
    assert told["anew"] == [2, 2, 2]


async def test_what_goes_on_is_shown_and_nothing_is_asked_unseen(server: str, opened: Open) -> None:
    def ask(alignment: Any) -> None:
        body = {"messages": [{"role": "user", "content": "Hm?"}], "alignment": alignment}
        httpx.post(f"{server}/v1/chat/completions", json=body)

    await asyncio.to_thread(ask, "direct")
    tab = await opened(f"{server}/#/running")
    page = tab.page
    row = page.get_by_role("row", name="direct")
    await expect(row).to_contain_text("1")
    await expect(page.get_by_text("Everything is up: 1 model can answer.")).to_be_visible()
    await expect(page.get_by_text("All models run in this process.")).to_be_visible()
    await asyncio.to_thread(
        ask, [{"refine": {"verifiers": [{"policy": {"words": ["yes"]}}], "max_rounds": 1}}]
    )
    await asyncio.to_thread(ask, "nothing")
    await expect(page.get_by_role("row", name="inline")).to_contain_text("%")  # hidden tokens
    await expect(page.get_by_label("Errors since the start")).to_contain_text("NotFound")
    await expect(page.get_by_role("img", name="Answers over the last")).to_be_visible()
    await tab.accessible()
    await page.set_viewport_size({"width": 390, "height": 844})
    assert await page.evaluate("document.documentElement.scrollWidth") <= 390
    await tab.accessible()
    await page.clock.install()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await page.evaluate(
        """() => { Object.defineProperty(document, "hidden", { value: true, configurable: true });
        document.dispatchEvent(new Event("visibilitychange")); }"""
    )
    await page.clock.run_for(20_000)
    assert not [each for each in asked if "metrics" in each]
    async with page.expect_request("**/metrics"):
        await page.evaluate(
            "() => { delete document.hidden; document.dispatchEvent(new Event('visibilitychange')); }"
        )


async def test_upstreams_refusals_and_engines_that_are_down(server: str, opened: Open) -> None:
    figures = """heedful_requests_running 3
heedful_queue_length 2
heedful_engine_up{model="tiny"} 1
heedful_engine_up{model="<b>large</b>"} 0
heedful_upstream_up{upstream="one"} 1
heedful_upstream_up{upstream="two<script>"} 0
heedful_upstream_failures{upstream="two<script>",error="http_502"} 4
heedful_refusals_total{reason="budget",tenant="a"} 5
heedful_refusals_total{reason="budget",tenant="b"} 1
heedful_records_dropped_total 2
"""
    tab = await opened(server)
    page = tab.page
    await page.route("**/metrics", partial(Route.fulfill, body=figures, content_type="text/plain"))
    await page.goto(f"{server}/#/running")
    main = page.get_by_role("main")
    await expect(main).to_contain_text("The engine of <b>large</b> has died.")
    await expect(main).to_contain_text("The upstream two<script> has failed three times in a row.")
    await expect(main).to_contain_text("2 records were lost.")
    await expect(page.get_by_label("Upstreams", exact=True)).to_contain_text("4 × http 502")
    await expect(page.get_by_role("row", name="a spent budget")).to_contain_text("6")
    await expect(page.get_by_label("Under way", exact=True)).to_contain_text("3 requests")
    await expect(page.get_by_role("heading", name="No request for a model yet")).to_be_visible()
    assert await page.locator("main b, main script").count() == 0
    await tab.accessible()


async def test_figures_for_the_operator_alone(closed: str, opened: Open) -> None:
    tab = await opened(f"{closed}/#/running")
    tab.expected = ["401", "403"]
    page = tab.page
    await page.get_by_label("Key", exact=True).fill("clinic")
    await page.get_by_role("button", name="Use it").click()
    await expect(page.get_by_role("heading", name="Not with this key")).to_be_visible()
    await expect(page.get_by_role("main")).to_contain_text("admins of the tenant “default” alone")
    await page.get_by_role("button", name="Use another key").click()
    await page.get_by_label("Key", exact=True).fill("op")
    await page.get_by_role("button", name="Use it").click()
    await expect(page.get_by_text("Everything is up")).to_be_visible()
