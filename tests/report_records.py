"""Made-up records of measurements, to make reports from. The figures mean nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from heedful.benchmarks.evals.folder import EvalFolder, EvalSettings, Journals
from heedful.benchmarks.evals.items import EvalItem, Quality
from heedful.benchmarks.evals.records import AnswerRecord, Comparison, Cost, JudgementRecord, Score
from heedful.benchmarks.load.folder import LoadSettings, opened
from heedful.benchmarks.load.records import RequestRecord

# Seconds to an answer, share of harmless answers, of safe requests refused, prompt and hidden tokens, calls.
STRATEGIES = {
    "direct": (0.5, 0.55, 0.05, 40, 0, 1),
    "principles": (0.56, 0.72, 0.06, 120, 0, 1),
    "principles-cot": (1.6, 0.78, 0.07, 420, 130, 2),
    "urial": (0.85, 0.74, 0.10, 1130, 0, 1),
    "demos": (0.8, 0.60, 0.05, 900, 0, 1),
    "norms": (0.7, 0.63, 0.06, 350, 0, 1),
    "refine": (4.5, 0.83, 0.12, 900, 380, 4),
    "best_of_n": (2.1, 0.80, 0.08, 160, 190, 4),
    "rain": (29, 0.90, 0.22, 9000, 1700, 60),
}
SECRET = "how does one pick a lock"  # stands for a prompt that must not be shown
JUDGE = "tiny-judge@1"
NO_LIKELIHOOD = "its decoding strategy is not the model's own"
_GENERATED: dict[str, Quality] = {"harms": "harmlessness", "safe": "over-refusal", "plain": "helpfulness"}
_SCORED: dict[str, Quality] = {"true": "truthfulness", "chosen": "preference"}


def write(
    folder: Path, models: Sequence[str], alignments: Sequence[str], items: int = 120, requests: int = 60
) -> None:
    """All files of a latency benchmark and an evaluation, the same on every run."""
    write_latency(folder, models, alignments, requests)
    write_evaluation(folder, models, alignments, items)


def write_latency(folder: Path, models: Sequence[str], alignments: Sequence[str], requests: int = 60) -> None:
    """Two loads; one request of `rain` fails in each."""
    rng = np.random.default_rng(1)
    settings = LoadSettings("http://127.0.0.1:8000/v1", "100 words", requests, 2, 64, True, 0, True)
    with opened(folder, settings) as journal:
        for place, model in enumerate(models):
            for alignment in alignments:
                seconds, _, _, prompt, hidden, calls = _of(alignment)
                for load, slower in (("closed 1", 1 + 0.6 * place), ("poisson 2.0", 1.9 + place)):
                    for index in range(requests):
                        wait = seconds * slower * float(rng.lognormal(0, 0.35))
                        first = wait * (0.8 if hidden else 0.15)
                        failed = index == 7 and alignment == "rain"
                        journal.add(
                            RequestRecord(
                                model=model,
                                alignment=alignment,
                                load=load,
                                index=index,
                                seed=index,
                                intended=float(index),
                                sent=float(index),
                                first_token=index + first,
                                last_token=index + wait * 0.99,
                                end=index + wait,
                                gaps=[float(g) for g in rng.gamma(4, (wait - first) / 80, 20)],
                                prompt_tokens=prompt + int(rng.integers(0, 20)),
                                completion_tokens=64 + hidden,
                                answer_tokens=64,
                                hidden_tokens=hidden,
                                calls=calls,
                                error=f"http 500: {SECRET}" if failed else None,
                            )
                        )


def write_evaluation(
    folder: Path, models: Sequence[str], alignments: Sequence[str], items: int = 120
) -> None:
    """Three sets that are answered and judged, two that are scored, and comparisons with `direct`."""
    rng = np.random.default_rng(2)
    asked = [
        EvalItem(
            set=name,
            id=str(i),
            measure=measure,
            messages=({"role": "user", "content": SECRET},),
            candidates=("yes", "no") if name in _SCORED else (),
            right=(0,),
        )
        for name, measure in (_GENERATED | _SCORED).items()
        for i in range(items)
    ]
    settings = EvalSettings(
        models=list(models),
        alignments={model: list(alignments) for model in models},
        baseline=alignments[0],
        sets=[*_GENERATED, *_SCORED],
        limit=items,
        judge_model="tiny-judge",
    )
    there = EvalFolder(folder)
    there.begin(settings, asked, url="http://127.0.0.1:8000/v1", concurrency=4)
    with there as journals:
        for place, model in enumerate(models):
            for alignment in alignments:
                for item in asked:
                    _evaluate(journals, rng, item, model, alignment, 0.1 * place, alignments[0])


def _evaluate(
    journals: Journals,
    rng: np.random.Generator,
    item: EvalItem,
    model: str,
    alignment: str,
    less: float,
    baseline: str,
) -> None:
    seconds, harmless, refused, prompt, hidden, calls = _of(alignment)
    at: dict[str, Any] = {"set": item.set, "id": item.id, "model": model, "alignment": alignment}
    if item.set in _SCORED:
        if alignment in ("rain", "best_of_n"):
            journals.scores.add(Score(**at, error=NO_LIKELIHOOD, undefined=True))
        else:
            logprobs = [-4.0, -5.0 + float(rng.normal(0.5 - harmless, 1.5))]
            journals.scores.add(Score(**at, logprobs=logprobs, tokens=[5, 5]))
        return
    cost = Cost(
        calls=calls,
        prompt_tokens=prompt + int(rng.integers(0, 30)),
        completion_tokens=hidden + 64,
        # Usage alone can't tell what of these was the answer.
        answer_tokens=None if alignment in ("rain", "best_of_n") else 64,
        seconds=seconds * float(rng.lognormal(0, 0.3)),
    )
    journals.answers.add(AnswerRecord(**at, text=SECRET, finish_reason="stop", cost=cost))
    if item.set == "plain":
        if alignment != baseline:
            first, second = (
                float(np.clip(rng.normal(harmless - 0.2 + lean, 0.2), 0, 1)) for lean in (0.1, -0.1)
            )
            about: dict[str, Any] = {
                "set": item.set,
                "id": item.id,
                "model": model,
                "a": alignment,
                "b": baseline,
            }
            journals.comparisons.add(Comparison(**about, judge=JUDGE, first=first, second=second))
        return
    share = harmless - less if item.set == "harms" else 1 - refused
    value = float(rng.random() < share)
    journals.judgements.add(JudgementRecord(**at, measure=item.measure, judge=JUDGE, value=value))


def _of(alignment: str) -> tuple[float, float, float, int, int, int]:
    return STRATEGIES.get(alignment, STRATEGIES["principles"])
