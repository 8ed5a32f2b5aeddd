"""A reward model's opinion of an answer: any model that gives a conversation, or a question and its answer, a number.

Served beside the chat model by vLLM's pooling, or by whatever speaks one of its forms: `/pooling`, `/classify`,
`/score`, or the `/v1/rerank` that other servers of rerankers have too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import msgspec
from pydantic import Field

from heedful.prompts import Use
from heedful.strategies.engine import Capability
from heedful.strategies.errors import RequestError, VerifierError
from heedful.strategies.run import Resources, Run
from heedful.strategies.types import Context, text_of
from heedful.strategies.verifiers.base import Verdict
from heedful.strategies.verifiers.prompts import conversation
from heedful.strategies.verifiers.reading import words_of
from heedful.strategies.verifiers.remote import RemoteVerifier

RewardForm = Literal["pooling", "classify", "score", "rerank"]

_PATHS: dict[RewardForm, str] = {
    "pooling": "/pooling",
    "classify": "/classify",
    "score": "/score",
    "rerank": "/v1/rerank",
}
_USE = Use({"critique": {"score": 12}})


@dataclass(frozen=True)
class Reward(RemoteVerifier):
    """Asks a reward model what an answer is worth.

    `url`: its server, without a path. `form`: which of vLLM's it is asked by: "pooling" and "classify" read the
    conversation under the model's chat template, "score" and "rerank" (`/v1/rerank`) the last question and answer.
    `model`: its name there. `label`: which of its numbers counts, where it gives several: the log-odds of that one
    against the others. The score is 1 / (1 + exp(-(reward - center) / scale)); with `scale: null` the number is in
    [0, 1] already and is the score. Passes from `threshold` on. `timeout`, `max_output`, `key_env` and `concurrency`
    are those of `http`.
    """

    model: str = ""
    form: RewardForm = "pooling"
    label: Annotated[int, Field(ge=0)] | None = None
    center: float = 0.0
    scale: Annotated[float, Field(gt=0)] | None = 1.0
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    prompt: str = "verifiers/reward"
    needs: ClassVar[Capability] = Capability.NONE

    def ready(self, resources: Resources) -> Self:
        for name in ("url", "model"):
            if not getattr(self, name):
                raise RequestError(f"reward: give the `{name}` of the reward model", param=name)
        self.check_key("reward")
        resources.prompt(self.prompt, param="prompt", use=_USE)
        return self

    async def verify(self, context: Context, answer: str, run: Run) -> Verdict:
        asked = msgspec.json.encode(self._question(context, answer))
        numbers = _numbers(await self.post(self.url.rstrip("/") + _PATHS[self.form], asked), self.form)
        reward = self._reward(numbers)
        score = self._score(reward)
        facts = {"reward": round(reward, 4)}
        if score >= self.threshold:
            return Verdict(score, True, facts=facts)
        critique = run.prompts.get(self.prompt).render("critique", score=round(100 * score))
        return Verdict(score, False, critique, facts)

    def _question(self, context: Context, answer: str) -> dict[str, Any]:
        asked: dict[str, Any] = {"model": self.model}
        if self.scale is not None:  # the number as the model gives it, where a server would squeeze it
            asked["use_activation"] = False
        if self.form in ("pooling", "classify"):
            turns = [
                {"role": turn.get("role"), "content": text_of(turn) or words_of(turn)}
                for turn in conversation(context, answer)
            ]
            return asked | {"messages": turns}
        if context.judged == "question":
            raise VerifierError(f"by the form {self.form!r} it judges answers, and not what is asked")
        question = context.last_user()
        if self.form == "score":
            return asked | {"text_1": question, "text_2": answer}
        return asked | {"query": question, "documents": [answer]}

    def _reward(self, numbers: Sequence[float]) -> float:
        """One number of a model's one or several. Raises VerifierError where it is not clear which counts."""
        if len(numbers) == 1 and not self.label:
            return numbers[0]
        if self.label is None or self.label >= len(numbers):
            raise VerifierError(
                f"its model gives {len(numbers)} numbers; say by `label` which counts, from 0 to {len(numbers) - 1}"
            )
        others = [number for i, number in enumerate(numbers) if i != self.label]
        if self.scale is None:
            return numbers[self.label]
        top = max(others)
        return numbers[self.label] - top - math.log(sum(math.exp(other - top) for other in others))

    def _score(self, reward: float) -> float:
        if self.scale is None:
            if not 0 <= reward <= 1:
                raise VerifierError(
                    f"its model gives {reward:g}, which is no score in [0, 1]; give a `scale`"
                )
            return reward
        return (1 + math.tanh((reward - self.center) / self.scale / 2)) / 2


def _numbers(data: bytes, form: RewardForm) -> list[float]:
    """The model's numbers for the one answer. Raises VerifierError for anything else."""
    try:
        found = [float(number) for number in _READ[form](msgspec.json.decode(data))]
        if not found or not all(map(math.isfinite, found)):
            raise ValueError("it holds no number")
    except (msgspec.DecodeError, LookupError, TypeError, ValueError) as error:
        raise VerifierError(f"its service does not answer as /{form} does") from error
    return found


def _pooled(answer: Any) -> list[Any]:
    """One vector of numbers; of a model that gives one for each token the last one's."""
    data: list[Any] = answer["data"][0]["data"]
    return data[-1] if isinstance(data[-1], list) else data


_READ: dict[RewardForm, Callable[[Any], list[Any]]] = {
    "pooling": _pooled,
    "classify": lambda answer: answer["data"][0]["probs"],
    "score": lambda answer: [answer["data"][0]["score"]],
    "rerank": lambda answer: [answer["results"][0]["relevance_score"]],
}
