"""The sequential rule of the search, as published, in one place: inner searches, and a commit after enough of them.

`steps` says what it needs next and is sent the answer; who answers, when and in which batch is not its business. All
of its state is in `Search`, so a copy can be run ahead under guessed answers (speculate.py).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from heedful.strategies.decode.rain import tree
from heedful.strategies.decode.rain.tree import Constants, Draft, Evaluation, Node


@dataclass(frozen=True)
class StopRule:
    """When the inner searches end and a child is committed. Published defaults."""

    min_visits: int = 6
    max_iterations: int = 50
    extra_iterations: int = 15
    threshold: float = 0.8

    def limit(self, carried: int) -> int:
        """Visits of a root at which to commit in any case; `carried` are those it had when it became the root."""
        return max(self.max_iterations, carried + self.extra_iterations)

    def met(self, child: Node) -> bool:
        return child.visits > self.min_visits and child.value > self.threshold


@dataclass(frozen=True, slots=True)
class Need:
    """What the rule can't go on without: a node's first drafts, its samples, one more, or what a leaf is worth.

    The first drafts are all the single tokens that a node can be continued with, or the greedy set. A look-ahead may
    answer with none: then it is asked at once what the node is worth as a leaf.

    Of the node only what never changes may be read (depth, path, text, end); the rest goes with the need: `number`
    of the sample, and `starts`, where in the text, in characters, the sets on the path begin that lie below the root.
    """

    kind: Literal["first", "samples", "add", "evaluate"]
    node: Node
    number: int = 0
    starts: tuple[int, ...] = ()

    @property
    def key(self) -> tuple[str, int, tuple[int, ...], int]:
        """Equal keys have equal answers."""
        return self.kind, self.node.depth, self.node.path, self.number


@dataclass(frozen=True, slots=True)
class Commit:
    """A token set that is final. `searches` were run for it from `root`, whose child it is."""

    node: Node
    root: Node
    searches: int


SearchReply = Sequence[Draft] | Evaluation
Steps = Generator[Need | Commit, Any, None]


@dataclass(slots=True)
class Search:
    """A search under way. `cursor` is where the descent stands; a root has been visited once by definition.

    (The published search evaluates its first root too, but never reads that value, so it isn't asked for.)
    `eager`: a leaf is expanded when it is evaluated, as published. Otherwise it gets its greedy continuation when it
    is first passed through, and samples when one of them could be selected: the same search with fewer drafts.
    """

    constants: Constants
    rule: StopRule
    root: Node = field(default_factory=lambda: Node(visits=1, weight=1.0))
    eager: bool = False
    cursor: Node = field(init=False)
    carried: int = 0
    searches: int = 0
    floor: int | None = None
    """Of a copy: the depth of the root it was copied from."""

    def __post_init__(self) -> None:
        self.cursor = self.root

    def copy(self) -> Search:
        """The same search, to be run on independently."""
        steps_down = [
            n.parent.children.index(n) for n in self.cursor.lineage() if n.parent and n.parent.children
        ]
        twin = Search(self.constants, self.rule, self.root.copy(), self.eager)
        twin.carried, twin.searches, twin.floor = self.carried, self.searches, self._floor()
        for i in reversed(steps_down):
            assert twin.cursor.children
            twin.cursor = twin.cursor.children[i]
        return twin

    def steps(self) -> Steps:
        """The outer loop, to the end of the answer. Expects an Evaluation for "evaluate", and drafts for all else."""
        while self.root.end is None:
            yield from self._search()
            if self._decided():
                yield self._commit()

    def _search(self) -> Steps:
        """The inner loop, once: select a leaf, evaluate it, back its value up, and so rewind to the root."""
        while self.cursor.visits and self.cursor.end is None:
            node = self.cursor
            if node.children is None:
                if not (yield from self._expand(node)):
                    break
            elif tree.wants_samples(node, self.constants):
                yield from self._widen(node)
            elif tree.wants_addition(node, self.constants):
                single = tree.set_length(node.children) == 1
                sample = None if single else (yield Need("add", node, node.additions + 1))[0]
                tree.add(node, sample, self.constants)
            self.cursor = tree.select(node, self.constants)
        found: Evaluation = yield Need("evaluate", self.cursor, starts=self.cursor.starts[self._floor() :])
        tree.back_up(self.cursor, found, self.constants)
        if self.eager and self.cursor.end is None:
            yield from self._expand(self.cursor)
        self.cursor = self.root
        self.searches += 1

    def _floor(self) -> int:
        """Depth of the root that counts: a copy may have run past a commit that the search itself won't make."""
        return self.root.depth if self.floor is None else self.floor

    def _expand(self, node: Node) -> Generator[Need, Any, bool]:
        """Gives a node children. False where they are unknown, which happens in a look-ahead only."""
        drafts: Sequence[Draft] = yield Need("first", node)
        if len(drafts) > 1:
            tree.expand(node, drafts, self.constants)
        elif drafts:
            tree.begin(node, drafts[0])
            if self.eager or len(drafts[0].tokens) == 1:
                yield from self._widen(node)
        return bool(drafts)

    def _widen(self, node: Node) -> Generator[Need, Any, None]:
        """Gives a node its sampled children beside the greedy one."""
        assert node.greedy is not None
        samples: Sequence[Draft] = yield Need("samples", node)
        tree.expand(node, [node.greedy, *samples], self.constants)

    def _decided(self) -> bool:
        return self.rule.met(tree.best(self.root)) or self.root.visits >= self.rule.limit(self.carried)

    def best_so_far(self) -> Node:
        """Where the most visited path from the root leads to."""
        node = self.root
        while node.children and (child := tree.best(node)).visits:
            node = child
        return node

    def _commit(self) -> Commit:
        node = tree.best(self.root)
        commit = Commit(node, self.root, self.searches)
        tree.make_root(node, self.constants)
        self.root = self.cursor = node
        self.carried, self.searches = node.visits, 0
        return commit


async def drive(
    search: Search,
    reply: Callable[[Need], Awaitable[SearchReply]],
    searched: Callable[[Node, Evaluation], None],
) -> AsyncGenerator[Commit, None]:
    """Runs a search to its end on what `reply` says; `searched` is told of each leaf before it counts."""
    steps = search.steps()
    try:
        step = next(steps)
        while True:
            replied: SearchReply | None = None
            if isinstance(step, Commit):
                yield step
            else:
                replied = await reply(step)
                if isinstance(replied, Evaluation):
                    searched(step.node, replied)
            step = steps.send(replied)
    except StopIteration:
        return
