"""Verifiers of users' own: programs, services, and classes of third parties' packages."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from aiohttp import web
from waiting import HANG

from heedful.server.alignments import Alignments
from heedful.server.config import Config, ConfigError
from heedful.strategies import ChatRequest, Context, Resources, Run, Verdict, VerifierError
from heedful.strategies.scripted import ScriptedEngine
from heedful.strategies.verifiers.registry import VERIFIERS, close_all, configured

Serving = Callable[..., AbstractContextManager[str]]
CONTEXT = Context.of(ChatRequest("m", ({"role": "user", "content": "Hi $(touch x)"},)))

COUNTS = """
import json, sys
asked = json.load(sys.stdin)
words = len(asked["answer"].split())
json.dump({"score": 1 / words, "passed": words < 3, "critique": "too long for " + asked["messages"][-1]["content"]},
          sys.stdout)
"""


def program(code: str, **options: Any) -> dict[str, Any]:
    return {"argv": [sys.executable, "-c", code], **options}


async def run_command(resources: Resources, answer: str = "one two", **options: Any) -> Verdict:
    verifier = configured("own", {"command": options}, resources)
    return await verifier.verify(CONTEXT, answer, Run(ScriptedEngine(), resources))


async def test_a_program_reads_the_question_and_says_the_verdict(
    resources: Resources, tmp_path: Path
) -> None:
    passed = await run_command(resources, **program(COUNTS))
    assert (passed.score, passed.passed) == (0.5, True)
    failed = await run_command(resources, "one two three four", **program(COUNTS))
    assert (failed.passed, failed.critique) == (False, "too long for Hi $(touch x)")
    assert not (tmp_path / "x").exists()


async def test_without_a_word_on_passing_the_threshold_decides(resources: Resources) -> None:
    code = "print('{\"score\": 0.6}')"  # and reads nothing
    assert (await run_command(resources, "x" * 500_000, **program(code))).passed
    assert not (await run_command(resources, **program(code, threshold=0.7))).passed


async def test_a_program_gets_no_secrets(resources: Resources, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "secret")
    monkeypatch.setenv("SHOWN", "yes")
    code = "import os, json; print(json.dumps({'score': 1, 'critique': ' '.join(sorted(os.environ))}))"
    told = (await run_command(resources, **program(code, environment=["SHOWN"]))).critique.split()
    assert "SHOWN" in told and "PATH" in told and "API_KEY" not in told


@pytest.mark.parametrize(
    ("code", "options", "told"),
    [
        ("raise SystemExit(3)", {}, "ended with status 3"),
        ("print('fine')", {}, "not a verdict"),
        ("print('{\"score\": 2}')", {}, "not a verdict"),
        ("print('{\"passed\": true}')", {}, "not a verdict"),
        ("print('x' * 3000)", {"max_output": 2000}, "more than 2000 bytes"),
        ("while True: print('x' * 3000)", {"max_output": 2000}, "more than 2000 bytes"),
        ("import time; time.sleep(600)", {"timeout": 0.2}, "longer than 0.2 s"),
    ],
)
async def test_a_program_that_fails(
    code: str, options: dict[str, Any], told: str, resources: Resources
) -> None:
    with pytest.raises(VerifierError, match=told):
        await run_command(resources, **program(code, **options))


async def test_what_a_program_has_started_ends_with_it(resources: Resources, tmp_path: Path) -> None:
    pipe = tmp_path / "pid"
    os.mkfifo(pipe)
    code = (
        "import subprocess, sys, time; p = subprocess.Popen(['sleep', '6000']); "
        f"open({str(pipe)!r}, 'w').write(str(p.pid)); time.sleep(6000)"
    )
    task = asyncio.create_task(run_command(resources, **program(code)))
    pid = int(await asyncio.to_thread(pipe.read_text))
    child = psutil.Process(pid)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(child.wait, HANG)


@asynccontextmanager
async def service(answer: Callable[[web.Request], Any]) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


async def ask_service(resources: Resources, url: str, **options: Any) -> Verdict:
    verifier = configured("own", {"http": {"url": url, **options}}, resources)
    try:
        return await verifier.verify(CONTEXT, "an answer", Run(ScriptedEngine(), resources))
    finally:
        await close_all([verifier])


async def test_a_service_is_asked(resources: Resources, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWN_KEY", "k1")
    seen: list[Any] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append((request.headers["authorization"], await request.json()))
        return web.json_response({"score": 0.1, "critique": "dull"})

    async with service(answer) as url:
        verdict = await ask_service(resources, url, key_env="OWN_KEY")
    assert verdict == Verdict(0.1, False, "dull")
    messages = list(CONTEXT.original.messages)
    assert seen == [("Bearer k1", {"messages": messages, "norms": [], "answer": "an answer"})]


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (500, "{}", "status 500"),
        (302, "", "status 302"),
        (200, "x" * 5000, "more than 4000 bytes"),
        (200, "[]", "not a verdict"),
    ],
)
async def test_a_service_that_fails(status: int, body: str, told: str, resources: Resources) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, text=body, headers={"location": "http://127.0.0.1:1/"})

    async with service(answer) as url:
        with pytest.raises(VerifierError, match=told):
            await ask_service(resources, url, max_output=4000)


async def test_a_service_that_is_down_or_slow(resources: Resources) -> None:
    with pytest.raises(VerifierError, match="can't be reached"):
        await ask_service(resources, "http://127.0.0.1:1/")

    async def never(request: web.Request) -> web.Response:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    async with service(never) as url:
        with pytest.raises(VerifierError, match="longer than 0.1 s"):
            await ask_service(resources, url, timeout=0.1)


# -- by name, from the configuration


def test_the_configurations_verifiers_are_used_by_name(serving: Serving) -> None:
    config = Config.model_validate(
        {
            "verifiers": {"short": {"command": program(COUNTS)}},
            "alignments": {"safe": [{"refine": {"verifiers": ["short", "toxicity"]}}]},
        }
    )
    engine = ScriptedEngine(lambda call: "far too many words" if len(call.messages) == 1 else "fewer words")
    with serving(engine, config=config) as url:
        body: dict[str, Any] = {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}]}
        inline = [{"best_of_n": {"verifiers": ["short"]}}]
        told = httpx.post(f"{url}/v1/chat/completions", json=body | {"alignment": "safe"}).json()
        assert told["choices"][0]["message"]["content"] == "fewer words"
        assert "too long for Hi" in engine.calls[-1].messages[-1]["content"]
        assert httpx.post(f"{url}/v1/chat/completions", json=body | {"alignment": inline}).status_code == 200
        changed = [{"refine": {"verifiers": [{"short": {"argv": ["sh"]}}]}}]
        refused = httpx.post(f"{url}/v1/chat/completions", json=body | {"alignment": changed})
        assert refused.status_code == 400 and "in the configuration" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("verifiers", "told"),
    [
        ({"x": {"command": {"argv": ["no-such-program"]}}}, "verifiers.x: command: argv: no program"),
        ({"x": {"command": {}}}, "verifiers.x: command: argv"),
        ({"x": {"http": {"url": "ftp://x"}}}, "verifiers.x: option 'url'"),
        ({"x": {"http": {"url": "http://x", "key_env": "NO_SUCH_KEY"}}}, "NO_SUCH_KEY is not set"),
        ({"x": {"policy": {"deny": ["(?=x)"]}}}, "verifiers.x: policy: the pattern"),
        ({"toxicity": {"policy": {"words": ["x"]}}}, "verifiers.toxicity: there is a verifier"),
        ({"x": {"magic": {}}}, "verifiers.x: unknown verifier 'magic'"),
        ({"x": {}}, "verifiers.x: give one verifier"),
    ],
)
def test_a_bad_configuration_stops_the_start(verifiers: Any, told: str, resources: Resources) -> None:
    with pytest.raises(ConfigError) as caught:
        Alignments(Config(verifiers=verifiers), resources)
    assert told in str(caught.value)


# -- third parties'


@pytest.fixture
def rhymes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package with a verifier of its own."""
    document = Path(__file__).parent.parent / "docs" / "refine.md"
    code = document.read_text().split("```python\n")[1].split("```")[0]
    (tmp_path / "shouting.py").write_text(code)
    info = tmp_path / "shouting-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shouting\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[heedful.verifiers]\nshouting = shouting:Shouting\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    VERIFIERS.forget()
    yield tmp_path
    VERIFIERS.forget()
    sys.modules.pop("shouting", None)


