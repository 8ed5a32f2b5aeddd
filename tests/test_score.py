"""POST /v1/alignment/score: likelihoods of given answers, as the context strategies let the model see them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import httpx
import pytest
from openai import OpenAI
from running import at_once
from upstream_fixtures import Proxy

from heedful.server.config import Config
from heedful.strategies import Capability, Context
from heedful.strategies.likelihood import log_likelihoods
from heedful.strategies.scripted import ALL, ScriptedEngine, ScriptedModel
from heedful.strategies.types import ChatRequest

Serving = Callable[..., AbstractContextManager[str]]
Client = Callable[[str], OpenAI]
HI: Any = [{"role": "user", "content": "Is water wet?"}]


def _step(tokens: Sequence[int]) -> Mapping[int, float]:
    """Likes "y" where it was given principles, "n" elsewhere."""
    good = b"Principles for every answer" in bytes(tokens)
    return {ord("y"): 0.5 if good else 0.125, ord("n"): 0.125 if good else 0.5}


def _engine(**options: Any) -> ScriptedEngine:
    model = ScriptedModel(_step)
    return ScriptedEngine(extend=model, score=model.score, model="m", **options)


def _post(url: str, **body: Any) -> Any:
    return httpx.post(f"{url}/v1/alignment/score", json={"model": "m", "messages": HI, **body})


def test_answers_are_scored_under_the_context(serving: Serving) -> None:
    config = Config.model_validate({"alignments": {"kind": "principles"}})
    engine = _engine()
    with serving(engine, config=config) as url:
        plain = _post(url, answers=["yy", "n"]).json()
        kind = _post(url, answers=["yy", "n"], alignment={"name": "kind", "trace": True}).json()
        at = _post(url, answers=["yy"], model="m@kind").json()
    assert plain["object"] == "alignment.score" and plain["model"] == "m" and "alignment" not in plain
    assert [a["tokens"] for a in plain["answers"]] == [2, 1]
    assert plain["answers"][0]["token_logprobs"] == pytest.approx([math.log(0.125)] * 2)
    assert plain["answers"][0]["logprob"] == pytest.approx(2 * math.log(0.125))
    assert [a["logprob"] for a in kind["answers"]] == pytest.approx([2 * math.log(0.5), math.log(0.125)])
    assert kind["alignment"]["name"] == "kind"
    assert at["answers"][0] == kind["answers"][0]
    # Read, not written: the prompt once for each answer.
    prompt = len(engine.scored[0][0])
    assert plain["usage"]["prompt_tokens"] == 2 * prompt + 3
    assert plain["usage"]["completion_tokens"] == 0
    assert plain["usage"]["alignment_details"]["score"]["calls"] == 2


def test_single_tokens_are_read_off_one_step(serving: Serving) -> None:
    engine = _engine()
    with serving(engine) as url:
        body = _post(url, answers=["n", "y", "n"]).json()
    assert [a["logprob"] for a in body["answers"]] == pytest.approx([math.log(p) for p in (0.5, 0.125, 0.5)])
    assert [a["tokens"] for a in body["answers"]] == [1, 1, 1]
    assert len(engine.extensions) == 1 and not engine.scored


def test_what_has_no_likelihood_is_refused(serving: Serving) -> None:
    with serving(_engine()) as url:
        for alignment in ("best_of_n", "principles+refine"):
            error = _post(url, answers=["y"], alignment=alignment)
            assert error.status_code == 400, alignment
            told = error.json()["error"]
            assert (told["param"], told["code"]) == ("alignment", "no_likelihood")
            assert "no likelihood of its own" in told["message"]
    with serving(_engine(capabilities=ALL & ~Capability.TOKENS)) as url:
        told = _post(url, answers=["y"]).json()["error"]
        assert (told["param"], told["code"]) == ("model", "missing_capability")


@pytest.mark.parametrize(
    ("answers", "param"),
    [
        (None, "answers"),
        ([], "answers"),
        (["y"] * 65, "answers"),
        ([1], "answers.0"),
        (["y", ""], "answers.1"),
    ],
)
def test_bad_answers_are_named(serving: Serving, answers: Any, param: str) -> None:
    with serving(_engine()) as url:
        refused = _post(url, answers=answers)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


class Merging(ScriptedEngine):
    """A tokeniser that puts a space before every text, and makes ":x" one token (200)."""

    async def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        return list((" " + text).encode().replace(b":x", b"\xc8"))


@pytest.mark.parametrize(
    ("prompt", "answer", "scored"),
    [
        ("Say", "no", b"no"),  # no space between prompt and answer, as the text has none
        ("Answer:", "no", b"no"),
        ("Answer:", "xy", b" xy"),  # would merge with the prompt, whose tokens stand: tokenised alone
    ],
)
async def test_tokens_at_the_boundary(prompt: str, answer: str, scored: bytes) -> None:
    engine = Merging(score=lambda prompt, ids: [-1.0] * len(ids))
    context = Context(ChatRequest("m", ()), (), {}, prompt=prompt)
    ((*logprobs,),) = await log_likelihoods(context, [answer], engine)
    ((_, ids),) = engine.scored
    assert bytes(ids) == scored and len(logprobs) == len(scored)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("chat_template_kwargs", {"enable_thinking": False}),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("documents", [{"text": "Water is wet."}]),
        ("reasoning_effort", "low"),
        ("add_generation_prompt", False),
    ],
)
def test_what_shapes_the_prompt_shapes_the_score(serving: Serving, field: str, value: Any) -> None:
    """Those fields that the model would see in an answer's prompt."""
    engine = _engine()
    with serving(engine) as url:
        plain, shaped = _post(url, answers=["yy"]).json(), _post(url, answers=["yy"], **{field: value}).json()
    assert f"<{field}={value}>" in bytes(engine.scored[1][0]).decode()
    assert shaped["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"]


