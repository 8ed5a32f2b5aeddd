"""The strategy `best_of_n`: one batch, the best sample, and no token more than it takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from heedful.strategies import (
    Answer,
    Call,
    Capability,
    ChatRequest,
    Chunk,
    Context,
    Event,
    Finish,
    MissingCapability,
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
from heedful.strategies.verifiers.policy import Policy

POLICY = {"policy": {"words": ["bad", "worse"]}}
Sample = Sequence[str]


class Sampling(ScriptedEngine):
    """Streams several choices, a piece of each in turn; `honours_n` as some servers do not.

    The log-probability of a piece is minus its length.
    """

    def __init__(self, *samples: Sample, honours_n: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.samples, self.honours_n, self.drawn = list(samples), honours_n, 0

    async def chat(self, call: Call) -> AsyncGenerator[Event, None]:
        self.calls.append(call)
        n = (call.params.get("n") or 1) if self.honours_n else 1
        samples = [self.samples[(self.drawn + i) % len(self.samples)] for i in range(n)]
        self.drawn += n
        self.running += 1
        tokens = 0
        done = False
        try:
            for step in range(max(map(len, samples)) + 1):
                for i, sample in enumerate(samples):
                    if step <= len(sample):
                        await asyncio.sleep(0)
                        piece = sample[step] if step < len(sample) else ""
                        tokens += len(piece)
                        logprobs = {"content": [{"token": piece, "logprob": -float(len(piece))}]}
                        yield Chunk(
                            [
                                {
                                    "index": i,
                                    "delta": {"content": piece},
                                    "logprobs": logprobs if call.params.get("logprobs") and piece else None,
                                    "finish_reason": None if step < len(sample) else "stop",
                                }
                            ]
                        )
            done = True
            yield Finish(Usage(7, tokens))
        finally:
            self.running -= 1
            self.aborted += not done


async def best(
    engine: ScriptedEngine, resources: Resources, params: dict[str, Any] | None = None, **options: Any
) -> tuple[Answer, Run]:
    run = Run(engine, resources)
    plan = Plan.of("b", [("best_of_n", {"verifiers": [POLICY], "n": 3, **options})], resources)
    plan.check(engine.capabilities, model="m")
    request = ChatRequest("scripted", ({"role": "user", "content": "Hello?"},), params or {})
    return await collect(plan.stream(request, run)), run


async def test_the_best_scored_sample_is_the_answer(resources: Resources) -> None:
    engine = Sampling(["bad worse"], ["bad"], ["worse bad"])
    answer, run = await best(engine, resources)
    assert [(c.index, c.text, c.finish_reason) for c in answer.choices] == [(0, "bad", "stop")]
    assert len(engine.calls) == 1 and engine.calls[0].params["n"] == 3
    assert run.trace.steps[-1] == run.trace.steps[-1] | {"chosen": [1], "passed": [False], "judged": 3}
    assert answer.usage.completion_tokens == len("bad worse") + len("bad") + len("worse bad")


async def test_the_first_that_passes_ends_the_others(resources: Resources) -> None:
    long = ["no end "] * 200
    engine = Sampling(long, ["fine"], long)
    answer, run = await best(engine, resources)
    assert answer.text == "fine"
    assert (engine.running, engine.aborted) == (0, 1)
    assert run.trace.steps[-2]["aborted"] == 2
    # Tokens of what was broken off are counted, and far fewer than all.
    assert len("fine") + 2 * len("no end ") <= answer.usage.completion_tokens < 2 * len("".join(long))
    assert answer.usage.prompt_tokens > 0


async def test_reads_on_while_a_sample_is_judged(resources: Resources) -> None:
    engine = Sampling(["bad"], ["not ", "bad ", "yet ", "worse"], ["so ", "fine"])
    answer, _ = await best(engine, resources)
    assert answer.text == "so fine"


async def test_without_verifiers_the_likeliest_wins(resources: Resources) -> None:
    engine = Sampling(["aaaa", "aaaa"], ["a", "aa"], ["aaa"])
    answer, run = await best(engine, resources, verifiers=[])
    assert answer.text == "aaa" and run.trace.steps[-1]["chosen"] == [1]
    assert engine.calls[0].params["logprobs"] is True and answer.choices[0].logprobs is None
    means = {s["choice"]: s["mean_logprob"] for s in run.trace.steps[:-1]}
    assert means == {0: -4.0, 1: -1.5, 2: -3.0}
    answer, _ = await best(Sampling(["aa"], ["a"]), resources, {"logprobs": True}, verifiers=[])
    assert answer.choices[0].logprobs


async def test_without_verifiers_it_needs_log_probabilities(resources: Resources) -> None:
    with pytest.raises(MissingCapability, match="logprobs"):
        await best(Sampling(["a"], capabilities=Capability.CHAT), resources, verifiers=[])
    engine = ScriptedEngine()  # claims them, and reports none
    for _ in range(2):
        with pytest.raises(MissingCapability, match="logprobs"):
            await best(engine, resources, verifiers=[])
    assert len(engine.calls) == 1 and Capability.LOGPROBS not in engine.capabilities  # learnt
    await best(engine, resources)  # with verifiers it needs none


async def test_a_client_that_wants_several_gets_the_best_ones(resources: Resources) -> None:
    engine = Sampling(["bad worse"], ["bad"], ["bad and worse and bad"], ["fine"])
    answer, _ = await best(engine, resources, {"n": 2}, n=4)
    assert [(c.index, c.text) for c in answer.choices] == [(0, "fine"), (1, "bad")]
    answer, _ = await best(Sampling(["fine"]), resources, {"n": 5}, n=2)
    assert [c.index for c in answer.choices] == [0, 1, 2, 3, 4]


async def test_a_server_that_knows_no_n_is_asked_several_times(resources: Resources) -> None:
    engine = Sampling(["bad worse"], ["bad worse"], ["bad"], honours_n=False, capabilities=Capability.CHAT)
    answer, run = await best(engine, resources, {"seed": 4})
    assert answer.text == "bad" and len(engine.calls) == 3
    assert [c.params["seed"] for c in engine.calls] == [4, 5, 6]
    assert run.ledger.stages["best_of_n"].calls == 3


async def test_equal_samples_are_drawn_once(resources: Resources) -> None:
    engine = Sampling(["bad"])
    answer, _ = await best(engine, resources, {"temperature": 0})
    assert answer.text == "bad" and engine.calls[0].params["n"] == 1


async def test_tool_calls_are_judged_like_any_answer(resources: Resources) -> None:
    class Tools(ScriptedEngine):
        async def chat(self, call: Call) -> Any:
            for i, arguments in enumerate(('{"a": "so\\nbad"}', '{"a": "kind"}', '{"bad": "worse"}')):
                calls = [{"index": 0, "id": f"c{i}", "function": {"name": "mail", "arguments": arguments}}]
                yield Chunk([{"index": i, "delta": {"tool_calls": calls}, "finish_reason": "tool_calls"}])
            yield Finish(Usage(1, 1))

    answer, run = await best(Tools(), resources, {"tools": [{}]})
    assert answer.choices[0].message["tool_calls"][0]["id"] == "c1"
    assert [s["passed"] for s in run.trace.steps[:-1] if "passed" in s].count(False) >= 1
    # Without verifiers the likeliest wins; engines report no probabilities for calls, which can't be compared then.
    answer, _ = await best(Tools(), resources, {"tools": [{}]}, verifiers=[])
    assert answer.choices[0].message["tool_calls"]


async def test_a_failing_verifier_fails_the_request(resources: Resources) -> None:
    def reply(call: Call) -> str | Exception:
        return "fine" if len(call.messages) == 1 else RuntimeError("secret")

    engine = ScriptedEngine(reply, capabilities=Capability.CHAT)
    with pytest.raises(VerifierError, match="verifier 'self' failed: RuntimeError"):
        await best(engine, resources, verifiers=["self"])
    assert engine.running == 0


async def test_a_sample_without_a_word_is_the_last_choice(resources: Resources) -> None:
    answer, _ = await best(Sampling([""], ["bad"], [""]), resources)
    assert answer.text == "bad"


class Racing(ScriptedEngine):
    """A sample for each call, told apart by its seed, piece by piece."""

    def __init__(self, *samples: Sample) -> None:
        self.samples = list(samples)
        super().__init__(lambda call: list(self.samples[call.params["seed"]]))


async def test_the_worst_so_far_are_broken_off(resources: Resources) -> None:
    long = [f"word{i} " for i in range(40)]
    samples = [["bad ", *long], ["good ", *long[:20], "bad"], ["bad ", "worse ", *long], ["worse ", *long]]
    engine = Racing(*samples)
    answer, run = await best(engine, resources, {"seed": 0}, n=4, reject=0.5, reject_after=4)
    assert answer.text == "".join(samples[1]) and engine.running == 0
    rejected = next(s["rejected"] for s in run.trace.steps if "rejected" in s)
    assert [r["choice"] for r in rejected][:2] == [3, 2] or {r["choice"] for r in rejected} >= {2, 3}
    assert all(r["tokens"] < 30 for r in rejected)
    assert engine.aborted == len(rejected) >= 2
    # Each is a call, and what it had written when it was broken off is counted.
    whole = sum(len("".join(sample)) for sample in samples)
    assert run.ledger.calls == 4 and 0 < answer.usage.completion_tokens < 0.7 * whole


async def test_rejection_leaves_as_many_as_are_wanted(resources: Resources) -> None:
    samples = [["bad ", *(["more "] * 20)] for _ in range(4)]
    params = {"seed": 0, "n": 3}
    answer, run = await best(Racing(*samples), resources, params, n=4, reject=0.9, reject_after=2)
    assert len(answer.choices) == 3 and run.trace.steps[-1]["judged"] == 3


async def test_one_that_passes_ends_a_race(resources: Resources) -> None:
    engine = Racing(["bad ", *(["more "] * 200)], ["fine"], ["bad ", *(["more "] * 200)])
    answer, _ = await best(engine, resources, {"seed": 0}, reject=0.3, reject_after=100)
    assert answer.text == "fine" and (engine.running, engine.aborted) == (0, 2)


async def test_what_was_said_to_its_end_is_booked_once(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is still being judged when another has won."""
    judge = Policy.verify

    async def verify(self: Policy, context: Context, answer: str, run: Run) -> Verdict:
        if answer == "slow":
            await asyncio.Event().wait()
        return await judge(self, context, answer, run)

    monkeypatch.setattr(Policy, "verify", verify)
    samples = [["slow"], ["and ", "this ", "is ", "fine"]]
    answer, run = await best(Racing(*samples), resources, {"seed": 0}, n=2, reject=0.5, reject_after=100)
    assert answer.text == "and this is fine" and run.ledger.calls == 2
    assert answer.usage.completion_tokens == sum(len("".join(sample)) for sample in samples)


