"""Models that think before they speak, as judges and as writers: room for it, and thoughts are not judged."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from heedful.strategies import (
    Answer,
    Call,
    Capability,
    ChatRequest,
    Chunk,
    Context,
    Continuation,
    Event,
    Extension,
    Finish,
    NoVerdict,
    Plan,
    Resources,
    Run,
    Usage,
    Verdict,
    collect,
)
from heedful.strategies.scripted import ScriptedEngine
from heedful.strategies.thinking import Thoughts
from heedful.strategies.verifiers.registry import VERIFIERS

CONTEXT = Context.of(ChatRequest("m", ({"role": "user", "content": "May I park here?"},)))
SHOWN = ["field", "newer field", "tags", "in the prompt", "never"]


class Thinking(ScriptedEngine):
    """Thinks `thoughts` (one token a word), then says `text`; `shown`: where its thoughts stand, if anywhere."""

    def __init__(self, shown: str, text: str, *, thoughts: int = 200, **options: Any) -> None:
        super().__init__(**({"capabilities": Capability.CHAT} | options))
        self.shown, self.text, self.thoughts = shown, text, thoughts

    async def chat(self, call: Call) -> AsyncGenerator[Event, None]:
        self.calls.append(call)
        most = call.params.get("max_tokens") or call.params.get("max_completion_tokens") or 10_000
        thought = " ".join(["hm"] * min(most, self.thoughts))
        cut = most <= self.thoughts
        left = "" if cut else " ".join(self.text.split(" ")[: most - self.thoughts])
        delta: dict[str, Any] = {"role": "assistant", "content": left}
        if self.shown == "field":
            delta["reasoning_content"] = thought
        elif self.shown == "newer field":
            delta["reasoning"] = thought
        elif self.shown != "never":
            opening = "<think>" if self.shown == "tags" else ""
            delta["content"] = f"{opening}{thought}" + ("" if cut else f"</think>\n\n{left}")
        finish = "length" if cut or left != self.text else "stop"
        text = delta["content"]
        pieces = [text[i : i + 5] for i in range(0, len(text), 5)] if call.stream else [text]
        n = call.params.get("n") or 1
        for piece in pieces or [""]:
            each = delta | {"content": piece}
            yield Chunk([{"index": i, "delta": each, "finish_reason": None} for i in range(n)])
            delta = {}
        yield Chunk([{"index": i, "delta": {}, "finish_reason": finish} for i in range(n)])
        yield Finish(Usage(1, 1))


async def verify(name: str, engine: ScriptedEngine, resources: Resources, **options: Any) -> Verdict:
    verifier = VERIFIERS.build(name, options).ready(resources)
    return await verifier.verify(CONTEXT, "An answer.", Run(engine, resources))


async def answer(
    engine: ScriptedEngine, resources: Resources, *steps: tuple[str, dict[str, Any]]
) -> tuple[Answer, Run]:
    run = Run(engine, resources)
    request = ChatRequest("scripted", ({"role": "user", "content": "Hello?"},))
    return await collect(Plan.of("t", list(steps), resources).stream(request, run)), run


@pytest.mark.parametrize(
    ("shown", "name", "said", "passed"),
    [(shown, "self", *said) for shown in SHOWN for said in (("No.", True), ("Yes", False))]
    # (No guard model's template opens thoughts: cut off, they look like any wrong answer.)
    + [
        (shown, "guard", *said)
        for shown in SHOWN
        for said in (("safe", True), ("unsafe\nS1", False))
        if shown != "in the prompt"
    ],
)
async def test_a_judge_that_thinks_gets_room(
    shown: str, name: str, said: str, passed: bool, resources: Resources
) -> None:
    engine = Thinking(shown, said)
    assert (await verify(name, engine, resources)).passed is passed
    # What it costs to find out is paid once.
    assert engine.habits.thinks
    before = len(engine.calls)
    await verify(name, engine, resources)
    assert len(engine.calls) - before == (1 if passed or name == "guard" else 2)


async def test_room_ends_at_the_models_context(resources: Resources) -> None:
    engine = Thinking("never", "No", context_length=1000)
    assert (await verify("self", engine, resources)).passed
    assert 200 < engine.calls[-1].params["max_tokens"] < 1000


async def test_a_verdict_that_was_cut_off_says_so(resources: Resources) -> None:
    with pytest.raises(NoVerdict, match="said nothing: it was cut off while it was still thinking"):
        await verify("self", Thinking("field", "No", thoughts=100_000), resources)
    with pytest.raises(NoVerdict, match="neither safe nor unsafe; it said nothing: it was cut off"):
        await verify("guard", Thinking("tags", "safe", thoughts=100_000), resources)
    with pytest.raises(NoVerdict, match=r"said 'It depends .*' and was cut off"):
        await verify("self", Thinking("never", "It depends " * 5000, thoughts=0), resources)


async def test_a_critique_is_without_thoughts(resources: Resources) -> None:
    class Critic(Thinking):
        async def chat(self, call: Call) -> AsyncGenerator[Event, None]:
            self.text = "Yes" if not self.habits.thinks or len(self.calls) < 2 else "It shouts."
            async for event in super().chat(call):
                yield event

    verdict = await verify("self", Critic("tags", ""), resources)
    assert verdict.critique == "It shouts."


@pytest.mark.parametrize("sign", ["its token", "its prompt"])
async def test_a_first_token_that_begins_to_think_is_no_verdict(sign: str, resources: Resources) -> None:
    """Yes and No have a probability each, of next to nothing, where the model is about to think."""

    class Tokens(Thinking):
        async def render(self, *args: Any, **options: Any) -> list[int]:
            ids = await super().render(*args, **options)
            return ids + list(b"<think>\n") if sign == "its prompt" else ids

    def extend(extension: Extension) -> list[Continuation]:
        likely = {t: math.log(1e-6 if chr(t) == "Y" else 1e-9) for t in extension.logprob_token_ids}
        return [Continuation((1,), "<think>" if sign == "its token" else "Okay", (likely,))]

    engine = Tokens("field", "No", extend=extend, capabilities=Capability.CHAT | Capability.TOKENS)
    assert (await verify("self", engine, resources)).score == 1.0


async def test_reported_log_probabilities_of_thoughts_are_no_verdict(resources: Resources) -> None:
    class Reporting(Thinking):
        async def chat(self, call: Call) -> AsyncGenerator[Event, None]:
            async for event in super().chat(call):
                if isinstance(event, Chunk) and call.params.get("logprobs"):
                    top = [{"token": "Yes", "logprob": -20.0}, {"token": "<think>", "logprob": 0.0}]
                    step = {"token": "<think>", "logprob": 0.0, "top_logprobs": top}
                    yield Chunk([{**c, "logprobs": {"content": [step]}} for c in event.choices])
                else:
                    yield event

    engine = Reporting("tags", "No", capabilities=Capability.CHAT | Capability.LOGPROBS)
    assert (await verify("self", engine, resources)).passed


@pytest.mark.parametrize("shown", SHOWN)
@pytest.mark.parametrize("prefill", [False, True])
async def test_reasoning_first_on_a_model_that_thinks_by_itself(
    shown: str, prefill: bool, resources: Resources
) -> None:
    capabilities = Capability.CHAT | (Capability.PREFILL if prefill else Capability.NONE)
    engine = Thinking(shown, "It could hurt.", thoughts=2000, capabilities=capabilities)
    _, run = await answer(engine, resources, ("principles", {"mode": "cot"}), ("direct", {}))
    (step,) = (s for s in run.trace.steps if s["step"] == "principles")
    if shown == "in the prompt":  # indistinguishable from reasoning, and reasoning it is
        assert step["reasoning"]
    else:
        assert step["reasoning"].endswith("It could hurt.") and "hm" not in step["reasoning"]
        assert "hm" not in str(engine.calls[-1].messages)


@pytest.mark.parametrize("prefill", [False, True])
async def test_empty_reasoning_is_told_and_left_out(prefill: bool, resources: Resources) -> None:
    capabilities = Capability.CHAT | (Capability.PREFILL if prefill else Capability.NONE)
    engine = Thinking("never", "x", thoughts=9000, capabilities=capabilities)
    _, run = await answer(engine, resources, ("principles", {"mode": "cot"}), ("direct", {}))
    (step,) = (s for s in run.trace.steps if s["step"] == "principles")
    assert step["reasoning"] == "" and "max_reasoning_tokens" in step["no_reasoning"]
    assert all(m.get("content") for m in engine.calls[-1].messages)
    assert [m["role"] for m in engine.calls[-1].messages] == ["system", "user"]


@pytest.mark.parametrize(
    "step",
    [
        ("refine", {"verifiers": [{"policy": {"words": ["hm"]}}]}),
        ("refine", {"verifiers": [{"policy": {"words": ["hm"]}}], "mode": "sentence"}),
        ("best_of_n", {"verifiers": [{"policy": {"words": ["hm"]}}], "n": 3}),
    ],
)
@pytest.mark.parametrize("shown", ["field", "tags"])
async def test_thoughts_in_an_answer_are_not_judged(
    step: tuple[str, dict[str, Any]], shown: str, resources: Resources
) -> None:
    found, run = await answer(Thinking(shown, "All is well. Good bye."), resources, step)
    assert found.text == "All is well. Good bye."
    told = [s for s in run.trace.steps if "thoughts" in str(s.get("left_out"))]
    assert bool(told) is (shown == "tags")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<think>a</think>b c", "b c"),
        ("  <THINKING>a < b</THINKING>\n\nb", "b"),
        ("[THINK]a[/THINK]b", "b"),
        ("<think>never closed", ""),
        ("<thimble> is a word", "<thimble> is a word"),
        ("<th", "<th"),
        ("a <think>b</think>", "a <think>b</think>"),
        ("", ""),
        ("  \n", "  \n"),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_thoughts_in_pieces(text: str, left: str, size: int) -> None:
    thoughts = Thoughts()
    pieces = [thoughts.feed(text[i : i + size]) for i in range(0, len(text), size)]
    assert "".join(pieces) + thoughts.rest() == left
