"""One choice of a request: gate, search, and what happens where the search can't go on; several choices merged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import msgspec

from heedful.strategies.decode.rain.drafts import Drafter
from heedful.strategies.decode.rain.evaluate import Evaluator
from heedful.strategies.decode.rain.limits import Budget, NoOpinion, Spent
from heedful.strategies.decode.rain.notes import Gate, Notes, Shown, Speculated, additions
from heedful.strategies.decode.rain.request import RainRequest
from heedful.strategies.decode.rain.search import Commit, Need, Search, SearchReply, drive
from heedful.strategies.decode.rain.speculate import Speculation
from heedful.strategies.decode.rain.tree import Draft, End, Evaluation, Node
from heedful.strategies.decode.rain.value import LeafJudge
from heedful.strategies.decode.rain.writer import Writer
from heedful.strategies.errors import EngineError, RequestError
from heedful.strategies.run import Run
from heedful.strategies.types import Chunk, Event, Finish, KeepAlive, Usage

if TYPE_CHECKING:
    from heedful.strategies.decode.rain.rain import Rain

_QUIET = 10.0  # seconds without a commit after which a stream says that it is still at work


@dataclass(slots=True)
class RainChoice:
    """One choice under way. The first five fields are the request's, the same for all its choices.

    Its state, all of it: `search` (the tree; its root is the last committed node), `writer` (the committed tokens and
    how far their text is out), `finish_reason`, `notes` and `shown` (what the trace will tell), `last` and
    `undecided`. What works for it (`drafter`, and while it searches an `Evaluator` and a `Speculation`) is pure in
    the node it is asked about.
    """

    options: Rain
    request: RainRequest
    run: Run
    judge: LeafJudge
    budget: Budget
    seed: int
    index: int
    drafter: Drafter = field(init=False)
    search: Search = field(init=False)
    writer: Writer = field(init=False)
    notes: Notes = field(init=False)
    shown: Shown = field(init=False)
    finish_reason: End = "length"
    last: tuple[int, ...] = ()
    """Token ids up to the leaf searched last: the next search is a rewind where it does not go on from there."""
    undecided: int | None = field(init=False)
    """Evaluations so far, none with an opinion. None: nobody asks (any more), there was one, or values are graded."""
    started: float = field(default_factory=time.perf_counter)
    searching_since: float = 0.0
    """When the inner search that is under way began."""

    def __post_init__(self) -> None:
        options, engine = self.options, self.run.engine
        self.drafter = Drafter(
            engine, self.request, options, self.seed, self.budget.counts, batched=options.fast
        )
        self.search = Search(options, options.rule_to_stop, eager=not options.fast)
        self.writer = Writer(engine, self.request, self.index)
        self.notes = Notes(choice=self.index, seed=self.seed, mode="fast" if options.fast else "reference")
        self.shown = Shown(options.trace_nodes if (most := self.run.trace.wish.nodes) is None else most)
        self.undecided = None if options.soft or options.value else 0

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """The answer, chunk by chunk; the last one has the finish reason. Notes the trace at its end."""
        async with aclosing(self._sets()) as sets:
            async for draft in sets:
                self.finish_reason = draft.end or self.finish_reason
                if (chunk := await self.writer.write(draft)) is not None:
                    yield chunk
        self._tell()
        yield Chunk.of(index=self.index, finish_reason=self.finish_reason)

    async def _sets(self) -> AsyncGenerator[Draft, None]:
        """The answer's token sets, each final: the gate's draft, or the search's and what goes on from them."""
        after: Node | None = None
        try:
            if self.options.gated and (draft := await self.budget.within(self._gate())) is not None:
                self.notes.outcome = "the plain draft passed"
                yield draft
                return
            async with aclosing(self._searched()) as sets:
                async for draft in sets:
                    yield draft
        except Spent as spent:
            self.notes.outcome = f"the budget {spent} was spent"
            best = self.search.best_so_far()
            self._leave_open(best)
            if best is not self.search.root:
                yield _joined(best)
            if self.options.when_spent == "decode" and best.end is None:
                after = best
        except NoOpinion as error:
            if self.options.no_opinion == "error":
                raise self._refusal() from error
            self.notes.no_opinion = "fell back to plain decoding"
            self.notes.outcome = "plain decoding: the judge has no opinion"
            after = self.search.root
            self._leave_open(after)
        if after is not None:
            async with aclosing(self.drafter.plain(after)) as pieces:
                async for draft in pieces:
                    yield draft

    async def _gate(self) -> Draft | None:
        """A full plain draft, if the judge passes it."""
        async with aclosing(self.drafter.plain(self.search.root, piece=self.request.limit)) as pieces:
            draft = await anext(pieces)
        tokens = draft.tokens
        if tokens and tokens[-1] in self.run.engine.end_tokens:
            tokens = tokens[:-1]
        text = self.request.cut(draft.text)
        verdict = await self.judge.judge(tokens, draft.text if text is None else text)
        self.notes.gate = Gate(verdict.value, len(draft.tokens))
        return draft if verdict.value > self.options.threshold else None

    async def _searched(self) -> AsyncGenerator[Draft, None]:
        """What the search commits. Raises Spent and NoOpinion; no work of its is under way any more then."""
        options = self.options
        embedder = self.run.resources.embedder if options.similarity else None
        evaluator = Evaluator(self.drafter, self.judge, embedder)
        ahead = Speculation(self.search, evaluator.reply, options.parallel_leaves) if options.fast else None

        async def reply(need: Need) -> SearchReply:
            return await self.budget.within((ahead or evaluator).reply(need))

        self.searching_since = time.perf_counter()
        try:
            async with aclosing(drive(self.search, reply, self._saw)) as commits:
                async for commit in commits:
                    if ahead is not None:
                        ahead.committed(commit)
                    self._note(commit)
                    yield commit.node.draft
        finally:
            if ahead is not None:
                await ahead.close()
                self.notes.speculation = Speculated(ahead.begun, ahead.used)

    def _saw(self, leaf: Node, found: Evaluation) -> None:
        """Notes an inner search. Raises NoOpinion when the first `opinion_after` evaluations all had none."""
        rewound = leaf.path[: len(self.last)] != self.last
        self.notes.searches += 1
        self.notes.rewinds += rewound
        self.last = leaf.path
        searched = self.shown.reached(leaf, found, self.notes.searches, rewind=rewound)
        if self.run.trace.listeners:
            self.run.trace.tell("rain", choice=self.index, search=msgspec.to_builtins(searched))
        if span := self.run.span("search", "rain", choice=self.index, rewind=rewound, value=found.value):
            span.start, self.searching_since = self.searching_since, span.start
            span.close()
        if self.undecided is None:
            return
        self.undecided = None if found.opinion else self.undecided + 1
        if self.undecided == self.options.opinion_after:
            self.undecided = None
            if self.options.no_opinion != "continue":
                raise NoOpinion
            self.notes.no_opinion = "went on"

    def _note(self, commit: Commit) -> None:
        note = self.shown.commit(commit)
        self.notes.commits.append(note)
        if self.run.trace.listeners:
            self.run.trace.tell("rain", choice=self.index, commit=msgspec.to_builtins(note))
        self.notes.children_added += additions(commit)

    def _leave_open(self, upto: Node) -> None:
        """Notes what was searched for a commit that did not come; `upto` is the last node that goes out."""
        root, searches = self.search.root, self.search.searches
        if searches:
            self.notes.open = self.shown.open(root, searches, upto if upto is not root else None)

    def _tell(self) -> None:
        notes = self.notes
        if self.request.set_aside:
            notes.sampling_of_plain_decoding_only = list(self.request.set_aside)
        notes.seconds = round(time.perf_counter() - self.started, 3)
        notes.committed_tokens = len(self.writer.tokens)
        notes.nodes_left_out = self.shown.left_out
        self.run.trace.note("rain", **msgspec.to_builtins(notes))

    def _refusal(self) -> RequestError:
        return RequestError(
            f"model {self.run.engine.model!r} has no opinion as a judge: in its first "
            f"{self.options.opinion_after} self-evaluations it took the same letter whichever option it stood for. "
            "Use a larger model, set rain's no_opinion to 'decode' or 'continue', or try soft: true",
            param="alignment.rain.no_opinion",
            code="judge_without_opinion",
        )