async def test_a_failure_ends_a_race(resources: Resources) -> None:
    engine = ScriptedEngine(lambda call: RuntimeError("down") if call.params["seed"] == 1 else ["a "] * 50)
    with pytest.raises(Exception, match="best_of_n"):
        await best(engine, resources, {"seed": 0}, reject=0.5)
    assert engine.running == 0


STEPS: Any = [("principles", {"place": "system"}), ("best_of_n", {"by": "contrast", "n": 3})]


def likelier(word: str, after: str) -> Any:
    """Log-probabilities: -1 a byte, and a letter of `word` nothing where the prompt has `after`."""

    def score(prompt: Sequence[int], answer: Sequence[int]) -> list[float]:
        told = after.encode() in bytes(prompt)
        return [0.0 if told and token in word.encode() else -1.0 for token in answer]

    return score


async def test_by_contrast_takes_what_the_context_has_made_likelier(resources: Resources) -> None:
    samples = (["long and plain"], ["kind"], [""])
    engine = Sampling(*samples, score=likelier("kid", "<system>"), extend=lambda _: [])
    plan = Plan.of("b", STEPS, resources)
    run = Run(engine, resources)
    answer = await collect(plan.stream(ChatRequest("m", ({"role": "user", "content": "Hello?"},)), run))
    gains = {s["choice"]: s["gain"] for s in run.trace.steps if "gain" in s}
    assert answer.text == "kind" and gains == {0: 2.0, 1: 3.0}
    assert len(engine.scored) == 4
    with pytest.raises(RequestError, match="none has changed it"):
        await best(engine, resources, by="contrast")
    with pytest.raises(RequestError, match="one of the two"):
        await best(engine, resources, by="contrast", reject=0.5)
    with pytest.raises(MissingCapability, match="tokens"):
        await best(Sampling(capabilities=Capability.CHAT), resources, by="contrast")
