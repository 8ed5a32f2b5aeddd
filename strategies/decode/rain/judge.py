"""Self-evaluation: the model is asked which of two options holds for the answer so far, in both orders.

The published form: an instruction, judged examples, the conversation, two options (A) and (B), an opening bracket;
then the next-token probabilities of A and B are compared, and again with the options swapped. Everything but the
answer and the options is one prefix, the same for all judgements of a request, so the engine reads it once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from heedful.prompts import Prompt
from heedful.strategies import tasks
from heedful.strategies.decode.rain.drafts import together
from heedful.strategies.decode.rain.notes import Counts
from heedful.strategies.decode.rain.value import LeafJudge, LeafValue
from heedful.strategies.engine import Engine
from heedful.strategies.errors import RequestError
from heedful.strategies.options import next_token, tokens_of
from heedful.strategies.types import Context, text_of


@dataclass(frozen=True, slots=True)
class Pair:
    """The two options between which the model decides."""

    good: str
    bad: str


@dataclass(slots=True)
class SelfEvaluator(LeafJudge):
    """Judges answers of one request. Verdicts are kept by text.

    A value is p(good) averaged over both orders and scaled to [-1, 1]; each order counts 0 or 1 unless soft.

    All tokens are ids: `head` those before the answer, `tails` those after it (good option first, then swapped),
    `letters` of A and B.
    """

    engine: Engine
    head: tuple[int, ...]
    tails: tuple[tuple[int, ...], tuple[int, ...]]
    letters: tuple[int, int]
    counts: Counts
    soft: bool = False
    batched: bool = True
    _kept: dict[str, LeafValue] = field(default_factory=dict)

    @property
    def overhead(self) -> int:
        """Tokens that a judgement needs beside the answer, its own one included."""
        return len(self.head) + max(map(len, self.tails)) + 1

    async def judge(self, answer: Sequence[int], text: str) -> LeafValue:
        """Judges an answer given as token ids; `text` is what they say. Raises EngineError as the engine does."""
        if (kept := self._kept.get(text)) is not None:
            self.counts.judgements_cached += 1
            return kept
        first, second = await together([self._ask(answer, tail) for tail in self.tails], self.batched)
        # `first` holds p(good), p(bad); the swapped order p(bad), p(good).
        orders = [(first[0], first[1]), (second[1], second[0])]
        if self.soft:
            shares = [good / (good + bad) if good + bad > 0 else 0.5 for good, bad in orders]
        else:
            shares = [1.0 if good > bad else 0.0 for good, bad in orders]
        verdict = LeafValue(sum(shares) - 1, (orders[0][0] > orders[0][1]) == (orders[1][0] > orders[1][1]))
        self._kept[text] = verdict
        self.counts.judgements += 1
        return verdict

    async def _ask(self, answer: Sequence[int], tail: Sequence[int]) -> tuple[float, float]:
        """Probabilities of A and B as the next token, in [0, 1] and of all tokens, so that they need not sum to 1."""
        step = await next_token(self.engine, (*self.head, *answer, *tail), self.letters)
        self.counts.calls += 1
        self.counts.drafted += 1
        a, b = map(math.exp, step.logprobs)
        return a, b


async def prepare(
    engine: Engine,
    context: Context,
    prompt: Prompt,
    counts: Counts,
    *,
    variables: Mapping[str, Any],
    pair: Pair | None = None,
    soft: bool = False,
    batched: bool = True,
) -> SelfEvaluator:
    """A judge of answers to this conversation. Raises RequestError for a conversation that it can't read.

    `variables` fill the prompt beside the turns; `pair` replaces its two options; `soft` takes the probabilities
    themselves; `batched` asks in both orders at once.
    """
    turns, begun = conversation(context)
    pair = pair or Pair(prompt.data["good"], prompt.data["bad"])
    head = prompt.render("head", turns=turns, **variables) + "\n" + begun
    orders = ((pair.good, pair.bad), (pair.bad, pair.good))
    tails = ["\n" + prompt.render("tail", a=a, b=b) for a, b in orders]
    texts = [(head, True), (tails[0], False), (tails[1], False)]
    first, *rest = await tasks.together([engine.tokenize(text, special=special) for text, special in texts])
    # Both tails end in an opening parenthesis.
    a, b = [ids[-1] for ids in await tokens_of(engine, "AB", after="(")]
    return SelfEvaluator(
        engine,
        tuple(first),
        (tuple(rest[0]), tuple(rest[1])),
        (a, b),
        counts,
        soft,
        batched,
    )


def conversation(context: Context) -> tuple[list[dict[str, str]], str]:
    """The client's turns as speaker and text, and what it has begun of the answer (or "").

    The client's own words, not what context strategies made of them: those shape the answer and are not judged.
    """
    turns = [
        {"speaker": "Human" if m.get("role") == "user" else "Assistant", "text": text_of(m).strip()}
        for m in context.original.messages
        if m.get("role") in ("user", "assistant")
    ]
    if not turns or turns[-1]["speaker"] == "Human":
        return turns, ""
    if not context.params.get("continue_final_message"):
        raise RequestError("messages: the last message must be the user's", param="messages")
    return turns[:-1], text_of(context.original.messages[-1])
