"""The token level of vLLM's engine: continuations and scores from token ids."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import Any
from uuid import uuid4

from vllm.inputs.engine import tokens_input
from vllm.sampling_params import RequestOutputKind, SamplingParams

from heedful.server.engines.scores import MOST, scored
from heedful.server.engines.vllm import errors
from heedful.strategies import Continuation, EngineError, Extension
from heedful.strategies.tasks import together


class TokenLevel:
    """`client`: vLLM's AsyncLLM."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def extend(self, extension: Extension) -> list[Continuation]:
        if extension.logprob_token_ids:
            most: int = self._client.model_config.max_logprobs
            return await scored(self._drawn, extension, MOST if most < 0 else min(MOST, most))
        return await self._drawn(extension)

    async def _drawn(self, extension: Extension, allowed: int | None = None) -> list[Continuation]:
        e = extension
        try:
            params = SamplingParams(
                n=e.n,
                temperature=e.temperature,
                top_p=e.top_p,
                top_k=e.top_k,
                min_p=e.min_p,
                repetition_penalty=e.repetition_penalty,
                seed=e.seed,
                stop=list(e.stop),
                stop_token_ids=list(e.stop_token_ids),
                ignore_eos=e.ignore_eos,
                max_tokens=e.max_tokens,
                logprobs=e.logprobs,
                allowed_token_ids=None if allowed is None else [allowed],
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
        except Exception as error:
            raise errors.from_exception(error) from error
        final = await self._generate(e.token_ids, params, "extend")
        return [_continuation(output) for output in final.outputs]

    async def score(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[list[float]]:
        return await together(self._score_one(prompt, c) for c in continuations)

    async def _score_one(self, prompt: Sequence[int], continuation: Sequence[int]) -> list[float]:
        """vLLM reports log-probabilities of prompt tokens, but only of those it computes.

        Left alone it computes such a prompt anew; here the prompt's part may come from the prefix cache. Where
        more than that was found there (the same answer once more), the scores have a gap: then without the cache.
        """
        ids = [*prompt, *continuation]
        final = await self._generate(ids, self._scoring(cached=True), "score")
        if (final.num_cached_tokens or 0) >= len(prompt):
            final = await self._generate(ids, self._scoring(cached=False), "score")
        steps = final.prompt_logprobs[-len(continuation) :]
        return [float(step[t].logprob) for t, step in zip(continuation, steps, strict=True)]

    @staticmethod
    def _scoring(*, cached: bool) -> Any:
        return SamplingParams(
            max_tokens=1,
            temperature=0,
            prompt_logprobs=0,
            skip_reading_prefix_cache=not cached,
            detokenize=False,  # the places that came from the cache hold no tokens
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    async def _generate(self, token_ids: Sequence[int], params: Any, kind: str) -> Any:
        """One request to the engine; its last output."""
        final = None
        try:
            prompt = tokens_input(list(token_ids))
            async with aclosing(self._client.generate(prompt, params, f"{kind}-{uuid4().hex}")) as outputs:
                async for output in outputs:
                    final = output
        except Exception as error:
            raise errors.from_exception(error) from error
        if final is None:
            raise EngineError("the engine ended a request without a result")
        return final


def _continuation(output: Any) -> Continuation:
    if output.finish_reason not in ("stop", "length"):
        raise EngineError(f"the engine ended a request with {output.finish_reason!r}")
    return Continuation(
        token_ids=tuple(output.token_ids),
        text=output.text,
        logprobs=tuple({t: p.logprob for t, p in step.items()} for step in output.logprobs or ()),
        finish_reason=output.finish_reason,
        stop=output.stop_reason if isinstance(output.stop_reason, str) else None,
    )
