"""What a trace tells of a request's search, typed: one `Notes` per choice, and one `Counts` for all of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from heedful.strategies.decode.rain.search import Commit
from heedful.strategies.decode.rain.tree import End, Evaluation, Node


class Counts(msgspec.Struct):
    """What a request's search has cost so far, all its choices together."""

    drafted: int = 0
    """Tokens the model wrote: sets, rollouts, plain drafts, and one for each judgement."""
    expansions: int = 0
    """Nodes continued; of these `widened` by samples beside the greedy set."""
    widened: int = 0
    simulations: int = 0
    """Rollouts; a leaf that ends a clause needs none."""
    judgements: int = 0
    """Self-evaluations, both orders of one being one; `judgements_cached` were known by their text."""
    judgements_cached: int = 0
    verdicts: int = 0
    """Texts that verifiers graded; `verdicts_cached` were known."""
    verdicts_cached: int = 0
    calls: int = 0
    """Requests to the engine; each sample of a set counts."""


class NodeNote(msgspec.Struct, kw_only=True):
    """A visited node. The committed one has no children here: the next commit goes on from it.

    `search`: the number of the inner search that reached it first, counted over the whole answer; no two nodes share
    one. `visits` are true ones, `weight` those with similarity shares, `value` the mean in [-1, 1], `prior` in [0, 1]
    (unknown where the greedy set was chosen without need to draw the others). `rewinds`: searches that came to it as
    their leaf from another branch. `taken`: it went out uncommitted, at the end of a budget.
    """

    text: str
    search: int
    visits: int
    weight: float
    value: float
    prior: float | UnsetType = UNSET
    end: End | UnsetType = UNSET
    committed: bool | UnsetType = UNSET
    taken: bool | UnsetType = UNSET
    rewinds: int | UnsetType = UNSET
    children: list[NodeNote] | UnsetType = UNSET


class CommitNote(msgspec.Struct, kw_only=True):
    """A committed token set, the inner searches run for it, and the branches that were tried, most visited first."""

    text: str
    searches: int
    children: list[NodeNote]
    unvisited: int | UnsetType = UNSET
    """Siblings never visited; unknown where they were not drawn."""


class OpenNote(msgspec.Struct):
    """What was searched after the last commit, where the search ended before its answer."""

    searches: int
    children: list[NodeNote]


class SearchNote(msgspec.Struct):
    """One inner search while it is going on, for those who listen: the leaf that it came to, and what that is worth.

    `node` is the number of the search that reached the leaf first (this one, unless the leaf ends the answer), and
    `parent` that of the search that reached its parent; 0: the beginning of the answer.
    """

    number: int
    node: int
    parent: int
    text: str
    value: float
    rewind: bool
    end: End | UnsetType = UNSET


class Gate(msgspec.Struct):
    """What the judge said of the full plain draft: its value in [-1, 1]. `draft_tokens` is the draft's length."""

    value: float
    draft_tokens: int


class Speculated(msgspec.Struct):
    """Work begun ahead: how many of the search's needs were begun, and how many it came to ask for."""

    begun: int
    used: int


class Notes(msgspec.Struct, kw_only=True):
    """One choice's note. What is unset is not told."""

    choice: int
    seed: int
    mode: Literal["reference", "fast"]
    outcome: str = "searched"
    gate: Gate | UnsetType = UNSET
    no_opinion: str | UnsetType = UNSET
    speculation: Speculated | UnsetType = UNSET
    sampling_of_plain_decoding_only: list[str] | UnsetType = UNSET
    """Sampling fields of the client's, which the search does not follow."""
    seconds: float = 0.0
    committed_tokens: int = 0
    searches: int = 0
    """Inner searches; of these `rewinds` left the branch of the one before."""
    rewinds: int = 0
    children_added: int = 0
    """By dynamic node addition, in the part of the tree that the commits have settled."""
    commits: list[CommitNote] = []
    open: OpenNote | UnsetType = UNSET
    nodes_left_out: int = 0


@dataclass(slots=True)
class Shown:
    """Nodes as a trace shows them, `room` of them at most; what does not fit is counted in `left_out`."""

    room: int
    left_out: int = 0
    _first: dict[tuple[int, ...], int] = field(default_factory=lambda: {(): 0})
    """By the tokens up to a node: the search that reached it first."""
    _rewinds: Counter[tuple[int, ...]] = field(default_factory=Counter)
    _taken: frozenset[tuple[int, ...]] = frozenset()

    def reached(self, leaf: Node, found: Evaluation, number: int, *, rewind: bool) -> SearchNote:
        """Takes in one inner search."""
        first = self._first.setdefault(leaf.path, number)
        self._rewinds[leaf.path] += rewind
        parent = self._first[leaf.parent.path if leaf.parent else ()]
        return SearchNote(number, first, parent, leaf.draft.text, found.value, rewind, leaf.end or UNSET)

    def commit(self, commit: Commit) -> CommitNote:
        siblings, whole = commit.root.children or [], commit.root.whole
        visited = _visited(siblings)
        note = CommitNote(
            text=commit.node.draft.text,
            searches=commit.searches,
            children=self._nodes(visited, whole, commit.node),
            unvisited=len(siblings) - len(visited) if whole else UNSET,
        )
        path = commit.node.path
        self._first = {known: n for known, n in self._first.items() if known[: len(path)] == path}
        return note

    def open(self, root: Node, searches: int, taken: Node | None) -> OpenNote:
        """What lies below the last commit; `taken`: the node up to which it went out all the same."""
        self._taken = frozenset(node.path for node in taken.lineage()) if taken else frozenset()
        return OpenNote(searches, self._nodes(_visited(root.children or []), root.whole, None))

    def _nodes(self, nodes: list[Node], whole: bool, committed: Node | None) -> list[NodeNote]:
        shown = []
        for node in nodes:
            if not self.room:
                self.left_out += 1
                continue
            self.room -= 1
            note = NodeNote(
                text=node.draft.text,
                search=self._first[node.path],
                visits=node.visits,
                weight=round(node.weight, 3),
                value=round(node.value, 4),
                prior=round(node.prior, 4) if whole else UNSET,
                end=node.end or UNSET,
            )
            if rewinds := self._rewinds[node.path]:
                note.rewinds = rewinds
            if node.path in self._taken:
                note.taken = True
            if node is committed:
                note.committed = True
            elif children := [c for c in node.children or () if c.visits]:
                note.children = self._nodes(children, node.whole, None)
            shown.append(note)
        return shown


def _visited(nodes: list[Node]) -> list[Node]:
    """Those that were visited, the most visited first."""
    return sorted((node for node in nodes if node.visits), key=lambda node: -node.weight)


def additions(commit: Commit) -> int:
    """Children added in what a commit settles; the committed child's own are counted when it has been a root."""
    others = (s for s in commit.root.children or () if s is not commit.node)
    return commit.root.additions + sum(map(_additions, others))


def _additions(node: Node) -> int:
    return node.additions + sum(map(_additions, node.children or ()))
