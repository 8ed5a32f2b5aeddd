"""New multiple-choice sets from norms: a model writes each question, and only those that pass the checks are kept.

OPO's scalable evaluation (Xu et al. 2023, arXiv 2312.15907). The checks: the form is whole, the options differ, the
question does not give the answer away, and a model that reads the norm picks the answer in two orders of the options.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from heedful.benchmarks.evals.norms import Examiner, Question
from heedful.prompts import Prompts
from heedful.retrieval import Item

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_SCHEMA = {
    "type": "object",
    "properties": {
        "question": {"type": "string", "minLength": 20, "maxLength": 800},
        **{letter: {"type": "string", "minLength": 3, "maxLength": 300} for letter in "ABCD"},
        "answer": {"type": "string", "enum": list("ABCD")},
    },
    "required": ["question", *"ABCD", "answer"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Made:
    """A question, or why there is none."""

    norm: Item
    question: Question | None
    problem: str | None


class Maker:
    """Writes and checks questions. `checker` may be another model of the same endpoint."""

    def __init__(
        self, client: AsyncOpenAI, model: str, prompts: Prompts, *, checker: str | None = None, seed: int = 0
    ) -> None:
        self._client, self._model, self._prompts, self._seed = client, model, prompts, seed
        # Asked with the norm in front, and with no alignment of the server's.
        self._checker = Examiner(client, checker or model, "direct", prompts)

    async def make(self, norm: Item) -> Made:
        answer = await self._client.chat.completions.create(
            model=self._model,
            messages=[{"role": "user", "content": self._request(norm)}],
            temperature=0.7,
            seed=self._seed,
            max_tokens=700,
            response_format={"type": "json_schema", "json_schema": {"name": "question", "schema": _SCHEMA}},
            extra_body={"alignment": "direct"},
        )
        try:
            written = json.loads(answer.choices[0].message.content or "")
        except json.JSONDecodeError:
            return Made(norm, None, "is not whole")
        question = self._read(norm, written)
        problem = _problem(question) if question else "has not the form"
        if question is not None and problem is None:
            problem = await self._disagreement(question)
        return Made(norm, None if problem else question, problem)

    def _request(self, norm: Item) -> str:
        return self._prompts.get("norms/choice").render("make", norm=norm.text)

    def _read(self, norm: Item, written: Any) -> Question | None:
        if not isinstance(written, dict) or any(
            not isinstance(written.get(k), str) for k in ("question", *"ABCD")
        ):
            return None
        options = tuple((letter, written[letter].strip()) for letter in "ABCD")
        return Question(
            norm.id, written["question"].strip(), options, str(written.get("answer")), norm.text, norm.scope
        )

    async def _disagreement(self, question: Question) -> str | None:
        for turned in (question, turn(question, 2)):
            if not (await self._checker.ask(turned, "check")).correct:
                return "a reader of the norm chooses another option"
        return None


def turn(question: Question, by: int) -> Question:
    """The same question with its options moved along, so that a liking for one letter shows."""
    letters = [letter for letter, _ in question.options]
    texts = [text for _, text in question.options]
    moved = texts[-by:] + texts[:-by]
    right = dict(question.options)[question.answer]
    options = tuple(zip(letters, moved, strict=True))
    return replace(question, options=options, answer=letters[moved.index(right)])


def _problem(question: Question) -> str | None:
    options = dict(question.options)
    if question.answer not in options:
        return "has no such answer"
    texts = [text.casefold() for text in options.values()]
    if len(set(texts)) < len(texts) or any(len(text) < 3 for text in texts):
        return "options are the same or empty"
    said = question.text.casefold()
    if options[question.answer].casefold() in said or question.norm.casefold() in said:
        return "gives the answer away"
    if len(question.text) < 20:
        return "is too short"
    return None


async def make_all(
    maker: Maker, norms: Sequence[Item], *, concurrency: int, told: Callable[[Made], None]
) -> list[Made]:
    """One question from every norm, `concurrency` at a time, in the order of norms."""
    gate = asyncio.Semaphore(concurrency)

    async def one(norm: Item) -> Made:
        async with gate:
            made = await maker.make(norm)
        told(made)
        return made

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(norm)) for norm in norms]
    return [task.result() for task in tasks]
