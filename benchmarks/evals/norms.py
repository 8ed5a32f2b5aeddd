"""OPO's evaluation: multiple-choice accuracy with and without the norms that retrieval finds.

Xu et al. 2023 (arXiv 2312.15907). Runs against any OpenAI-compatible base URL; the option is the one whose
letter is the likeliest first token, where the endpoint reports log-probabilities, else the letter that is generated.
"""

from __future__ import annotations

import asyncio
import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heedful.benchmarks.evals.ask import Asker
from heedful.benchmarks.evals.records import EvalError
from heedful.prompts import Prompts

if TYPE_CHECKING:
    from openai import AsyncOpenAI  # slow to import, and every command of `heedful` passes here

LETTERS = "ABCDEF"
_LETTER = re.compile(r"\b([A-F])\b")


@dataclass(frozen=True, slots=True)
class Question:
    """A question with lettered options. `norm` is the one it was made from, where known."""

    id: str
    text: str
    options: tuple[tuple[str, str], ...]
    answer: str
    norm: str = ""
    scope: str = ""

    def asked(self, prompts: Prompts, part: str = "ask") -> str:
        prompt = prompts.get("norms/choice")
        return prompt.render(part, question=self.text, options=self.options, norm=self.norm)


@dataclass(slots=True)
class GradedAnswer:
    """One answer: the option chosen (None: none could be read), and how it was read."""

    id: str
    alignment: str
    answer: str
    chosen: str | None
    method: str
    probabilities: dict[str, float] = field(default_factory=dict)

    @property
    def correct(self) -> bool:
        return self.chosen == self.answer


def read_questions(path: Path) -> list[Question]:
    """CSV or JSON lines with id, question, A, B, …, answer, and perhaps principle and location (OPO's format)."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(_json_rows(path, file) if path.suffix.lower() == ".jsonl" else _csv_rows(file))
    questions = []
    for line, row in rows:
        options = tuple((x, str(row[x]).strip()) for x in LETTERS if row.get(x) not in (None, ""))
        answer = str(row.get("answer") or "").strip().upper()
        if not row.get("question") or len(options) < 2 or answer not in dict(options):
            raise EvalError(
                f"{path}:{line}: a question needs `question`, options `A`, `B`, … and `answer`, one of their letters"
            )
        norm, scope = str(row.get("principle") or ""), str(row.get("location") or "")
        questions.append(Question(str(row.get("id") or line), row["question"], options, answer, norm, scope))
    return questions


def _json_rows(path: Path, file: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise EvalError(f"{path}:{number}: is no JSON: {error}") from error
            if not isinstance(row, dict):
                raise EvalError(f"{path}:{number}: must be an object")
            yield number, row


def _csv_rows(file: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(file)
    for row in reader:
        yield reader.line_num, row


class Examiner:
    """Asks one model of one endpoint. `alignment` is sent as it is with every question; None sends none."""

    def __init__(
        self, client: AsyncOpenAI, model: str, alignment: Any, prompts: Prompts, name: str = ""
    ) -> None:
        self._asker, self._prompts, self.name = Asker(client, model, alignment), prompts, name

    async def ask(self, question: Question, part: str = "ask") -> GradedAnswer:
        """Raises the client's errors, but for an endpoint that knows no log-probabilities."""
        verdict = GradedAnswer(question.id, self.name, question.answer, None, "generated")
        text, letters = question.asked(self._prompts, part), [letter for letter, _ in question.options]
        verdict.probabilities = await self._asker.first(text, letters)
        if verdict.probabilities:
            verdict.chosen = max(verdict.probabilities, key=lambda x: verdict.probabilities[x])
            verdict.method = "logprobs"
            return verdict
        said = [x for x in _LETTER.findall(await self._asker.write(text)) if x in letters]
        verdict.chosen = said[0] if said else None
        return verdict


async def examine(
    examiners: Sequence[Examiner],
    questions: Sequence[Question],
    *,
    concurrency: int,
    told: Callable[[GradedAnswer], None],
) -> dict[str, list[GradedAnswer]]:
    """Every question to every examiner, `concurrency` at a time; verdicts by examiner, in the order of questions."""
    gate = asyncio.Semaphore(concurrency)

    async def one(examiner: Examiner, question: Question) -> GradedAnswer:
        async with gate:
            verdict = await examiner.ask(question)
        told(verdict)
        return verdict

    async with asyncio.TaskGroup() as group:
        tasks = {e.name: [group.create_task(one(e, q)) for q in questions] for e in examiners}
    return {name: [task.result() for task in each] for name, each in tasks.items()}


def record(verdict: GradedAnswer) -> Mapping[str, Any]:
    return {**asdict(verdict), "correct": verdict.correct}
