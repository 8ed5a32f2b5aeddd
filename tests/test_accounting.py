"""What each request has cost, whatever door it came by: a scripted upstream counts, and the facts say the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import httpx
import pytest
from upstream_fixtures import DONE, Asked, Gate, Proxy, Reply, ScriptedUpstream, before, chunk, completion
from waiting import HANG

from heedful.server.access.client import Client, Tenant
from heedful.server.config import Config
from heedful.server.observe.facts import Facts
from heedful.strategies import BudgetSpent, Call, Ledger, RequestError, Usage
from heedful.strategies.arriving import estimate
from heedful.strategies.engine import Continuation, Extension
from heedful.strategies.meter import MeteredEngine
from heedful.strategies.scripted import ScriptedEngine

Serving = Callable[..., AbstractContextManager[str]]
KEY = {"x-api-key": "a key"}
HI = [{"role": "user", "content": "Hi there"}]
TEXTS = ["One ", "two ", "three."]


@dataclass
class Counting:
    """Answers every path as OpenAI's API does, and counts the tokens: an event is one, a third of a prompt's bytes.

    `cut`: a stream stops after its texts until the client has left. `breaks`: its connection is reset there.
    `tells`: whether it says its usage. `knows`: whether it takes `stream_options`.
    """

    tells: bool = True
    knows: bool = True
    cut: bool = False
    breaks: bool = False
    prompt: int = 0
    answer: int = 0
    gate: Gate = field(default_factory=Gate)

    def __call__(self, asked: Asked) -> Reply:
        body = asked.body
        if "stream_options" in body and not self.knows:
            error = {"message": "Unknown parameter: 'stream_options'", "param": "stream_options"}
            return Reply.json({"error": error}, status=400)
        prompt, texts = _read(body), len(TEXTS)
        path = asked.path.removeprefix("/v1")
        n = body.get("n") or 1
        self.prompt += prompt
        if path in ("/embeddings", "/moderations", "/rerank"):
            told = {"usage": {"prompt_tokens": prompt, "total_tokens": prompt}} if self.tells else {}
            return Reply.json({"object": "list", "data": [], **told})
        self.answer += texts * n
        usage = {"prompt_tokens": prompt, "completion_tokens": texts * n, "total_tokens": prompt + texts * n}
        if not body.get("stream"):
            whole = completion("".join(TEXTS))
            choices = [{**whole["choices"][0], "index": i} for i in range(n)]
            if path == "/completions":
                choices = [{"index": i, "text": "".join(TEXTS), "finish_reason": "stop"} for i in range(n)]
            whole |= {"choices": choices, "usage": usage}
            return Reply.json(whole if self.tells else {k: v for k, v in whole.items() if k != "usage"})
        pieces: list[bytes | Gate] = [chunk(role="assistant")]
        pieces += [_event(path, t, i) for i in range(n) for t in TEXTS]
        if self.cut or self.breaks:
            return Reply.sse(*pieces, *([self.gate] if self.cut else []), cut=self.breaks)
        pieces += [_event(path, None, i) for i in range(n)]
        if self.tells and (body.get("stream_options") or {}).get("include_usage"):
            pieces.append(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n")
        return Reply.sse(*pieces, DONE)


def _event(path: str, text: str | None, index: int) -> bytes:
    said = {"text": text or ""} if path == "/completions" else {"delta": {"content": text} if text else {}}
    choice = {"index": index, **said, "finish_reason": None if text else "stop"}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def _read(body: dict[str, Any]) -> int:
    texts = [m["content"] for m in body.get("messages") or ()]
    texts += [body[k] for k in ("prompt", "input", "query") if k in body]
    return sum(map(estimate, texts))


DOORS: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": HI},
    "completions": {"prompt": "Once upon a time"},
    "responses": {"input": "Hi there"},
    "messages": {"messages": HI, "max_tokens": 50},
}


@pytest.fixture
def told(
    upstream: ScriptedUpstream, proxy: Proxy, tmp_path: Path
) -> Iterator[tuple[str, SimpleQueue[Facts]]]:
    facts: SimpleQueue[Facts] = SimpleQueue()
    config = Config(upstreams=[before(upstream)], stores=tmp_path)
    clients = {"a key": Client(Tenant("acme"), key_id="k1")}
    with proxy(config, sinks=[facts.put], clients=clients) as url:
        yield url, facts


def _ask(url: str, door: str, alignment: Any, stream: bool, **more: Any) -> httpx.Response:
    body = {"model": "ours", "alignment": alignment, "stream": stream, **DOORS[door], **more}
    return httpx.post(f"{url}/v1/{door}", json=body, headers=KEY)


def _counted(facts: SimpleQueue[Facts]) -> tuple[int, int, bool]:
    fact = facts.get(timeout=HANG)
    assert fact.usage is not None
    return fact.usage.prompt_tokens, fact.usage.completion_tokens, fact.usage_estimated


@pytest.mark.parametrize("alignment", ["direct", "principles", ["best_of_n"]])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("door", DOORS)
def test_what_an_upstream_counts_is_told(
    upstream: ScriptedUpstream,
    told: tuple[str, SimpleQueue[Facts]],
    door: str,
    stream: bool,
    alignment: Any,
) -> None:
    url, facts = told
    upstream.answers(counting := Counting())
    if isinstance(alignment, list):
        # None passes, so that all are read to their end.
        alignment = [{"best_of_n": {"n": 3, "verifiers": [{"policy": {"words": ["two"]}}]}}]
    answer = _ask(url, door, alignment, stream)
    assert answer.status_code == 200, answer.text
    assert _counted(facts) == (counting.prompt, counting.answer, False)
    if stream and door == "chat/completions":
        assert '"usage"' not in answer.text  # which this client did not ask for


@pytest.mark.parametrize("tells, knows", [(False, True), (False, False)])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("door", ["chat/completions", "completions"])
def test_what_no_upstream_tells_is_estimated(
    upstream: ScriptedUpstream,
    told: tuple[str, SimpleQueue[Facts]],
    door: str,
    stream: bool,
    tells: bool,
    knows: bool,
) -> None:
    url, facts = told
    upstream.answers(counting := Counting(tells=tells, knows=knows))
    for _ in range(2):
        assert _ask(url, door, "direct", stream).status_code == 200
        prompt, answer, estimated = _counted(facts)
        assert (prompt, estimated) == (counting.prompt, True)
        assert answer == counting.answer if stream else answer > 0
        counting.prompt = counting.answer = 0
    refused = [a for a in upstream.asked if "stream_options" in a.body]
    assert len(refused) == (0 if not stream else 1 if not knows else 2)  # learnt


@pytest.mark.parametrize("alignment", ["direct", "principles"])
@pytest.mark.parametrize("door", DOORS)
def test_a_client_that_leaves_has_used_what_it_read(
    upstream: ScriptedUpstream, told: tuple[str, SimpleQueue[Facts]], door: str, alignment: str
) -> None:
    url, facts = told
    upstream.answers(counting := Counting(cut=True))
    body = {"model": "ours", "alignment": alignment, "stream": True, **DOORS[door]}
    with httpx.stream("POST", f"{url}/v1/{door}", json=body, headers=KEY) as answer:
        text = ""
        for piece in answer.iter_text():
            if "three." in (text := text + piece):
                break
    assert _counted(facts) == (counting.prompt, counting.answer, True)


@pytest.mark.parametrize("alignment", ["direct", "principles"])
@pytest.mark.parametrize("door", DOORS)
def test_a_stream_that_breaks_has_cost_what_had_come(
    upstream: ScriptedUpstream, told: tuple[str, SimpleQueue[Facts]], door: str, alignment: str
) -> None:
    url, facts = told
    upstream.answers(counting := Counting(breaks=True))
    _ask(url, door, alignment, True)
    assert _counted(facts) == (counting.prompt, counting.answer, True)


@pytest.mark.parametrize("door", DOORS)
def test_a_client_that_waits_in_vain_has_used_its_prompt(
    upstream: ScriptedUpstream, told: tuple[str, SimpleQueue[Facts]], door: str
) -> None:
    url, facts = told
    gate = Gate()
    upstream.answers(Reply.sse(gate))
    body = {"model": "ours", "stream": False, **DOORS[door]}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{url}/v1/{door}", json=body, headers=KEY, timeout=httpx.Timeout(HANG, read=0.3))
    assert _counted(facts) == (_read(upstream.last.body), 0, True)


def test_usage_that_the_client_asks_for_stays(
    upstream: ScriptedUpstream, told: tuple[str, SimpleQueue[Facts]]
) -> None:
    url, facts = told
    upstream.answers(counting := Counting())
    answer = _ask(url, "chat/completions", "direct", True, stream_options={"include_usage": True})
    assert answer.text.count('"usage"') == 1
    assert _counted(facts) == (counting.prompt, counting.answer, False)
    answer = _ask(url, "chat/completions", "direct", True, stream_options={"include_usage": False})
    assert '"usage"' not in answer.text
    assert upstream.last.body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("path", ["embeddings", "moderations", "rerank"])
def test_paths_that_only_read(
    upstream: ScriptedUpstream, told: tuple[str, SimpleQueue[Facts]], path: str
) -> None:
    url, facts = told
    upstream.answers(counting := Counting())
    body = {"model": "ours", "input": "A text to be read"}
    assert httpx.post(f"{url}/v1/{path}", json=body, headers=KEY).status_code == 200
    assert _counted(facts) == (counting.prompt, 0, False)


def test_a_large_answer_tells_at_its_end(
    upstream: ScriptedUpstream, told: tuple[str, SimpleQueue[Facts]]
) -> None:
    url, facts = told
    vectors = [{"object": "embedding", "index": i, "embedding": [0.123456789] * 1000} for i in range(200)]
    upstream.answers(Reply.json({"object": "list", "data": vectors, "usage": {"prompt_tokens": 77}}))
    answer = httpx.post(f"{url}/v1/embeddings", json={"model": "ours", "input": "much"}, headers=KEY)
    assert len(answer.content) > 1 << 20
    assert _counted(facts) == (77, 0, False)


def test_what_is_refused_costs_nothing(
    upstream: ScriptedUpstream, told: tuple[str, SimpleQueue[Facts]]
) -> None:
    url, facts = told
    upstream.answers(Reply.json({"error": {"message": "no"}}, status=400))
    for door in DOORS:
        for stream in (False, True):
            assert _ask(url, door, "direct", stream).status_code == 400
            assert facts.get(timeout=HANG).usage is None


def test_scores_read(serving: Serving) -> None:
    facts: SimpleQueue[Facts] = SimpleQueue()
    engine = ScriptedEngine("yes", score=lambda prompt, answer: [-1.0] * len(answer))
    with serving(engine, sinks=[facts.put]) as url:
        body = {"model": "scripted", "messages": HI, "answers": ["Hello", "Bye"]}
        assert httpx.post(f"{url}/v1/alignment/score", json=body).status_code == 200
    read = sum(len(prompt) + len(answer) for prompt, answer in engine.scored)
    assert read > 0 and _counted(facts) == (read, 0, False)


def test_a_verifiers_calls(upstream: ScriptedUpstream, told: tuple[str, SimpleQueue[Facts]]) -> None:
    url, facts = told
    upstream.answers(counting := Counting())
    body = {"input": "A text", "verifiers": ["self"]}
    answer = httpx.post(f"{url}/v1/moderations", json=body, headers=KEY)
    # Its judge says neither yes nor no, and has cost what it cost.
    assert {asked.path for asked in upstream.asked} == {"/v1/chat/completions"}, answer.text
    assert _counted(facts) == (counting.prompt, counting.answer, False)


@pytest.mark.parametrize("stream", [False, True])
def test_a_strategy_that_breaks_off_a_call_counts_it_once(serving: Serving, stream: bool) -> None:
    """`refine` does, at a sentence that fails; a scripted engine's tokens are bytes."""
    facts: SimpleQueue[Facts] = SimpleQueue()
    replies = iter([["It is bad. ", "Never read."], ["It is good."]])
    engine = ScriptedEngine(lambda call: next(replies))
    refine = {"refine": {"verifiers": [{"policy": {"words": ["bad"]}}], "mode": "sentence"}}
    with serving(engine, sinks=[facts.put]) as url:
        body = {"model": "scripted", "messages": HI, "stream": stream, "alignment": [refine]}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    fact = facts.get(timeout=HANG)
    assert fact.usage is not None and fact.run is not None
    assert fact.run.ledger.calls == len(engine.calls) == 2
    assert fact.usage.completion_tokens == len("It is bad. It is good.")


