"""Word lists and patterns that an answer must not, or must, contain.

Patterns are matched by RE2, in time linear in the text: no pattern can blow up. What would need backtracking
(back-references, look-around) or too large an automaton is refused when the verifier is configured.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Annotated, Any, ClassVar, Self

import re2
from pydantic import Field

from heedful.strategies.engine import Capability
from heedful.strategies.errors import RequestError
from heedful.strategies.run import Resources, Run
from heedful.strategies.types import Context
from heedful.strategies.verifiers.base import Verdict, Verifier

_MEMORY = 4 << 20  # bytes for one pattern's automaton
_MOST_TEXT = 1 << 18  # characters of all patterns: a request may bring its own
_QUOTED = 8
_MOST = 100  # matches of one pattern that are counted: each is a search through what is left
_Text = Annotated[str, Field(min_length=1, max_length=2000)]


@dataclass(frozen=True)
class Policy(Verifier):
    """Refuses answers by words and patterns.

    `words`: whole words or phrases, and `deny`: RE2 patterns, that must not occur; `require`: patterns that must.
    `critique` replaces the built-in words to the model. The score is 1 / (1 + number of faults).
    """

    words: Annotated[tuple[_Text, ...], Field(max_length=10_000)] = ()
    deny: Annotated[tuple[_Text, ...], Field(max_length=1000)] = ()
    require: Annotated[tuple[_Text, ...], Field(max_length=1000)] = ()
    case_sensitive: bool = False
    critique: str = ""
    needs: ClassVar[Capability] = Capability.NONE

    def ready(self, resources: Resources) -> Self:
        if not (self.words or self.deny or self.require):
            raise RequestError(
                "policy: give `words`, `deny` or `require`", param="alignment.verifiers.policy.deny"
            )
        if sum(map(len, (*self.words, *self.deny, *self.require))) > _MOST_TEXT:
            raise RequestError(
                f"policy: words and patterns may have {_MOST_TEXT} characters together",
                param="alignment.verifiers.policy",
            )
        _ = self._forbidden, self._required
        return self

    @cached_property
    def _forbidden(self) -> list[Any]:
        quoted = (_whole(word) for word in self.words)
        words = [self._pattern("|".join(quoted), "words")] if self.words else []
        return words + [self._pattern(pattern, "deny") for pattern in self.deny]

    @cached_property
    def _required(self) -> list[Any]:
        return [self._pattern(pattern, "require") for pattern in self.require]

    def _pattern(self, pattern: str, option: str) -> Any:
        where = f"alignment.verifiers.policy.{option}"
        return compiled(pattern, case_sensitive=self.case_sensitive, what="policy", param=where)

    async def verify(self, context: Context, answer: str, run: Run) -> Verdict:
        hits = (m.group() for p in self._forbidden for m in islice(p.finditer(answer), _MOST))
        found = list(dict.fromkeys(hit for hit in hits if hit))
        missing = [r for p, r in zip(self._required, self.require, strict=True) if p.search(answer) is None]
        faults = len(found) + len(missing)
        if not faults:
            return Verdict(1.0, True)
        critique = self.critique
        if not critique:
            told = [f'It contains "{text}", which is not allowed.' for text in found[:_QUOTED]]
            told += [f"It lacks what must match the pattern {pattern}." for pattern in missing[:_QUOTED]]
            critique = " ".join(told)
        return Verdict(1 / (1 + faults), False, critique, {"found": found[:_QUOTED], "missing": missing})


def compiled(pattern: str, *, case_sensitive: bool, what: str, param: str) -> Any:
    """A pattern of RE2's. Raises RequestError, which begins with `what`, for one that it does not have."""
    options = re2.Options()
    options.case_sensitive = case_sensitive
    options.max_mem = _MEMORY
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        why = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
        raise RequestError(
            f"{what}: the pattern {pattern[:100]!r} is refused: {why} (patterns are RE2's: no back-references, "
            "no look-around)",
            param=param,
            code="invalid_pattern",
        ) from error


def _whole(word: str) -> str:
    """A pattern for a word that is not part of a longer one, where its script has such a thing."""
    start, end = (r"\b" if c.isascii() and c.isalnum() else "" for c in (word[0], word[-1]))
    return start + str(re2.escape(word)) + end
