"""What an evaluation writes down, one JSON line each: answers, scores, judgements, comparisons."""

from __future__ import annotations

from typing import Any

import msgspec

from heedful.server.cli.errors import CommandError


class EvalError(CommandError):
    """A measurement that can't be made: a bad file (names the line), or an endpoint that refuses."""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What one answer has cost, hidden calls included. Tokens; seconds from request to last byte."""

    calls: int = 1
    prompt_tokens: int = 0
    completion_tokens: int = 0
    answer_tokens: int | None = None
    """Of `completion_tokens`, those of the answer itself: the rest is hidden. None where the usage can't tell."""
    seconds: float = 0.0


class AnswerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a model under an alignment wrote to one item of a set. `error` is set where there is no answer."""

    set: str
    id: str
    model: str
    alignment: str
    text: str = ""
    finish_reason: str = ""
    cost: Cost = Cost()
    error: str | None = None

    @property
    def key(self) -> str:
        return f"{self.set}/{self.id}/{self.model}@{self.alignment}"


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """The log-likelihood (natural log) of given answers to one item, under an alignment's context.

    `logprobs[i]` is the sum over the tokens of candidate i, `tokens[i]` their number. `undefined`: the alignment has
    no likelihood (its decoding strategy is not the model's own), and `error` says so.
    """

    set: str
    id: str
    model: str
    alignment: str
    logprobs: list[float] = []
    tokens: list[int] = []
    error: str | None = None
    undefined: bool = False

    @property
    def key(self) -> str:
        return f"{self.set}/{self.id}/{self.model}@{self.alignment}"


class JudgementRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What one judge says of one answer: `value` from 0 (bad) to 1 (good) for a measure, None for no opinion."""

    measure: str
    judge: str
    set: str
    id: str
    model: str
    alignment: str
    value: float | None
    facts: dict[str, Any] = {}

    @property
    def key(self) -> str:
        return f"{self.measure}/{self.judge}/{self.set}/{self.id}/{self.model}@{self.alignment}"


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two alignments' answers to one item, held against each other in both orders, or in one.

    `first` is the preference for `a` (0 to 1, 0.5 undecided) when a stands first, `second` the preference for `a`
    when it stands second; None where the judge gave none.
    """

    judge: str
    set: str
    id: str
    model: str
    a: str
    b: str
    first: float | None
    second: float | None
    once: bool = False
    """Judged in one order alone, which chance has drawn, as people do: the other preference is None then."""

    @property
    def preference(self) -> float | None:
        """For `a`, over the orders in which it was to be judged; None where the judge gave none in one of them."""
        given = [each for each in (self.first, self.second) if each is not None]
        return sum(given) / len(given) if len(given) == (1 if self.once else 2) else None

    @property
    def for_the_first(self) -> float | None:
        """The preference for whichever stood first; None as in `preference`."""
        if self.preference is None:
            return None
        turned = None if self.second is None else 1 - self.second
        given = [each for each in (self.first, turned) if each is not None]
        return sum(given) / len(given)

    @property
    def key(self) -> str:
        return f"{self.judge}/{self.set}/{self.id}/{self.model}@{self.a}|{self.b}"