@pytest.mark.engine
def test_a_template_told_more_is_scored_so(chat_server: str) -> None:
    """Tools are in the prompt though this model's template has no place for them; a field that it ignores is not."""
    model, tool = "smollm2-135m-instruct", {"type": "function", "function": {"name": "weather"}}
    given: list[Any] = [{}, {"tools": [tool]}, {"chat_template_kwargs": {"unheard_of": 1}}]
    ask = partial(_post, chat_server, model=model, answers=["No, it is dry."])
    answers = at_once(*(partial(ask, **more) for more in given))
    scored = [answer.json()["usage"]["prompt_tokens"] for answer in answers]
    assert scored[1] > scored[0] + 40 and scored[2] == scored[0]
    refused = _post(chat_server, model=model, answers=["a"], chat_template="{{ messages }}")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "chat_template")


@pytest.mark.engine
def test_scores_are_the_log_probabilities_of_generation(
    chat_server: str, vllm_server: str, proxy: Proxy, client: Client
) -> None:
    """In this process and over HTTP; a second time, when answer and all are in the prefix cache, too."""
    model = "smollm2-135m-instruct"
    story: Any = [{"role": "user", "content": "Tell me a story about water."}]

    def check(remote: str, alignment: str) -> None:
        wrote = client(chat_server).chat.completions.create(
            model=f"{model}@{alignment}", messages=story, max_tokens=24, temperature=0, logprobs=True
        )
        (choice,) = wrote.choices
        assert choice.logprobs and choice.logprobs.content and choice.finish_reason == "length"
        told = [t.logprob for t in choice.logprobs.content]
        answers = [choice.message.content or "", "No, it is dry.", "Yes", "No"]
        for url in (chat_server, chat_server, remote):
            ask = partial(_post, url, model=model, alignment=alignment, messages=story)
            given = at_once(partial(ask, answers=answers), partial(ask, answers=["Yes", "No"]))
            scored, letters = (answer.json()["answers"] for answer in given)
            single = [a["logprob"] for a in scored[2:]]
            assert [a["logprob"] for a in letters] == pytest.approx(single, abs=0.01)
            assert scored[0]["token_logprobs"] == pytest.approx(told, abs=0.01)
            assert scored[0]["logprob"] / scored[0]["tokens"] > scored[1]["logprob"] / scored[1]["tokens"]

    with proxy(Config.model_validate({"upstreams": [{"url": f"{vllm_server}/v1"}]})) as remote:
        at_once(*(partial(check, remote, alignment) for alignment in ("direct", "principles")))
