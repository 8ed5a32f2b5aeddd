"""The verifier `rules`: every kind keeps what it should and refuses the rest; best_of_n and refine use it."""

from __future__ import annotations

from typing import Any

import pytest
from test_best_of_n import Sampling

from heedful.strategies import ChatRequest, Plan, RequestError, Resources, Run, collect
from heedful.strategies.scripted import ScriptedEngine
from heedful.strategies.verifiers.rule_kinds import KINDS, Argument
from heedful.strategies.verifiers.rules import broken, told

CASES: dict[str, tuple[Argument, str, str]] = {
    "words_at_most": (3, "one two three", "one two three four"),
    "words_at_least": (3, "one two three", "one two"),
    "characters_at_most": (5, " abcde\n", "abcdef"),
    "sentences": (2, "It rains. We stay in.", "It rains."),
    "sentences_at_most": (1, "It rains.", "It rains. We stay in."),
    "sentences_at_least": (2, "It rains. We stay in!", "It rains, and we stay in."),
    "paragraphs": (2, "One.\n\nTwo.", "One.\nTwo."),
    "lines": (2, "One.\n\nTwo.", "One."),
    "bullets": (2, "Here:\n- one\n- two", "- one\n-two"),
    "numbered": (2, "1. one\n2. two", "1. one"),
    "contains": ("salt", "Add Salt.", "It is salty."),
    "contains_all": (("salt", "oil"), "Oil and salt.", "Oil."),
    "avoids": ("salt", "It is salty.", "Add salt."),
    "avoids_all": (("salt", "oil"), "Vinegar.", "Oil."),
    "starts_with": ("Well", " Well, no.", "No. Well."),
    "ends_with": ("Peace.", "Go. Peace.\n", "Peace. Go."),
    "without_letter": ("q", "It is so.", "A Question."),
    "cites": ("House rules", "Until nine [House rules].", "Until nine (House rules)."),
    "one_of": (("yes", "no"), "Yes.", "Yes, I think."),
    "json_keys": (("a",), '{"a": 1, "b": 2}', '{"b": 2}'),
    "json": (True, ' {"a": 1} ', "[1]"),
    "lower_case": (True, "all small, 3.", "Not all."),
    "upper_case": (True, "ALL LARGE.", "Not ALL."),
    "no_commas": (True, "One and two.", "One, two."),
    "no_questions": (True, "Tell me.", "Who?"),
    "no_exclamations": (True, "Stop.", "Stop!"),
    "no_digits": (True, "three", "3"),
    "a_number": (True, "3 days", "three days"),
    "no_brackets": (True, "One two.", "One (two)."),
    "no_links": (True, "See the page.", "See www.a.example."),
    "no_first_person": (True, "It is Imaginary.", "So I think."),
    "no_repeats": (True, "It rains. It pours.", "It rains. it  rains."),
    "whole": (True, 'He said "yes."', "He said that"),
    "quoted": (True, '"Yes."', '"Yes" she said.'),
    "title": (True, "<<Rain>>\nIt falls.", "<Rain>"),
}


def test_every_kind_has_its_cases() -> None:
    assert CASES.keys() == KINDS.keys() and len(KINDS) >= 25


@pytest.mark.parametrize("kind", CASES)
def test_what_keeps_it_and_what_does_not(kind: str) -> None:
    argument, kept, lost = CASES[kind]
    rule = {kind: argument}
    assert not broken([rule], kept) and broken([rule], lost) == [rule]
    words = told(rule)
    assert "{" not in words and (argument is True or all(str(a) in words for a in _listed(argument)))


def _listed(argument: Argument) -> tuple[Any, ...]:
    return argument if isinstance(argument, tuple) else (argument,)


@pytest.mark.parametrize("kind", ["contains", "words_at_most", "json", "no_repeats", "title", "bullets"])
def test_a_long_text_takes_no_time(kind: str) -> None:
    argument = CASES[kind][0]
    broken([{kind: argument}], "<<a- \n" * 40_000)


async def _answered(
    resources: Resources, engine: ScriptedEngine, name: str, **options: Any
) -> tuple[str, Run]:
    run = Run(engine, resources)
    plan = Plan.of("ruled", [(name, options)], resources)
    question = ({"role": "user", "content": "Does it rain?"},)
    answer = await collect(plan.stream(ChatRequest("scripted", question, {"temperature": 1.0}), run))
    return answer.choices[0].text, run


RULES = [{"words_at_most": 3}, {"no_commas": True}]


async def test_the_best_of_several_keeps_most(resources: Resources) -> None:
    engine = Sampling(["Yes, it rains here today."], ["Yes, it rains."], ["Well, yes, it rains."])
    options: dict[str, Any] = {"n": 3, "verifiers": [{"rules": {"rules": RULES}}]}
    found, run = await _answered(resources, engine, "best_of_n", **options)
    assert found == "Yes, it rains."
    judged = [step for step in run.trace.steps if "score" in step]
    assert sorted(step["score"] for step in judged) == [0.0, 0.0, 0.5]


async def test_the_critique_says_what_is_broken(resources: Resources) -> None:
    said = iter(["Yes, it rains.", "It rains."])
    engine = ScriptedEngine(lambda call: next(said))
    found, run = await _answered(resources, engine, "refine", verifiers=[{"rules": {"rules": RULES}}])
    assert found == "It rains."
    first = next(step for step in run.trace.steps if step.get("round") == 0)
    assert "This rule is broken: Use no commas." in str(first) and "at most 3 words" not in str(first)


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ([], "give `rules`"),
        ([{"words_at_mots": 3}], "unknown kind 'words_at_mots'; kinds: words_at_most"),
        ([{"words_at_most": 3, "json": True}], "one kind with its argument"),
        ([{"words_at_most": "3"}], "words_at_most wants a whole number"),
        ([{"words_at_most": True}], "words_at_most wants a whole number"),
        ([{"words_at_most": -1}], "words_at_most wants a whole number"),
        ([{"contains": ""}], "contains wants a text"),
        ([{"contains": ["a"]}], "contains wants a text"),
        ([{"contains_all": []}], "contains_all wants a list"),
        ([{"json": False}], "json wants `true`"),
        ([{"json": True}, {"cites": 3}], "cites wants a text"),
    ],
)
def test_bad_rules_are_refused_by_their_place(resources: Resources, rules: list[Any], told: str) -> None:
    options = {"verifiers": [{"rules": {"rules": rules}}]}
    with pytest.raises(RequestError, match=told.replace("[", r"\[")) as refused:
        Plan.of("ruled", [("best_of_n", options)], resources)
    assert refused.value.param == "alignment.verifiers.rules.rules" + (f".{len(rules) - 1}" if rules else "")


@pytest.mark.parametrize(
    "rule", [{"bullets": 1}, {"numbered": 1}, {"paragraphs": 2}, {"contains": "a" * 2000}]
)
def test_a_long_text_takes_time_by_its_length(rule: dict[str, Argument]) -> None:
    """By the square of it this would take hours, in which the server does nothing else."""
    for text in (
        "x" + "\n" * 300_000 + "x",
        " \n" * 300_000 + "x",
        "1" * 300_000,
        "a" * 1999 + " a" * 300_000,
    ):
        broken([rule], text)


def test_an_object_that_never_ends_is_none() -> None:
    assert broken([{"json": True}, {"json_keys": ("a",)}], "[" * 100_000)