def _told_in(text: str, usage: Any, **choice: Any) -> bytes:
    choices = (
        [{"index": 0, "delta": {"content": text}, "finish_reason": None}] if choice.get("has", True) else []
    )
    return b"data: " + json.dumps({"choices": choices, "usage": usage}).encode()


USAGE = {"prompt_tokens": 11, "completion_tokens": 22, "total_tokens": 33}


@pytest.mark.parametrize("blank", [b"\n\n", b"\r\n\r\n"])
@pytest.mark.parametrize(
    "events, kept",
    [
        # As OpenAI: null in every event, then one that has nothing else, which the client did not ask for.
        ([_told_in("Hi", None), _told_in("", USAGE, has=False)], 1),
        # As others: with the last of the text; that one stays.
        ([_told_in("Hi", None), _told_in("!", USAGE)], 2),
        # The cost so far, in every event.
        ([_told_in("Hi", {"prompt_tokens": 1}), _told_in("!", USAGE)], 2),
        # What a text says of a usage tells nothing.
        ([_told_in('"usage": {"prompt_tokens": 999}', None), _told_in("", USAGE, has=False)], 1),
        ([_told_in("", USAGE, has=False), _told_in('"usage": {"prompt_tokens": 999}', None)], 1),
    ],
)
def test_where_a_stream_tells(
    upstream: ScriptedUpstream,
    told: tuple[str, SimpleQueue[Facts]],
    events: list[bytes],
    kept: int,
    blank: bytes,
) -> None:
    url, facts = told
    whole = b"".join(event + blank for event in [*events, b"data: [DONE]"])
    for pieces in ([whole], [whole[i : i + 7] for i in range(0, len(whole), 7)]):
        upstream.answers(Reply.sse(*pieces))
        answer = _ask(url, "chat/completions", "direct", True)
        assert _counted(facts) == (11, 22, False)
        sent = [e for e in answer.content.split(blank) if e]
        assert len(sent) == kept + 1 and sent[-1] == b"data: [DONE]"
        assert all(e in events for e in sent[:-1])


