"""The built-in verifiers: what each finds fault with, on engines with and without log-probabilities."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from heedful.prompts import Prompts
from heedful.retrieval import Item
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.stores import Stores
from heedful.strategies import (
    Call,
    Capability,
    ChatRequest,
    Chunk,
    Context,
    Continuation,
    Extension,
    Finish,
    NotFound,
    RequestError,
    Resources,
    Run,
    Usage,
    Verdict,
    VerifierError,
)
from heedful.strategies.scripted import ScriptedEngine
from heedful.strategies.verifiers.panel import Panel, VerifierSpec
from heedful.strategies.verifiers.registry import VERIFIERS

CONTEXT = Context.of(ChatRequest("m", ({"role": "user", "content": "May I park here?"},)))


async def verify(
    name: str,
    answer: str,
    resources: Resources,
    engine: ScriptedEngine | None = None,
    context: Context = CONTEXT,
    **options: Any,
) -> Verdict:
    verifier = VERIFIERS.build(name, options).ready(resources)
    return await verifier.verify(context, answer, Run(engine or ScriptedEngine(), resources))


def speaks(*texts: str) -> ScriptedEngine:
    """A chat API without log-probabilities that says one text after the other, and the last for ever."""
    left = list(texts)
    return ScriptedEngine(
        lambda call: left.pop(0) if len(left) > 1 else left[0], capabilities=Capability.CHAT
    )


def odds(**letters: float) -> ScriptedEngine:
    """An engine with tokens (bytes) that gives these probabilities to first letters, and says "because"."""

    def extend(extension: Extension) -> list[Continuation]:
        ids = extension.logprob_token_ids
        return [Continuation((ids[0],), "", ({t: math.log(letters.get(chr(t), 1e-9)) for t in ids},))]

    return ScriptedEngine("because", extend=extend)


# -- toxicity


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("The capital of France is Paris, which lies on the Seine.", True),
        ("I'm sorry, but I can't help with that.", True),
        ("Shut up, you stupid fucking idiot, everybody hates you.", False),
        ("Thank you for asking.\nYou are a worthless piece of shit.\nHave a nice day.", False),
        ("", True),
    ],
)
async def test_toxicity(text: str, passes: bool, resources: Resources) -> None:
    verdict = await verify("toxicity", text, resources)
    assert verdict.passed is passes and (verdict.score > 0.3) is passes


async def test_toxicity_names_the_worst_attribute_and_sentence(resources: Resources) -> None:
    text = "Bread is made of flour. You are a worthless piece of shit. Have a nice day."
    verdict = await verify("toxicity", text, resources)
    assert verdict.critique.startswith("The text has 100% toxicity, and the worst of it is ")
    assert verdict.critique.endswith("in this sentence: You are a worthless piece of shit.")
    assert verdict.facts["attribute"] in ("profanity", "insult")
    assert (await verify("toxicity", text, resources, threshold=1.0)).passed


# -- policy


@pytest.mark.parametrize(
    ("options", "answer", "score"),
    [
        ({"words": ["tip"]}, "A Tip for you, TIP!", 1 / 3),
        ({"words": ["tip"], "case_sensitive": True}, "A Tip for you, tip!", 1 / 2),
        ({"words": ["tip"]}, "Tipping is a multiple of tips.", 1.0),
        ({"words": ["c++", "保密"]}, "Use C++ and 必须保密吗", 1 / 3),
        ({"words": ["a.c"]}, "abc", 1.0),
        ({"deny": [r"\b\d{3}-\d{4}\b"]}, "Call 555-1234 or 555-9876.", 1 / 3),
        ({"require": ["(?i)not legal advice"]}, "Sue them.", 1 / 2),
        ({"require": ["not legal advice"]}, "Sue them. This is not legal advice.", 1.0),
    ],
)
async def test_policy(options: dict[str, Any], answer: str, score: float, resources: Resources) -> None:
    verdict = await verify("policy", answer, resources, **options)
    assert verdict.score == score and verdict.passed is (score == 1)
    assert bool(verdict.critique) is not verdict.passed


@pytest.mark.parametrize(
    "pattern", [r"(a)\1", "(?=a)b", "(?<!x)y", "((a{100}){100}){10}", "(", "(?P<n>a)(?P=n)"]
)
def test_patterns_that_need_backtracking_or_too_much_are_refused(pattern: str, resources: Resources) -> None:
    for option in ("deny", "require"):
        with pytest.raises(RequestError, match="refused") as caught:
            VERIFIERS.build("policy", {option: [pattern]}).ready(resources)
        assert caught.value.code == "invalid_pattern" and caught.value.param.endswith(option)  # type: ignore[union-attr]


async def test_no_pattern_blows_up(resources: Resources) -> None:
    # With a backtracking engine each of these would take longer than the universe has.
    patterns = ["(a+)+$", "(a|aa)+$", "(.*a){20}$", "(x+x+)+y"]
    began = time.process_time()
    verdict = await verify("policy", "a" * 20_000 + "b" + "x" * 20_000, resources, deny=patterns)
    assert verdict.passed and time.process_time() - began < 30


async def test_a_policy_speaks_in_its_own_words(resources: Resources) -> None:
    verdict = await verify("policy", "a tip", resources, words=["tip"], critique="No advice, please.")
    assert verdict.critique == "No advice, please." and verdict.facts["found"] == ["tip"]
    with pytest.raises(RequestError, match="words"):
        VERIFIERS.build("policy", {}).ready(resources)


# -- self


async def test_self_by_probabilities(resources: Resources) -> None:
    engine = odds(Y=0.2, N=0.6)
    verdict = await verify("self", "an answer", resources, engine, principles=["Be brief."])
    assert verdict.passed and verdict.score == pytest.approx(0.75)
    (asked,) = engine.extensions
    said = bytes(asked.token_ids).decode()
    assert said.index("May I park here?") < said.index("an answer") < said.index("- Be brief.")
    assert engine.calls == []  # a critique is written only where there is fault
    failed = await verify("self", "an answer", resources, odds(Y=0.6, N=0.2))
    assert not failed.passed and failed.critique == "because"
    assert (await verify("self", "an answer", resources, odds(Y=0.6, N=0.2), threshold=0.2)).passed


async def test_self_by_reported_probabilities(resources: Resources) -> None:
    class Reporting(ScriptedEngine):
        """A chat API that reports its first token's likeliest, as OpenAI's does."""

        async def chat(self, call: Call) -> Any:
            self.calls.append(call)
            top = [{"token": " yes", "logprob": math.log(0.3)}, {"token": "No", "logprob": math.log(0.1)}]
            logprobs = {"content": [{"token": "Hm", "logprob": -1.0, "top_logprobs": top}]}
            delta = {"content": "because"}
            yield Chunk([{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": "length"}])
            yield Finish(Usage(1, 1))

    engine = Reporting(capabilities=Capability.CHAT | Capability.LOGPROBS)
    verdict = await verify("self", "x", resources, engine)
    assert verdict.score == pytest.approx(0.25) and verdict.critique == "because"
    assert engine.calls[0].params["top_logprobs"] == 20 and engine.calls[0].params["max_tokens"] == 1


@pytest.mark.parametrize(
    ("said", "passed"), [(["No."], True), (["**no**, it does"], True), (["Yes", "It shouts."], False)]
)
async def test_self_by_words(said: list[str], passed: bool, resources: Resources) -> None:
    verdict = await verify("self", "x", resources, speaks(*said))
    assert verdict.passed is passed and verdict.score == float(passed)
    assert verdict.critique == ("" if passed else "It shouts.")


async def test_words_are_read_strictly_with_one_retry(resources: Resources) -> None:
    engine = speaks("Not sure.", "No")
    assert (await verify("self", "x", resources, engine)).passed
    assert "one word only: Yes or No" in engine.calls[1].messages[-1]["content"]
    with pytest.raises(VerifierError, match="Nothing to see"):
        await verify("self", "x", resources, speaks("Nothing to see"))


# -- norms


async def test_norms_are_judged_in_one_batch(resources: Resources) -> None:
    running: list[int] = []
    rules = {"Guests pay.": 0.9, "Nobody parks here.": 0.2}

    async def extend(extension: Extension) -> list[Continuation]:
        running.append(engine.running)
        await asyncio.sleep(0)
        said = bytes(extension.token_ids).decode()
        yes = next(p for rule, p in rules.items() if f"Rule: {rule}" in said)
        both = {ord("Y"): math.log(yes), ord("N"): math.log(1 - yes)}
        return [Continuation((0,), "", (both,))]

    engine = ScriptedEngine(extend=extend)
    context = Context(CONTEXT.original, CONTEXT.messages, {}, norms=tuple(rules))
    verdict = await verify("norms", "Park here.", resources, engine, context)
    assert not verdict.passed and verdict.score == pytest.approx(0.2)
    assert verdict.critique == "It does not keep this rule: Nobody parks here."
    assert verdict.facts["kept"] == [0.9, 0.2]
    assert max(running) == 2
    words = await verify("norms", "Park here.", resources, speaks("yes"), context)
    assert words.passed and words.score == 1
    assert (await verify("norms", "Park here.", resources, speaks("?"))).passed  # nothing was retrieved


# -- evidence


@pytest.fixture
def shelf(tmp_path: Path, prompts: Prompts) -> Iterator[Resources]:
    stores = Stores(tmp_path, word_embedder(dimension=256))
    store, _ = stores.create("facts")
    store.add(
        [
            Item("The tower in Pisa leans by four degrees.", source="Guide"),
            Item("Bread needs an hour in the oven."),
        ]
    )
    yield Resources(prompts, stores)
    stores.close()


async def test_evidence_quotes_what_contradicts(shelf: Resources) -> None:
    answer = "The tower in Pisa leans by nine degrees. Right? Zebras sleep standing up, some say."
    engine = odds(C=0.7, S=0.1, U=0.2)
    verdict = await verify("evidence", answer, shelf, engine, store="facts")
    assert not verdict.passed and verdict.score == pytest.approx(0.3)
    assert verdict.critique == (
        "This claim is contradicted: The tower in Pisa leans by nine degrees.\n"
        'Found in Guide: "The tower in Pisa leans by four degrees."'
    )
    first, second = verdict.facts["claims"]
    assert first["verdict"] == "contradicted" and second["verdict"] == "none" and not second["evidence"]
    # Only a claim about which something was found is put to the model.
    assert len(engine.extensions) == 1
    said = bytes(engine.extensions[0].token_ids).decode()
    assert "four degrees" in said and "nine degrees" in said and "Bread" not in said


async def test_evidence_may_have_to_support(shelf: Resources) -> None:
    claim = "The tower in Pisa leans by four degrees."
    for said, passed in (("Supported", True), ("Unclear", False)):
        verdict = await verify("evidence", claim, shelf, speaks(said), store="facts", require_support=True)
        assert verdict.passed is passed
    assert "is not supported: The tower" in verdict.critique
    assert (await verify("evidence", claim, shelf, speaks("unclear"), store="facts")).passed
    nothing = await verify(
        "evidence", "Zebras sleep standing up.", shelf, speaks("-"), store="facts", require_support=True
    )
    assert nothing.critique == "Nothing was found that supports this claim: Zebras sleep standing up."
    with pytest.raises(NotFound, match="unknown store"):
        await verify("evidence", "x", shelf, store="fiction")


# -- guard


@pytest.mark.parametrize(
    ("said", "passed", "critique"),
    [
        ("\n\nsafe", True, ""),
        ("unsafe\nS1,S10", False, "A safety check found it unsafe: violent crimes, hate."),
        ("unsafe", False, "A safety check found it unsafe."),
    ],
)
async def test_guard(said: str, passed: bool, critique: str, resources: Resources) -> None:
    engine = speaks(said)
    verdict = await verify("guard", "An answer.", resources, engine)
    assert (verdict.passed, verdict.critique) == (passed, critique)
    assert [m["role"] for m in engine.calls[0].messages] == ["user", "assistant"]


async def test_guard_asks_another_model_of_the_server(resources: Resources) -> None:
    writer, guard = ScriptedEngine(model="w"), ScriptedEngine("safe", model="g")
    run = Run(writer, resources, find={"g": guard}.__getitem__).stage("refine")
    verifier = VERIFIERS.build("guard", {"model": "g"})
    assert (await verifier.verify(CONTEXT, "x", run)).passed
    assert (len(writer.calls), len(guard.calls)) == (0, 1)
    assert run.ledger.stages["refine"].calls == 1
    with pytest.raises(NotFound, match="unknown model 'g'; known: w"):
        await verifier.verify(CONTEXT, "x", Run(writer, resources))
    with pytest.raises(VerifierError, match="neither safe nor unsafe"):
        await verify("guard", "x", resources, speaks("unsafely, perhaps safe"))


# -- together


def panel(resources: Resources, *specs: VerifierSpec, **options: Any) -> Panel:
    return Panel.of(specs, resources, param="p", **{"on_error": "fail", "timeout": 5.0, **options})


async def test_all_must_pass_and_all_speak(resources: Resources) -> None:
    own: list[VerifierSpec] = [{"policy": {"words": ["red"]}}, {"policy": {"words": ["blue"]}}, "toxicity"]
    run = Run(ScriptedEngine(), resources)
    judged = await panel(resources, *own).judge(CONTEXT, "red and blue and blue", run)
    assert not judged.passed and judged.score == 0.5
    assert list(judged.facts) == ["policy", "policy#2", "toxicity"]
    assert (
        judged.critique
        == 'It contains "red", which is not allowed.\nIt contains "blue", which is not allowed.'
    )
    better = await panel(resources, *own).judge(CONTEXT, "red only", run)
    assert better.rank > judged.rank


async def test_a_verifier_that_takes_too_long_has_failed(resources: Resources) -> None:
    async def never(call: Call) -> str:
        await asyncio.get_running_loop().create_future()
        return ""

    engine = ScriptedEngine(never, capabilities=Capability.CHAT)
    with pytest.raises(VerifierError, match="verifier 'self' failed: no verdict within 0.01 s"):
        await panel(resources, "self", timeout=0.01).judge(CONTEXT, "x", Run(engine, resources))
    assert (engine.running, engine.aborted) == (0, 1)


async def test_they_are_asked_at_once(resources: Resources) -> None:
    running: list[int] = []

    async def slow(call: Call) -> str:
        await asyncio.sleep(0)
        running.append(engine.running)
        return "No"

    engine = ScriptedEngine(slow, capabilities=Capability.CHAT)
    await panel(resources, "self", {"self": {"principles": ["Rhyme."]}}).judge(
        CONTEXT, "x", Run(engine, resources)
    )
    assert running == [2, 2]
