"""`heedful bench`: records say what happened, loads arrive as planned, and a killed run goes on."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result
from waiting import HANG

from heedful.benchmarks.journal import Journal
from heedful.benchmarks.load.arrivals import Closed, Poisson
from heedful.benchmarks.load.client import LoadEndpoint
from heedful.benchmarks.load.records import BenchError, RequestRecord
from heedful.benchmarks.load.stream import Reading
from heedful.benchmarks.load.summary import inter_token, summaries, summary
from heedful.benchmarks.load.workload import Words, read
from heedful.server.cli.main import app
from heedful.strategies import Call, Capability, EngineUnavailable, Event
from heedful.strategies.scripted import ALL, ScriptedEngine
from heedful.strategies.types import Chunk, Finish, Usage

Serving = Callable[..., AbstractContextManager[str]]


def _bench(url: str, out: Path, *options: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(
        app, ["bench", "--url", f"{url}/v1", "--out", str(out), *options]
    )


def _records(out: Path) -> list[RequestRecord]:
    with Journal(out / "latency.jsonl", RequestRecord) as journal:
        return list(journal)


def _refusal(result: Result) -> str:
    assert isinstance(result.exception, BenchError), result.exception
    return str(result.exception)


# -- what is recorded


def test_a_record_says_what_the_client_saw(
    scripted: ScriptedEngine, scripted_server: str, tmp_path: Path
) -> None:
    options = ("--requests", "5", "--words", "7", "--max-tokens", "9", "--seed", "40", "--warmup", "1")
    result = _bench(scripted_server, tmp_path, *options, "--concurrency", "2", "--ignore-eos")
    assert result.exit_code == 0, result.output
    records = sorted(_records(tmp_path), key=lambda r: r.index)
    assert [(r.index, r.seed) for r in records] == [(i, 40 + i) for i in range(5)]
    for r in records:
        assert (r.model, r.alignment, r.load, r.error) == ("scripted", "none", "closed 2", None)
        assert r.intended == r.sent
        assert r.first_token is not None and r.last_token is not None
        assert r.sent <= r.first_token <= r.last_token <= r.end
        assert len(r.gaps) == 3 and sum(r.gaps) == pytest.approx(r.last_token - r.first_token)
        assert r.completion_tokens == r.answer_tokens == len("Hello, world.")
        assert (r.hidden_tokens, r.calls) == (0, 1)
    # The warm-up is asked and not recorded; no two prompts begin alike.
    texts = [call.messages[0]["content"] for call in scripted.calls]
    assert len(texts) == 6 and {len(t.split()) for t in texts} == {7}
    assert len({t.split()[0] for t in texts}) == 6
    for call in scripted.calls:
        assert call.params["max_tokens"] == 9 and call.params["ignore_eos"] is True
        assert "seed" not in call.params  # only where it is asked for


def test_hidden_calls_are_counted(serving: Serving, tmp_path: Path) -> None:
    replies = {True: ["Just ", "this"], False: ["Because of that"]}
    engine = ScriptedEngine(lambda call: replies[call.stream])
    steps = '[{"principles": {"mode": "cot"}}]'
    with serving(engine) as url:
        result = _bench(url, tmp_path, "--alignment", steps, "--requests", "3", "--warmup", "0")
    assert result.exit_code == 0, result.output
    for r in _records(tmp_path):
        assert r.alignment == '[{"principles":{"mode":"cot"}}]'
        assert (r.calls, r.answer_tokens, r.hidden_tokens) == (2, len("Just this"), len("Because of that"))
        assert len(r.gaps) == 1
    assert "2.0 calls" in result.output and "15.0 hidden tokens" in result.output


class _Raw(ScriptedEngine):
    """Takes raw completions too, with one token before every prompt."""

    async def complete(self, params: dict[str, Any], *, stream: bool) -> AsyncGenerator[Event, None]:
        yield Chunk([{"index": 0, "text": "x", "finish_reason": "length"}])
        yield Finish(Usage(1 + len(params["prompt"].encode()), 1))


@pytest.mark.parametrize(
    "engine",
    [_Raw("sound"), ScriptedEngine("sound", capabilities=ALL & ~Capability.COMPLETION)],
    ids=["raw", "chat"],
)
def test_drafts_beside_the_answer_are_hidden(
    serving: Serving, tmp_path: Path, engine: ScriptedEngine
) -> None:
    """`best_of_n` is one call and its samples are one stage, so that the answer itself has to be counted."""
    steps = '[{"best_of_n": {"n": 3, "verifiers": [{"policy": {"words": ["never"]}}]}}]'
    with serving(engine) as url:
        result = _bench(url, tmp_path, "--alignment", steps, "--requests", "2", "--warmup", "0")
    assert result.exit_code == 0, result.exception
    for r in _records(tmp_path):
        assert r.completion_tokens == 3 * len("sound")
        assert (r.answer_tokens, r.hidden_tokens) == (len("sound"), 2 * len("sound"))


def test_an_error_is_recorded_and_counts_in_no_latency(serving: Serving, tmp_path: Path) -> None:
    def chat(call: Call) -> str | Exception:
        return EngineUnavailable("gone fishing") if call.params["seed"] == 2 else "ok"

    with serving(ScriptedEngine(chat)) as url:
        result = _bench(url, tmp_path, "--requests", "4", "--warmup", "0", "--seeded")
    assert result.exit_code == 0
    failed = [r for r in _records(tmp_path) if r.error]
    assert [(r.index, r.first_token) for r in failed] == [(2, None)]
    assert "HTTP 503" in str(failed[0].error) and "gone fishing" in str(failed[0].error)
    (cell,) = summaries(_records(tmp_path))
    assert (cell.requests, cell.errors, cell.error) == (4, 1, failed[0].error)
    assert "3 of 4" in result.output


def test_a_stream_is_read_wherever_it_is_cut() -> None:
    def chunk(**delta: Any) -> bytes:
        return b"data: " + json.dumps({"choices": [{"delta": delta}]}).encode() + b"\n\n"

    reading = Reading()
    reading.feed(chunk(role="assistant", content=""), 1.0)
    reading.feed(b": keep-alive\n\n", 2.0)
    assert not reading.gaps and not reading.pieces
    half = chunk(reasoning_content="hm")
    reading.feed(half[:9], 3.0)
    reading.feed(half[9:], 4.0)
    reading.feed(chunk(content="a") + chunk(content="b"), 4.5)
    reading.feed(chunk(tool_calls=[{"index": 0}]) + chunk(), 6.0)
    usage = {"prompt_tokens": 3, "completion_tokens": 9}
    reading.feed(
        b"data: "
        + json.dumps({"choices": [], "usage": usage | {"alignment_details": {"rain": usage}}}).encode()
        + b"\n\n",
        7.0,
    )
    assert (reading.first, reading.last, reading.gaps) == (4.0, 6.0, [0.5, 0.0, 1.5])
    assert "".join(reading.pieces) == "hmab"
    assert reading.usage.completion_tokens == 9
    assert not reading.done
    reading.feed(b"data: [DONE]\n\n", 8.0)
    assert reading.done and reading.error is None
    reading.feed(b'data: {"error": {"message": "broke"}}\n\n', 9.0)
    assert reading.error == "broke"


# -- what is sent when


async def test_an_open_loop_sends_on_time_whoever_waits() -> None:
    load, all_sent, sent = Poisson(2000.0, seed=3), asyncio.Event(), list[tuple[int, float | None]]()

    async def send(index: int, intended: float | None) -> None:
        sent.append((index, intended))
        if len(sent) == 20:
            all_sent.set()
        await all_sent.wait()  # no answer before the last request is out

    async with asyncio.timeout(HANG):
        await load.run(20, send, lambda: 0.0)
    assert sent == list(enumerate(load.times(20)))


def test_what_is_recorded_is_the_plan(scripted_server: str, tmp_path: Path) -> None:
    result = _bench(scripted_server, tmp_path, "--rate", "400", "--requests", "5", "--seed", "7")
    assert result.exit_code == 0, result.exception
    records = sorted(_records(tmp_path), key=lambda r: r.index)
    assert [r.intended for r in records] == Poisson(400.0, seed=7).times(5)
    assert {r.load for r in records} == {"poisson 400.0"}


async def test_a_closed_loop_keeps_so_many_on_their_way() -> None:
    under_way, most, sent = 0, 0, list[int]()

    async def send(index: int, intended: float | None) -> None:
        nonlocal under_way, most
        sent.append(index)
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1

    await Closed(3).run(11, send, lambda: 0.0)
    assert sorted(sent) == list(range(11)) and most == 3


def test_arrivals_and_prompts_are_those_of_the_seed() -> None:
    times = Poisson(4.0, seed=1).times(4000)
    assert times == Poisson(4.0, seed=1).times(4000) != Poisson(4.0, seed=2).times(4000)
    assert times == sorted(times) and times[-1] == pytest.approx(1000, rel=0.1)
    one, same, other = Words(30, seed=1), Words(30, seed=1), Words(30, seed=2)
    assert one.messages("a", 3) == same.messages("a", 3)
    firsts = Counter(
        w.messages(cell, i)[0]["content"].split()[0]
        for w in (one, other)
        for cell in "ab"
        for i in range(-2, 500)
    )
    assert max(firsts.values()) == 1


def test_latency_counts_from_when_a_request_was_to_be_sent() -> None:
    def request(index: int, intended: float, sent: float, end: float) -> RequestRecord:
        about = {"model": "m", "alignment": "a", "load": "poisson 1.0", "index": index, "seed": index}
        times = {"intended": intended, "sent": sent, "first_token": end - 1, "last_token": end, "end": end}
        return RequestRecord(**about, **times, gaps=[0.25] * 4, completion_tokens=5, answer_tokens=5)  # type: ignore[arg-type]

    cell = summary([request(0, 1, 1, 4), request(1, 2, 6, 8)])  # 3 and 6 seconds, though sent for 3 and 2
    assert cell.end_to_end and cell.ttft and cell.inter_token
    assert (cell.end_to_end.p50.value, cell.end_to_end.p50.low, cell.end_to_end.p50.high) == (4.5, 3, 6)
    assert cell.ttft.p50.value == 3.5
    assert cell.inter_token.p99.value == 0.25
    assert (cell.late, cell.tokens_per_s, cell.requests_per_s) == (4, 10 / 8, 2 / 8)


def test_the_interval_between_tokens_draws_whole_answers() -> None:
    found = inter_token([[1.0] * 50, [3.0] * 50, [], [3.0] * 50])
    assert found
    assert found.p50.value == 3.0
    assert (found.p50.low, found.p50.high) == (1.0, 3.0)  # three answers say little, 150 gaps or not
    assert inter_token([[], []]) is None


# -- sweeps


def test_all_takes_every_alignment_that_the_server_lists(serving: Serving, tmp_path: Path) -> None:
    engine = ScriptedEngine("ok", capabilities=Capability.CHAT)
    with serving(engine) as url:
        options = ("--requests", "1", "--warmup", "0", "--concurrency", "1", "--rate", "500")
        result = _bench(url, tmp_path, "--alignment", "all", "--alignment", "none", *options)
        assert result.exit_code == 0, result.exception
        again = _bench(url, tmp_path, "--alignment", "nothing", *options)
    cells = {(r.alignment, r.load) for r in _records(tmp_path)}
    assert {load for _, load in cells} == {"closed 1", "poisson 500.0"}
    assert {"direct", "principles", "urial", "refine", "none"} <= {a for a, _ in cells}
    assert "rain" not in {a for a, _ in cells}  # needs tokens, which this model has not
    assert len(cells) % 2 == 0
    assert "unknown alignment 'nothing'" in _refusal(again)


def test_a_killed_run_measures_only_what_is_not_whole(
    scripted: ScriptedEngine, scripted_server: str, tmp_path: Path
) -> None:
    options = ("--concurrency", "1", "--concurrency", "2", "--requests", "4", "--warmup", "1")
    assert _bench(scripted_server, tmp_path, *options).exit_code == 0
    assert len(scripted.calls) == 10
    file = tmp_path / "latency.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:6]) + lines[6][:30])  # killed in the second cell, in mid-line
    result = _bench(scripted_server, tmp_path, *options)
    assert result.exit_code == 0, result.exception
    assert len(scripted.calls) == 15  # the second cell, whole
    records = _records(tmp_path)
    assert len(records) == 8 and len(file.read_bytes().splitlines()) == 10
    assert _bench(scripted_server, tmp_path, *options).exit_code == 0
    assert len(scripted.calls) == 15


def test_a_cell_without_an_answer_is_measured_again(serving: Serving, tmp_path: Path) -> None:
    replies: list[str | Exception] = [EngineUnavailable("ill"), EngineUnavailable("ill"), "ok", "ok"]
    with serving(ScriptedEngine(lambda call: replies.pop(0))) as url:
        for errors in (2, 0):
            assert _bench(url, tmp_path, "--requests", "2", "--warmup", "0").exit_code == 0
            assert sum(r.error is not None for r in _records(tmp_path)) == errors


def test_a_server_that_has_gone_ends_the_sweep(
    scripted_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, get = list[str](), LoadEndpoint.get

    async def gone_later(self: LoadEndpoint, path: str) -> dict[str, Any] | None:
        asked.append(path)
        if len(asked) == 3:  # the listing, the first cell, the second
            raise BenchError("no answer from there")
        return await get(self, path)

    monkeypatch.setattr(LoadEndpoint, "get", gone_later)
    options = ("--concurrency", "1", "--concurrency", "2", "--requests", "2")
    assert _refusal(_bench(scripted_server, tmp_path, *options)) == "no answer from there"
    assert {r.load for r in _records(tmp_path)} == {"closed 1"}


def test_other_settings_do_not_go_into_the_same_folder(scripted_server: str, tmp_path: Path) -> None:
    assert _bench(scripted_server, tmp_path, "--requests", "2").exit_code == 0
    told = _refusal(_bench(scripted_server, tmp_path, "--requests", "3"))
    assert f"{tmp_path}: was measured with requests 2, and now it is 3" in told
    # Another load is another cell.
    assert _bench(scripted_server, tmp_path, "--requests", "2", "--rate", "100").exit_code == 0
    facts = json.loads((tmp_path / "latency.run.json").read_text())
    assert facts["machine"]["cores"] and facts["settings"]["seed"] == 0


# -- what can't be measured


def test_a_model_that_is_not_there(scripted_server: str, tmp_path: Path) -> None:
    told = _refusal(_bench(scripted_server, tmp_path, "--model", "gpt-9", "--concurrency", "3"))
    assert "HTTP 404" in told and "gpt-9" in told and "scripted" in told


def test_nobody_at_that_address(tmp_path: Path) -> None:
    told = _refusal(_bench("http://127.0.0.1:9", tmp_path / "new"))
    assert told.startswith("no answer from http://127.0.0.1:9/v1: ")
    assert not (tmp_path / "new").exists()


def test_prompts_of_a_file(scripted: ScriptedEngine, scripted_server: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    rows = [
        {"prompt": "A"},
        {"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "B"}]},
        {"instruction": "C", "input": "D"},
        {"question": "E"},
        {"turns": ["F", "G"]},
    ]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    options = ("--prompts", str(file), "--requests", "6", "--warmup", "0")
    assert _bench(scripted_server, tmp_path / "out", *options).exit_code == 0
    assert [c.messages[-1]["content"] for c in scripted.calls] == ["A", "B", "C\n\nD", "E", "F", "A"]
    assert scripted.calls[1].messages[0]["content"] == "S"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "Expecting property name"),
        ("[]", "is no JSON object"),
        ('{"text": "x"}', "has none of: messages, prompt, question, instruction, turns"),
        ('{"prompt": " "}', "prompt: give a text"),
        ('{"turns": [1]}', "turns: give a text"),
        ('{"messages": []}', "messages: give a list"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, told: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(f'{{"prompt": "fine"}}\n{line}\n')
    with pytest.raises(BenchError, match=r"prompts\.jsonl:2: ") as refused:
        read(file)
    assert told in str(refused.value)


def test_options_that_exclude_each_other(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "x"}\n')
    told = _refusal(_bench("http://x", tmp_path, "--prompts", str(file), "--words", "3"))
    assert told == "--prompts and --words: give one of them"
    assert "--rate: must be above 0" in _refusal(_bench("http://x", tmp_path, "--rate", "0"))
