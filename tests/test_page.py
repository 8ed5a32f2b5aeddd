"""The page's files: how they are served, where they come from, and the shell around the views."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest
from page_fixtures import PAGE, Open
from playwright.async_api import expect
from test_roles import TEXTS, of_the_file
from waiting import HANG

from heedful.server.access.client import Role
from heedful.server.api.page import ROOT
from heedful.server.config import Config
from heedful.strategies.scripted import ScriptedEngine

Serving = Callable[..., AbstractContextManager[str]]
CLIENT = httpx.Client(timeout=HANG)
VENDOR = ROOT / "vendor"
OURS = sorted(p for p in ROOT.rglob("*") if p.suffix in (".js", ".html", ".css") and VENDOR not in p.parents)


@pytest.fixture(scope="module")
def server(serving: Serving) -> Iterator[str]:
    with serving(ScriptedEngine()) as url:
        yield url


@pytest.fixture(scope="module")
def closed(serving: Serving) -> Iterator[str]:
    with serving(ScriptedEngine(), config=of_the_file()) as url:
        yield url


# -- files


def test_the_shell_is_at_both_addresses_under_a_strict_policy(server: str) -> None:
    answers = [CLIENT.get(server + path) for path in ("/", "/playground")]
    assert answers[0].content == answers[1].content == (ROOT / "index.html").read_bytes()
    for answer in answers:
        policy = answer.headers["content-security-policy"].split("; ")
        assert policy[0] == "default-src 'none'" and "script-src 'self'" in policy
        assert not re.search(r"unsafe|http|\*", answer.headers["content-security-policy"])
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["content-type"] == "text/html; charset=utf-8"


def test_a_file_is_packed_once_and_sent_again_only_when_it_is_another(server: str) -> None:
    url = f"{server}/page/vendor/preact.js"
    with CLIENT.stream("GET", url, headers={"accept-encoding": "gzip"}) as packed:
        raw = b"".join(packed.iter_raw())
    plain = CLIENT.get(url, headers={"accept-encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip" and gzip.decompress(raw) == plain.content
    assert "content-encoding" not in plain.headers and packed.headers["etag"] != plain.headers["etag"]
    assert "content-encoding" not in CLIENT.get(url, headers={"accept-encoding": "gzip;q=0"}).headers
    again = CLIENT.get(
        url, headers={"if-none-match": f'"x", W/{plain.headers["etag"]}', "accept-encoding": "x"}
    )
    assert again.status_code == 304 and not again.content
    head = CLIENT.head(url, headers={"accept-encoding": "identity"})
    assert head.status_code == 200 and not head.content
    assert head.headers["content-length"] == str(len(plain.content))


@pytest.mark.parametrize(
    "path",
    [
        "nothing.js",
        "../app.py",
        "%2e%2e/app.py",
        "vendor",
        "vendor/vendor.sh",
        "%00",
        "views/%2e%2e/../../app.py",
    ],
)
def test_nothing_else_is_served(server: str, path: str) -> None:
    answer = CLIENT.get(f"{server}/page/{path}")
    assert answer.status_code == 404 and answer.json()["error"]["type"]


def test_without_the_page_there_is_nothing(serving: Serving) -> None:
    with serving(ScriptedEngine(), config=Config(page=False)) as url:
        for path in ("/", "/playground", "/page/app.js"):
            assert CLIENT.get(url + path).status_code == 404
        assert CLIENT.get(f"{url}/v1/models").status_code == 200


def test_vendored_files_are_those_of_the_sums() -> None:
    lines = (VENDOR / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ./") for line in lines)}
    there = {p.name for p in VENDOR.iterdir()} - {"SHA256SUMS", "vendor.sh"}
    assert set(sums) == there
    for name, digest in sums.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest, name


@pytest.mark.parametrize("path", OURS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_file_sets_html_runs_text_or_names_another_machine(path: Path) -> None:
    text = path.read_text()
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text
    )
    assert "https://" not in text and "http://" not in text.replace("http://www.w3.org/", "")
    assert len(text.splitlines()) <= 400


def test_every_import_is_there() -> None:
    for path in OURS:
        for name in re.findall(r"""(?:from\s*|import\(|import\s*)"(\.[^"]+)\"""", path.read_text()):
            assert (path.parent / name).is_file(), f"{path.relative_to(ROOT)} imports {name}"


# -- who am I


def test_whoami(server: str, closed: str) -> None:
    open_to_all = CLIENT.get(f"{server}/v1/alignment/whoami").json()
    assert open_to_all["role"] == "admin" and open_to_all["operator"] and not open_to_all["keys_wanted"]
    answer = CLIENT.get(f"{closed}/v1/alignment/whoami", headers={"x-api-key": TEXTS[Role.AUTHOR]}).json()
    assert answer["role"] == "author" and answer["tenant"] == "default" and answer["keys_wanted"]
    assert not answer["operator"] and answer["records"] is None


# -- in a browser


class TestShell:
    pytestmark = PAGE

    async def test_it_opens_and_every_view_has_a_title(self, server: str, opened: Open) -> None:
        tab = await opened(f"{server}/")
        tab.expected = ["404"]  # this server has no stores
        nav = tab.page.get_by_role("navigation", name="Views")
        for link in await nav.get_by_role("link").all():
            name = await link.inner_text()
            await link.click()
            await expect(tab.page.get_by_role("heading", level=1)).to_have_text(name)
            await expect(link).to_have_attribute("aria-current", "page")
        await tab.accessible()

    async def test_a_key_is_asked_for_and_stays_in_the_tab(self, closed: str, opened: Open) -> None:
        tab = await opened(f"{closed}/playground")
        tab.expected = ["401"]
        page, dialog = tab.page, tab.page.get_by_role("dialog")
        await dialog.get_by_label("Key").fill("wrong")
        await tab.accessible()
        await page.keyboard.press("Enter")
        await expect(dialog.get_by_role("alert")).to_contain_text("API key")
        await dialog.get_by_label("Key").fill(TEXTS[Role.USER])
        await page.keyboard.press("Enter")
        await expect(dialog).to_have_count(0)
        await expect(page.get_by_text("user of default")).to_be_visible()
        kept = await page.evaluate(
            "[JSON.stringify(sessionStorage), JSON.stringify(localStorage), location.href]"
        )
        assert TEXTS[Role.USER] in kept[0] and TEXTS[Role.USER] not in kept[1] + kept[2]
        await page.reload()
        await expect(page.get_by_text("user of default")).to_be_visible()
        await page.get_by_role("link", name="Records").click()
        await expect(page.get_by_role("main")).to_contain_text("needs a key of the role admin")

    async def test_the_theme_stays(self, server: str, opened: Open) -> None:
        tab = await opened(f"{server}/")
        ground = "getComputedStyle(document.body).backgroundColor"
        light = await tab.page.evaluate(ground)
        button = tab.page.get_by_role("button", name=re.compile("Theme"))
        await button.click()
        await button.click()
        await expect(button).to_have_accessible_name("Theme: dark")
        dark = await tab.page.evaluate(ground)
        await tab.page.reload()
        assert light != dark == await tab.page.evaluate(ground)