@pytest.mark.parametrize("stream", [False, True])
def test_samples_that_are_not_waited_for_are_counted_once(serving: Serving, stream: bool) -> None:
    facts: SimpleQueue[Facts] = SimpleQueue()
    engine = ScriptedEngine("A fine answer")
    best = {"best_of_n": {"n": 4, "verifiers": [{"policy": {"words": ["bad"]}}]}}
    with serving(engine, sinks=[facts.put]) as url:
        body = {"model": "scripted", "messages": HI, "stream": stream, "alignment": [best]}
        assert httpx.post(f"{url}/v1/chat/completions", json=body).status_code == 200
    fact = facts.get(timeout=HANG)
    assert fact.run is not None and fact.run.ledger.calls == 1
    assert 0 < fact.tokens <= len("<user>Hi there\n<assistant>") + 4 * len("A fine answer")


def test_an_open_server_asks_no_upstream_for_more(
    upstream: ScriptedUpstream, proxy: Proxy, tmp_path: Path
) -> None:
    facts: SimpleQueue[Facts] = SimpleQueue()
    with proxy(Config(upstreams=[before(upstream)], stores=tmp_path), sinks=[facts.put]) as url:
        upstream.answers(counting := Counting())
        _ask(url, "chat/completions", "direct", True)
        assert "stream_options" not in upstream.last.body
        assert _counted(facts) == (counting.prompt, counting.answer, True)


