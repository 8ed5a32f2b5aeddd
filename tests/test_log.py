"""What the log says of faults: a line for the foreseen, a traceback for the others, and nothing again and again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from upstream_fixtures import Reply, ScriptedUpstream

from heedful.server.access.key_text import new_text, prefix_of
from heedful.server.log import Repeats
from heedful.strategies import Call, VerifierError
from heedful.strategies.scripted import ScriptedEngine

BODY = {"model": "ours", "messages": [{"role": "user", "content": "Hi"}]}


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [caplog.handler.format(r) for r in caplog.records if r.name == "heedful.server"]


def test_an_upstreams_faults_are_lines(
    proxied: str, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "sk-secret-0123456789"
    faults = [
        Reply.json({"error": {"message": f"broken {secret}\nover\nlines"}}, status=500),
        Reply.json({"error": {"message": "x" * 100_000}}, status=502),
        Reply([b"<html>no json</html>"], 200, {"content-type": "application/json"}),
    ]
    for fault in faults:
        upstream.answers(fault)
        for alignment in ("direct", "principles"):
            body = BODY | {"alignment": alignment}
            answer = httpx.post(
                f"{proxied}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {secret}"}
            )
            assert answer.status_code >= 500
    lines = lines_of(caplog)
    assert lines and all("\n" not in line and len(line) < 700 for line in lines), lines
    assert secret not in "".join(lines)


def test_three_hundred_bad_answers_are_few_lines(
    proxied: str, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.answers(Reply.json({"error": {"message": "broken again"}}, status=503))
    with httpx.Client() as http:
        for _ in range(300):
            assert http.post(f"{proxied}/v1/chat/completions", json=BODY).status_code == 503
    assert sum(map(len, lines_of(caplog))) < 5_000


def test_a_bug_has_its_traceback(serving: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    def reply(call: Call) -> str:
        raise ZeroDivisionError("nobody saw this coming")

    with serving(ScriptedEngine(reply)) as url:
        body = BODY | {"model": "scripted"}
        assert httpx.post(f"{url}/v1/chat/completions", json=body).status_code == 500
    assert "Traceback" in "".join(lines_of(caplog))


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("heedful.server", logging.ERROR, __file__, 1, "%s", (text,), None)


def test_the_same_line_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("heedful.server.log.time.monotonic", lambda: now)
    repeats = Repeats(every=10)
    assert repeats.filter(record("a")) and not repeats.filter(record("a")) and repeats.filter(record("b"))
    now += 9
    assert not repeats.filter(record("a"))
    now += 1
    again = record("a")
    assert repeats.filter(again) and again.getMessage() == "a (and 2 more times since)"
    now += 10
    later = record("a")
    assert repeats.filter(later) and later.getMessage() == "a"


def test_what_is_remembered_is_bounded() -> None:
    repeats = Repeats()
    for i in range(10_000):
        repeats.filter(record(f"line {i}"))
    assert len(repeats._seen) <= 256


def test_a_third_partys_verifier_has_its_traceback_and_a_judge_has_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from heedful.server.log import failed

    for cause in (KeyError("bug"), VerifierError("the judge said nothing")):
        caplog.clear()
        try:
            raise VerifierError("verifier 'x' failed") from cause
        except VerifierError as error:
            failed(error)
        assert ("Traceback" in caplog.text) is isinstance(cause, KeyError)


def test_what_strategies_log_is_a_line_and_once(caplog: pytest.LogCaptureFixture) -> None:
    logger, key = logging.getLogger("heedful.strategies"), new_text("abcdefgh")
    for _ in range(3):
        logger.error("it said %s", f"one\n\x1b[31mtwo {key}")
    assert [r.getMessage() for r in caplog.records] == [f"it said one [31mtwo {prefix_of(key)}***"]
