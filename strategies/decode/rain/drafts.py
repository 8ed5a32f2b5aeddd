"""Token sets and rollouts, drawn from the engine.

Every draw is seeded from (request's seed, purpose, node path, number), so what a node is continued with is a pure
function of the node: it may be drawn early, late, in any batch, or not at all, and the search stays the same.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Coroutine, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeVar

from heedful.strategies import tasks
from heedful.strategies.decode.rain.notes import Counts
from heedful.strategies.decode.rain.request import RainRequest
from heedful.strategies.decode.rain.tree import Constants, Draft, End, Node
from heedful.strategies.engine import Continuation, Engine, Extension

T = TypeVar("T")

_PIECE = 32  # tokens of plain decoding at a time, so that a stream keeps moving
_BEFORE = 16  # tokens before one that say how it is read: a half character's first bytes, a leading space


def draw(seed: int, purpose: str, node: Node, number: int = 0) -> int:
    """A seed of 53 bits (so that JSON carries it) for one draw at one node, told apart by purpose and number."""
    path = ",".join(map(str, node.path))
    key = f"{seed}/{purpose}/{node.depth}/{number}/{path}".encode()
    return int.from_bytes(blake2b(key, digest_size=8).digest()) >> 11


async def together(calls: Sequence[Coroutine[Any, Any, T]], batched: bool) -> list[T]:
    """Runs calls in one batch, or one after another, as the published search does."""
    if batched:
        return await tasks.together(calls)
    try:
        return [await call for call in calls]
    finally:
        for call in calls:
            call.close()  # those that a failure or a cancellation kept from being begun


@dataclass(frozen=True, slots=True)
class Drafter:
    """Continues nodes of one choice's tree. `batched`: all sets of an expansion in one engine batch."""

    engine: Engine
    request: RainRequest
    constants: Constants
    seed: int
    counts: Counts
    batched: bool

    async def first(self, node: Node) -> list[Draft]:
        """What a node is continued with first: the likeliest tokens, or the greedy set."""
        self.counts.expansions += 1
        length = self._length(node)
        return await (self._next_tokens(node) if length == 1 else self._draw(node, length, greedy=True))

    async def samples(self, node: Node) -> list[Draft]:
        """The sampled sets beside the greedy one; none beside single tokens."""
        samples, length = self.constants.children - 1, self._length(node)
        if length == 1 or not samples:
            return []
        self.counts.widened += 1
        seed = draw(self.seed, "expand", node)
        # vLLM seeds the i-th of n samples with seed + i, so one request of n equals n requests.
        sizes = [(seed, samples)] if self.batched else [(seed + i, 1) for i in range(samples)]
        drawn = await together([self._draw(node, length, seed=s, n=n) for s, n in sizes], self.batched)
        return [draft for drafts in drawn for draft in drafts]

    async def sample(self, node: Node, number: int) -> list[Draft]:
        """One fresh sample, the `number`-th, for a node that has children already."""
        seed = draw(self.seed, "add", node, number)
        return await self._draw(node, self._length(node), seed=seed)

    async def simulate(self, node: Node) -> tuple[tuple[int, ...], str]:
        """A rollout: the answer sampled on from a node to the end of its clause, as the published code does.

        Returns the whole answer so far: its token ids without an end token, and its text.
        """
        tokens = node.path
        if node.end is not None:
            if tokens and tokens[-1] in self.engine.end_tokens:
                return tokens[:-1], node.text
            if node.end == "stop":  # its tokens run on into the stop string
                return tuple(await self.engine.tokenize(node.text)), node.text
            return tokens, node.text
        ends = self.constants.clause_ends if self.constants.simulate == "clause" else ""
        room = self.request.limit - len(tokens)
        if node.text.endswith(tuple(ends)) or room <= 0:
            return tokens, node.text
        self.counts.simulations += 1
        (drawn,) = await self._extend(
            node,
            max_tokens=min(room, self.constants.max_simulation or room),
            seed=draw(self.seed, "simulate", node),
            stop=[*ends, *self.request.stops],
        )
        text = node.text + drawn.text
        if drawn.stop is not None and drawn.stop not in self.request.stops:
            text += drawn.stop
        cut = self.request.cut(text)
        if cut is not None or (drawn.stop in self.request.stops):
            text = text if cut is None else cut
            return tuple(await self.engine.tokenize(text)), text
        new = drawn.token_ids
        return tokens + (new[:-1] if new and new[-1] in self.engine.end_tokens else new), text

    async def plain(self, node: Node, piece: int = _PIECE) -> AsyncGenerator[Draft, None]:
        """Plain decoding from a node to the answer's end, without a search and by the client's own sampling.

        `piece` tokens at most at a time; the last piece has an `end`.
        """
        request = self.request
        end: End | None = None
        after = Node(path=node.path, text=node.text)
        while end is None and (room := request.limit - len(after.path)) > 0:
            (drawn,) = await self._extend(
                after,
                max_tokens=min(piece, room),
                seed=draw(self.seed, "plain", after),
                stop=request.stops,
                logprobs=request.top_logprobs if request.logprobs else None,
                **request.sampling,
            )
            after = Node(path=after.path + drawn.token_ids, text=after.text + drawn.text)
            if drawn.finish_reason == "stop" or request.cut(after.text) is not None:
                end = "stop"
            elif len(after.path) >= request.limit:
                end = "length"
            yield Draft(drawn.token_ids, 1.0, drawn.text, end, drawn.logprobs)

    def _length(self, node: Node) -> int:
        """Tokens in a set that continues a node."""
        return min(self.constants.set_length(node.depth), self.request.limit - len(node.path))

    async def _draw(
        self, node: Node, length: int, *, greedy: bool = False, seed: int | None = None, n: int = 1
    ) -> list[Draft]:
        c = self.constants
        shown = max(c.top_k, self.request.top_logprobs)
        drawn = await self._extend(
            node,
            max_tokens=length,
            n=n,
            temperature=0.0 if greedy else c.temperature,
            top_k=0 if greedy else c.top_k,
            seed=seed,
            stop=self.request.stops,
            logprobs=shown,
        )
        return [self._draft(node, d, _probability(d, c.top_k, c.temperature)) for d in drawn]

    async def _next_tokens(self, node: Node) -> list[Draft]:
        """The likeliest next tokens, enough of them for dynamic addition."""
        (drawn,) = await self._extend(
            node, max_tokens=1, temperature=0.0, logprobs=self.constants.max_children
        )
        step = drawn.logprobs[0]
        ranked = sorted(step, key=lambda t: -step[t])[: self.constants.max_children]
        texts = await self._texts(node, ranked)
        one = [Continuation((t,), text, (step,)) for t, text in zip(ranked, texts, strict=True)]
        return [self._draft(node, c, math.exp(step[c.token_ids[0]])) for c in one]

    async def _texts(self, node: Node, tokens: Sequence[int]) -> list[str]:
        """What each token adds to the node's text; alone, some tokens would lose a leading space."""
        path = node.path[-_BEFORE:]
        before = await self.engine.detokenize(path)
        after = await tasks.together([self.engine.detokenize([*path, t]) for t in tokens])
        return [text[len(before) :] for text in after]

    def _draft(self, node: Node, drawn: Continuation, p: float) -> Draft:
        end: End | None = None
        tokens, text = drawn.token_ids, drawn.text
        ended = bool(tokens) and tokens[-1] in self.engine.end_tokens and not self.request.ignore_eos
        if ended or drawn.stop is not None:
            end = "stop"
        if (cut := self.request.cut(node.text + text)) is not None:
            end, text = "stop", cut[len(node.text) :]
        if end is None and len(node.path) + len(tokens) >= self.request.limit:
            end = "length"
        logprobs = drawn.logprobs if self.request.logprobs else ()
        return Draft(tokens, p, text, end, logprobs)

    async def _extend(self, node: Node, **wanted: Any) -> list[Continuation]:
        """Continuations of a node's tokens; `wanted` are an Extension's fields."""
        extension = Extension(
            (*self.request.prompt, *node.path),
            repetition_penalty=self.request.repetition_penalty,
            ignore_eos=self.request.ignore_eos,
            **wanted,
        )
        drawn = await self.engine.extend(extension)
        self.counts.calls += extension.n
        self.counts.drafted += sum(len(d.token_ids) for d in drawn)
        return drawn


def _probability(drawn: Continuation, top_k: int, temperature: float) -> float:
    """Probability of a set, in [0, 1], under the distribution cut to its `top_k` likeliest tokens at each step.

    Log-probabilities come before temperature and cuts, `top_k` or more of them per step; the token taken is among
    the `top_k`, or it could not have been drawn.
    """
    log = 0.0
    for token, step in zip(drawn.token_ids, drawn.logprobs, strict=True):
        kept = sorted(step.values(), reverse=True)[:top_k]
        top = kept[0] / temperature
        log += step[token] / temperature - top
        log -= math.log(sum(math.exp(lp / temperature - top) for lp in kept))
    return math.exp(min(log, 0.0))
