"""A real server's end: by signal, and by the death of its engine. These two end the servers that others used."""

from __future__ import annotations

import json
import re
import signal
from typing import Any

import httpx
import psutil
import pytest
from engine_fixtures import BASE_MODEL, CHAT_MODEL, InProcess, Server
from waiting import HANG

pytestmark = [pytest.mark.engine, pytest.mark.ends_server]

BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "Tell me a story."}], "ignore_eos": True}


def test_sigterm_finishes_what_is_running(base_process: Server) -> None:
    """Served from a configuration file with prompts of its own, which this looks at on the way."""
    url, process, log = base_process.url, base_process.process, base_process.log
    told = log.read_text()
    assert f"heedful is listening on {url}/v1" in told
    assert f"the page: {url}/" in told
    assert f"model {BASE_MODEL} (completion, logprobs, tokens" in told
    assert re.search(r"alignments: house, .*direct.*; default: direct", told)
    body = {**BODY, "model": BASE_MODEL}
    wish = {"alignment": {"name": "house", "trace": True}, "max_tokens": 2}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body | wish, timeout=HANG).json()
    assert "alignment" in answer, answer
    assert answer["alignment"]["trace"][0]["prompt"] == "urial/house@3"

    body |= {"alignment": "urial", "max_tokens": 200}
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        process.send_signal(signal.SIGTERM)
        events = [line for line in lines if line]
    assert events[-1] == "data: [DONE]"
    assert json.loads(events[-2].removeprefix("data: "))["usage"]["completion_tokens"] == 200
    assert process.wait(HANG) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")
    assert "Traceback" not in log.read_text()[len(told) :]


def test_the_engines_death_is_seen(in_process: InProcess, capfd: pytest.CaptureFixture[str]) -> None:
    url = in_process.ours
    (engine,) = (child for child in psutil.Process().children(recursive=True) if "EngineCore" in child.name())
    body = {**BODY, "model": CHAT_MODEL, "max_tokens": 400}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body | {"stream": True}) as response:
        lines = response.iter_lines()
        next(lines)
        engine.kill()
        events = [line for line in lines if line]
    error = json.loads(events[-1].removeprefix("data: "))["error"]
    assert error["code"] == "engine_unavailable"
    # From now until the server is down: unhealthy, and a 503 for whoever still comes.
    late = httpx.post(f"{url}/v1/chat/completions", json=body)
    assert (late.status_code, late.json()["error"]["code"]) == (503, "engine_unavailable")
    assert httpx.get(f"{url}/health").status_code == 503

    async def status() -> int:
        return await in_process.ended

    assert in_process.run(status()) == 1
    assert f"the engine of {CHAT_MODEL} has died" in capfd.readouterr().err
