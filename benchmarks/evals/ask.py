"""A question with lettered options, put to one model of any OpenAI-compatible endpoint."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from heedful.strategies.options import TOP, is_letter, reported

if TYPE_CHECKING:
    from openai import AsyncOpenAI  # slow to import, and every command of `heedful` passes here

_WORDS = 32
# "A" before a small letter is an article, but for these words.
_NO_ARTICLE = r"(?! (?!(?:is|are|was|has|does|or|and|nor|helps|over|because|since|as)\b)[a-z])"


@dataclass(frozen=True, slots=True)
class Shares:
    """How much each option is the answer, summing to 1: by words all of it is one option's.

    `mass` is the probability that the answer begins with any of the options: where it is small, the model would
    rather have said something else.
    """

    shares: dict[str, float]
    method: Literal["logprobs", "words"]
    mass: float = 1.0


class Asker:
    """Asks one model, at temperature 0. `alignment` is sent as it is with every question; None sends none.

    All methods raise the client's errors.
    """

    def __init__(self, client: AsyncOpenAI, model: str, alignment: Any = None) -> None:
        self._client, self.model = client, model
        self._extra: dict[str, Any] = {} if alignment is None else {"alignment": alignment}
        self._logprobs = True

    async def choose(self, text: str, letters: str) -> Shares | None:
        """By the first token where its probabilities are reported, else by the written answer, asked for twice.

        None where that names none of the letters, or more than one.
        """
        if found := await self.first(text, letters):
            mass = sum(found.values())
            return Shares({letter: found.get(letter, 0.0) / mass for letter in letters}, "logprobs", mass)
        said = await self.write(text)
        chosen = named(said, letters)
        if chosen is None:
            again = f"Answer with one letter only: {' or '.join(letters)}."
            chosen = named(await self.write(text, said or "…", again), letters)
        if chosen is None:
            return None
        return Shares({letter: float(letter == chosen) for letter in letters}, "words")

    async def first(self, text: str, letters: Sequence[str]) -> dict[str, float]:
        """The probability of each letter to be the first token, those without any left out.

        Nothing where the endpoint reports no log-probabilities, or none of these letters.
        """
        from openai import BadRequestError

        if not self._logprobs:
            return {}
        try:
            answer = await self._answer([text], max_tokens=1, logprobs=True, top_logprobs=TOP)
        except BadRequestError as error:
            if "logprob" not in str(error):
                raise
            self._logprobs = False
            return {}
        found = answer.choices[0].logprobs
        likely = found.content[0].top_logprobs if found and found.content else []
        ways = reported(((t.token, t.logprob) for t in likely), letters, is_letter)
        mass = {letter: sum(map(math.exp, each)) for letter, each in zip(letters, ways, strict=True)}
        return {letter: round(p, 6) for letter, p in mass.items() if p}

    async def write(self, *turns: str) -> str:
        """The written answer to turns that are the user's and the model's in alternation."""
        answer = await self._answer(turns, max_tokens=_WORDS)
        return answer.choices[0].message.content or ""

    async def _answer(self, turns: Sequence[str], **params: Any) -> Any:
        messages: Any = [
            {"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(turns)
        ]
        return await self._client.chat.completions.create(
            model=self.model,
            messages=messages,
            temperature=0,
            extra_body=self._extra,
            **params,
        )


def named(said: str, letters: str) -> str | None:
    """The one of `letters` that stands alone in what was said; None for none or several."""
    found = set(re.findall(rf"(?<![\w'])([{letters}])(?![\w']){_NO_ARTICLE}", said))
    return found.pop() if len(found) == 1 else None
