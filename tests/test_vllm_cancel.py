"""A cancel and a deadline on the real engine, in every kind of call: they come back as what they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from engine_fixtures import InProcess
from waiting import HANG

from heedful.prompts import Prompts
from heedful.server.alignments import Alignments
from heedful.server.app import create_app
from heedful.server.config import Config
from heedful.server.service import Service
from heedful.strategies import (
    Call,
    Capability,
    ChatRequest,
    Event,
    Extension,
    Plan,
    Resources,
    Run,
    VerifierError,
)

if TYPE_CHECKING:  # at run time only the worker that has an engine loads vLLM
    from heedful.server.engines.vllm import engine as vllm

pytestmark = pytest.mark.engine

MODEL = "smollm2-135m-instruct"
HI: Any = [{"role": "user", "content": "Tell me a story."}]


@pytest.fixture
def engine(in_process: InProcess) -> InProcess:
    """The shared engine of this process; a test marked with `on_its_loop` gets the engine itself."""
    return in_process


def on_its_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs a test on the loop that the engine lives on."""

    @wraps(test)
    def run(engine: InProcess, **fixtures: Any) -> None:
        engine.run(test(engine=engine.engine, **fixtures))

    return run


class Watched:
    """The engine, with all calls short but the one that a test waits for, which does not end by itself."""

    def __init__(
        self, engine: vllm.VllmEngine, *, endless: int = 0, capabilities: Capability | None = None
    ) -> None:
        self._engine, self._endless = engine, endless
        self.capabilities = engine.capabilities if capabilities is None else capabilities
        self._chats = 0
        self.begun = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def chat(self, call: Call) -> AsyncGenerator[Event, None]:
        mine, self._chats = self._chats, self._chats + 1
        size = {"max_tokens": 900, "ignore_eos": True} if mine == self._endless else {"max_tokens": 4}
        call = replace(call, params={**call.params, **size})
        if mine == self._endless:
            self.begun.set()
        async with aclosing(self._engine.chat(call)) as events:
            async for event in events:
                yield event


async def _drained(events: AsyncGenerator[Event, None]) -> list[Event]:
    async with aclosing(events):
        return [event async for event in events]


def _chat(stream: bool) -> Callable[[Any], Awaitable[Any]]:
    return lambda engine: _drained(Watched(engine).chat(Call(tuple(HI), {}, stream=stream)))


def _complete(stream: bool) -> Callable[[Any], Awaitable[Any]]:
    params = {"prompt": "One, two,", "max_tokens": 900, "ignore_eos": True}
    return lambda engine: _drained(engine.complete(params, stream=stream))


ENDLESS = Extension([5] * 16, max_tokens=900, ignore_eos=True)
PROMPT = [5] * 600
# Several at once, so that some are waiting while others run.
KINDS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "chat whole": _chat(False),
    "chat streamed": _chat(True),
    "complete whole": _complete(False),
    "complete streamed": _complete(True),
    "render": lambda engine: engine.render([{"role": "user", "content": "word " * 700}]),
    "extend": lambda engine: engine.extend(ENDLESS),
    "extend several": lambda engine: engine.extend(replace(ENDLESS, n=3)),
    "extend with scores": lambda engine: engine.extend(replace(ENDLESS, logprob_token_ids=[9, 11])),
    "score": lambda engine: engine.score(PROMPT, [[7 + i] * 300 for i in range(16)]),
}


async def _idle(engine: vllm.VllmEngine) -> None:
    async with asyncio.timeout(HANG):
        while engine.running:  # noqa: ASYNC110 - vLLM tells nobody when it is idle
            await asyncio.sleep(0)


async def _under_way(engine: vllm.VllmEngine, task: asyncio.Task[Any], kind: str) -> None:
    """Waits until the engine works on the call. (A conversation is rendered without it.)"""
    async with asyncio.timeout(HANG):
        await asyncio.sleep(0)
        while kind != "render" and not engine.running:
            assert not task.done(), task
            await asyncio.sleep(0)


@pytest.mark.parametrize("kind", KINDS)
@on_its_loop
async def test_a_cancelled_call_is_cancelled(engine: vllm.VllmEngine, kind: str) -> None:
    task = asyncio.ensure_future(KINDS[kind](engine))
    await _under_way(engine, task, kind)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    await _idle(engine)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "render"])
