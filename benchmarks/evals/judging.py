"""What judges make of the answers that are there: marks of one, and comparisons of two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from heedful.benchmarks.evals.folder import EvalSettings, Journals
from heedful.benchmarks.evals.items import OTHER_MARKS, EvalItem
from heedful.benchmarks.evals.judges.base import Judge, PairJudge
from heedful.benchmarks.evals.records import AnswerRecord
from heedful.strategies.tasks import together

RunJob = Callable[[], Awaitable[None]]
OnProgress = Callable[[str, float], None]
"""Progress: the step, and the share of it that is done."""


@dataclass(slots=True)
class Outcome:
    """What a run has left open: records with an error, scores that can't be, and what judges failed at."""

    failed: int = 0
    undefined: int = 0
    judges: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Judging:
    """What has been judged already is left as it is."""

    items: Sequence[EvalItem]
    settings: EvalSettings
    journals: Journals
    judges: Sequence[Judge] = ()
    pair_judges: Sequence[PairJudge] = ()

    async def run(self, outcome: Outcome, *, concurrency: int, told: OnProgress) -> None:
        """What a judge failed at is counted in `outcome`."""
        await work(list(self._judging(outcome)), concurrency, lambda share: told("judges", share))
        await work(list(self._comparing(outcome)), concurrency, lambda share: told("comparisons", share))

    def _judging(self, outcome: Outcome) -> Iterator[RunJob]:
        by_key = {item.key: item for item in self.items}
        for judge in self.judges:
            marked = OTHER_MARKS.get(judge.measure, judge.measure)
            for answer in list(self.journals.answers):
                item = by_key[f"{answer.set}/{answer.id}"]
                if item.measure != marked or answer.error is not None:
                    continue
                key = f"{judge.measure}/{judge.name}/{answer.key}"
                if key not in self.journals.judgements:
                    yield self._judge(judge, item, answer, outcome)

    def _judge(self, judge: Judge, item: EvalItem, answer: AnswerRecord, outcome: Outcome) -> RunJob:
        async def ask() -> None:
            with _noting(judge.name, outcome):
                self.journals.judgements.add(await judge.judge(item, answer))

        return ask

    def _comparing(self, outcome: Outcome) -> Iterator[RunJob]:
        for judge in self.pair_judges:
            asked: set[str] = set()
            for item, model, one, other in self._pairs():
                a, b = self._answered(item, model, one), self._answered(item, model, other)
                names = {
                    f"{judge.name}/{item.key}/{model}@{each}" for each in (f"{one}|{other}", f"{other}|{one}")
                }
                if a and b and not names & asked and not any(n in self.journals.comparisons for n in names):
                    asked |= names
                    yield self._compare(judge, item, a, b, outcome)

    def _pairs(self) -> Iterator[tuple[EvalItem, str, str, str]]:
        """Every alignment against the baseline, and whatever two others have compared: people, say."""
        helpful = [i for i in self.items if i.measure == "helpfulness"]
        for model in self.settings.models:
            for alignment in self.settings.alignments[model]:
                if alignment != self.settings.baseline:
                    yield from ((item, model, alignment, self.settings.baseline) for item in helpful)
        by_key = {item.key: item for item in helpful}
        for c in list(self.journals.comparisons):
            if (item := by_key.get(f"{c.set}/{c.id}")) is not None:
                yield item, c.model, c.a, c.b

    def _answered(self, item: EvalItem, model: str, alignment: str) -> AnswerRecord | None:
        key = AnswerRecord(set=item.set, id=item.id, model=model, alignment=alignment).key
        answers = self.journals.answers
        return answers[key] if key in answers and answers[key].error is None else None

    def _compare(
        self, judge: PairJudge, item: EvalItem, a: AnswerRecord, b: AnswerRecord, outcome: Outcome
    ) -> RunJob:
        async def ask() -> None:
            with _noting(judge.name, outcome):
                self.journals.comparisons.add(await judge.compare(item, a, b))

        return ask


@contextmanager
def _noting(judge: str, outcome: Outcome) -> Iterator[None]:
    """A judge that fails at one answer leaves it unjudged: the next run asks again."""
    try:
        yield
    except Exception as error:
        from openai import APIError  # slow to import, and only models as judges raise it

        if not isinstance(error, APIError):
            raise
        outcome.judges[f"{judge}: {error}"] += 1


async def work(jobs: Sequence[RunJob], concurrency: int, told: Callable[[float], None]) -> None:
    """Does the jobs in their order, `concurrency` at a time. The first exception ends them all, and is raised."""
    waiting, done = iter(jobs), 0

    async def worker() -> None:
        nonlocal done
        for job in waiting:
            await job()
            done += 1
            told(done / len(jobs))

    await together(worker() for _ in range(min(concurrency, len(jobs))))
