"""Why an answer came out as it did, in a browser: steps, prompt, cost, and a search's tree."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from page_fixtures import PAGE, Open, Tab
from playwright.async_api import expect
from waiting import HANG

from heedful.benchmarks.scripts.stories import SEARCH, SLOTS, teller
from heedful.retrieval import Item
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.stores import Stores
from heedful.server.access.settings import FloorSettings
from heedful.server.config import Config
from heedful.strategies import Call, Continuation, Extension
from heedful.strategies.scripted import ScriptedEngine

pytestmark = PAGE
Serving = Callable[..., AbstractContextManager[str]]
HOSTILE = '<img src=x onerror="document.title=\'owned\'"><script>document.title="owned"</script>'
DRAFT, BETTER = "Post it, there is a guarantee.", "Post it once they agree."
RAIN = {"rain": SEARCH}
REFINE = {"refine": {"verifiers": [{"policy": {"words": ["guarantee"]}}], "max_rounds": 2}}


def reply(call: Call) -> Any:
    """A draft with a fault, mended when it is told so; thoughts where it is asked for them."""
    told = json.dumps(list(call.messages))
    if "hostile" in told:
        return f"{HOSTILE} guarantee"
    return BETTER if "guarantee" in told else DRAFT


class Held:
    """A search that stands still after a while, until it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self._model = teller()
        self._asked = 0
        self.engine = ScriptedEngine(extend=self._extend, model="held")

    async def _extend(self, extension: Extension) -> list[Continuation]:
        self._asked += 1
        if self._asked > 60:
            assert await asyncio.to_thread(self.let_go.wait, HANG)
        return await self._model.extend(extension)


@pytest.fixture(scope="module")
def held() -> Held:
    return Held()


@pytest.fixture(scope="module")
def own_stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    stores = Stores(Path(tmp_path_factory.mktemp("why")), word_embedder(dimension=64))
    stores.add_starters()
    store, _ = stores.create("hostile")
    store.add([Item(f"{HOSTILE} about photos", source=HOSTILE, mandatory=True)])
    yield stores
    stores.close()


@pytest.fixture(scope="module")
def server(serving: Serving, held: Held, own_stores: Stores) -> Iterator[str]:
    spoilt = teller("hostile", ((HOSTILE,), *SLOTS[:2]))
    with serving(
        teller(), ScriptedEngine(reply, model="plain"), held.engine, spoilt, stores=own_stores
    ) as url:
        yield url


async def asked(tab: Tab, model: str, steps: list[Any], question: str = "May I share a photo?") -> None:
    """One column asks."""
    await expect(tab.page.get_by_label("Question", exact=True)).to_be_visible()
    await tab.page.evaluate(
        """async ([model, steps]) => { const { setup } = await import("./page/views/compare/state.js");
           const { columns, settings } = setup.get();
           const column = { ...columns[0], model, alignment: steps };
           setup.patch({ columns: [column], settings: { ...settings, seed: 3 } }); }""",
        [model, steps],
    )
    await tab.page.get_by_label("Question", exact=True).fill(question)
    await tab.page.keyboard.press("Enter")


async def why(tab: Tab, model: str, steps: list[Any], question: str = "May I share a photo?") -> Any:
    await asked(tab, model, steps, question)
    await expect(tab.page.get_by_label("Answer A", exact=True)).to_have_attribute("aria-busy", "false")
    await tab.page.get_by_role("button", name="Why").click()
    return tab.page.get_by_role("dialog")


def step(dialog: Any, name: str) -> Any:
    return dialog.get_by_role("listitem").filter(has=dialog.page.get_by_role("heading", name=name)).first


async def test_what_was_done_step_by_step(server: str, opened: Open) -> None:
    tab = await opened(server)
    norms = {"norms": {"max_tokens": 300}}
    dialog = await why(tab, "plain", [norms, {"demos": {"k": 3}}, REFINE])
    used = step(dialog, "Norms")
    await expect(used).to_contain_text("Before publishing a picture of someone else, ask them")
    await expect(used).to_contain_text("Starter norms, privacy")
    await expect(used).to_contain_text("starter-privacy-06 v1")
    await used.get_by_text("norms left out").click()
    await expect(used).to_contain_text("left out: max tokens")
    await expect(step(dialog, "Demonstrations")).to_contain_text("similarity")
    rounds = step(dialog, "Refine")
    await expect(rounds.get_by_text("Draft", exact=True)).to_be_visible()
    await expect(rounds).to_contain_text("guarantee")
    await expect(rounds.locator("del").first).to_contain_text("there is a guarantee")
    await expect(rounds.locator("ins").first).to_contain_text("once they agree")
    await expect(rounds.get_by_text("failed")).to_have_count(2)
    await expect(rounds.get_by_text("taken", exact=True)).to_be_visible()


