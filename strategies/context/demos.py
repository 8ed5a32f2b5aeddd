"""Demonstrations like the question, retrieved and put before it.

Han 2023, "In-Context Alignment: Chat with Vanilla Language Models Before Fine-Tuning" (arXiv 2308.04275): the nearest
20 by their prompts, none longer than 500 tokens, as many as 3,000 tokens hold (1,000 for short contexts), the most
similar last. The paper is single-turn: of a conversation we search with the last user turn and keep it whole.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field

from heedful.prompts import Prompt, Use
from heedful.retrieval import Filter, Item
from heedful.retrieval.store.readable import Found
from heedful.strategies.budget import counts, counts_exactly, room
from heedful.strategies.context.raw import FORM_NEEDS, TURNS, PromptForm, chosen_form, raw_context, transcript
from heedful.strategies.engine import Capability
from heedful.strategies.errors import RequestError
from heedful.strategies.retrieve import AsOf, StoreNames, listed, moment, qualified, require, retrieving
from heedful.strategies.run import ContextStrategy, Resources, Run
from heedful.strategies.types import Context, Message

_SHORT_CONTEXT = 4096
_LEAST_ANSWER = 256

_DEMO = Item("?", answer="!")
_EXAMPLE = {"example": {"demo": _DEMO}}
_CHAT = _EXAMPLE | {"chat_prompt": {"demo": _DEMO}, "chat_answer": {"demo": _DEMO}}
_RAW: dict[str, dict[str, Any]] = {
    **_EXAMPLE,
    "raw": {"examples": [_DEMO], "system": "Be kind.", "turns": TURNS},
}
_USES = {
    "auto": Use(_CHAT | _RAW, {"stops": list[str]}),
    "raw": Use(_RAW, {"stops": list[str]}),
    "chat": Use(_CHAT),
}


@dataclass(frozen=True)
class Demos(ContextStrategy):
    """Puts the most similar demonstrations of a store before the conversation.

    `store`: one, or several that are looked through as one. `k`: how many to look at. `max_example_tokens`: longer
    ones are passed over. `budget`: tokens for all of them (default 3,000, or 1,000 where the context is shorter than
    4,096). The conversation and room for the answer always come first. `form`: "raw" continues a transcript (base
    models), "chat" gives them as earlier turns, "auto" is raw exactly where the model has no chat template. `place`
    (chat form): "first" is before the whole conversation, "last" right before the last user turn, which keeps the
    history's prefix cached. `diversity` above 0 trades similarity for variety (maximal marginal relevance). `tags`:
    only those with one of these. `max_tokens` and `temperature` are the raw form's defaults. `as_of`: a time in ISO
    8601; the demonstrations are those that stood then (not with `diversity`).
    """

    store: StoreNames = "demos"
    k: Annotated[int, Field(ge=1, le=200)] = 20
    max_example_tokens: Annotated[int, Field(ge=1)] = 500
    budget: Annotated[int, Field(ge=0)] | None = None
    form: PromptForm = "auto"
    place: Literal["first", "last"] = "first"
    diversity: Annotated[float, Field(ge=0, lt=1)] = 0.0
    tags: tuple[str, ...] = ()
    prompt: str = "demos/default"
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    max_tokens: Annotated[int, Field(ge=1)] = 1000
    as_of: AsOf = None

    @property
    def needs(self) -> Capability:
        return FORM_NEEDS[self.form]

    def ready(self, resources: Resources) -> Self:
        require(resources, "demos", listed(self.store), self.prompt, _USES[self.form])
        if moment(self.as_of, "demos") is not None and self.diversity:
            raise RequestError(
                "demos: what has ended has no vectors to tell variety by; leave out diversity, or as_of",
                param="alignment.demos.as_of",
            )
        return self

    async def prepare(self, context: Context, run: Run) -> Context:
        form, prompt = chosen_form(self.form, run.engine, "demos"), run.prompts.get(self.prompt)
        if context.prompt is not None:
            raise RequestError(
                "demos: a strategy before it has written a raw prompt already; leave one of them out",
                param="alignment.demos",
            )
        hits = await self._search(context, run)
        text = self._raw_text(context, prompt, []) if form == "raw" else None
        left = await room(context, run.engine, answer=_LEAST_ANSWER, prompt=text)
        chosen, dropped = await self._choose(hits, prompt, run, left)
        run.trace.note(
            "demos",
            prompt=prompt.id,
            store=self.store,
            form=form,
            tokens="exact" if counts_exactly(run.engine) else "estimated",
            room=left,
            used=[
                {
                    **qualified(self.store, h),
                    "text": h.item.text,
                    "answer": h.item.answer,
                    "score": round(h.score or 0.0, 4),
                    "tokens": n,
                }
                for h, n in chosen
            ],
            dropped=dropped,
            **({} if self.as_of is None else {"as_of": self.as_of}),
        )
        nearest_last = [hit for hit, _ in sorted(chosen, key=lambda c: c[0].score or 0.0)]
        if form == "chat":
            return self._chat(context, prompt, nearest_last)
        defaults = {"temperature": self.temperature}
        longest = self.max_tokens
        if left is not None:
            longest = min(longest, left + _LEAST_ANSWER - sum(tokens for _, tokens in chosen))
        raw = self._raw_text(context, prompt, nearest_last)
        return raw_context(context, raw, prompt.data["stops"], max(1, longest), defaults)

    async def _search(self, context: Context, run: Run) -> list[Found]:
        question, stores = context.last_user(), run.stores
        if not question.strip():
            return []
        then = moment(self.as_of, "demos")
        at = time.time() if then is None else then
        wanted = Filter(kind="demo", tags=frozenset(self.tags), at=at)
        names = listed(self.store)
        with retrieving(run, "demos", names):
            hits = await stores.nearest(names, question, self.k, wanted, as_of=then)
            if not self.diversity or not hits:
                return hits
            hits.sort(key=lambda hit: hit.store)  # vectors come store by store
            vectors: list[Any] = []
            for name, some in groupby(hits, key=lambda hit: hit.store):
                store = await stores.open(name)
                vectors.append(await stores.call(store.vectors, [hit.item.id for hit in some]))
        scores = [hit.score or 0.0 for hit in hits]
        return [hits[i] for i in _marginal_relevance(scores, np.concatenate(vectors), self.diversity)]

    async def _choose(
        self, hits: Sequence[Found], prompt: Prompt, run: Run, left: int | None
    ) -> tuple[list[tuple[Found, int]], list[dict[str, Any]]]:
        """As the paper: passes over the long ones, and stops at the first that the budget can't hold."""
        budget = self.budget
        if budget is None:
            length = run.engine.context_length
            budget = 3000 if length is None or length >= _SHORT_CONTEXT else 1000
        limit = budget if left is None else min(budget, left)
        chosen: list[tuple[Found, int]] = []
        dropped: list[dict[str, Any]] = []
        total, full = 0, False
        examples = [prompt.render("example", demo=hit.item) + "\n\n" for hit in hits]
        for hit, tokens in zip(hits, await counts(run.engine, examples), strict=True):
            name = qualified(self.store, hit)
            if tokens > self.max_example_tokens:
                dropped.append({**name, "tokens": tokens, "reason": "longer than max_example_tokens"})
            elif full or total + tokens > limit:
                full = True
                why = "budget" if limit == budget else "no room in the context"
                dropped.append({**name, "tokens": tokens, "reason": why})
            else:
                total += tokens
                chosen.append((hit, tokens))
        return chosen, dropped

    def _chat(self, context: Context, prompt: Prompt, hits: Sequence[Found]) -> Context:
        turns: list[Message] = []
        for hit in hits:
            turns.append({"role": "user", "content": prompt.render("chat_prompt", demo=hit.item)})
            turns.append({"role": "assistant", "content": prompt.render("chat_answer", demo=hit.item)})
        messages = list(context.messages)
        if self.place == "first":
            at = next((i for i, m in enumerate(messages) if m.get("role") not in ("system", "developer")), 0)
        else:
            at = max((i for i, m in enumerate(messages) if m.get("role") == "user"), default=len(messages))
        return context.with_messages([*messages[:at], *turns, *messages[at:]])

    def _raw_text(self, context: Context, prompt: Prompt, hits: Sequence[Found]) -> str:
        system, turns = transcript(context.messages)
        return prompt.render("raw", examples=[hit.item for hit in hits], system=system, turns=turns)


def _marginal_relevance(scores: Sequence[float], vectors: Any, diversity: float) -> list[int]:
    """Carbonell & Goldstein 1998: each next one is like the question and unlike those taken. The order of choice."""
    alike = np.asarray(vectors) @ np.asarray(vectors).T
    left, taken = list(range(len(scores))), list[int]()
    while left:
        best = max(
            left,
            key=lambda i: (
                (1 - diversity) * scores[i] - diversity * max((alike[i, j] for j in taken), default=0.0)
            ),
        )
        taken.append(best)
        left.remove(best)
    return taken
