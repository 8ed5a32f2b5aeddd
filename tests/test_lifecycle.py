"""A real server's end: by signal, and by the death of its engine."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import psutil
import pytest

pytestmark = pytest.mark.engine

Serve = Callable[..., AbstractContextManager[tuple[str, subprocess.Popen[bytes]]]]
MODEL = "smollm2-135m-instruct"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "Tell me a story."}]}

CONFIG = """
model: smollm2-135m-instruct
served_name: tiny
engine: {max_model_len: 512}
prompts: [prompts]
alignments:
  house: [{principles: {set: house}}]
default_alignment: house
"""


def test_sigterm_finishes_what_is_running(heedful_serve: Serve, tmp_path: Path) -> None:
    """Served from a configuration file with prompts of its own, which this looks at on the way."""
    (tmp_path / "prompts" / "principles").mkdir(parents=True)
    (tmp_path / "prompts" / "principles" / "house.v3.md").write_text(
        "{% block system %}Speak of the sea.{% endblock %}"
    )
    (tmp_path / "heedful.yaml").write_text(CONFIG)
    log = tmp_path / "log"
    with heedful_serve("--config", str(tmp_path / "heedful.yaml"), log=log) as (url, process):
        told = log.read_text()
        assert f"heedful is listening on {url}/v1" in told
        assert "model tiny (chat, completion, prefill, logprobs, tokens)" in told
        assert re.search(r"alignments: house, .*direct.*; default: house", told)
        wish = {"alignment": {"trace": True}, "max_tokens": 2, "model": "tiny"}
        answer = httpx.post(f"{url}/v1/chat/completions", json=BODY | wish, timeout=60).json()
        assert answer["alignment"]["trace"][0]["prompt"] == "principles/house@3"

        body = {**BODY, "model": "tiny", "max_tokens": 300, "ignore_eos": True, "stream": True}
        body["stream_options"] = {"include_usage": True}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=120) as response:
            lines = response.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            events = [line for line in lines if line]
        assert events[-1] == "data: [DONE]"
        assert json.loads(events[-2].removeprefix("data: "))["usage"]["completion_tokens"] == 300
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")
        assert process.wait(60) == 0
    assert "Traceback" not in log.read_text()


def test_the_engines_death_is_seen(heedful_serve: Serve, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with heedful_serve(MODEL, "--max-model-len", "512", log=log) as (url, process):
        (engine,) = (
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if "EngineCore" in child.name()
        )
        body = {**BODY, "max_tokens": 400, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=120) as response:
            lines = response.iter_lines()
            next(lines)
            engine.kill()
            events = [line for line in lines if line]
        error = json.loads(events[-1].removeprefix("data: "))["error"]
        assert error["code"] == "engine_unavailable"
        # From now until the process goes: unhealthy, and a 503 for whoever still comes.
        late = httpx.post(f"{url}/v1/chat/completions", json=BODY, timeout=60)
        assert (late.status_code, late.json()["error"]["code"]) == (503, "engine_unavailable")
        assert httpx.get(f"{url}/health").status_code == 503
        assert process.wait(60) == 1
    assert "the engine of smollm2-135m-instruct has died" in log.read_text()
