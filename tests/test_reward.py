"""A reward model behind each of vLLM's forms: what it is asked, how its numbers become a score, who steers by it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
from aiohttp import web

from heedful.server.config import Config
from heedful.strategies import ChatRequest, Context, RequestError, Resources, Run, Verdict, VerifierError
from heedful.strategies.scripted import ScriptedEngine, ScriptedModel
from heedful.strategies.verifiers.registry import close_all, configured

Serving = Callable[..., AbstractContextManager[str]]
TALK: tuple[Any, ...] = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Hello?"}]},
)
CONTEXT = Context.of(ChatRequest("m", TALK))
ANSWERS: dict[str, Callable[[Sequence[float]], dict[str, Any]]] = {
    "pooling": lambda ns: {"data": [{"index": 0, "object": "pooling", "data": list(ns)}]},
    "classify": lambda ns: {"data": [{"label": "x", "probs": list(ns), "num_classes": len(ns)}]},
    "score": lambda ns: {"data": [{"index": 0, "object": "score", "score": ns[0]}]},
    "rerank": lambda ns: {"results": [{"index": 0, "relevance_score": ns[0], "document": {"text": ""}}]},
}
PATHS = {"pooling": "/pooling", "classify": "/classify", "score": "/score", "rerank": "/v1/rerank"}


class Rewarding:
    """A server of a reward model that says the same numbers to every answer, or those of `by`."""

    def __init__(self, numbers: Sequence[float] = (0.0,), by: Callable[[str], float] | None = None) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._numbers, self._by = numbers, by
        self.reply: Any = None

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked.append((request.path, body))
        if self.reply is not None:
            return web.json_response(self.reply)
        form = next(form for form, path in PATHS.items() if path == request.path)
        if self._by is not None:
            return web.json_response(ANSWERS[form]([self._by(body["messages"][-1]["content"])]))
        return web.json_response(ANSWERS[form](self._numbers))


@asynccontextmanager
async def served(rewarding: Rewarding) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/{path:.*}", rewarding.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def verdict_of(
    resources: Resources, rewarding: Rewarding, context: Context = CONTEXT, **options: Any
) -> Verdict:
    async with served(rewarding) as url:
        own = configured("own", {"reward": {"url": url, "model": "rm", **options}}, resources)
        try:
            return await own.verify(context, "Hi.", Run(ScriptedEngine(), resources))
        finally:
            await close_all([own])


@pytest.mark.parametrize(
    ("form", "asked"),
    [
        (form, {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"},
                             {"role": "assistant", "content": "Hi."}]})
        for form in ("pooling", "classify")
    ]
    + [
        ("score", {"text_1": "Hello?", "text_2": "Hi."}),
        ("rerank", {"query": "Hello?", "documents": ["Hi."]}),
    ],
)  # fmt: skip
async def test_each_form_is_asked_as_vllm_has_it(
    form: str, asked: Mapping[str, Any], resources: Resources
) -> None:
    rewarding = Rewarding([2.0])
    verdict = await verdict_of(resources, rewarding, form=form)
    assert rewarding.asked == [(PATHS[form], {"model": "rm", "use_activation": False, **asked})]
    assert verdict.passed and verdict.score == pytest.approx(0.8808, abs=1e-4)
    assert verdict.facts == {"reward": 2.0}


@pytest.mark.parametrize(
    ("numbers", "options", "score"),
    [
        ([0.0], {}, 0.5),
        ([-2.0], {}, 0.1192),
        ([7.0], {"center": 5, "scale": 2}, 0.7311),
        ([-1000.0], {}, 0.0),
        ([0.3], {"scale": None}, 0.3),
        ([1.0, 3.0], {"label": 1}, 0.8808),  # the share that a softmax gives it
        ([1.0, 3.0], {"label": 0}, 0.1192),
        ([0.2, 0.8], {"label": 1, "scale": None}, 0.8),
    ],
)
async def test_a_number_becomes_a_score(
    numbers: list[float], options: dict[str, Any], score: float, resources: Resources
) -> None:
    verdict = await verdict_of(resources, Rewarding(numbers), form="classify", **options)
    assert verdict.score == pytest.approx(score, abs=1e-4)
    assert verdict.passed is (score >= 0.5)
    if not verdict.passed:
        assert f"at {round(100 * score)} of 100" in verdict.critique


async def test_of_a_number_for_each_token_the_last_counts(resources: Resources) -> None:
    rewarding = Rewarding()
    rewarding.reply = {"data": [{"data": [[9.0], [9.0], [0.0]]}]}
    assert (await verdict_of(resources, rewarding)).score == 0.5


@pytest.mark.parametrize(
    ("reply", "options", "told"),
    [
        ({"data": []}, {}, "not answer as /pooling does"),
        ({"data": [{"data": []}]}, {}, "not answer as /pooling does"),
        ({"data": [{"data": ["much"]}]}, {}, "not answer as /pooling does"),
        ([], {"form": "rerank"}, "not answer as /rerank does"),
        ({"data": [{"data": [1.0, 2.0]}]}, {}, "gives 2 numbers; say by `label`"),
        ({"data": [{"data": [1.0]}]}, {"label": 1}, "gives 1 numbers; say by `label`"),
        ({"data": [{"data": [3.0]}]}, {"scale": None}, "no score in"),
    ],
)
async def test_what_is_no_reward_is_a_failure(
    reply: Any, options: dict[str, Any], told: str, resources: Resources
) -> None:
    rewarding = Rewarding()
    rewarding.reply = reply
    with pytest.raises(VerifierError, match=told):
        await verdict_of(resources, rewarding, **options)


async def test_before_there_is_an_answer_the_question_is_judged_where_it_can_be(resources: Resources) -> None:
    asking = replace(CONTEXT, judged="question")
    rewarding = Rewarding([1.0])
    assert (await verdict_of(resources, rewarding, asking)).passed
    assert rewarding.asked[0][1]["messages"][-1] == {"role": "user", "content": "Hello?"}
    with pytest.raises(VerifierError, match="judges answers"):
        await verdict_of(resources, rewarding, asking, form="rerank")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"model": "rm"}, "`url`"),
        ({"url": "http://127.0.0.1:1"}, "`model`"),
        ({"url": "ftp://x", "model": "rm"}, "url"),
        ({"url": "http://127.0.0.1:1", "model": "rm", "form": "rewards"}, "form"),
        ({"url": "http://127.0.0.1:1", "model": "rm", "key_env": "NOT_SET"}, "NOT_SET"),
        ({"url": "http://127.0.0.1:1", "model": "rm", "prompt": "verifiers/toxicity"}, "verifiers/toxicity"),
    ],
)
def test_a_bad_configuration_is_refused(options: dict[str, Any], told: str, resources: Resources) -> None:
    with pytest.raises(RequestError, match=told):
        configured("own", {"reward": options}, resources)


# -- strategies steered by it


def config(url: str, **more: Any) -> Config:
    verifiers = {"liked": {"reward": {"url": url, "model": "rm"}}}
    return Config.model_validate({"verifiers": verifiers, **more})


def ask(url: str, alignment: Any) -> httpx.Response:
    body = {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}], "alignment": alignment}
    return httpx.post(f"{url}/v1/chat/completions", json=body | {"max_tokens": 20, "seed": 1}, timeout=60)


def says_no(tokens: Sequence[int]) -> Mapping[int, float]:
    """Says "no." nine times of ten, else "yes."."""
    answer = bytes(tokens).decode(errors="replace").rpartition("<assistant>")[2]
    if not answer:
        return {ord("n"): 0.9, ord("y"): 0.1}
    word = "no.\0" if answer[0] == "n" else "yes.\0"
    return {ord(word[len(answer)]) if len(answer) < len(word) else 0: 1.0}


LIKES_YES = Rewarding(by=lambda answer: 4.0 if answer.startswith("y") else -4.0)


@pytest.fixture(scope="module")
def liked() -> Any:
    """The URL of a reward model that likes what begins with "y", in a loop of its own."""
    import asyncio
    import threading

    loop, started = asyncio.new_event_loop(), threading.Event()
    urls: list[str] = []
    over = asyncio.Event()

    async def serve() -> None:
        async with served(LIKES_YES) as url:
            urls.append(url)
            started.set()
            await over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    started.wait()
    yield urls[0]
    loop.call_soon_threadsafe(over.set)
    thread.join()
    loop.close()


def test_rain_finds_what_the_reward_model_likes(serving: Serving, liked: str) -> None:
    with serving(ScriptedEngine(extend=ScriptedModel(says_no)), config=config(liked)) as url:
        answer = ask(url, [{"rain": {"value": ["liked"], "similarity": False}}])
        assert answer.json()["choices"][0]["message"]["content"] == "yes."


def test_refine_and_the_floor_ask_it(serving: Serving, liked: str) -> None:
    engine = ScriptedEngine(lambda call: "no" if len(call.messages) == 1 else "yes")
    with serving(engine, config=config(liked)) as url:
        refined = ask(url, [{"refine": {"verifiers": ["liked"]}}])
        assert refined.json()["choices"][0]["message"]["content"] == "yes"
        assert "at 2 of 100" in engine.calls[-1].messages[-1]["content"]
        picked = ask(url, [{"best_of_n": {"verifiers": ["liked"], "n": 2}}])
        assert picked.json()["choices"][0]["message"]["content"] == "no"  # there was nothing better
    floored = config(liked, floor={"verify": {"verifiers": ["liked"]}})
    with serving(engine, config=floored) as url:
        assert ask(url, "direct").json()["choices"][0]["finish_reason"] == "content_filter"


def test_a_request_uses_it_by_its_name_only(serving: Serving, liked: str) -> None:
    with serving(ScriptedEngine(), config=config(liked)) as url:
        own = ask(url, [{"refine": {"verifiers": [{"reward": {"url": liked, "model": "rm"}}]}}])
        assert (own.status_code, own.json()["error"]["code"]) == (400, "verifier_not_allowed")