def test_a_third_partys_verifier(rhymes: Path, serving: Serving) -> None:
    engine = ScriptedEngine(lambda call: "HELLO THERE" if len(call.messages) == 1 else "Hello there")
    with serving(engine) as url:
        body = {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}]}
        wish = {"pipeline": [{"refine": {"verifiers": [{"shouting": {"share": 0.4}}]}}], "trace": True}
        told = httpx.post(f"{url}/v1/chat/completions", json=body | {"alignment": wish}).json()
        assert told["choices"][0]["message"]["content"] == "Hello there"
        assert "capitals" in json.dumps(told["alignment"]["trace"])
        bad = [{"refine": {"verifiers": [{"shouting": {"share": 4}}]}}]
        refused = httpx.post(f"{url}/v1/chat/completions", json=body | {"alignment": bad}).json()["error"]
        assert refused["param"] == "alignment.refine.verifiers.shouting.share"


def test_one_that_can_not_be_loaded_says_so(rhymes: Path, serving: Serving) -> None:
    (rhymes / "shouting.py").write_text("class Shouting: ...")
    with serving(ScriptedEngine()) as url:
        listed = httpx.get(f"{url}/v1/alignment").json()["verifiers"]
        assert "is no dataclass" in listed["shouting"]["error"] and "about" in listed["policy"]


def test_a_guard_model_beside_the_one_that_writes(serving: Serving) -> None:
    writer = ScriptedEngine(lambda call: "x" if len(call.messages) == 1 else "better", model="w")
    guard = ScriptedEngine(
        lambda call: "safe" if call.messages[-1]["content"] == "better" else "unsafe", model="g"
    )
    with serving(writer, guard) as url:
        body: dict[str, Any] = {"model": "w", "messages": [{"role": "user", "content": "Hi"}]}
        wish = [{"refine": {"verifiers": [{"guard": {"model": "g"}}]}}]
        told = httpx.post(f"{url}/v1/chat/completions", json=body | {"alignment": wish}).json()
        assert told["choices"][0]["message"]["content"] == "better"
        assert told["usage"]["alignment_details"]["refine"]["calls"] == 4
        wish = [{"refine": {"verifiers": [{"guard": {"model": "h"}}]}}]
        unknown = httpx.post(f"{url}/v1/chat/completions", json=body | {"alignment": wish})
        assert unknown.status_code == 404 and "known: g, w" in unknown.json()["error"]["message"]