async def test_a_hidden_call_that_is_cut_off() -> None:
    """Counted by what had come of it, until somebody counts it better."""
    call = Call(({"role": "user", "content": "abcdef"},), stream=True)
    ledger = Ledger()
    engine = MeteredEngine(ScriptedEngine(lambda _: ["One ", "two ", "three"]), ledger, "refine")
    async with aclosing(engine.chat(call)) as events:
        await anext(events)
        await anext(events)
    assert (ledger.calls, ledger.spent, ledger.estimated) == (1, Usage(2, 2), True)
    ledger.recount("refine", call, Usage(6, 8))
    assert (ledger.calls, ledger.spent) == (1, Usage(6, 8))
    refused = MeteredEngine(ScriptedEngine(lambda _: RequestError("no")), ledger, "refine")
    with pytest.raises(RequestError):
        await anext(refused.chat(call))
    assert ledger.calls == 1


class Purse:
    """An account with so many tokens."""

    def __init__(self, tokens: int) -> None:
        self.left = tokens

    def charge(self, tokens: int) -> None:
        self.left -= tokens

    def check(self) -> None:
        if self.left <= 0:
            raise BudgetSpent("spent")


async def test_calls_under_way_leave_less_for_those_that_would_begin() -> None:
    """A search asks many at once: together they overdraw a budget by one of them, not by all."""
    purse, begun = Purse(25), asyncio.Event()

    async def extended(_: Extension) -> list[Continuation]:
        await begun.wait()
        return [Continuation((97, 98), "ab")]

    ledger = Ledger(account=purse)
    engine = MeteredEngine(ScriptedEngine(extend=extended), ledger, "rain")
    asked = [engine.extend(Extension(tuple(range(10)))) for _ in range(9)]
    everything = asyncio.gather(*asked, return_exceptions=True)
    await asyncio.sleep(0)
    begun.set()
    done = await everything
    refused = [each for each in done if isinstance(each, BudgetSpent)]
    assert len(refused) == 6 and ledger.calls == 3
    assert purse.left == 25 - ledger.spent.prompt_tokens - ledger.spent.completion_tokens
