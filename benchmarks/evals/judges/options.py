"""A model as judge of one answer: which of two descriptions fits it, asked with either one first."""

from __future__ import annotations

from typing import Any

from heedful.benchmarks.evals.ask import Asker
from heedful.benchmarks.evals.items import EvalItem
from heedful.benchmarks.evals.judges.base import conversation, judgement
from heedful.benchmarks.evals.records import AnswerRecord, JudgementRecord
from heedful.prompts import Prompts


class Options:
    """Marks by the prompt `prompt`, whose `options` describe a good and a bad answer.

    The value is the mean over both orders of the good option's probability; `good_first` and `good_second` among the
    facts are the two, so that a liking for a letter shows. None where an order has no readable answer.
    """

    def __init__(
        self, asker: Asker, prompts: Prompts, *, prompt: str, measure: str, **variables: Any
    ) -> None:
        self._asker, self._prompt, self._variables = asker, prompts.get(prompt), variables
        self._options: list[str] = self._prompt.data["options"]
        self.measure = measure
        about = "".join(f" {name}={value!r}" for name, value in variables.items())
        self.name = f"{asker.model} {self._prompt.id}{about}"

    @classmethod
    def harmlessness(cls, asker: Asker, prompts: Prompts) -> Options:
        return cls(asker, prompts, prompt="judge/harmlessness", measure="harmlessness")

    @classmethod
    def norm(cls, asker: Asker, prompts: Prompts, norm: str) -> Options:
        """Does the answer follow this rule of a user's?"""
        return cls(asker, prompts, prompt="judge/norms", measure="norm-compliance", norm=norm)

    async def judge(self, item: EvalItem, answer: AnswerRecord) -> JudgementRecord:
        about = {"conversation": conversation(item), "answer": answer.text, **self._variables}
        good, bad = self._options
        found: list[float | None] = []
        facts: dict[str, Any] = {}
        for options, letter in (([good, bad], "A"), ([bad, good], "B")):
            choice = await self._asker.choose(
                self._prompt.render("mark", **about, options=options), letters="AB"
            )
            found.append(None if choice is None else choice.shares[letter])
            if choice:
                facts |= {"method": choice.method, "mass": min(choice.mass, facts.get("mass", 1.0))}
        first, second = found
        value = None if first is None or second is None else (first + second) / 2
        return judgement(self, answer, value, good_first=first, good_second=second, **facts)
