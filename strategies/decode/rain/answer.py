"""One answer of a request: gate, search, and what happens where the search can't go on; several answers merged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from heedful.strategies.decode.rain import plain
from heedful.strategies.decode.rain.drafts import Counts, Drafter
from heedful.strategies.decode.rain.evaluate import Evaluator
from heedful.strategies.decode.rain.judge import Judge
from heedful.strategies.decode.rain.limits import NoOpinion, Spent, Watch
from heedful.strategies.decode.rain.record import Record
from heedful.strategies.decode.rain.request import Request
from heedful.strategies.decode.rain.search import Answer, Need, Search, drive
from heedful.strategies.decode.rain.speculate import Speculation
from heedful.strategies.decode.rain.tree import Draft, Leaf, Node
from heedful.strategies.decode.rain.writer import Writer
from heedful.strategies.errors import EngineError, RequestError
from heedful.strategies.run import Run
from heedful.strategies.types import Chunk, Context, Event, Finish, KeepAlive, Usage

if TYPE_CHECKING:
    from heedful.strategies.decode.rain.rain import Rain

_QUIET = 10.0  # seconds without a commit after which a stream says that it is still at work
_MARGIN = 1.0  # seconds before the server's own deadline at which a search ends gracefully
_IGNORED = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty")


@dataclass(slots=True)
class Answering:
    """One choice under way. `written` are its committed tokens so far."""

    options: Rain
    request: Request
    context: Context
    run: Run
    judge: Judge
    counts: Counts
    seed: int
    index: int
    written: Writer = field(init=False)
    record: Record = field(init=False)
    notes: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)
    _end: str = "length"

    def __post_init__(self) -> None:
        self.written = Writer(self.run.engine, self.request, self.index)
        self.record = Record(self.options.trace_nodes)

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """The answer, chunk by chunk; the last one has the finish reason. Notes the trace at its end."""
        search = Search(self.options, self.options.rule_to_stop, eager=self.options.parallel_leaves == 1)
        self.notes["outcome"] = "searched"
        watch = self._watch()
        try:
            passed = await watch.within(self._gate()) if self.options.gated else None
            if passed is not None:
                self.notes["outcome"] = "the plain draft passed"
                if (chunk := await self._write(passed)) is not None:
                    yield chunk
            else:
                async with aclosing(self._searched(search, watch)) as searched:
                    async for chunk in searched:
                        yield chunk
        except Spent as spent:
            self.notes["outcome"] = f"the budget {spent} was spent"
            best = search.best_so_far()
            rest = best.path[len(self.written.tokens) :]
            if rest and (chunk := await self._write(_joined(rest, best))) is not None:
                yield chunk
            if self.options.when_spent == "decode" and best.end is None:
                async for chunk in self._decoded(best):
                    yield chunk
        except NoOpinion as error:
            if self.options.no_opinion == "error":
                raise self._refusal() from error
            self.notes["no_opinion"] = "fell back to plain decoding"
            self.notes["outcome"] = "plain decoding: the judge has no opinion"
            async for chunk in self._decoded(search.root):
                yield chunk
        self._note()
        yield Chunk.of(index=self.index, finish_reason=self._end)

    async def _write(self, draft: Draft) -> Chunk | None:
        self._end = draft.end or self._end
        return await self.written.write(draft)

    async def _gate(self) -> Draft | None:
        """A full plain draft, if the judge passes it."""
        async with aclosing(self._plain(Node(), piece=self.request.limit)) as pieces:
            draft = await anext(pieces)
        tokens = draft.tokens
        if tokens and tokens[-1] in self.run.engine.end_tokens:
            tokens = tokens[:-1]
        text = self.request.cut(draft.text)
        verdict = await self.judge.judge(tokens, draft.text if text is None else text)
        self.notes["gate"] = {"value": verdict.value, "draft_tokens": len(draft.tokens)}
        return draft if verdict.value > self.options.threshold else None

    async def _searched(self, search: Search, watch: Watch) -> AsyncGenerator[Chunk, None]:
        """What the search commits. Raises Spent and NoOpinion; no work of its is under way any more then."""
        options = self.options
        fast = options.parallel_leaves > 1
        embedder = self.run.resources.embedder if options.similarity else None
        drafter = Drafter(self.run.engine, self.request, options, self.seed, self.counts, batched=fast)
        evaluator = Evaluator(drafter, self.judge, embedder, batched=fast)
        ahead = Speculation(search, evaluator.answer, options.parallel_leaves) if fast else None

        async def answer(need: Need) -> Answer:
            return await watch.within((evaluator if ahead is None else ahead).answer(need))

        def searched(node: Node, leaf: Leaf) -> None:
            self.record.searched(node)
            try:
                watch.saw(leaf)
            except NoOpinion:
                if options.no_opinion != "continue":
                    raise
                self.notes["no_opinion"] = "went on"

        try:
            async with aclosing(drive(search, answer, searched)) as commits:
                async for commit in commits:
                    if ahead is not None:
                        ahead.committed(commit)
                    self.record.committed(commit)
                    if (chunk := await self._write(commit.node.draft)) is not None:
                        yield chunk
        finally:
            if ahead is not None:
                await ahead.close()
                self.notes["speculation"] = {"begun": ahead.begun, "used": ahead.used}

    async def _decoded(self, after: Node) -> AsyncGenerator[Chunk, None]:
        async with aclosing(self._plain(after)) as pieces:
            async for draft in pieces:
                if (chunk := await self._write(draft)) is not None:
                    yield chunk

    def _plain(self, after: Node, piece: int = plain.PIECE) -> AsyncGenerator[Draft, None]:
        """Plain decoding from a node on, with the client's own sampling."""
        return plain.decode(
            self.run.engine, self.request, self.context.params, self.seed, self.counts, after, piece
        )

    def _watch(self) -> Watch:
        ends: list[tuple[float, str]] = []
        if self.options.max_seconds is not None:
            ends.append((asyncio.get_running_loop().time() + self.options.max_seconds, "max_seconds"))
        if self.run.deadline is not None:
            ends.append((self.run.deadline - _MARGIN, "of the server's request_timeout"))
        deadline, timer = min(ends, default=(None, ""))
        after = 0 if self.options.soft else self.options.opinion_after
        return Watch(self.counts, deadline, timer, self.options.max_drafted_tokens, after)

    def _refusal(self) -> RequestError:
        return RequestError(
            f"model {self.run.engine.model!r} has no opinion as a judge: in its first "
            f"{self.options.opinion_after} self-evaluations it took the same letter whichever option it stood for. "
            "Use a larger model, set rain's no_opinion to 'decode' or 'continue', or try soft: true",
            param="alignment.rain.no_opinion",
            code="judge_without_opinion",
        )

    def _note(self) -> None:
        params, committed = self.context.params, len(self.written.tokens)
        ignored = [name for name in _IGNORED if params.get(name) is not None]
        self.run.trace.note(
            "rain",
            choice=self.index,
            seed=self.seed,
            mode="reference" if self.options.parallel_leaves == 1 else "fast",
            **self.notes,
            **({"sampling_of_plain_decoding_only": ignored} if ignored else {}),
            seconds=round(time.perf_counter() - self.started, 3),
            committed_tokens=committed,
            searches=self.record.searches,
            rewinds=self.record.rewinds,
            children_added=self.record.additions,
            commits=self.record.commits,
            nodes_left_out=self.record.left_out,
        )


def _joined(tokens: tuple[int, ...], last: Node) -> Draft:
    """The way to a node that was not committed set by set, as one draft."""
    logprobs: list[Any] = []
    node: Node | None = last
    while node is not None and node.parent is not None:
        logprobs[:0] = node.draft.logprobs
        node = node.parent
    return Draft(tokens, 1.0, "", last.end, tuple(logprobs))


async def merged(answers: Sequence[Answering]) -> AsyncGenerator[Event, None]:
    """All choices as they come, then the Finish. Closing it cancels them."""
    queue: asyncio.Queue[Chunk | asyncio.Task[None]] = asyncio.Queue()

    async def work(answer: Answering) -> None:
        async with aclosing(answer.chunks()) as chunks:
            async for chunk in chunks:
                queue.put_nowait(chunk)

    tasks = [asyncio.create_task(work(answer)) for answer in answers]
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
    request = answers[0].request
    yield Finish(Usage(len(request.prompt), sum(len(a.written.tokens) for a in answers)))