def _joined(last: Node) -> Draft:
    """The way from the root to a node that was not committed set by set, as one draft. Its text is not needed."""
    sets = [node.draft for node in last.lineage()][::-1]
    tokens = tuple(token for draft in sets for token in draft.tokens)
    return Draft(tokens, 1.0, "", last.end, tuple(step for draft in sets for step in draft.logprobs))


class Underway(Protocol):
    """One choice of a request, written piece by piece."""

    @property
    def request(self) -> RainRequest: ...
    @property
    def writer(self) -> Writer: ...
    def chunks(self) -> AsyncGenerator[Chunk, None]: ...


async def merged(choices: Sequence[Underway]) -> AsyncGenerator[Event, None]:
    """All choices as they come, then the Finish. Closing it cancels them."""
    queue: asyncio.Queue[Chunk | asyncio.Task[None]] = asyncio.Queue()

    async def work(choice: Underway) -> None:
        async with aclosing(choice.chunks()) as chunks:
            async for chunk in chunks:
                queue.put_nowait(chunk)

    tasks = [asyncio.create_task(work(choice)) for choice in choices]
    for task in tasks:
        task.add_done_callback(queue.put_nowait)
    running, begun = len(tasks), False
    try:
        while running:
            try:
                # Not wait_for: before Python 3.12 it swallows a cancellation that meets a finished get.
                async with asyncio.timeout(_QUIET if begun else None):
                    item = await queue.get()
            except TimeoutError:
                yield KeepAlive()
                continue
            if isinstance(item, Chunk):
                begun = True
                yield item
                continue
            if item.cancelled():
                raise EngineError("the engine broke off its work on this request")
            item.result()
            running -= 1
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    prompt = len(choices[0].request.prompt)
    yield Finish(Usage(prompt, sum(len(choice.writer.tokens) for choice in choices)))
