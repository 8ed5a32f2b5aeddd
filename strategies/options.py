"""Which token writes an option, and how likely a model is to write it next.

An option is what a model has to choose between: a word ("Yes"), a letter, a whole answer. At the token level the ids
that write it are known beforehand (`tokens_of`), and one step of the engine says how likely each is (`next_token`). A
chat API reports its likeliest tokens as texts, the space before them included; which of those write an option
(`reported`) is told by `begins_word` or `is_letter`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from heedful.strategies.engine import Engine, Extension
from heedful.strategies.errors import EngineError
from heedful.strategies.tasks import SOME, together

TOP = 20
"""Likeliest tokens that a chat API reports at most: OpenAI's own limit."""


async def tokens_of(engine: Engine, options: Sequence[str], after: str | None = None) -> list[list[int]]:
    """The tokens that write each option. `after`: the text of the prompt's end, where it is known.

    The prompt's tokens stay as they are, as they do when the model generates. An option is tokenised together with
    the text before it, since tokenisers treat the start of a text in ways of their own (a space put in front, say).
    Where the two grow into one token across the boundary, it is tokenised alone: that is what the model would have to
    write there.
    """
    if after is None:
        return await together((engine.tokenize(option) for option in options), SOME)
    before, *joined = await together((engine.tokenize(after + text) for text in ("", *options)), SOME)

    async def rest(both: list[int], option: str) -> list[int]:
        kept = both[: len(before)] == before
        return both[len(before) :] if kept else await engine.tokenize(option)

    return await together((rest(*each) for each in zip(joined, options, strict=True)), SOME)


@dataclass(frozen=True, slots=True)
class NextToken:
    """One step of a model: the log-probability of each token that was asked about, and what it would have written."""

    logprobs: list[float]
    text: str


async def next_token(engine: Engine, prompt: Sequence[int], tokens: Sequence[int]) -> NextToken:
    """How likely each of `tokens` is to come next; all are read off one step, and the prompt may come from a cache.

    Raises EngineError as the engine does, and where it leaves one of them out.
    """
    asked = tuple(dict.fromkeys(tokens))
    (step,) = await engine.extend(
        Extension(prompt, max_tokens=1, temperature=0.0, logprob_token_ids=asked, ignore_eos=True)
    )
    try:
        return NextToken([step.logprobs[0][token] for token in tokens], step.text)
    except (IndexError, KeyError) as error:
        raise EngineError("the engine gave no probabilities for the options it was asked about") from error


def reported(
    top: Iterable[tuple[str, Any]], options: Sequence[str], writes: Callable[[str, str], bool]
) -> list[list[float]]:
    """For each option the log-probabilities of the reported tokens that write it: none, one, or several ways.

    `top` are the likeliest tokens and their log-probabilities, as a chat API wrote them; what is no number is left
    out.
    """
    found = [(token, float(p)) for token, p in top if isinstance(p, int | float)]
    return [[p for token, p in found if writes(token, option)] for option in options]


def begins_word(token: str, word: str) -> bool:
    """Whether a word may begin with this token: " yes", "YES" and "Y" all begin "Yes"."""
    begun = token.strip().casefold()
    return bool(begun) and word.casefold().startswith(begun)


def is_letter(token: str, letter: str) -> bool:
    """Whether a token is this letter, with or without marks around it: " A", "(A" and "A." are "A", "a" is not."""
    return token.strip(" \n.():*") == letter
