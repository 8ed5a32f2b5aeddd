"""How many of the tokens that an answer has cost are in the text that the client got."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from heedful.benchmarks.load.client import LoadEndpoint
from heedful.benchmarks.load.stream import TokenCounts
from heedful.benchmarks.load.targets import LoadTarget

_AT_ONCE = 8


def answer_tokens(usage: TokenCounts, target: LoadTarget) -> int | None:
    """By the endpoint's own figures; None where they can't tell (drafts and the answer are one stage)."""
    if usage.alignment_details is None:
        return usage.completion_tokens if target.plain else None
    stage = usage.alignment_details.get("direct")
    return None if stage is None else stage.completion_tokens


def calls(usage: TokenCounts) -> int:
    """How many model calls the answer took."""
    return sum(stage.calls for stage in (usage.alignment_details or {}).values()) or 1


async def count(endpoint: LoadEndpoint, target: LoadTarget, texts: Sequence[str]) -> list[int]:
    """The tokens of texts, by the endpoint's tokenizer: each as a prompt of its own, answered with one token.

    What stands around every prompt (a template, a first token) is taken off: it is what a prompt of one letter has
    besides. Raises BenchError where the endpoint does not count prompts.
    """
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(text: str) -> int:
        prompt = {"prompt": text} if target.raw else {"messages": [{"role": "user", "content": text}]}
        body = {"model": target.model, "max_tokens": 1, "alignment": "direct", **prompt}
        async with gate:
            return await endpoint.prompt_tokens("/completions" if target.raw else "/chat/completions", body)

    around = await one("a") - 1
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(text)) if text else None for text in texts]
    return [task.result() - around if task else 0 for task in tasks]
