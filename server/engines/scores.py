"""Log-probabilities of given tokens as the next one, read off the likeliest tokens.

vLLM has a parameter of its own for this, `logprob_token_ids`; but where one request of a batch uses it, its older
model runner (the CPU's) drops the likeliest tokens of all others in that batch without a word
(vllm-project/vllm#51789).
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import replace
from typing import Protocol

from heedful.strategies import Continuation, Extension
from heedful.strategies.tasks import SOME, together

MOST = 20  # log-probabilities that vLLM reports by default


class Draw(Protocol):
    def __call__(self, extension: Extension, allowed: int | None = None) -> Awaitable[list[Continuation]]:
        """Continues an extension; `allowed` is the only token that may be written."""
        ...


async def scored(draw: Draw, extension: Extension, most: int = MOST) -> list[Continuation]:
    """The extension drawn, its first step with all of `logprob_token_ids`.

    A token that is not among the `most` likeliest is asked for alone, as the one that may be written: reported are
    the probabilities before such masks.
    """
    drawn = await draw(replace(extension, logprobs=most, logprob_token_ids=()))
    found: dict[int, float] = dict(drawn[0].logprobs[0])
    one = replace(
        extension, max_tokens=1, n=1, temperature=0.0, logprobs=1, logprob_token_ids=(), ignore_eos=True
    )
    rest = [token for token in dict.fromkeys(extension.logprob_token_ids) if token not in found]
    for token, (alone,) in zip(rest, await together((_draw(draw, one, t) for t in rest), SOME), strict=True):
        found[token] = alone.logprobs[0][token]
    first: Mapping[int, float] = found
    return [replace(d, logprobs=(first, *d.logprobs[1:])) for d in drawn]


async def _draw(draw: Draw, extension: Extension, allowed: int) -> list[Continuation]:
    return await draw(extension, allowed)
