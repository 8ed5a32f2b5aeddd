"""An engine that works as RAIN's authors' code does: transformers, batch 1, no prefix cache.

Each continuation reads its whole prompt, then decodes token by token with a KV cache of its own, which is dropped at
its end; samples and judgements come one after another. Under heedful's reference mode it is the published way. Its
draws are those that vLLM makes on a CPU for the same seeds, so that it walks the same tree but for the last digits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import vllm._custom_ops  # noqa: F401  (registers the sampler's kernel)
from transformers import AutoModelForCausalLM, AutoTokenizer

from heedful.strategies import Capability, Continuation, Extension, Habits, Message


class LoopEngine:
    """Token level only, all that RAIN asks for. `passes` counts the model's forward passes, `read` their tokens."""

    capabilities = Capability.TOKENS | Capability.LOGPROBS
    context_length: int | None = 4096

    def __init__(self, folder: Path) -> None:
        self.model = folder.name
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        self.end_tokens = frozenset({int(self._tokenizer.eos_token_id)})
        self.habits = Habits()
        self.passes = self.read = 0

    async def render(
        self,
        messages: Sequence[Message],
        *,
        continue_final: bool = False,
        shape: Mapping[str, Any] | None = None,
    ) -> list[int]:
        text = self._tokenizer.apply_chat_template(
            [dict(m) for m in messages], tokenize=False, add_generation_prompt=True
        )
        return await self.tokenize(text)

    async def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=special))

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

    async def extend(self, extension: Extension) -> list[Continuation]:
        seeds = [None if extension.seed is None else extension.seed + i for i in range(extension.n)]
        return [await asyncio.to_thread(self._one, extension, seed) for seed in seeds]

    def _one(self, e: Extension, seed: int | None) -> Continuation:
        with torch.inference_mode():
            return self._continued(e, seed)

    def _continued(self, e: Extension, seed: int | None) -> Continuation:
        generator = torch.Generator()
        if seed is not None:
            generator.manual_seed(seed)
        tokens: list[int] = []
        steps: list[Mapping[int, float]] = []
        text, cache, new = "", None, list(e.token_ids)
        reason: Literal["stop", "length"] = "length"
        stop = None
        while len(tokens) < e.max_tokens:
            self.passes, self.read = self.passes + 1, self.read + len(new)
            out = self._model(torch.tensor([new]), past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, logits = out.past_key_values, out.logits[0, -1].float()
            token = int(self._sampled(logits, e, generator))
            new = [token]
            tokens.append(token)
            if e.logprobs or e.logprob_token_ids:
                logs = logits.log_softmax(-1)
                top = logs.topk(e.logprobs).indices.tolist() if e.logprobs else []
                steps.append({t: float(logs[t]) for t in (*top, token, *e.logprob_token_ids)})
            if e.stop:
                text = self._tokenizer.decode(tokens, skip_special_tokens=True)
                if stop := next((s for s in e.stop if s in text), None):
                    text, reason = text[: text.index(stop)], "stop"
                    break
            if token in self.end_tokens and not e.ignore_eos:
                reason = "stop"
                break
        if stop is None:
            text = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return Continuation(tuple(tokens), text, tuple(steps), reason, stop)

    def _sampled(self, logits: torch.Tensor, e: Extension, generator: torch.Generator) -> torch.Tensor:
        if not e.temperature:
            return logits.argmax()
        if e.top_k:
            logits = logits.masked_fill(logits < logits.topk(e.top_k).values[-1], float("-inf"))
        seed = torch.randint(0, 2**31, (1,), generator=generator, dtype=torch.long)
        drawn: torch.Tensor = torch.ops._C.fused_gumbel_argmax((logits / e.temperature)[None], seed)
        return drawn[0]
