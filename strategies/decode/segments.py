"""Segments of an answer, drawn at the token level: of a fixed length, or up to where the model is unsure.

The second is the segmentation of Li et al. 2025, "Cascade Reward Sampling for Efficient Decoding-Time Alignment"
(CARDS, arXiv 2406.16306, section 4): a segment ends before a token whose distribution has an entropy of a threshold
or more, and has at least 4 tokens, as in the authors' code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from heedful.strategies.decode.rain.request import RainRequest
from heedful.strategies.decode.rain.tree import Draft, End
from heedful.strategies.engine import Continuation, Engine, Extension
from heedful.strategies.tasks import together

TOP = 20
"""Likeliest tokens that an engine reports of one step."""
_LEAST = 4  # tokens of a segment that ends where the model is unsure
_PIECE = 16  # tokens drawn at once while it is looked for
_BEFORE = 16  # tokens before one that say how it is read


def entropy(step: Mapping[int, float]) -> float:
    """Of the next token's distribution (natural-log probabilities by token id), in nats.

    All that is not reported counts as one token: a lower bound.
    """
    known = [(math.exp(p), p) for p in step.values()]
    rest = 1 - sum(p for p, _ in known)
    return -sum(p * log for p, log in known) - (rest * math.log(rest) if rest > 0 else 0.0)


@dataclass(frozen=True, slots=True)
class Path:
    """An answer so far: token ids, text, and where the client or the cut needs them the steps' log-probabilities."""

    tokens: tuple[int, ...] = ()
    text: str = ""
    logprobs: tuple[Mapping[int, float], ...] = ()
    end: End | None = None

    def then(self, draft: Draft) -> Path:
        return Path(
            self.tokens + draft.tokens, self.text + draft.text, self.logprobs + draft.logprobs, draft.end
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A segment that an answer may go on with. `rest`: what was drawn beyond its end already."""

    draft: Draft
    rest: Continuation | None = None


@dataclass(slots=True)
class Segmenter:
    """Draws segments of one choice. `threshold`: of the entropy, in nats; None: segments of `length` tokens."""

    engine: Engine
    request: RainRequest
    length: int
    threshold: float | None
    sampling: Mapping[str, Any]
    seed: int | None
    drafted: int = 0
    """Tokens drawn so far."""
    _draws: int = field(default=0)

    async def draw(self, path: Path, n: int, rest: Continuation | None = None) -> list[Candidate]:
        """`n` segments after `path`, in one batch; the first goes on from `rest` where that is given.

        What lies beyond a segment's end was drawn without regard to how the segment was judged, so that it is as good
        a sample of what comes next as a new one.
        """
        fresh = n - (rest is not None)
        room = min(self.length, self.request.limit - len(path.tokens))
        first = room if self.threshold is None else min(_PIECE, room)
        drawn = await self._extend(path.tokens, first, fresh) if fresh else []
        begun = [rest, *drawn] if rest is not None else drawn
        return await together(self._grown(path, each, room) for each in begun)

    async def _grown(self, path: Path, drawn: Continuation, room: int) -> Candidate:
        if self.threshold is None:
            return Candidate(self._draft(path, drawn))
        while (cut := self._cut(drawn)) is None and drawn.finish_reason != "stop":
            if (left := room - len(drawn.token_ids)) <= 0:
                break
            tokens = path.tokens + drawn.token_ids
            (more,) = await self._extend(tokens, min(_PIECE, left), 1)
            drawn = Continuation(
                drawn.token_ids + more.token_ids,
                drawn.text + more.text,
                drawn.logprobs + more.logprobs,
                more.finish_reason,
                more.stop,
            )
        if cut is None:
            return Candidate(self._draft(path, drawn))
        before = path.tokens[-_BEFORE:]
        texts = await together(
            self.engine.detokenize(ids) for ids in (before, (*before, *drawn.token_ids[:cut]))
        )
        text = texts[1][len(texts[0]) :]
        head = Continuation(drawn.token_ids[:cut], text, drawn.logprobs[:cut])
        tail = drawn.text[len(text) :]
        rest = Continuation(
            drawn.token_ids[cut:], tail, drawn.logprobs[cut:], drawn.finish_reason, drawn.stop
        )
        return Candidate(self._draft(path, head), rest)

    def _cut(self, drawn: Continuation) -> int | None:
        """Before which token a segment ends; None where the model has been sure so far."""
        places = range(_LEAST, min(len(drawn.token_ids), self.length))
        threshold = self.threshold or 0.0
        return next((i for i in places if entropy(drawn.logprobs[i]) >= threshold), None)

    def _draft(self, path: Path, drawn: Continuation) -> Draft:
        end: End | None = None
        tokens, text = drawn.token_ids, drawn.text
        ended = bool(tokens) and tokens[-1] in self.engine.end_tokens and not self.request.ignore_eos
        if ended or drawn.stop is not None or drawn.finish_reason == "stop":
            end = "stop"
        if (cut := self.request.cut(path.text + text)) is not None:
            end, text = "stop", cut[len(path.text) :]
        if end is None and len(path.tokens) + len(tokens) >= self.request.limit:
            end = "length"
        return Draft(tokens, 1.0, text, end, drawn.logprobs if self.request.logprobs else ())

    async def _extend(self, tokens: tuple[int, ...], most: int, n: int) -> list[Continuation]:
        shown = self.request.top_logprobs if self.request.logprobs else None
        drawn = await self.engine.extend(
            Extension(
                (*self.request.prompt, *tokens),
                max_tokens=most,
                n=n,
                seed=self._next_seed(tokens),
                stop=self.request.stops,
                logprobs=shown if self.threshold is None else TOP,
                repetition_penalty=self.request.repetition_penalty,
                ignore_eos=self.request.ignore_eos,
                **self.sampling,
            )
        )
        self.drafted += sum(len(d.token_ids) for d in drawn)
        return drawn

    def _next_seed(self, tokens: tuple[int, ...]) -> int | None:
        """Of each draw its own, so that no two are the same; 53 bits, so that JSON carries it."""
        if self.seed is None:
            return None
        self._draws += 1
        key = f"{self.seed}/{self._draws}/{len(tokens)}".encode()
        return int.from_bytes(blake2b(key, digest_size=8).digest()) >> 11