async def test_the_prompt_and_what_it_took(server: str, opened: Open) -> None:
    tab = await opened(server, width=390)
    dialog = await why(tab, "plain", ["norms", {"principles": {"mode": "cot"}}])
    await expect(step(dialog, "Principles")).to_contain_text("reasoning")
    await tab.accessible()
    await dialog.get_by_role("tab", name="Prompt").click()
    own = dialog.locator(".why-part:not(.added)")
    await expect(own).to_have_text(["May I share a photo?"])
    await expect(dialog.locator(".why-part.added").first).to_contain_text("Principles")
    await dialog.get_by_role("tab", name="Cost").click()
    await expect(dialog.get_by_role("row", name="principles")).to_contain_text("1")
    hidden = dialog.get_by_role("row", name="of it hidden")
    await expect(hidden.get_by_role("cell").first).to_have_text("1")


async def test_candidates_and_what_chose_among_them(server: str, opened: Open) -> None:
    tab = await opened(server)
    panel = [{"policy": {"words": ["guarantee"]}}]
    dialog = await why(tab, "plain", [{"best_of_n": {"n": 3, "verifiers": panel}}])
    found = step(dialog, "Best of n")
    await expect(found).to_contain_text("3 candidates, 3 judged")
    await expect(found.get_by_text("Candidate 3", exact=True)).to_be_visible()
    await expect(found.get_by_text("chosen")).to_have_count(1)
    await expect(found.locator(".why-quote").first).to_have_text(DRAFT)


async def test_what_it_said_to_itself(server: str, opened: Open) -> None:
    tab = await opened(server, width=390)
    found = step(await why(tab, "plain", ["align3"]), "Deliberation")
    for told in ("By the rules of behavior", "By the rules of safety", "By all of them"):
        await expect(found.get_by_role("heading", name=told)).to_be_visible()
    await expect(found.locator(".why-quote")).to_have_text([DRAFT, BETTER, BETTER])
    await expect(found).to_contain_text("align3/default@1")
    await tab.accessible()


async def test_the_operators_steps_are_marked(serving: Serving, opened: Open) -> None:
    gate = {"verifiers": [{"policy": {"words": ["photo"]}}], "action": "annotate"}
    verify = {"verifiers": [{"policy": {"words": ["guarantee"]}}]}
    settings = {"enforce": ["principles"], "gate": [gate], "verify": verify, "trace": "full"}
    floor = FloorSettings.model_validate(settings)
    with serving(ScriptedEngine(reply, model="plain"), config=Config(floor=floor)) as url:
        tab = await opened(url)
        dialog = await why(tab, "plain", ["principles"])
        await expect(dialog.get_by_text("the operator's")).to_have_count(3)
        await expect(step(dialog, "Gate")).to_contain_text("flagged")
        await expect(step(dialog, "Verified")).to_contain_text("what failed did not go out")


async def test_a_tree_by_keyboard_and_by_mouse(server: str, opened: Open) -> None:
    tab = await opened(server)
    dialog = await why(tab, "teller", [RAIN])
    page, tree = tab.page, dialog.get_by_role("tree", name="Search tree")
    await expect(dialog.get_by_text("9 commits")).to_be_visible()
    picture = dialog.locator(".why-picture")
    whole = int(await picture.get_attribute("data-nodes") or 0)
    await tree.get_by_role("treeitem", selected=True).focus()
    await page.keyboard.press("ArrowRight")
    item = tree.get_by_role("treeitem", selected=True)
    await expect(item).to_be_focused()
    await expect(item).to_contain_text("Ask; part of the answer; value")
    for _ in range(3):
        await page.keyboard.press("ArrowRight")
    await expect(item).to_have_attribute("aria-level", "5")
    siblings = await tree.get_by_role("treeitem").count()
    assert siblings > 1 and await item.get_attribute("aria-setsize") == str(siblings)
    await page.keyboard.press("ArrowDown")
    await expect(item).to_contain_text("tried and left")
    await expect(item).to_contain_text("judged bad")
    await expect(dialog.get_by_label("The node in hand")).to_contain_text("tried and left")
    await page.keyboard.press("Enter")
    await expect(item).to_have_attribute("aria-expanded", "false")
    assert int(await picture.get_attribute("data-nodes") or 0) < whole
    await page.keyboard.press("Enter")
    await expect(picture).to_have_attribute("data-nodes", str(whole))
    await page.keyboard.press("ArrowLeft")
    await expect(item).to_have_attribute("aria-level", "4")
    await page.keyboard.press("End")
    await expect(item).to_contain_text("ends the answer")
    await page.keyboard.press("Home")
    await expect(item).to_contain_text("The beginning of the answer")
    await tab.accessible()
    await dialog.get_by_role("button", name="All of it").click()
    canvas = dialog.locator("canvas")
    await canvas.hover(position={"x": 130, "y": 18})
    await expect(picture).to_have_attribute("data-marked", "Ask")
    await canvas.click(position={"x": 225, "y": 18})
    await page.mouse.move(5, 5)
    await expect(picture).to_have_attribute("data-marked", "your nei")
    await canvas.dblclick(position={"x": 225, "y": 18})
    await expect(picture).to_have_attribute("data-nodes", "3")


