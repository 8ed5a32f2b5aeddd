"""What a trace tells of a request's search, typed: one `Notes` per choice, and one `Counts` for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from heedful.strategies.decode.rain.search import Commit
from heedful.strategies.decode.rain.tree import End, Node


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
    calls: int = 0
    """Requests to the engine; each sample of a set counts."""


class NodeNote(msgspec.Struct, kw_only=True):
    """A visited node. The committed one has no children here: the next commit goes on from it.

    `visits` are true ones, `weight` those with similarity shares, `value` the mean in [-1, 1], `prior` in [0, 1]
    (unknown where the greedy set was chosen without need to draw the others).
    """

    text: str
    visits: int
    weight: float
    value: float
    prior: float | UnsetType = UNSET
    end: End | UnsetType = UNSET
    committed: bool | UnsetType = UNSET
    children: list[NodeNote] | UnsetType = UNSET


class CommitNote(msgspec.Struct, kw_only=True):
    """A committed token set, the inner searches run for it, and the branches that were tried, most visited first."""

    text: str
    searches: int
    children: list[NodeNote]
    unvisited: int | UnsetType = UNSET
    """Siblings never visited; unknown where they were not drawn."""


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
    nodes_left_out: int = 0


@dataclass(slots=True)
class Shown:
    """Nodes as a trace shows them, `room` of them at most; what does not fit is counted in `left_out`."""

    room: int
    left_out: int = 0

    def commit(self, commit: Commit) -> CommitNote:
        siblings, whole = commit.root.children or [], commit.root.whole
        visited = sorted((s for s in siblings if s.visits), key=lambda s: -s.weight)
        return CommitNote(
            text=commit.node.draft.text,
            searches=commit.searches,
            children=self._nodes(visited, whole, commit.node),
            unvisited=len(siblings) - len(visited) if whole else UNSET,
        )

    def _nodes(self, nodes: list[Node], whole: bool, committed: Node | None) -> list[NodeNote]:
        shown = []
        for node in nodes:
            if not self.room:
                self.left_out += 1
                continue
            self.room -= 1
            note = NodeNote(
                text=node.draft.text,
                visits=node.visits,
                weight=round(node.weight, 3),
                value=round(node.value, 4),
                prior=round(node.prior, 4) if whole else UNSET,
                end=node.end or UNSET,
            )
            if node is committed:
                note.committed = True
            elif children := [c for c in node.children or () if c.visits]:
                note.children = self._nodes(children, node.whole, None)
            shown.append(note)
        return shown


def additions(commit: Commit) -> int:
    """Children added in what a commit settles; the committed child's own are counted when it has been a root."""
    others = (s for s in commit.root.children or () if s is not commit.node)
    return commit.root.additions + sum(map(_additions, others))


def _additions(node: Node) -> int:
    return node.additions + sum(map(_additions, node.children or ()))
