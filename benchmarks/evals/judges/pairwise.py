"""A model as judge of two answers to one item, asked with either one first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from heedful.benchmarks.evals.ask import Asker
from heedful.benchmarks.evals.items import EvalItem
from heedful.benchmarks.evals.judges.base import conversation
from heedful.benchmarks.evals.records import AnswerRecord, Comparison
from heedful.benchmarks.stats import bootstrap
from heedful.prompts import Prompts


class Pairwise:
    """Compares by the `compare` part of a prompt: `judge/helpfulness`, `judge/harmlessness`, or one of the user's.

    A preference is P(A) + P(C)/2 of the options A (the first is better), B (the second) and C (both alike). None
    where the judge, asked twice, gives no readable verdict.
    """

    def __init__(self, asker: Asker, prompts: Prompts, *, prompt: str = "judge/helpfulness") -> None:
        self._asker, self._prompt = asker, prompts.get(prompt)
        self.name = f"{asker.model} {self._prompt.id}"

    async def compare(self, item: EvalItem, a: AnswerRecord, b: AnswerRecord) -> Comparison:
        first = await self._first_better(item, a, b)
        turned = await self._first_better(item, b, a)
        return Comparison(
            judge=self.name,
            set=a.set,
            id=a.id,
            model=a.model,
            a=a.alignment,
            b=b.alignment,
            first=first,
            second=None if turned is None else 1 - turned,
        )

    async def _first_better(self, item: EvalItem, first: AnswerRecord, second: AnswerRecord) -> float | None:
        about = {"conversation": conversation(item), "first": first.text, "second": second.text}
        choice = await self._asker.choose(self._prompt.render("compare", **about), letters="ABC")
        return None if choice is None else choice.shares["A"] + choice.shares["C"] / 2


def position_bias(comparisons: Iterable[Comparison]) -> tuple[float, float, float]:
    """How much a judge prefers whoever stands first, -0.5 to 0.5, and its 95% interval by bootstrap over items.

    Zero for a judge that does not mind the order. It is less sure of one who judges in one order, drawn by chance.
    Raises ValueError where nothing was compared.
    """
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for c in comparisons:
        if (preference := c.for_the_first) is not None:
            found[c.set, c.id, c.model].append(preference - 0.5)
    return bootstrap([sum(each) / len(each) for each in found.values()])