async def test_a_tree_commit_by_commit(server: str, opened: Open) -> None:
    tab = await opened(server, width=390)
    dialog = await why(tab, "teller", [RAIN])
    slider, written = dialog.get_by_label("Commit", exact=True), dialog.get_by_label("The answer so far")
    answer = "".join(words[0] for words in SLOTS)
    await expect(written).to_have_text(answer)
    await slider.fill("0")
    await expect(written).to_have_text("Nothing is committed yet.")
    await dialog.get_by_role("button", name="One commit on").click()
    await dialog.get_by_role("button", name="One commit on").click()
    await expect(written).to_have_text("Ask your nei")
    await expect(written.locator("mark")).to_have_text("your nei")
    await expect(slider).to_have_attribute("aria-valuetext", "Commit 2 of 9: your nei")
    await expect(dialog.locator(".why-picture")).to_have_attribute("data-marked", "your nei")
    await dialog.get_by_role("button", name="One commit back").click()
    await expect(written).to_have_text("Ask")
    await slider.fill("7")
    await dialog.get_by_role("button", name="Play commit by commit").click()
    await expect(written).to_have_text(answer)
    await expect(dialog.get_by_role("button", name="Play commit by commit")).to_be_visible()
    await expect(dialog.get_by_label("The node in hand")).to_contain_text("commit 9")


async def test_a_search_while_it_goes_on(server: str, opened: Open, held: Held) -> None:
    tab = await opened(server)
    await asked(tab, "held", [RAIN])
    await tab.page.get_by_role("button", name="Why").click()
    dialog = tab.page.get_by_role("dialog")
    await expect(dialog.get_by_text("live", exact=True)).to_be_visible()
    nodes = int(await dialog.locator(".why-picture").get_attribute("data-nodes") or 0)
    assert nodes > 1
    await expect(dialog.get_by_role("tab", name="Prompt")).to_have_count(0)
    held.let_go.set()
    await expect(dialog.get_by_role("tab", name="Prompt")).to_be_visible()
    await expect(dialog.get_by_text("live", exact=True)).to_have_count(0)
    await expect(dialog.get_by_label("The answer so far")).to_have_text("".join(words[0] for words in SLOTS))


async def test_markup_stays_text_in_every_place(server: str, opened: Open) -> None:
    tab = await opened(server)
    verifiers = [{"policy": {"words": ["guarantee"]}}]
    both = [*verifiers, {"self": {"principles": [HOSTILE]}}]
    refine = {"refine": {"verifiers": both, "max_rounds": 1, "on_error": "pass"}}
    steps = [{"norms": {"store": "hostile"}}, {"principles": {"mode": "cot"}}]
    for decoder in (refine, {"best_of_n": {"n": 2, "verifiers": verifiers}}):
        dialog = await why(tab, "plain", [*steps, decoder], f"hostile {HOSTILE}")
        await expect(step(dialog, "Norms")).to_contain_text("<script>")
        await expect(dialog.locator(".why-quote").first).to_contain_text("<script>")
        for name in ("Prompt", "Cost", "JSON"):
            await dialog.get_by_role("tab", name=name).click()
        assert await dialog.locator("img, script").count() == 0
        await tab.page.reload()
    dialog = await why(tab, "hostile", [{"norms": {"store": "hostile"}}, RAIN])
    await tab.page.keyboard.press("Tab")
    await expect(dialog.get_by_label("The answer so far")).to_contain_text("<script>")
    await dialog.get_by_role("button", name="To the commit").click()
    await expect(dialog.get_by_label("The node in hand")).to_contain_text("<script>")
    assert await dialog.locator("img, script").count() == 0 and await tab.page.title() == "Compare · heedful"
