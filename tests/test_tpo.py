"""The strategy `tpo`: a pool of answers, reviewed best against worst, and better ones drawn by what that says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from openai import OpenAI

from heedful.strategies import (
    Answer,
    Call,
    ChatRequest,
    Chunk,
    Context,
    Event,
    Finish,
    Plan,
    RequestError,
    Resources,
    Run,
    Usage,
    Verdict,
    VerifierError,
    collect,
)
from heedful.strategies.scripted import ScriptedEngine
from heedful.strategies.types import text_of
from heedful.strategies.verifiers.policy import Policy

WORDS: Any = {"policy": {"words": ["bad", "worse", "worst"]}}
ASKED = ({"role": "user", "content": "Hello?"},)


def kind(call: Call) -> str:
    """Which of the calls of a round it is, or the first."""
    told = text_of(call.messages[-1])
    begins = {"loss": "step by step", "gradient": "By this review", "revise": "Write your last answer again"}
    return next((name for name, words in begins.items() if words in told), "draft")


class Pooled(ScriptedEngine):
    """Drafts and revisions in turn from lists, several to a call where it `knows_n`; reviews say what they are."""

    def __init__(self, drafts: list[str], revisions: list[str], *, knows_n: bool = True) -> None:
        super().__init__(self._one)
        self.texts = {"draft": list(drafts), "revise": list(revisions)}
        self.knows_n = knows_n

    def _one(self, call: Call) -> str:
        return f"the {kind(call)}"

    async def chat(self, call: Call) -> AsyncGenerator[Event, None]:
        texts = self.texts.get(kind(call))
        if texts is None:
            async for event in super().chat(call):
                yield event
            return
        self.calls.append(call)
        await asyncio.sleep(0)
        n = call.params.get("n", 1) if self.knows_n else 1
        for i in range(n):
            yield Chunk([{"index": i, "delta": {"content": texts.pop(0)}, "finish_reason": "stop"}])
        yield Finish(Usage(7, n))


async def answered(
    engine: ScriptedEngine, resources: Resources, params: dict[str, Any] | None = None, **options: Any
) -> tuple[Answer, Run]:
    run = Run(engine, resources)
    plan = Plan.of("t", [("tpo", {"verifiers": [WORDS], "n": 2, **options})], resources)
    plan.check(engine.capabilities, model="m")
    return await collect(plan.stream(ChatRequest("scripted", ASKED, params or {}), run)), run


def stopped(run: Run) -> list[str]:
    return [step["stopped"] for step in run.trace.steps if "stopped" in step]


async def test_the_best_is_reviewed_against_the_worst_and_revised(resources: Resources) -> None:
    engine = Pooled(["bad worse", "bad"], ["bad worse worst", "fine"])
    answer, run = await answered(engine, resources, {"seed": 3, "max_tokens": 9}, max_rounds=1)
    assert answer.text == "fine" and len(answer.choices) == 1
    assert [kind(c) for c in engine.calls] == ["draft", "loss", "gradient", "revise"]
    draft, loss, gradient, revise = engine.calls
    assert [text_of(m) for m in loss.messages[:2]] == ["Hello?", "bad"]
    assert "\n\nbad worse\n\n" in text_of(loss.messages[2])
    assert text_of(gradient.messages[3]) == "the loss"
    assert "the gradient" in text_of(revise.messages[2]) and text_of(revise.messages[1]) == "bad"
    assert (draft.params["n"], revise.params["n"]) == (2, 2)
    assert (draft.params["seed"], revise.params["seed"]) == (3, 5)
    # What shapes the answer does not shape what is said about it.
    assert revise.params["max_tokens"] == 9 and loss.params["max_tokens"] == 512 and "n" not in loss.params
    assert run.ledger.calls == 4 and set(run.ledger.stages) == {"tpo"}
    assert run.trace.steps[-1] == run.trace.steps[-1] | {"answers": 4, "judged": 4, "chosen": [3]}


async def test_a_better_answer_of_an_earlier_draw_is_kept(resources: Resources) -> None:
    engine = Pooled(["bad", "bad worse"], ["bad worse worst"] * 2 + ["bad worse"] * 2)
    answer, _ = await answered(engine, resources, max_rounds=2)
    assert answer.text == "bad"
    assert "bad worse worst" in text_of(
        engine.calls[4].messages[2]
    )  # the worst of all, not of the first draw


async def test_what_cannot_score_higher_ends_it(resources: Resources) -> None:
    engine = Pooled(["bad", "fine"], [])
    answer, run = await answered(engine, resources)
    assert answer.text == "fine" and len(engine.calls) == 1
    assert stopped(run) == ["no answer can score higher"]


async def test_at_temperature_0_the_only_answer_is_reviewed_alone(resources: Resources) -> None:
    engine = Pooled(["bad"], ["fine"])
    answer, _ = await answered(engine, resources, {"temperature": 0})
    assert answer.text == "fine"
    assert [c.params.get("n") for c in engine.calls] == [1, None, None, 1]
    assert "rejected" not in text_of(engine.calls[1].messages[-1])


async def test_a_server_that_knows_no_n_is_asked_one_by_one(resources: Resources) -> None:
    engine = Pooled(["bad", "bad worse"], ["bad worse", "fine"], knows_n=False)
    answer, _ = await answered(engine, resources, {"seed": 1}, max_rounds=1)
    assert answer.text == "fine"
    drawn = [c.params["seed"] for c in engine.calls if kind(c) in ("draft", "revise")]
    assert drawn == [1, 2, 3, 4]


async def test_what_is_in_the_pool_outlives_a_later_failure(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Policy.verify

    async def verify(self: Policy, context: Context, answer: str, run: Run) -> Verdict:
        if answer == "odd":
            raise VerifierError("it does not answer")
        return await judge(self, context, answer, run)

    monkeypatch.setattr(Policy, "verify", verify)
    answer, run = await answered(Pooled(["bad", "bad worse"], ["odd", "odd"]), resources)
    assert answer.text == "bad" and "does not answer" in stopped(run)[0]
    with pytest.raises(VerifierError):  # there is none yet
        await answered(Pooled(["odd", "bad"], []), resources)


async def test_without_time_for_a_round_the_first_answers_are_it(resources: Resources) -> None:
    engine = Pooled(["bad", "bad worse"], [])
    run = Run(engine, resources, deadline=asyncio.get_running_loop().time())
    plan = Plan.of("t", [("tpo", {"verifiers": [WORDS], "n": 2})], resources)
    answer = await collect(plan.stream(ChatRequest("scripted", ASKED, {}), run))
    assert answer.text == "bad" and stopped(run) == ["no time for another round"]


async def test_a_client_gets_as_many_as_it_wants(resources: Resources) -> None:
    engine = Pooled(["bad worse", "bad", "worst bad worse"], ["fine", "bad worse"])
    answer, _ = await answered(engine, resources, {"n": 3}, max_rounds=0)
    assert [(c.index, c.text) for c in answer.choices] == [
        (0, "bad"),
        (1, "bad worse"),
        (2, "worst bad worse"),
    ]


async def test_a_round_that_cannot_be_asked_leaves_the_first_answers(resources: Resources) -> None:
    def say(call: Call) -> Any:
        return "bad" if kind(call) == "draft" else RequestError("too long")

    answer, run = await answered(ScriptedEngine(say), resources)
    assert answer.text == "bad" and stopped(run) == ["too long"]
    answer, run = await answered(ScriptedEngine(lambda c: "bad" * (kind(c) == "draft")), resources)
    assert answer.text == "bad" and stopped(run) == ["the critique is empty"]
    answer, run = await answered(ScriptedEngine(""), resources)
    assert answer.text == "" and stopped(run) == ["no answer has a word"]


async def test_leaving_ends_the_call_that_is_under_way(resources: Resources) -> None:
    reviewing = asyncio.Event()

    async def says(call: Call) -> str:
        if kind(call) != "draft":
            reviewing.set()
            await asyncio.Event().wait()
        return "bad"

    engine = ScriptedEngine(says)
    task = asyncio.ensure_future(answered(engine, resources))
    await reviewing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (engine.running, engine.aborted) == (0, 1)


@pytest.mark.parametrize(
    ("options", "params", "param"),
    [
        ({"verifiers": []}, {}, "alignment.tpo.verifiers"),
        ({"n": 0}, {}, "alignment.tpo.n"),
        ({"max_rounds": 99}, {}, "alignment.tpo.max_rounds"),
        ({"prompt": "rain/pair"}, {}, "alignment.tpo.prompt"),
        ({}, {"continue_final_message": True}, "continue_final_message"),
    ],
)
async def test_what_is_refused(options: Any, params: Any, param: str, resources: Resources) -> None:
    with pytest.raises(RequestError) as caught:
        await answered(ScriptedEngine(), resources, params, **options)
    assert caught.value.param == param


@pytest.mark.parametrize("stream", [False, True])
def test_over_http(serving: Any, client: Callable[[str], OpenAI], stream: bool) -> None:
    engine = Pooled(["bad", "bad worse"], ["bad worse", "fine"])
    step = {"tpo": {"n": 2, "max_rounds": 1, "verifiers": [WORDS]}}
    with serving(engine) as url:
        asked: Any = {"model": "scripted", "messages": list(ASKED), "extra_body": {"alignment": [step]}}
        if stream:
            pieces = client(url).chat.completions.create(**asked, stream=True)
            assert "".join(p.choices[0].delta.content or "" for p in pieces if p.choices) == "fine"
            return
        reply = client(url).chat.completions.create(**asked)
        assert reply.choices[0].message.content == "fine"
        details: Any = (reply.usage.model_extra or {}) if reply.usage else {}
        assert details["alignment_details"]["tpo"]["calls"] == 4
