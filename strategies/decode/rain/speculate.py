"""The same search, sooner: what the sequential rule will ask for next is predicted and begun beforehand.

Before each wait a copy of the search runs ahead: on known answers where there are some, on a guess for each value
that is not known yet. All that it asks for on its way is begun at once and fills the engine's batch. The rule itself
reads true answers only, so a wrong guess costs work and never changes the search: it commits what it would have
committed alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from heedful.strategies.decode.rain.search import Commit, Need, Search, SearchReply
from heedful.strategies.decode.rain.tree import Evaluation

Key = tuple[str, int, tuple[int, ...], int]


class Speculation:
    """Answers a search's needs from work begun ahead; `leaves` is how many may be under evaluation at once.

    `reply` does the work for one need, purely in the need. `begun` counts the needs that were started, `used` those
    that the search came to ask for. A value not known yet is guessed to be the last one that was found.
    """

    def __init__(self, search: Search, reply: Callable[[Need], Awaitable[SearchReply]], leaves: int) -> None:
        self._search, self._reply, self._leaves = search, reply, leaves
        self._tasks: dict[Key, asyncio.Task[SearchReply]] = {}
        self._dropped: list[asyncio.Task[SearchReply]] = []
        self._asked: set[Key] = set()
        self._guess = Evaluation(1.0)
        self.begun = 0

    @property
    def used(self) -> int:
        return len(self._asked)

    async def reply(self, need: Need) -> SearchReply:
        """The true reply, begun earlier or now."""
        task = self._begin(need)
        if not task.done():
            self._look_ahead()
        reply = await task
        if isinstance(reply, Evaluation):
            self._guess = Evaluation(reply.value)
        self._asked.add(need.key)
        return reply

    def committed(self, commit: Commit) -> None:
        """Drops all work on branches that the commit has cut off."""
        path = commit.node.path
        for key in [k for k in self._tasks if k[2][: len(path)] != path]:
            task = self._tasks.pop(key)
            if not task.done():
                task.cancel()
                self._dropped.append(task)
        self._dropped = [t for t in self._dropped if not t.done()]

    async def close(self) -> None:
        """Aborts everything that is under way."""
        tasks = [*self._tasks.values(), *self._dropped]
        for task in tasks:
            task.cancel()
        # Also collects the errors of work that nobody came to ask for.
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, need: Need) -> asyncio.Task[SearchReply]:
        if (task := self._tasks.get(need.key)) is None:
            task = self._tasks[need.key] = asyncio.ensure_future(self._reply(need))
            self.begun += 1
        return task

    def _look_ahead(self) -> None:
        """Runs a copy of the search on, and begins what it asks for.

        Where a node's children are not known yet, what lies below them can't be foreseen, but all the rest of the
        tree can: there it matters only what value comes up, and that is guessed.
        """
        free = self._leaves - sum(k[0] == "evaluate" and not t.done() for k, t in self._tasks.items())
        steps = self._search.copy().steps()
        guesses = 2 * self._leaves
        try:
            step = next(steps)
            while True:
                if isinstance(step, Commit):
                    step = next(steps)
                    continue
                reply: SearchReply | None = self._guess
                if step.kind != "evaluate" or step.node.end or not step.node.visits:
                    if step.key not in self._tasks and step.kind == "evaluate":
                        if free <= 0:
                            return
                        free -= 1
                    task = self._begin(step)
                    if task.done() and not task.cancelled() and task.exception() is None:
                        reply = task.result()
                    elif step.kind == "samples" or (step.kind == "first" and step.node.parent is not None):
                        reply = ()
                    elif step.kind != "evaluate":
                        return
                if reply is self._guess:
                    if guesses <= 0:
                        return
                    guesses -= 1
                step = steps.send(reply)
        except StopIteration:
            return
