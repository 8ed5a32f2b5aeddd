"""Compare, in a browser: columns side by side, what each took, stopping, retrying, editing, links, code."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import pytest
from held_engine import HeldEngine
from page_fixtures import PAGE, Open, Tab
from playwright.async_api import Route, expect
from test_roles import TEXTS, of_the_file
from waiting import HANG

from heedful.retrieval.store.stores import Stores
from heedful.server.access.client import Role
from heedful.server.config import Config
from heedful.strategies import Call, EngineUnavailable
from heedful.strategies.scripted import ScriptedEngine
from heedful.strategies.types import text_of

pytestmark = PAGE
Serving = Callable[..., AbstractContextManager[str]]
PLAIN, TOLD = "Say plainly what you lent.", "Say kindly what you lent, and when."
HOSTILE = '<img src=x onerror="document.title=\'owned\'"><script>document.title="owned"</script>&lt;b&gt;'


class Model:
    """What the scripted model says: by what it is told, and by words in the question."""

    def __init__(self) -> None:
        self.engine = ScriptedEngine(self.reply, model="tiny")

    async def reply(self, call: Call) -> Any:
        told = any(m["role"] == "system" for m in call.messages)
        question = text_of(call.messages[-1])
        if "broken" in question:
            return EngineUnavailable("the model is out of sorts")
        if "hostile" in question:
            return [HOSTILE[i : i + 7] for i in range(0, len(HOSTILE), 7)]
        if "seed" in question:
            return [f"seed {call.params.get('seed')}"]
        if "context" in question:
            return [f"{len(call.messages)} messages"]
        return re.findall(r"\S+\s*", TOLD if told else PLAIN)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


@pytest.fixture(scope="module")
def held() -> HeldEngine:
    engine = HeldEngine()
    engine.model = "held"
    return engine


@pytest.fixture(scope="module")
def server(serving: Serving, model: Model, held: HeldEngine, stores: Stores) -> Iterator[str]:
    prices = {"tiny": {"prompt": 1000, "completion": 2000, "currency": "EUR"}}
    config = Config.model_validate({"prices": prices})
    with serving(model.engine, held, config=config, stores=stores) as url:
        yield url


async def ask(tab: Tab, text: str) -> None:
    await tab.page.get_by_label("Question", exact=True).fill(text)
    await tab.page.keyboard.press("Enter")


def answer(tab: Tab, name: str, turn: int = 1) -> Any:
    return tab.page.get_by_label(f"Turn {turn}", exact=True).get_by_label(f"Answer {name}", exact=True)


async def figures(tab: Tab, name: str) -> dict[str, str]:
    card = answer(tab, name)
    await expect(card).to_have_attribute("aria-busy", "false")
    names, values = await card.locator("dt").all_inner_texts(), await card.locator("dd").all_inner_texts()
    return dict(zip(names, values, strict=True))


async def test_two_alignments_side_by_side(server: str, opened: Open) -> None:
    tab = await opened(server)
    await ask(tab, "What should I do?")
    await expect(answer(tab, "A")).to_contain_text(PLAIN)
    await expect(answer(tab, "B")).to_contain_text(TOLD)
    told = await figures(tab, "B")
    assert re.fullmatch(r"\d+ ms|\d\.\d\d s", told["first token"]) and told["tokens"] == str(len(TOLD))
    assert told["hidden"] == "none" and re.fullmatch(r"EUR \d\.\d\d", told["price"])
    await expect(tab.page.get_by_role("status").last).to_contain_text("complete")
    await tab.page.get_by_role("button", name="Differences").click()
    await expect(answer(tab, "B").locator("ins")).to_have_text(["kindly", ", and when"])
    await expect(answer(tab, "B").locator("del")).to_have_text(["plainly"])
    await expect(answer(tab, "A").locator("ins, del")).to_have_count(0)
    await tab.accessible()


async def test_hidden_calls_and_steps_from_a_form(server: str, opened: Open) -> None:
    tab = await opened(server)
    page = tab.page
    await page.get_by_role("button", name="Steps and options of B").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("mode").select_option("cot")
    await dialog.get_by_label("max reasoning tokens").fill("many")
    await expect(dialog.get_by_text("A whole number")).to_be_visible()
    await dialog.get_by_label("max reasoning tokens").fill("12")
    await tab.accessible()
    await dialog.get_by_role("tab", name="JSON").click()
    written = json.loads(await dialog.get_by_label("Steps", exact=True).input_value())
    assert written == [{"principles": {"mode": "cot", "max_reasoning_tokens": 12}}, "direct"]
    written[0]["principles"]["place"] = "question"
    await dialog.get_by_label("Steps", exact=True).fill(json.dumps(written))
    await dialog.get_by_role("tab", name="Form").click()
    await expect(dialog.get_by_label("place")).to_have_value("question")
    await dialog.get_by_role("button", name="Use these steps").click()
    await ask(tab, "What should I do?")
    hidden = (await figures(tab, "B"))["hidden"]
    assert re.fullmatch(r"\d+ in 1 call", hidden)
    await answer(tab, "B").get_by_role("button", name="Why").click()
    await expect(page.get_by_role("dialog")).to_contain_text("reasoning")


async def test_a_stream_is_stopped_half_way_and_the_model_with_it(
    server: str, opened: Open, held: HeldEngine
) -> None:
    tab = await opened(server)
    await tab.page.get_by_label("Model of A").select_option("held")
    await ask(tab, "What should I do?")
    await expect(answer(tab, "A")).to_contain_text("Well")
    await expect(answer(tab, "A")).to_have_attribute("aria-busy", "true")
    await answer(tab, "A").get_by_role("button", name="Stop").click()
    await expect(answer(tab, "A")).to_contain_text("stopped")
    await expect(answer(tab, "A").locator(".compare-text")).to_have_text("Well")
    await expect(answer(tab, "B")).to_contain_text(TOLD)
    assert await asyncio.to_thread(held.left.wait, HANG)
    await ask(tab, "And now?")
    await tab.page.get_by_role("button", name="Stop all").click()
    await expect(answer(tab, "A", 2)).to_contain_text("stopped")


async def test_the_same_seed_and_another(server: str, opened: Open) -> None:
    tab = await opened(server)
    await ask(tab, "say the seed")
    text = answer(tab, "A").locator(".compare-text")
    await expect(text).to_have_text(re.compile(r"seed \d+"))
    first = await text.inner_text()
    assert await answer(tab, "B").locator(".compare-text").inner_text() == first
    await answer(tab, "A").get_by_role("button", name="Retry A with another seed").click()
    await expect(text).not_to_have_text(first)
    await answer(tab, "B").get_by_role("button", name="Retry B with the same seed").click()
    await expect(answer(tab, "B")).to_have_attribute("aria-busy", "false")
    await expect(answer(tab, "B").locator(".compare-text")).to_have_text(first)


async def test_several_turns_and_an_earlier_one_edited(server: str, opened: Open, model: Model) -> None:
    tab = await opened(server, width=390)
    await tab.page.get_by_role("button", name="512 tokens").click()
    await tab.page.get_by_label("System message").fill("Be brief.")
    await tab.page.get_by_label("Temperature").fill("0.5")
    await ask(tab, "First?")
    await expect(answer(tab, "A")).to_contain_text(TOLD)
    await ask(tab, "How much context?")
    await expect(answer(tab, "A", 2)).to_contain_text("4 messages")
    said = [[m["content"] for m in call.messages] for call in model.engine.calls[-2:]]
    assert ["Be brief.", "First?", TOLD, "How much context?"] in said
    plain = model.engine.calls[-1]
    assert plain.params["temperature"] == 0.5 and plain.params["max_tokens"] == 512
    await tab.page.get_by_role("button", name="Edit question 1").click()
    await tab.page.get_by_label("Question 1", exact=True).fill("How much context now?")
    await tab.page.get_by_role("button", name="Ask again").click()
    await expect(answer(tab, "A")).to_contain_text("2 messages")
    await expect(tab.page.get_by_label("Turn 2", exact=True)).to_have_count(0)
    await tab.accessible()


async def test_markup_and_script_stay_text_everywhere(server: str, opened: Open) -> None:
    tab = await opened(server)
    page = tab.page
    await page.get_by_role("button", name="512 tokens").click()
    await page.get_by_label("System message").fill(HOSTILE)
    await page.get_by_role("button", name="Differences").click()
    await ask(tab, f"hostile {HOSTILE}")
    for name in "AB":
        await expect(answer(tab, name).locator(".compare-text")).to_have_text(HOSTILE)
    await page.get_by_role("button", name="Steps and options of B").click()
    await page.get_by_role("dialog").get_by_label("set", exact=True).fill(HOSTILE)
    await page.get_by_role("button", name="Use these steps").click()
    await ask(tab, f"again {HOSTILE}")
    await expect(answer(tab, "B", 2).get_by_role("alert")).to_contain_text("<script>")
    tab.expected = ["404", "400"]
    await answer(tab, "A", 1).get_by_role("button", name="Why").click()
    assert await page.title() == "Compare · heedful"
    assert await page.locator("main img, main script, dialog img, dialog script").count() == 0


async def test_what_goes_wrong_is_said_in_its_column(server: str, opened: Open) -> None:
    """What the server refuses, in its words; and an answer that breaks off, which keeps what had come."""
    tab = await opened(server)
    tab.expected = ["503"]
    await ask(tab, "broken")
    await expect(answer(tab, "A").get_by_role("alert")).to_contain_text("the model is out of sorts")
    await tab.accessible()
    chunk = {"choices": [{"index": 0, "delta": {"content": "Half an ans"}}]}
    for body, why in (
        (f"data: {json.dumps(chunk)}\n\n", "ended before it was complete"),
        (f'data: {json.dumps(chunk)}\r\n\r\ndata: {{"error": {{"message": "lost it"}}}}\r\n\r\n', "lost it"),
    ):
        await tab.page.route(
            "**/v1/chat/completions",
            partial(Route.fulfill, body=body, content_type="text/event-stream"),
        )
        await answer(tab, "A").get_by_role("button", name="Retry A with the same seed").click()
        await expect(answer(tab, "A").get_by_role("alert")).to_contain_text(why)
        await expect(answer(tab, "A")).to_contain_text("Half an ans")
        await tab.page.unroute("**/v1/chat/completions")
    await expect(answer(tab, "B").get_by_role("alert")).to_contain_text("the model is out of sorts")


async def test_a_link_opens_the_same_set_up_and_asks_nothing_by_itself(
    server: str, opened: Open, model: Model
) -> None:
    tab = await opened(server, permissions=["clipboard-read", "clipboard-write"])
    await tab.page.get_by_role("button", name="Column", exact=True).click()
    await tab.page.get_by_label("Alignment of C").select_option("refine")
    await tab.page.get_by_role("button", name="512 tokens").click()
    await tab.page.get_by_label("Temperature").fill("0.25")
    await ask(tab, "Grüße, what should I do?")
    await expect(answer(tab, "C")).to_have_attribute("aria-busy", "false")
    await tab.page.get_by_role("button", name="Link").click()
    await expect(tab.page.get_by_role("status").last).to_contain_text("The link is copied")
    link = await tab.page.evaluate("navigator.clipboard.readText()")
    assert link.startswith(f"{server}/#/compare?set=")
    asked = len(model.engine.calls)
    fresh = await opened(link)
    await expect(fresh.page.get_by_label("Alignment of C")).to_have_value("refine")
    await expect(fresh.page.get_by_role("main")).to_contain_text("Grüße, what should I do?")
    await expect(fresh.page.get_by_role("button", name="temperature 0.25, 512 tokens")).to_be_visible()
    assert len(model.engine.calls) == asked and "set=" not in fresh.page.url
    await fresh.page.get_by_role("button", name="Ask it now").click()
    await expect(answer(fresh, "A")).to_contain_text(PLAIN)
    broken = await opened(f"{server}/#/compare?set=nonsense")
    await expect(broken.page.get_by_role("alert")).to_contain_text("This link is not whole")


async def test_a_server_that_shows_no_traces_still_answers(
    serving: Serving, model: Model, opened: Open
) -> None:
    config = of_the_file(floor={"trace": "off"})
    with serving(model.engine, config=config) as url:
        tab = await opened(f"{url}/")
        tab.expected = ["401", "403"]
        await tab.page.get_by_label("Key", exact=True).fill(TEXTS[Role.USER])
        await tab.page.keyboard.press("Enter")
        for _ in range(2):
            await ask(tab, "What should I do?")
            await expect(answer(tab, "B")).to_contain_text("lent")
            await expect(answer(tab, "A").get_by_role("button", name="Why")).to_be_disabled()
            await tab.page.get_by_role("button", name="Clear").click()


async def test_curl_and_python_run_as_they_are(server: str, opened: Open) -> None:
    tab = await opened(server)
    await tab.page.get_by_role("button", name="512 tokens").click()
    await tab.page.get_by_label("System message").fill('It\'s "fine" \\ ünïcode')
    await ask(tab, 'Don\'t "worry":\n$HOME `ls` \\n?')
    await expect(answer(tab, "B")).to_contain_text(TOLD)
    await answer(tab, "B").get_by_role("button", name="Request of B").click()
    dialog = tab.page.get_by_role("dialog")
    await tab.accessible()
    curl = await dialog.locator("pre").inner_text()
    ran = await asyncio.to_thread(
        subprocess.run, ["sh", "-c", f"{curl} -s"], capture_output=True, text=True, timeout=HANG
    )
    assert json.loads(ran.stdout)["choices"][0]["message"]["content"] == TOLD, ran.stderr
    await dialog.get_by_role("tab", name="Python").click()
    code = await dialog.locator("pre").inner_text()
    ran = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG
    )
    assert ran.stdout.strip() == TOLD, ran.stderr


async def test_an_image_goes_along(server: str, opened: Open, model: Model) -> None:
    tab = await opened(server)
    pixel = bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0000003010100c9fe92"
        "ef0000000049454e44ae426082"
    )
    file = {"name": "pixel.png", "mimeType": "image/png", "buffer": pixel}
    await tab.page.locator("input[type=file]").set_input_files(file)
    await expect(tab.page.get_by_alt_text("Image 1")).to_be_visible()
    await ask(tab, "What is this?")
    await expect(tab.page.get_by_label("Turn 1").get_by_alt_text("Image 1")).to_be_visible()
    await expect(answer(tab, "A")).to_contain_text(PLAIN)
    parts = next(m for m in model.engine.calls[-1].messages if m["role"] == "user")["content"]
    assert parts[0]["text"].endswith("What is this?")
    assert parts[1]["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
