"""The search as a trace shows it: one entry per commit with the branches that were tried, and what it all cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from heedful.strategies.decode.rain.search import Commit
from heedful.strategies.decode.rain.tree import Node


@dataclass(slots=True)
class Record:
    """Bounded to `limit` nodes over the whole request; what did not fit is counted in `left_out`.

    A node is shown as {text, visits, weight, value, prior?, children?, end?}. The committed one among siblings says
    `committed` and has no children of its own here: the next commit goes on from it. Priors, and how many siblings
    stayed unvisited, are unknown where the greedy set was chosen without need to draw the others.
    """

    limit: int
    commits: list[dict[str, Any]] = field(default_factory=list)
    left_out: int = 0
    searches: int = 0
    rewinds: int = 0
    additions: int = 0
    _shown: int = 0
    _last: tuple[int, ...] = ()

    def searched(self, leaf: Node) -> None:
        """Notes one inner search; it is a rewind where it left the branch of the one before."""
        self.searches += 1
        self.rewinds += leaf.path[: len(self._last)] != self._last
        self._last = leaf.path

    def committed(self, commit: Commit) -> None:
        entry: dict[str, Any] = {"text": commit.node.draft.text, "searches": commit.searches}
        siblings = commit.root.children or []
        visited = sorted((s for s in siblings if s.visits), key=lambda s: -s.weight)
        entry["children"] = self._shown_nodes(visited, commit.root.whole, commit.node)
        if commit.root.whole:
            entry["unvisited"] = len(siblings) - len(visited)
        # The committed child's own additions are counted when it has been a root.
        self.additions += commit.root.additions + sum(_additions(s) for s in siblings if s is not commit.node)
        self.commits.append(entry)

    def _shown_nodes(self, nodes: list[Node], whole: bool, committed: Node | None) -> list[dict[str, Any]]:
        shown = []
        for node in nodes:
            if self._shown >= self.limit:
                self.left_out += 1
                continue
            self._shown += 1
            entry: dict[str, Any] = {
                "text": node.draft.text,
                "visits": node.visits,
                "weight": round(node.weight, 3),
                "value": round(node.value, 4),
            }
            if whole:
                entry["prior"] = round(node.prior, 4)
            if node.end is not None:
                entry["end"] = node.end
            if node is committed:
                entry["committed"] = True
            elif children := [c for c in node.children or () if c.visits]:
                entry["children"] = self._shown_nodes(children, node.whole, None)
            shown.append(entry)
        return shown


def _additions(node: Node) -> int:
    return node.additions + sum(_additions(c) for c in node.children or ())
