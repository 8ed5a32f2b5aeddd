"""Living norms: the rules that bear on a question, looked up when it is asked.

Xu et al. 2023, "Align on the Fly: Adapting Chatbot Behavior to Established Norms" (OPO, arXiv 2312.15907). The rules
come before the question as supplementary information, with a caution that they may be incomplete or beside the point.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from heedful.prompts import Prompt, Use
from heedful.retrieval import Filter, Item
from heedful.retrieval.store.readable import Found
from heedful.strategies.budget import counts, counts_exactly, room
from heedful.strategies.context.inline_norms import INLINE, MOST_INLINE, InlineNorm, check_inline, items
from heedful.strategies.context.newest import only_newest
from heedful.strategies.engine import Capability
from heedful.strategies.errors import RequestError
from heedful.strategies.retrieve import AsOf, StoreNames, listed, moment, qualified, require, retrieving
from heedful.strategies.run import ContextStrategy, Resources, Run
from heedful.strategies.types import Context, Message, text_of

_LEAST_ANSWER = 256
_OUR_TAG = re.compile(r"<(?=\s*/?\s*norms\b)", re.IGNORECASE)
_BRACKET_TOKEN = re.compile(r"\[(/?[A-Z_]+)\]")

_GIVEN: dict[str, Any] = {"norms": ["Be kind."], "caution": True}
_USES = {"system": Use({"system": _GIVEN}), "question": Use({"question": _GIVEN | {"question": "?"}})}


@dataclass(frozen=True)
class Norms(ContextStrategy):
    """Gives the model the norms of a store that bear on the question.

    `store`: one, or several whose norms are ranked as one. `k`: at most so many are retrieved; mandatory ones are
    always in, beside those. `max_tokens`: retrieval stops at the first that would pass this total. `scope`:
    "mentioned" means the scopes that the question names (and norms that hold everywhere; all norms where it names
    none), a list means those scopes and everywhere. `tags`: only norms with one of these. `caution`: whether the
    model is told to use them with its own judgement (weak models do better without). `place`: at the question, or in
    the system message. `prompt`: the wording. `as_of`: a time in ISO 8601; the norms are those that stood and held
    then. `extra`: norms that are in no store, taken as if they were: ranked with the others by their meaning;
    `scope`, `tags` and the limits hold for them too. `without`: ids of items that are left out; where several stores
    are listed, STORE/ID. `newest`: where retrieved norms of one scope are on one subject, the cosine of what they say
    being at least this, only the newest of them goes in.
    """

    store: StoreNames = "norms"
    k: Annotated[int, Field(ge=0, le=200)] = 10
    max_tokens: Annotated[int, Field(ge=0)] = 1000
    scope: Literal["mentioned"] | tuple[str, ...] = "mentioned"
    tags: tuple[str, ...] = ()
    caution: bool = True
    place: Literal["question", "system"] = "question"
    prompt: str = "norms/default"
    as_of: AsOf = None
    extra: Annotated[tuple[InlineNorm, ...], Field(max_length=MOST_INLINE)] = ()
    without: Annotated[tuple[str, ...], Field(max_length=MOST_INLINE)] = ()
    newest: Annotated[float, Field(gt=0, le=1)] | None = None
    needs: ClassVar[Capability] = Capability.NONE

    def ready(self, resources: Resources) -> Self:
        require(resources, "norms", listed(self.store), self.prompt, _USES[self.place])
        moment(self.as_of, "norms")
        check_inline(self.extra)
        return self

    async def prepare(self, context: Context, run: Run) -> Context:
        if context.prompt is not None:
            raise RequestError(
                "norms: a strategy before it has written a raw prompt already; put norms first",
                param="alignment.norms",
            )
        prompt, question = run.prompts.get(self.prompt), context.last_user()
        names = listed(self.store)
        with retrieving(run, "norms", names):
            filter = await self._filter(question, run)
            found, gone = await self._find(names, question, filter, run)
        fits, used, dropped = await self._fit(found, context, run)
        dropped += [
            {**self._named(old), "text": old.item.text, "reason": f"older than {self._named(by)['id']}"}
            for old, by in gone
        ]
        run.trace.note(
            "norms",
            prompt=prompt.id,
            store=self.store,
            scopes=None if filter.scopes is None else sorted(filter.scopes),
            tokens="exact" if counts_exactly(run.engine) else "estimated",
            used=used,
            dropped=dropped,
            **({} if self.as_of is None else {"as_of": self.as_of}),
        )
        if not fits:
            return context
        norms = [each.item for each in fits]
        return self._told(context, prompt, norms).with_norms(item.text for item in norms)

    async def _find(
        self, names: tuple[str, ...], question: str, filter: Filter, run: Run
    ) -> tuple[list[Found], list[tuple[Found, Found]]]:
        """The mandatory ones, then the `k` nearest, best first; of the stores, and of what the alignment brings.

        Beside them those that went for a newer one, each with that.
        """
        now = time.time()
        inline = [Found(INLINE, item, 0, None, now) for item in items(self.extra) if filter.passes(item)]
        then = moment(self.as_of, "norms")
        mandatory = await run.stores.mandatory(names, filter, as_of=then)
        found = [each for each in mandatory if not self._leaves_out(each)]
        binding = found + [each for each in inline if each.item.mandatory]
        if not self.k or not question.strip():
            return binding, []
        left_out = [Found(store, Item("-", id=id), 0, None) for store, id in self._left_out(names)]
        bar = [*found, *left_out]
        # Twice as many where some may go: else those would take others' places, and a newer one be missed.
        k = self.k if self.newest is None else 2 * self.k
        near = await run.stores.nearest(names, question, k, filter, bar=bar, as_of=then)
        if others := [each for each in inline if not each.item.mandatory]:
            vectors = await run.stores.embedder.embed([question, *(each.item.text for each in others)])
            scores = (vectors[1:] @ vectors[0]).tolist()
            near += [each._replace(score=score) for each, score in zip(others, scores, strict=True)]
            near = sorted(near, key=lambda each: -(each.score or 0.0))[:k]
        if self.newest is None:
            return binding + near, []
        stay, gone = await only_newest(binding + near, self.newest, run.stores.embedder)
        return stay[: len(binding) + self.k], gone

    def _left_out(self, names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        """Stores, as they are named, and ids of what is left out."""
        if isinstance(self.store, str):
            yield from ((self.store, id) for id in self.without)
            return
        for named in self.without:
            yield from ((s, named.removeprefix(f"{s}/")) for s in names if named.startswith(f"{s}/"))

    def _leaves_out(self, found: Found) -> bool:
        return (found.store, found.item.id) in set(self._left_out((found.store,)))

    async def _filter(self, question: str, run: Run) -> Filter:
        then = moment(self.as_of, "norms")
        at = time.time() if then is None else then
        scopes: frozenset[str] | None = None
        if self.scope == "mentioned":
            known = [*await run.stores.scopes(listed(self.store)), *(n.scope for n in self.extra if n.scope)]
            named = [s for s in known if _mentions(question, s)]
            scopes = frozenset(named) or None
        else:
            scopes = frozenset(self.scope)
        return Filter(
            kind="norm",
            scopes=scopes,
            tags=frozenset(self.tags),
            at=at,
        )

    async def _fit(
        self, found: list[Found], context: Context, run: Run
    ) -> tuple[list[Found], list[dict[str, Any]], list[dict[str, Any]]]:
        """Which norms go in, and for the trace which do and which do not and why.

        The mandatory ones all, the others while there is room.
        """
        left = await room(context, run.engine, answer=_LEAST_ANSWER)
        limit = self.max_tokens if left is None else min(self.max_tokens, left)
        fits: list[Found] = []
        used: list[dict[str, Any]] = []
        dropped: list[dict[str, Any]] = []
        total = 0
        lengths = await counts(run.engine, [f"{f.item.source}: {f.item.text}\n" for f in found])
        for each, tokens in zip(found, lengths, strict=True):
            item, score = each.item, each.score
            entry: dict[str, Any] = {
                **self._named(each),
                "text": item.text,
                "source": item.source,
                "tokens": tokens,
            }
            entry |= {"mandatory": True} if score is None else {"score": round(score, 4)}
            if score is None or (not dropped and total + tokens <= limit):
                total += tokens
                fits.append(each)
                used.append(entry)
            else:
                why = "max_tokens" if limit == self.max_tokens else "no room in the context"
                dropped.append(entry | {"reason": why})
        return fits, used, dropped

    def _named(self, found: Found) -> dict[str, Any]:
        """How the trace names a norm."""
        if found.store == INLINE:
            return {"id": found.item.id, "extra": True}
        return qualified(self.store, found)

    def _told(self, context: Context, prompt: Prompt, norms: list[Item]) -> Context:
        lines = [
            f"{data(item.source)}: {data(item.text)}" if item.source else data(item.text) for item in norms
        ]
        messages = list(context.messages)
        if not context.norms:  # else a step before has done so, and these may be its blocks
            messages = [_without_our_tags(m) for m in messages]
            context = context.with_messages(messages)
        values = {"norms": lines, "caution": self.caution}
        if self.place == "system":
            return context.with_system(prompt.render("system", **values))
        for i in range(len(messages) - 1, -1, -1):
            if messages[i].get("role") == "user":
                content = messages[i].get("content")
                if isinstance(content, list):
                    before = prompt.render("question", question="", **values) + "\n"
                    told: Any = [{"type": "text", "text": before}, *content]
                else:
                    told = prompt.render("question", question=text_of(messages[i]), **values)
                messages[i] = {**messages[i], "content": told}
                return context.with_messages(messages)
        raise RequestError("messages: norms at the question need a user message", param="messages")


def data(text: str) -> str:
    """A norm's text on one line, unable to close its block, open another, or spell a model's control tokens."""
    line = " ".join(text.split()).replace("<", "‹").replace(">", "›")
    return _BRACKET_TOKEN.sub(r"(\1)", line)


def defused(text: str) -> str:
    """A text unable to show a block of norms of its own making."""
    return _OUR_TAG.sub("‹", text)


def _without_our_tags(message: Message) -> Message:
    """A turn, whoever's, unable to show a block of norms of its own making; all else in it stays."""
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": defused(content)} if _OUR_TAG.search(content) else message
    if isinstance(content, list):
        parts = [
            {**p, "text": defused(p["text"])} if isinstance(p, dict) and isinstance(p.get("text"), str) else p
            for p in content
        ]
        return {**message, "content": parts}
    return message


def _mentions(question: str, scope: str) -> bool:
    """Whether a text names a scope, as whole words where the script has them."""
    start = r"\b" if scope[0].isascii() else ""
    end = r"\b" if scope[-1].isascii() else ""
    return re.search(f"{start}{re.escape(scope)}{end}", question, re.IGNORECASE) is not None
