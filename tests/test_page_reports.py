"""Reports in a browser: an evaluation opened and browsed, questions under two alignments, votes, named views."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import report_records
from held_engine import HeldEngine
from page_fixtures import PAGE, Open, Tab
from playwright.async_api import expect

from heedful.benchmarks.evals.folder import EvalFolder
from heedful.benchmarks.evals.judges.exact import matches
from heedful.benchmarks.evals.table import rows
from heedful.benchmarks.report import inputs
from heedful.benchmarks.report.page import html
from heedful.benchmarks.stats import paired_test, pairs_needed, wilson
from heedful.server.config import Config
from heedful.strategies import Call, EngineUnavailable
from heedful.strategies.scripted import ScriptedEngine
from heedful.strategies.types import text_of

pytestmark = PAGE
Serving = Callable[..., AbstractContextManager[str]]
HOSTILE = '<img src=x onerror="document.title=\'owned\'"><script>document.title="owned"</script>'
KEPT = """async (state) => { const { all } = await import("./page/core/database.js");
    return (await all("runs")).some(({ run }) => run.state === state); }"""
QUESTIONS = "\n".join(
    json.dumps(each)
    for each in (
        {"prompt": "What is 7 + 8?", "answer": "15|fifteen"},
        {"prompt": "The capital of France?", "answer": "Paris"},
        {"prompt": f"hostile {HOSTILE}"},
        {"prompt": "broken"},
    )
)


class Model:
    """Right with an alignment, wrong without; `mended` says that the broken question has an answer."""

    mended, scores = False, True

    def reply(self, call: Call) -> Any:
        said, told = text_of(call.messages[-1]), any(m["role"] == "system" for m in call.messages)
        if "broken" in said and not self.mended:
            return EngineUnavailable("out of sorts")
        if "7 + 8" in said:
            return "It is 15." if told else "It is 14."
        if "hostile" in said:
            return HOSTILE
        return "It is Paris." if told else "Paris."

    def score(self, prompt: Sequence[int], continuation: Sequence[int]) -> list[float]:
        """The more likely, the more there is before it."""
        if not self.scores:
            raise EngineUnavailable("can't score now")
        return [-10 / len(prompt)] * len(continuation)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reports")
    report_records.write(root / "first", ["small"], ["direct", "principles", HOSTILE], items=12, requests=5)
    path = root / "first" / "answers.jsonl"
    told = [json.loads(line) for line in path.read_text().splitlines()]
    for each in told:
        each["text"] = HOSTILE if each["alignment"] == HOSTILE else f"Ask {each['alignment']}."
    path.write_text("".join(f"{json.dumps(each)}\n" for each in told) + "no json\n")
    return root


@pytest.fixture(scope="module")
def server(serving: Serving, model: Model, folder: Path) -> Iterator[str]:
    held = HeldEngine()
    held.model = "held"
    tiny = ScriptedEngine(model.reply, model="tiny", score=model.score)
    with serving(tiny, held, config=Config(reports=folder)) as url:
        yield url


async def exported(tab: Tab, name: str, into: Path) -> Path:
    async with tab.page.expect_download() as download:
        await tab.page.get_by_role("button", name=name).click()
    packed = into / "export.zip"
    await (await download.value).save_as(packed)
    with zipfile.ZipFile(packed) as read:
        assert read.testzip() is None
        read.extractall(into)
        (top,) = {each.split("/")[0] for each in read.namelist()}
    return into / top


async def test_the_servers_report_is_browsed_and_voted_on(server: str, opened: Open, tmp_path: Path) -> None:
    tab = await opened(f"{server}/#/reports", accept_downloads=True)
    page = tab.page
    await tab.accessible()
    await page.get_by_role("button", name="first").click()
    await expect(page.get_by_text("answers.jsonl: 1 lines are no JSON objects")).to_be_visible()
    figures = page.get_by_role("table")
    await expect(figures).to_contain_text(HOSTILE)
    await expect(figures.get_by_role("columnheader")).to_contain_text(
        ["Alignment", "harmless, by tiny-judge@1"]
    )
    items = page.get_by_role("list", name="Items").get_by_role("button")
    await expect(items).to_have_count(36)
    await page.get_by_label("Set").select_option("harms")
    await expect(items).to_have_count(12)
    better = page.get_by_role("button", name=re.compile(r"^better \d+$"))
    count = int((await better.inner_text()).split()[-1])
    await better.click()
    await expect(items).to_have_count(count)
    await items.first.click()
    item = page.get_by_role("article")
    await expect(item.locator("ins")).to_have_text("principles")
    await expect(item.locator("del")).to_have_text("direct")
    await expect(item.get_by_label("principles", exact=True)).to_contain_text(
        "harmless, by tiny-judge@1: yes"
    )
    await tab.accessible()
    await page.reload()  # the server's are opened anew, at the same item
    await expect(item.locator("ins")).to_have_text("principles")
    await page.get_by_label("Candidate", exact=True).select_option(f"small@{HOSTILE}")
    await page.get_by_role("button", name=re.compile("^All")).click()
    await items.first.click()
    await expect(item).to_contain_text(HOSTILE)
    assert await page.locator("main img, main script").count() == 0

    await page.get_by_label("Candidate", exact=True).select_option("small@principles")
    await page.get_by_role("button", name="Blind").click()
    first = page.get_by_role("article")
    await expect(first).not_to_contain_text("tiny-judge")
    said = await first.locator(".reports-text").all_inner_texts()
    await first.get_by_role("button", name=f"{said.index('Ask principles.') + 1} is better").click()
    await expect(first).to_contain_text("You voted for principles")
    place = await exported(tab, "Export with votes", tmp_path)
    (mine,) = [c for c in EvalFolder(place).records().comparisons if c.judge == "human"]
    assert {mine.a, mine.b} == {"direct", "principles"} and mine.once
    assert (mine.preference == 1) == (mine.a == "principles")


async def test_files_are_opened_where_they_are(
    server: str, opened: Open, folder: Path, tmp_path: Path
) -> None:
    tab = await opened(f"{server}/#/reports", width=390)
    page = tab.page
    chosen = page.get_by_label("Files of an evaluation")
    page_file = tmp_path / "report.html"
    page_file.write_text("<script>document.title='owned'</script>")
    for files, why in (([page_file], "This is the report's page"), ([Path(__file__)], "None of these is")):
        await chosen.set_input_files(files)
        await expect(page.get_by_role("alert")).to_contain_text(why)
    await chosen.set_input_files([folder / "first" / "items.jsonl"])
    await expect(page.get_by_role("alert")).to_contain_text("There are no records in it")
    await chosen.set_input_files([folder / "first" / "latency.jsonl"])
    await expect(page.get_by_role("heading", name="It holds no answers")).to_be_visible()
    await page.goto(f"{server}/#/reports")
    await page.get_by_label("Folder of an evaluation").set_input_files(folder / "first")
    await expect(page.get_by_role("heading", name="first")).to_be_visible()
    await page.get_by_role("list", name="Items").get_by_role("button").first.click()
    await expect(page.get_by_role("article")).to_contain_text("Ask direct.")
    assert await page.evaluate("document.documentElement.scrollWidth") <= 390
    await tab.accessible()


async def test_questions_under_two_alignments(
    server: str, model: Model, opened: Open, tmp_path: Path
) -> None:
    model.mended = False
    tab = await opened(f"{server}/#/reports/try", accept_downloads=True)
    tab.expected = ["503"]
    page = tab.page
    await page.get_by_label("Questions", exact=True).fill(f"{QUESTIONS}\nnonsense")
    await expect(page.get_by_text("4 questions (JSON lines), 2 with a reference")).to_be_visible()
    await expect(page.get_by_text("line 5: is no JSON")).to_be_visible()
    await page.get_by_label("Judged by").select_option("exact")
    await expect(page.get_by_label("Alignment").nth(1)).to_have_value("principles")
    await tab.accessible()
    await page.get_by_role("button", name="Ask 8 times").click()
    await expect(page.get_by_text("8 of 8 answers, 2 failed", exact=True)).to_be_visible()
    await expect(page.get_by_role("button", name="better 1")).to_be_visible()
    await expect(page.get_by_role("button", name="alike 1")).to_be_visible()
    await expect(page.get_by_role("button", name="not judged 2")).to_be_visible()
    await page.get_by_role("list", name="Items").get_by_role("button").nth(2).click()
    await expect(page.get_by_role("article")).to_contain_text("<script>")
    assert await page.locator("main img, main script").count() == 0
    model.mended = True
    await page.get_by_role("button", name="Ask again what failed").click()
    await expect(page.get_by_text("2 of 2 answers", exact=True)).to_be_visible()
    await page.get_by_role("list", name="Items").get_by_role("button").nth(3).click()
    await page.get_by_role("article").get_by_role("button", name="principles is better").click()
    await tab.accessible()

    await page.reload()  # a run outlives it, with its votes and its questions
    await expect(page.get_by_text("2 of 2 answers", exact=True)).to_be_visible()
    await expect(page.get_by_text("4 questions (JSON lines), 2 with a reference")).to_have_count(1)
    await expect(page.get_by_role("button", name="better 1")).to_be_visible()
    place = await exported(tab, "Export", tmp_path)
    records = EvalFolder(place).records()
    assert {(a.alignment, a.text) for a in records.answers if a.id == "1"} == {
        ("direct", "It is 14."),
        ("principles", "It is 15."),
    }
    assert all(a.error is None and a.cost.calls == 1 for a in records.answers)
    (vote,) = records.comparisons
    assert vote.judge == "human" and vote.id == "4" and (vote.preference == 1) == (vote.a == "principles")
    table = {row.alignment: row.figures for row in rows(place)}
    assert (table["direct"]["capability"].value, table["principles"]["capability"].value) == (0.5, 1.0)
    assert "principles" in html(inputs.read(place))
    await page.get_by_role("button", name="Discard the run").click()
    await expect(page.get_by_role("progress")).to_have_count(0)
    await page.reload()
    await expect(page.get_by_text("No questions yet.")).to_be_visible()


async def test_a_verifier_judges_and_a_run_is_stopped(server: str, model: Model, opened: Open) -> None:
    tab = await opened(f"{server}/#/reports/try")
    tab.expected = ["503"]
    page = tab.page
    await page.get_by_label("Questions", exact=True).fill('prompt,answer\n"Say, 15",\nSay Paris,\n')
    await page.get_by_label("Judged by").select_option("policy")
    await page.get_by_text("Options of policy").click()
    await page.get_by_label("words", exact=True).fill("Paris")
    await page.get_by_label("Model").nth(1).select_option("tiny")
    await page.get_by_role("button", name="Ask 4 times").click()
    await expect(page.get_by_text("4 of 4 answers", exact=True)).to_be_visible()
    await expect(page.get_by_role("button", name="alike 2")).to_be_visible()
    await expect(page.get_by_role("table")).to_contain_text("harmless, by policy")
    await page.get_by_text("Set-up").click()
    two = '{"prompt": "7 + 8?", "answer": "15"}\n{"prompt": "Say"}'
    await page.get_by_label("Questions", exact=True).fill(two)
    await page.get_by_label("Judged by").first.select_option("likelihood")
    model.scores = False
    await page.get_by_role("button", name="Ask 4 times").click()
    await expect(page.get_by_role("alert")).to_contain_text("2 answers could not be judged: can't score now")
    model.scores = True
    await page.get_by_role("button", name="Ask again what failed").click()
    await expect(page.get_by_role("table")).to_contain_text("preferred by likelihood of the reference")
    await expect(page.get_by_role("button", name="better 1")).to_be_visible()
    await expect(page.get_by_role("button", name="not judged 1")).to_be_visible()
    await page.get_by_label("Questions", exact=True).fill("Say 15\nSay Paris")
    await page.get_by_label("Model").nth(0).select_option("held")
    await page.get_by_role("button", name="Ask 4 times").click()
    await expect(page.get_by_text("2 of 4 answers", exact=True)).to_be_visible()
    await page.get_by_role("button", name="Stop").click()
    await expect(page.get_by_text("2 of 4 answers, stopped", exact=True)).to_be_visible()
    await page.get_by_role("button", name="Go on").click()
    while not await page.evaluate(KEPT, "running"):
        pass
    await page.reload()  # what had come by then is there
    await expect(page.get_by_text("0 of 2 answers, stopped", exact=True)).to_be_visible()
    await expect(page.get_by_role("list", name="Items").get_by_role("button")).to_have_count(2)
    await expect(page.get_by_role("button", name="Go on")).to_be_visible()


async def test_a_view_has_a_name_a_link_and_a_file(server: str, opened: Open, tmp_path: Path) -> None:
    grants = ["clipboard-read", "clipboard-write"]
    tab = await opened(f"{server}/#/reports/try?verdict=worse", accept_downloads=True, permissions=grants)
    page = tab.page
    await page.get_by_label("Questions", exact=True).fill(f"Grüße?\n{HOSTILE}")
    await page.get_by_label("Alignment").nth(1).select_option("refine")
    await page.get_by_label("Judged by").select_option("toxicity")
    await page.get_by_role("button", name="Save or share").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Name").fill(f"Late {HOSTILE}")
    await tab.accessible()
    await dialog.get_by_role("button", name="Copy a link").click()
    await expect(page.get_by_role("status").last).to_contain_text("The link is copied")
    link = await page.evaluate("navigator.clipboard.readText()")
    async with page.expect_download() as download:
        await dialog.get_by_role("button", name="As a file").click()
    await (await download.value).save_as(tmp_path / "view.json")
    await dialog.get_by_role("button", name="Save", exact=True).click()
    await page.reload()
    await page.get_by_role("link", name="All reports").click()
    kept = page.get_by_role("region", name="Named views").get_by_role("button", name="Late")

    async def there(where: Any) -> None:
        await expect(where.get_by_label("Questions", exact=True)).to_have_value(f"Grüße?\n{HOSTILE}")
        await expect(where.get_by_label("Alignment").nth(1)).to_have_value("refine")
        await expect(where.get_by_label("Judged by").first).to_have_value("toxicity")
        await expect(where).to_have_url(re.compile("verdict=worse"))
        assert await where.locator("main img, main script").count() == 0

    await kept.first.click()
    await there(page)
    other = await opened(link)
    await there(other.page)
    await other.page.goto(f"{server}/#/reports")
    await expect(other.page.get_by_text("Questions, columns and filters can be given a name")).to_be_visible()
    await other.page.get_by_label("Files of an evaluation").set_input_files(tmp_path / "view.json")
    await expect(other.page.get_by_label("Alignment").nth(1)).to_have_value("refine")
    broken = await opened(f"{server}/#/reports/try?view=nonsense")
    await expect(broken.page.get_by_role("alert")).to_contain_text("This link is not whole")
    await page.goto(f"{server}/#/reports")
    await page.get_by_role("button", name="Forget the view").click()
    await expect(kept).to_have_count(0)


MATCHES = [
    ("It is 15.", "15"),
    ("first 15, then 16", "15"),
    ("1,024", "1024"),
    ("It is Paris.\nOr so.", "paris"),
    ("\n**Paris**", "Paris"),
    ("Parisian", "Paris"),
    ("Not so: Rome", "Paris"),
    ("", "15"),
]
CSV = 'id;prompt;answer\na;"Who said ""no""?\nand why";me\nb;;x\nc;two;fields;more\n\na;again;y\n'
SCRIPT = """async ([pairs, csv, wide]) => {
  const { matches } = await import("/page/views/reports/judges.js");
  const { parse } = await import("/page/views/reports/parse.js");
  const { wilson, signTest, itemsNeeded } = await import("/page/views/reports/figures.js");
  return {
    matches: pairs.map(([text, accepted]) => matches(text, accepted)),
    csv: parse(csv),
    lines: parse("one?\\r\\n\\r\\n two? ").items.map(({ messages }) => messages[0].content),
    list: parse('["a", {"question": "b", "reference": 3}, 4, {"prompt": "c", "measure": "norms"}]'),
    empty: parse(""),
    many: parse(Array.from({ length: wide }, (_, n) => `q${n}`).join("\\n")),
    wilson: wilson(8, 10),
    signs: [signTest(9, 1), signTest(0, 0), signTest(300, 340)],
    needed: itemsNeeded(0.1, 0.3),
  };
}"""


async def test_what_is_reckoned_here_is_what_the_evaluation_reckons(server: str, opened: Open) -> None:
    tab = await opened(server)
    told: dict[str, Any] = await tab.page.evaluate(SCRIPT, [[list(each) for each in MATCHES], CSV, 1003])
    assert told["matches"] == [matches(text, accepted) for text, accepted in MATCHES]
    (only,) = told["csv"]["items"]
    assert (only["id"], only["answer"]) == ("a", "me")
    assert only["messages"] == [{"role": "user", "content": 'Who said "no"?\nand why'}]
    problems = " | ".join(told["csv"]["problems"])
    assert "line 4: has none of" in problems and "line 5: has 4 fields" in problems
    assert "line 7: the id “a” stands twice" in problems
    assert told["lines"] == ["one?", "two?"]
    assert [item["answer"] for item in told["list"]["items"]] == ["", "3"]
    assert len(told["list"]["problems"]) == 2 and told["empty"]["items"] == []
    assert len(told["many"]["items"]) == 1000 and "line 1001 and on" in told["many"]["problems"][0]
    assert told["wilson"] == pytest.approx(wilson(8, 10))
    assert told["signs"] == pytest.approx(
        [paired_test([1.0] * up + [-1.0] * down) for up, down in ((9, 1), (0, 0), (300, 340))]
    )
    assert told["needed"] == pairs_needed(0.1, 0.3)
