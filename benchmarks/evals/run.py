"""A whole evaluation: prompts × models × alignments → answers and likelihoods → judges.

What is in the folder's journals is not asked again, except for what failed; a killed run goes on where it stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec

from heedful.benchmarks.evals.endpoint import Endpoint
from heedful.benchmarks.evals.folder import EvalSettings, Journals
from heedful.benchmarks.evals.items import SCORED, EvalItem
from heedful.benchmarks.evals.judges.base import Judge, PairJudge
from heedful.benchmarks.evals.records import AnswerRecord, Score
from heedful.benchmarks.evals.sets import draw
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
class EvalRun:
    """One run over its items."""

    endpoint: Endpoint
    items: Sequence[EvalItem]
    settings: EvalSettings
    journals: Journals
    judges: Sequence[Judge] = ()
    pair_judges: Sequence[PairJudge] = ()

    async def run(self, *, concurrency: int, told: OnProgress) -> Outcome:
        """Raises EvalError where the endpoint is gone; what had come back by then is kept."""
        outcome = Outcome()
        await _work(list(self._asking()), concurrency, lambda share: told("answers", share))
        await _work(list(self._scoring()), concurrency, lambda share: told("likelihoods", share))
        await _work(list(self._judging(outcome)), concurrency, lambda share: told("judges", share))
        await _work(list(self._comparing(outcome)), concurrency, lambda share: told("comparisons", share))
        scores = [score for score in self.journals.scores if score.error is not None]
        outcome.undefined = sum(score.undefined for score in scores)
        failed = sum(answer.error is not None for answer in self.journals.answers)
        outcome.failed = failed + len(scores) - outcome.undefined
        return outcome

    def _each(self, items: Iterable[EvalItem]) -> Iterator[tuple[str, str, EvalItem]]:
        """One alignment after the other, so that what its prompts share stays in the prefix cache."""
        listed = list(items)
        for model in self.settings.models:
            for alignment in self.settings.alignments[model]:
                for item in listed:
                    yield model, alignment, item

    # -- answers

    def _asking(self) -> Iterator[RunJob]:
        done = self.journals.answers
        for model, alignment, item in self._each(i for i in self.items if i.measure not in SCORED):
            key = AnswerRecord(set=item.set, id=item.id, model=model, alignment=alignment).key
            if key not in done or done[key].error is not None:
                yield self._asker(model, alignment, item)

    def _asker(self, model: str, alignment: str, item: EvalItem) -> RunJob:
        async def ask() -> None:
            s = self.settings
            params = {"max_tokens": s.max_tokens, "temperature": s.temperature}
            seed = draw(s.seed, item.key)
            answer = await self.endpoint.answer(item, model, alignment, **params, seed=seed)
            self.journals.answers.add(answer)

        return ask

    # -- likelihoods

    def _scoring(self) -> Iterator[RunJob]:
        done = self.journals.scores
        undefined: dict[tuple[str, str], Score] = {}
        for model, alignment, item in self._each(i for i in self.items if i.measure in SCORED):
            key = Score(set=item.set, id=item.id, model=model, alignment=alignment).key
            if key not in done or (done[key].error is not None and not done[key].undefined):
                yield self._scorer(model, alignment, item, undefined)

    def _scorer(
        self, model: str, alignment: str, item: EvalItem, undefined: dict[tuple[str, str], Score]
    ) -> RunJob:
        """`undefined`: what alignments that have no likelihood have told once; they are not asked again."""

        async def score() -> None:
            if told := undefined.get((model, alignment)):
                scored = msgspec.structs.replace(told, set=item.set, id=item.id)
            else:
                scored = await self.endpoint.score(item, model, alignment)
                if scored.undefined:
                    undefined[model, alignment] = scored
            self.journals.scores.add(scored)

        return score

    # -- judges

    def _judging(self, outcome: Outcome) -> Iterator[RunJob]:
        by_key = {item.key: item for item in self.items}
        for judge in self.judges:
            for answer in list(self.journals.answers):
                item = by_key[f"{answer.set}/{answer.id}"]
                if item.measure != judge.measure or answer.error is not None:
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
        """Every alignment's answers against the baseline's."""
        helpful = [i for i in self.items if i.measure == "helpfulness"]
        for judge in self.pair_judges:
            for model, alignment, item in self._each(helpful):
                if alignment == self.settings.baseline:
                    continue
                a = self._answered(item, model, alignment)
                b = self._answered(item, model, self.settings.baseline)
                name = f"{judge.name}/{item.key}/{model}@{alignment}|{self.settings.baseline}"
                if a and b and name not in self.journals.comparisons:
                    yield self._compare(judge, item, a, b, outcome)

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


async def _work(jobs: Sequence[RunJob], concurrency: int, told: Callable[[float], None]) -> None:
    """Does the jobs in their order, `concurrency` at a time. The first exception ends them all, and is raised."""
    waiting, done = iter(jobs), 0

    async def worker() -> None:
        nonlocal done
        for job in waiting:
            await job()
            done += 1
            told(done / len(jobs))

    await together(worker() for _ in range(min(concurrency, len(jobs))))