@on_its_loop
async def test_a_call_cancelled_on_its_way_into_the_engine_leaves_nothing(
    engine: vllm.VllmEngine, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moment between a request's registration and its being sent, which a busy machine makes long."""
    core = engine._client.engine_core
    send, sending = core.add_request_async, asyncio.Event()

    async def slow(request: Any) -> None:
        await send(request)
        sending.set()
        await asyncio.sleep(HANG)

    with monkeypatch.context() as patch:
        patch.setattr(core, "add_request_async", slow)
        task = asyncio.ensure_future(KINDS[kind](engine))
        await sending.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert engine.running == 0


@pytest.mark.parametrize("kind", KINDS)
@on_its_loop
async def test_a_deadline_is_a_time_out(engine: vllm.VllmEngine, kind: str) -> None:
    async def call() -> None:
        async with asyncio.timeout(None) as limit:
            due.append(limit)
            await KINDS[kind](engine)

    due: list[asyncio.Timeout] = []
    task = asyncio.ensure_future(call())
    await _under_way(engine, task, kind)
    due[0].reschedule(asyncio.get_running_loop().time())
    with pytest.raises(TimeoutError):
        await task
    await _idle(engine)


def _plan(steps: Any, prompts: Prompts) -> Plan:
    return Plan.of("tested", steps, Resources(prompts=prompts))


CRITIC = ("refine", {"verifiers": [{"self": {"threshold": 1.0}}], "verifier_timeout": 600})
WORDY = ("refine", {"verifiers": [{"policy": {"require": ["xyzzy"]}}]})
HIDDEN: dict[str, tuple[Any, int]] = {
    # The steps of a plan, and which of its chat calls, counted from 0, is broken off.
    "reasoning first": ([("principles", {"mode": "cot"})], 0),
    "the answer after it": ([("principles", {"mode": "cot"})], 1),
    "a draft": ([WORDY], 0),
    "a correction": ([WORDY], 1),
    "a correction in a stream": ([("refine", {**WORDY[1], "mode": "sentence"})], 1),
    "a verifier's question": ([CRITIC], 1),
    "samples": ([("best_of_n", {"n": 3, "verifiers": [{"policy": {"words": ["xyzzy"]}}]})], 0),
}


@pytest.mark.parametrize("what", HIDDEN)
@pytest.mark.parametrize("how", ["cancel", "deadline"])
@on_its_loop
async def test_hidden_calls_too(engine: vllm.VllmEngine, prompts: Prompts, what: str, how: str) -> None:
    """Not taken for a request that is wrong: a correction would count as too long, a judge as failed."""
    steps, endless = HIDDEN[what]
    watched = Watched(engine, endless=endless)
    run = Run(watched, Resources(prompts=prompts))
    due: list[asyncio.Timeout] = []

    async def call() -> None:
        async with asyncio.timeout(None) as limit:
            due.append(limit)
            request = ChatRequest(MODEL, tuple(HI), {}, False)
            await _drained(_plan(steps, prompts).stream(request, run))

    task = asyncio.ensure_future(call())
    async with asyncio.timeout(HANG):
        await watched.begun.wait()
    await _under_way(engine, task, what)
    if how == "cancel":
        task.cancel()
    else:
        due[0].reschedule(asyncio.get_running_loop().time())
    with pytest.raises(asyncio.CancelledError if how == "cancel" else TimeoutError):
        await task
    assert not [step for step in run.trace.steps if "stopped" in step]
    await _idle(engine)


@on_its_loop
async def test_a_verifiers_time_out_is_its_own_error(engine: vllm.VllmEngine, prompts: Prompts) -> None:
    """In the midst of a whole answer: without the token level, a judge answers in words."""
    plan = _plan([("refine", CRITIC[1] | {"verifier_timeout": 0.2})], prompts)
    run = Run(Watched(engine, endless=1, capabilities=Capability.CHAT), Resources(prompts=prompts))
    with pytest.raises(VerifierError, match=r"verifier 'self' failed: no verdict within 0.2 s") as failed:
        await _drained(plan.stream(ChatRequest(MODEL, tuple(HI), {}, False), run))
    assert failed.value.status == 503
    await _idle(engine)


@pytest.mark.parametrize("path", ["chat/completions", "completions", "messages", "responses"])
@on_its_loop
async def test_over_http_a_deadline_is_a_504(engine: vllm.VllmEngine, path: str) -> None:
    config = Config.model_validate({"request_timeout": 0.2})
    app = create_app(Service(config, {MODEL: engine}, Alignments(config, Resources(prompts=Prompts()))))
    body: dict[str, Any] = {"model": MODEL, "max_tokens": 900, "ignore_eos": True}
    body |= {"completions": {"prompt": "a"}, "responses": {"input": "a"}}.get(path, {"messages": HI})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        refused = await http.post(f"/v1/{path}", json=body)
    assert refused.status_code == 504, refused.text
    assert "longer than this server allows" in refused.text
    await _idle(engine)
