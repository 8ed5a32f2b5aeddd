"""RAIN's search by verifiers: the same search in both modes, what it finds, what it asks, and what is refused."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful.strategies import (
    Capability,
    Context,
    MissingCapability,
    Plan,
    RequestError,
    Resources,
    Run,
    Verdict,
    Verifier,
    VerifierError,
)
from heedful.strategies.scripted import ALL, ScriptedEngine, ScriptedModel

NO_B: dict[str, Any] = {"policy": {"words": ["b"], "deny": ["b"]}}
SMALL = {"max_iterations": 12, "extra_iterations": 4, "similarity": False}


@dataclass(frozen=True)
class Chance(Verifier):
    """A score by chance, the same for the same text. What it was asked stands in `asked`."""

    seed: int = 0
    asked: list[str] | None = None
    needs: ClassVar[Capability] = Capability.NONE

    async def verify(self, context: Context, answer: str, run: Run) -> Verdict:
        if self.asked is not None:
            self.asked.append(answer)
        await asyncio.sleep(0)
        score = random.Random(f"{self.seed}{answer}").random()
        return Verdict(score, score > 0.4)


@dataclass(frozen=True)
class Stuck(Verifier):
    """Never answers, or fails."""

    fails: bool = False
    needs: ClassVar[Capability] = Capability.NONE

    async def verify(self, context: Context, answer: str, run: Run) -> Verdict:
        if self.fails:
            raise VerifierError("its service is down")
        await asyncio.get_running_loop().create_future()
        return Verdict(1.0, True)


def having(resources: Resources, **verifiers: Verifier) -> Resources:
    return replace(resources, verifiers=verifiers)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**30),
    leaves=st.sampled_from([2, 3, 8, 32]),
    similarity=st.booleans(),
    share=st.sampled_from([0.0, 0.3, 1.0]),
    weights=st.sampled_from([[], [2, 1]]),
    alphabet=st.sampled_from([b"ab", b"abcd ,.e", b"a,b.c"]),
)
def test_fast_mode_commits_what_the_reference_commits(
    lab: Any, seed: int, leaves: int, similarity: bool, share: float, weights: list[int], alphabet: bytes
) -> None:
    options = SMALL | {
        "value": ["chance", NO_B],
        "value_weights": weights,
        "self_evaluation": share,
        "similarity": similarity,
        "add_variance": 0.3,
    }
    scripted = lab.model(seed, lab.by_chance(seed, 0.5), alphabet)
    resources = having(lab.resources, chance=Chance(seed))

    async def both() -> None:
        fast, fast_notes = await lab.answered(
            scripted, options | {"parallel_leaves": leaves}, resources, seed=seed
        )
        slow, slow_notes = await lab.answered(
            scripted, options | {"parallel_leaves": 1}, resources, seed=seed
        )
        assert fast.text == slow.text
        same = ("commits", "searches", "rewinds", "children_added", "committed_tokens")
        known = lab.unknown_dropped(slow_notes["commits"], fast_notes["commits"])
        assert {k: fast_notes[k] for k in same} == {k: slow_notes[k] for k in same} | {"commits": known}

    asyncio.run(both())


def says_no(tokens: Sequence[int]) -> Mapping[int, float]:
    """Says "no." nine times of ten, else "yes."; never judges."""
    answer = bytes(tokens).decode(errors="replace").rpartition("<assistant>")[2]
    if not answer:
        return {ord("n"): 0.9, ord("y"): 0.1}
    word = "no.\0" if answer[0] == "n" else "yes.\0"
    return {ord(word[len(answer)]) if len(answer) < len(word) else 0: 1.0}


@pytest.mark.parametrize("leaves", [1, 8])
async def test_finds_the_answer_that_passes_without_asking_the_model(lab: Any, leaves: int) -> None:
    engine = ScriptedEngine(extend=ScriptedModel(says_no))
    options = {"value": [{"policy": {"words": ["no"]}}], "similarity": False, "parallel_leaves": leaves}
    answer, notes = await lab.answered(engine, options)
    assert answer.text == "yes."
    assert not any(e.logprob_token_ids for e in engine.extensions)  # the model judged nothing
    assert notes["value"] == ["policy"] and "prompt" not in notes
    assert notes["judgements"] == 0 < notes["verdicts"] <= notes["searches"]
    assert notes["commits"][0]["children"][0]["value"] == 1


async def test_without_a_value_the_model_judges_and_no_verifier(lab: Any) -> None:
    _, notes = await lab.answered(lab.model(1, lab.always))
    assert notes["verdicts"] == 0 < notes["judgements"]
    assert "value" not in notes and notes["prompt"].startswith("rain/harmlessness@")


async def test_judges_clauses_each_text_once_with_what_was_begun(lab: Any) -> None:
    asked: list[str] = []
    engine = ScriptedEngine(extend=lab.model(5, lab.always, ending=0))
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well "}]
    await lab.answered(
        engine,
        SMALL | {"value": ["chance"]},
        having(lab.resources, chance=Chance(asked=asked)),
        messages=talk,
        continue_final_message=True,
    )
    assert len(asked) == len(set(asked)) > 10
    assert all(text.startswith("Well ") for text in asked)
    assert all(text[-1] in ",.?:;\n" or len(text) == len("Well ") + 30 for text in asked)


async def test_mixes_with_the_models_own_judgement(lab: Any) -> None:
    """The verifier is sure of the bad, the model of the good: the share decides."""
    values = {}
    for share in (0.25, 0.75):
        options = {"value": [{"policy": {"words": ["zz"], "require": ["q"]}}], "self_evaluation": share}
        _, notes = await lab.answered(
            lab.model(3, lab.always), SMALL | options | {"rule": "Be kind."}, max_tokens=1
        )
        values[share] = notes["commits"][0]["children"][0]["value"]
        assert notes["prompt"].startswith("rain/rule@")
    assert values[0.25] == pytest.approx(0.75 * -0.5 + 0.25)  # policy scores one fault 1/2, which fails
    assert values[0.75] == pytest.approx(0.25 * -0.5 + 0.75)


async def test_the_gate_asks_the_verifiers(lab: Any) -> None:
    value = {"value": [{"policy": {"words": ["zz"]}}]}
    _, notes = await lab.answered(lab.model(3, lab.never), value | {"effort": "low"})
    assert (notes["outcome"], notes["gate"]["value"]) == ("the plain draft passed", 1)


async def test_verifiers_are_cancelled_with_the_search(lab: Any) -> None:
    engine = ScriptedEngine(extend=lab.model(3, lab.always))
    resources = having(lab.resources, stuck=Stuck())
    options = SMALL | {"value": ["stuck"], "max_seconds": 0.2}
    answer, notes = await lab.answered(engine, options, resources)
    assert notes["outcome"] == "the budget max_seconds was spent"
    assert (engine.running, asyncio.all_tasks()) == (0, {asyncio.current_task()})


async def test_a_verifier_that_fails_fails_the_request_or_is_passed_over(lab: Any) -> None:
    engine = ScriptedEngine(extend=lab.model(3, lab.always))
    resources = having(lab.resources, down=Stuck(fails=True))
    with pytest.raises(VerifierError, match="'down' failed: its service is down"):
        await lab.answered(engine, SMALL | {"value": ["down"]}, resources)
    assert engine.running == 0
    answer, _ = await lab.answered(engine, SMALL | {"value": ["down"], "on_error": "pass"}, resources)
    assert answer.text


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"value": ["nosuch"]}, "alignment.rain.value"),
        ({"value": [{"toxicity": {"threshold": 9}}]}, "alignment.rain.value.toxicity.threshold"),
        ({"value": [{"http": {"url": "http://127.0.0.1"}}]}, "alignment.rain.value.http"),
        ({"value": ["toxicity"], "value_weights": [1, 2]}, "alignment.rain.value"),
        ({"value": ["toxicity"], "self_evaluation": 2}, "alignment.rain.self_evaluation"),
        ({"value": ["toxicity"], "rule": "Be kind."}, "alignment.rain.rule"),
        ({"self_evaluation": 0.5}, "alignment.rain.self_evaluation"),
        ({"value_weights": [1]}, "alignment.rain.value_weights"),
    ],
)
def test_refuses_bad_values(lab: Any, options: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        Plan.of("test", [("rain", options)], lab.resources)
    assert caught.value.param == param


def test_needs_what_its_verifiers_need(lab: Any) -> None:
    plan = Plan.of("test", [("rain", {"value": ["norms"]})], lab.resources)
    with pytest.raises(MissingCapability, match="needs chat"):
        plan.check(ALL & ~Capability.CHAT, model="m")
    Plan.of("test", [("rain", {"value": ["toxicity"]})], lab.resources).check(Capability.TOKENS, model="m")
