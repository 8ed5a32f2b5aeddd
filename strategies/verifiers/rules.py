"""Rules that code checks exactly: length, words, form, case."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

from pydantic import Field

from heedful.strategies.engine import Capability
from heedful.strategies.errors import RequestError
from heedful.strategies.run import Resources, Run
from heedful.strategies.types import Context
from heedful.strategies.verifiers.base import Verdict, Verifier
from heedful.strategies.verifiers.rule_kinds import KINDS, Argument

MOST_RULES = 64
_LONGEST = 2000  # characters of a rule's texts
_MOST_NUMBER = 100_000
_MOST_TEXTS = 100  # of a rule: each is looked for by itself
Rule = dict[str, Argument]
"""One kind and its argument, such as `{"words_at_most": 50}` or `{"no_commas": true}`."""


@dataclass(frozen=True)
class Rules(Verifier):
    """Checks an answer by rules of known kinds; the score is the share that is kept, and all must be.

    `rules`: each a kind with its argument, such as `{"words_at_most": 50}`. The critique says the broken ones.
    """

    rules: Annotated[tuple[Rule, ...], Field(max_length=MOST_RULES)] = ()
    needs: ClassVar[Capability] = Capability.NONE

    def ready(self, resources: Resources) -> Self:
        where = "alignment.verifiers.rules.rules"
        if not self.rules:
            raise RequestError('rules: give `rules`, such as [{"words_at_most": 50}]', param=where)
        for i, rule in enumerate(self.rules):
            if problem := problem_of(rule):
                raise RequestError(f"rules: {problem}", param=f"{where}.{i}")
        return self

    async def verify(self, context: Context, answer: str, run: Run) -> Verdict:
        lost = broken(self.rules, answer)
        critique = " ".join(f"This rule is broken: {told(rule)}" for rule in lost)
        facts = {"broken": [next(iter(rule)) for rule in lost]} if lost else {}
        return Verdict(1 - len(lost) / len(self.rules), not lost, critique, facts)


def broken(rules: Iterable[Rule], answer: str) -> list[Rule]:
    """Those that an answer does not keep."""
    return [rule for rule in rules for kind, value in rule.items() if not KINDS[kind].kept(answer, value)]


def told(rule: Rule) -> str:
    """A rule in words, as a model is told it."""
    ((kind, argument),) = rule.items()
    return KINDS[kind].words(argument)


def problem_of(rule: Rule) -> str | None:
    """What is wrong with a rule that somebody has written."""
    if len(rule) != 1:
        return 'a rule is one kind with its argument, such as {"words_at_most": 50}'
    ((kind, argument),) = rule.items()
    if kind not in KINDS:
        return f"unknown kind {kind!r}; kinds: {', '.join(KINDS)}"
    match KINDS[kind].wants:
        case "number":
            fits = type(argument) is int and 0 <= argument <= _MOST_NUMBER
            return None if fits else f"{kind} wants a whole number, 0 to {_MOST_NUMBER}"
        case "text":
            fits = isinstance(argument, str) and 0 < len(argument) <= _LONGEST
            return None if fits else f"{kind} wants a text of 1 to {_LONGEST} characters"
        case "texts":
            fits = (
                isinstance(argument, tuple)
                and 0 < len(argument) <= _MOST_TEXTS
                and all(argument)
                and sum(map(len, argument)) <= _LONGEST
            )
            return (
                None
                if fits
                else f"{kind} wants a list of 1 to {_MOST_TEXTS} texts, {_LONGEST} characters together"
            )
        case "nothing":
            return None if argument is True else f"{kind} wants `true`"
