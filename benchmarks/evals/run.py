"""A whole evaluation: prompts × models × alignments → answers and likelihoods → judges.

What is in the folder's journals is not asked again, except for what failed; a killed run goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from heedful.benchmarks.evals.endpoint import Endpoint
from heedful.benchmarks.evals.folder import EvalSettings, Journals
from heedful.benchmarks.evals.inline import of_item
from heedful.benchmarks.evals.items import SCORED, EvalItem
from heedful.benchmarks.evals.judges.base import Judge, PairJudge
from heedful.benchmarks.evals.judging import Judging, OnProgress, Outcome, RunJob, work
from heedful.benchmarks.evals.records import AnswerRecord, Score
from heedful.benchmarks.evals.sets import draw


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
        await work(list(self._asking()), concurrency, lambda share: told("answers", share))
        await work(list(self._scoring()), concurrency, lambda share: told("likelihoods", share))
        judging = Judging(self.items, self.settings, self.journals, self.judges, self.pair_judges)
        await judging.run(outcome, concurrency=concurrency, told=told)
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
            wish = s.inline.get(alignment)
            own = None if wish is None else of_item(wish, item)
            answer = await self.endpoint.answer(item, model, alignment, own=own, **params, seed=seed)
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
                wish = self.settings.inline.get(alignment)
                own = None if wish is None else of_item(wish, item)
                scored = await self.endpoint.score(item, model, alignment, own=own)
                if scored.undefined:
                    undefined[model, alignment] = scored
            self.journals.scores.add(scored)

        return score
