"""Token level over HTTP, as a remote vLLM offers it: /tokenize, /detokenize, completions from token ids."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Self

from heedful.server.engines.prompt_tokens import tokenize_body
from heedful.server.engines.scores import scored
from heedful.server.engines.upstream.choices import fault
from heedful.server.engines.upstream.client import Upstream
from heedful.server.engines.upstream.token_cache import TokenCache
from heedful.strategies import Call, Continuation, Extension, Message
from heedful.strategies.tasks import SOME, together

_PREFIX = "token_id:"
_MOST_STOPS = 4  # that a request may bring, as with OpenAI; the order is the strategy's, the likeliest first


class RemoteTokens:
    """The token-level calls of one model. `end_tokens` may be learnt later (`find_end_tokens`)."""

    def __init__(self, upstream: Upstream, model: str, end_tokens: frozenset[int]) -> None:
        self._upstream, self._model = upstream, model
        self._headers: Mapping[str, str] | None = None
        self._known = TokenCache()
        self.end_tokens = end_tokens

    def bound(self, headers: Mapping[str, str] | None) -> Self:
        mine = copy.copy(self)
        mine._headers = headers
        return mine

    async def render(
        self,
        messages: Sequence[Message],
        *,
        continue_final: bool = False,
        shape: Mapping[str, Any] | None = None,
    ) -> list[int]:
        ends = {"continue_final_message": continue_final, "add_generation_prompt": not continue_final}
        return await self._tokenize(**tokenize_body(messages, {**(shape or {}), **ends}))

    async def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        if (known := self._known.get(text, special)) is None:
            known = await self._tokenize(prompt=text, add_special_tokens=special)
            self._known.put(text, special, known)
        return list(known)

    async def count_prompt(self, call: Call) -> int:
        if call.prompt is not None:
            return len(await self.tokenize(call.prompt, special=True))
        return len(await self._tokenize(**tokenize_body(call.messages, call.params)))

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """vLLM writes special tokens out; the ends, the only ones in a sampled answer, are left out before."""
        kept = [t for t in token_ids if t not in self.end_tokens]
        if not kept:
            return ""
        body = await self._post("/../detokenize", tokens=kept)
        return str(body.get("prompt", ""))

    async def extend(self, extension: Extension) -> list[Continuation]:
        return await (
            scored(self._drawn, extension) if extension.logprob_token_ids else self._drawn(extension)
        )

    async def _drawn(self, extension: Extension, allowed: int | None = None) -> list[Continuation]:
        e = extension
        body = await self._post(
            "/completions",
            prompt=list(e.token_ids),
            max_tokens=e.max_tokens,
            n=e.n,
            temperature=e.temperature,
            top_p=e.top_p,
            top_k=e.top_k,
            min_p=e.min_p,
            repetition_penalty=e.repetition_penalty,
            seed=e.seed,
            stop=list(e.stop[:_MOST_STOPS]),
            stop_token_ids=list(e.stop_token_ids),
            ignore_eos=e.ignore_eos,
            logprobs=e.logprobs,
            allowed_token_ids=None if allowed is None else [allowed],
            return_token_ids=True,
            return_tokens_as_token_ids=True,
        )
        choices = self._choices(body)
        if len(choices) != e.n:
            raise self._upstream.nonsense(f"it gave {len(choices)} continuations for {e.n}")
        found = [self._continuation(c) for c in choices]
        if rest := e.stop[_MOST_STOPS:]:
            return await together((self._ended_by(continuation, rest) for continuation in found), SOME)
        return found

    async def score(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[list[float]]:
        body = await self._post(
            "/completions",
            prompt=[[*prompt, *c] for c in continuations],
            max_tokens=1,
            temperature=0,
            prompt_logprobs=0,
        )
        choices = self._choices(body)
        if len(choices) != len(continuations):
            raise self._upstream.nonsense(f"it scored {len(choices)} of {len(continuations)} continuations")
        return [
            self._scores(c.get("prompt_logprobs"), ids) for c, ids in zip(choices, continuations, strict=True)
        ]

    def _scores(self, steps: Any, ids: Sequence[int]) -> list[float]:
        try:
            return [float(step[str(t)]["logprob"]) for t, step in zip(ids, steps[-len(ids) :], strict=True)]
        except (TypeError, KeyError, ValueError) as error:
            raise self._upstream.nonsense(
                "its prompt_logprobs have not the tokens that were asked for"
            ) from error

    async def _ended_by(self, continuation: Continuation, stops: Sequence[str]) -> Continuation:
        """Ends a continuation at the first of further stop strings, as the engine would have done."""
        text, ids = continuation.text, continuation.token_ids
        places = [(text.find(stop), stop) for stop in stops if stop in text]
        if not places:
            return continuation
        at, stop = min(places)
        low, high = 1, len(ids)  # how many tokens it takes until the stop string is whole
        while low < high:
            middle = (low + high) // 2
            whole = stop in await self.detokenize(ids[:middle])
            low, high = (low, middle) if whole else (middle + 1, high)
        return replace(
            continuation,
            token_ids=ids[:low],
            text=text[:at],
            logprobs=continuation.logprobs[:low],
            finish_reason="stop",
            stop=stop,
        )

    async def find_end_tokens(self) -> None:
        """Learns what ends a turn from the chat template: what it writes right after an assistant's message."""
        turn: list[Message] = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        open_turn = await self.render(turn, continue_final=True)
        closed = await self._tokenize(messages=turn, add_generation_prompt=False)
        if len(closed) > len(open_turn) and closed[: len(open_turn)] == open_turn:
            self.end_tokens |= {closed[len(open_turn)]}

    def _choices(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """An answer's choices, in order."""
        choices = body.get("choices")
        if not isinstance(choices, list) or not all(isinstance(c, dict) for c in choices):
            raise self._upstream.nonsense("its answer has no list of choices")
        for choice in choices:
            if wrong := fault(choice):
                raise self._upstream.nonsense(wrong)
            if not isinstance(choice.get("index", 0), int):
                raise self._upstream.nonsense("a choice's index is no number")
        return sorted(choices, key=lambda c: c.get("index", 0))

    def _continuation(self, choice: Mapping[str, Any]) -> Continuation:
        ids, reason, stop = choice.get("token_ids"), choice.get("finish_reason"), choice.get("stop_reason")
        if not isinstance(ids, list) or reason not in ("stop", "length"):
            raise self._upstream.nonsense("a continuation has no token ids or no reason for its end")
        finish: Literal["stop", "length"] = reason
        return Continuation(
            token_ids=tuple(ids),
            text=choice.get("text") or "",
            logprobs=tuple(self._logprobs(choice.get("logprobs") or {})),
            finish_reason=finish,
            stop=stop if isinstance(stop, str) else None,
        )

    def _logprobs(self, logprobs: Mapping[str, Any]) -> list[dict[int, float]]:
        steps = []
        for token, value, top in zip(
            logprobs.get("tokens") or [],
            logprobs.get("token_logprobs") or [],
            logprobs.get("top_logprobs") or [],
            strict=False,
        ):
            try:
                step = {_token_id(t): v for t, v in (top or {}).items()}
                steps.append(step | {_token_id(token): value})
            except ValueError as error:
                raise self._upstream.nonsense("its log-probabilities are not by token id") from error
        return steps

    async def _tokenize(self, **body: Any) -> list[int]:
        tokens = (await self._post("/../tokenize", **body)).get("tokens")
        if not isinstance(tokens, list):
            raise self._upstream.nonsense("/tokenize gave no tokens")
        return tokens

    async def _post(self, path: str, **body: Any) -> dict[str, Any]:
        return await self._upstream.json(path, {"model": self._model, **body}, self._headers)


def _token_id(token: str) -> int:
    return int(token.removeprefix(_PREFIX))
