"""RAIN's rules, each against numbers worked out by hand from its published formula."""

from __future__ import annotations

import math

import numpy as np
import pytest

from heedful.strategies.decode.rain import tree
from heedful.strategies.decode.rain.search import Need, Search, StopRule
from heedful.strategies.decode.rain.tree import Constants, Draft, Node, Vector
from heedful.strategies.decode.rain.tree import Evaluation as Leaf

PUBLISHED = Constants()


def sets(*ps: float, length: int = 2) -> list[Draft]:
    return [Draft(tuple(range(10 * i, 10 * i + length)), p) for i, p in enumerate(ps)]


def parent(*priors: float, length: int = 2) -> Node:
    """A node that is no root, with children of these priors."""
    top = Node(visits=1, weight=1.0)
    node = Node(depth=1, parent=top, visits=1, weight=1.0, whole=True)
    top.children = [node]
    node.children = [
        Node(depth=2, path=d.tokens, draft=d, prior=d.p, parent=node) for d in sets(*priors, length=length)
    ]
    return node


def vector(*values: float) -> Vector:
    return np.array(values, np.float32)


def test_published_constants() -> None:
    assert [PUBLISHED.set_length(d) for d in range(6)] == [1, 2, 4, 10, 10, 10]
    assert (PUBLISHED.children, PUBLISHED.top_k, PUBLISHED.temperature) == (10, 15, 1.0)
    assert (PUBLISHED.exploration, PUBLISHED.root_noise) == (2.0, 0.25)
    assert (PUBLISHED.similarity_threshold, PUBLISHED.similarity_weight) == (0.95, 0.2)
    assert (PUBLISHED.max_children, PUBLISHED.add_variance, PUBLISHED.add_below) == (20, 0.03, 0.0)
    assert PUBLISHED.clause_ends == ",.?:;\n"
    assert StopRule() == StopRule(min_visits=6, max_iterations=50, extra_iterations=15, threshold=0.8)


def test_selection_adds_exploration_to_the_scaled_value() -> None:
    node = parent(0.5, 0.3, 0.2)
    node.weight = 4.0
    a, b, c = node.children or []
    a.visits, a.weight, a.value = 2, 2.0, 0.2
    # a: (0.2 + 1) / 2 + 2 · 0.5 · 2 / 3 = 1.2667; b, unvisited: 0 + 2 · 0.3 · 2 = 1.2; c: 0.8
    assert tree.select(node, PUBLISHED) is a
    a.value = 0.0  # 0.5 + 0.6667 = 1.1667
    assert tree.select(node, PUBLISHED) is b
    b.visits, b.weight, b.value = 1, 1.0, -1.0  # 0 + 0.6
    assert tree.select(node, PUBLISHED) is a
    a.value = -0.9  # 0.05 + 0.6667 = 0.7167
    assert tree.select(node, PUBLISHED) is c


def test_an_unvisited_child_counts_as_value_minus_one() -> None:
    node = parent(0.5, 0.5)
    a, b = node.children or []
    a.visits, a.weight, a.value = 1, 1.0, -1.0
    unexploring = Constants(exploration=0.0)
    assert tree.select(node, unexploring) is a  # both score 0, and the first is taken
    b.visits, b.weight, b.value = 1, 1.0, -0.99
    assert tree.select(node, unexploring) is b
    b.weight, b.value = 0.0, 1.0
    assert tree.select(node, unexploring) is a


def test_prior_of_the_greedy_set() -> None:
    """Capped to the samples' sum, then raised at least to their maximum plus minimum."""

    def first(*ps: float) -> float:
        return tree.weigh(sets(*ps))[0][1]

    assert first(0.9, 0.2, 0.1, 0.05) == pytest.approx(0.35)  # 0.9 → sum 0.35
    assert first(0.3, 0.2, 0.1, 0.05) == pytest.approx(0.3)  # between
    assert first(0.01, 0.2, 0.1, 0.05) == pytest.approx(0.25)  # → 0.2 + 0.05
    assert first(0.9, 0.2) == pytest.approx(0.4)  # one sample: twice its probability
    assert first(0.9) == pytest.approx(0.9)
    assert tree.weigh(sets(0.9, 0.05, length=1))[0][1] == pytest.approx(0.9)  # single tokens as they are


def test_expansion_normalises_and_mixes_noise_at_the_root_only() -> None:
    inner, root = parent(1.0).children or [], Node(visits=1, weight=1.0)
    tree.expand(inner[0], sets(0.6, 0.3, 0.1, length=1), PUBLISHED)
    assert [c.prior for c in inner[0].children or []] == pytest.approx([0.6, 0.3, 0.1])
    tree.expand(root, sets(0.6, 0.3, 0.1, length=1), PUBLISHED)
    # 0.75 p + 0.25 / 3
    assert [c.prior for c in root.children or []] == pytest.approx([0.53333, 0.30833, 0.15833], abs=1e-5)
    tree.expand(root, sets(*[0.05] * 12, length=1), PUBLISHED)
    assert len(root.children or []) == 10


def test_samples_are_drawn_when_one_could_be_selected() -> None:
    """At worst both priors are 1/2: c · sqrt(N) · (1/2) · n / (1 + n) against the greedy child's scaled value."""
    node = Node(depth=1, parent=Node(), visits=1, weight=1.0)
    tree.begin(node, sets(0.6)[0])
    (greedy,) = node.children or []
    assert not tree.wants_samples(node, PUBLISHED)  # nothing is visited, and the greedy prior is the largest
    tree.back_up(greedy, Leaf(1.0), PUBLISHED)
    assert not tree.wants_samples(node, PUBLISHED)  # N = 2, n = 1: 0.707 < 1
    tree.back_up(greedy, Leaf(1.0), PUBLISHED)
    assert tree.wants_samples(node, PUBLISHED)  # N = 3, n = 2: 1.155 > 1
    greedy.visits, greedy.weight, greedy.value, node.weight = 1, 1.0, 0.0, 2.0
    assert tree.wants_samples(node, PUBLISHED)  # 0.707 > 0.5
    tree.expand(node, sets(0.6, 0.4), PUBLISHED)
    assert node.children is not None and node.children[0] is greedy
    assert [round(c.prior, 3) for c in node.children] == [0.667, 0.333]  # 2 · 0.4 and 0.4
    assert not tree.wants_samples(node, PUBLISHED)


def test_equal_drafts_count_once() -> None:
    node, (a, b) = Node(visits=1, weight=1.0), sets(0.6, 0.4)
    tree.expand(node, [a, b, a, b], PUBLISHED)
    assert [c.draft for c in node.children or []] == [a, b]


def test_commit_mixes_noise_into_the_new_roots_children() -> None:
    node = parent(0.7, 0.3)
    tree.make_root(node, PUBLISHED)
    assert node.parent is None
    assert [c.prior for c in node.children or []] == pytest.approx([0.65, 0.35])  # 0.75 p + 0.125


def test_back_up_keeps_means_along_the_path() -> None:
    node = parent(0.5, 0.5)
    (a, b), top = node.children or [], node.parent
    tree.back_up(a, Leaf(1.0), PUBLISHED)
    tree.back_up(a, Leaf(-1.0), PUBLISHED)
    tree.back_up(b, Leaf(1.0), PUBLISHED)
    assert (a.visits, a.weight, a.value) == (2, 2.0, 0.0)
    assert (b.visits, b.value) == (1, 1.0)
    assert top is not None
    # The node had one visit of value 0 before: (0 + 1 - 1 + 1) / 4
    assert (node.visits, top.visits) == (4, 4)
    assert node.value == pytest.approx(0.25)


def test_similar_siblings_share_the_value() -> None:
    node = parent(0.4, 0.3, 0.3)
    a, b, c = node.children or []
    b.visits, b.weight, b.value, b.vector = 1, 1.0, -1.0, vector(1.0, 0.2)  # cosine to a: 0.98058
    c.visits, c.weight, c.value, c.vector = 1, 1.0, -1.0, vector(1.0, 0.35)  # 0.94387: not similar enough
    tree.back_up(a, Leaf(1.0, [vector(0.0, 1.0), vector(1.0, 0.0)]), PUBLISHED)
    share = 0.2 * 1 / math.sqrt(1.04)
    assert b.visits == 1
    assert b.weight == pytest.approx(1 + share)
    assert b.value == pytest.approx((-1 + share) / (1 + share))
    assert (c.weight, c.value) == (1.0, -1.0)
    assert (a.weight, node.weight) == (1.0, 2.0)


def test_a_node_keeps_the_mean_of_its_vectors() -> None:
    node = parent(1.0)
    (a,) = node.children or []
    for v in (vector(1, 0), vector(0, 1), vector(0, 1)):
        tree.back_up(a, Leaf(0.0, [vector(1, 1), v]), PUBLISHED)
    assert a.vector is not None
    assert a.vector.tolist() == pytest.approx([1 / 3, 2 / 3])


def bad(node: Node, *spread: float) -> Node:
    """Gives all children a bad value, and vectors whose first coordinates are these."""
    for child, x in zip(node.children or [], spread, strict=True):
        child.visits, child.weight, child.value, child.vector = 1, 1.0, -0.5, vector(x, 1.0)
    return node


def test_a_child_is_wanted_where_all_are_alike_and_bad() -> None:
    # Unbiased variance of (0, d) is d² / 2; the bound for sets of two tokens is 0.06: d < 0.3464.
    assert tree.wants_addition(bad(parent(0.5, 0.5), 0.0, 0.34), PUBLISHED)
    assert not tree.wants_addition(bad(parent(0.5, 0.5), 0.0, 0.35), PUBLISHED)
    assert tree.wants_addition(bad(parent(0.5, 0.5, length=4), 0.0, 0.48), PUBLISHED)  # 0.12: d < 0.4899
    good = bad(parent(0.5, 0.5), 0.0, 0.1)
    assert good.children is not None
    good.children[1].value = 0.0
    assert not tree.wants_addition(good, PUBLISHED)
    unknown = bad(parent(0.5, 0.5), 0.0, 0.1)
    assert unknown.children is not None
    unknown.children[1].vector = None
    assert not tree.wants_addition(unknown, PUBLISHED)
    assert tree.wants_addition(bad(parent(*[1 / 19] * 19), *[0.0] * 19), PUBLISHED)
    assert not tree.wants_addition(bad(parent(*[1 / 20] * 20), *[0.0] * 20), PUBLISHED)


def test_the_next_most_probable_token_is_added() -> None:
    node = parent(1.0)
    tree.expand(node, sets(0.4, 0.3, 0.2, 0.1, length=1), Constants(children=2))
    old = [c.prior for c in node.children or []]
    tree.add(node, None, PUBLISHED)
    assert node.children is not None and len(node.children) == 3
    added = node.children[-1]
    assert added.draft.tokens == (20,)
    assert added.prior == pytest.approx(0.2 / 0.9)  # of the first three
    assert [c.prior for c in node.children[:2]] == old  # not normalised anew


def test_a_fresh_sample_is_added_if_it_is_new() -> None:
    node = parent(1.0)
    tree.expand(node, sets(0.3, 0.2, 0.1), PUBLISHED)  # weights 0.3, 0.2, 0.1
    sample = Draft((7, 8), 0.05)
    tree.add(node, sample, PUBLISHED)
    assert node.children is not None and len(node.children) == 4
    # Ranked: greedy at 2 · 0.05, the sample, then the first two of before: 0.1, 0.05, 0.3, 0.2.
    assert node.children[-1].prior == pytest.approx(0.05 / 0.65)
    tree.add(node, sample, PUBLISHED)
    assert len(node.children) == 4
    assert node.additions == 2


def test_the_root_mixes_noise_into_an_added_prior() -> None:
    root = Node(visits=1, weight=1.0)
    tree.expand(root, sets(0.4, 0.3, 0.2, 0.1, length=1), Constants(children=2))
    tree.add(root, None, PUBLISHED)
    assert root.children is not None
    assert root.children[-1].prior == pytest.approx(0.75 * 0.2 / 0.9 + 0.25 / 3)


def test_stop_rule() -> None:
    """7 visits of which one scored 0 pass, one that scored -1 does not, 11 visits then do (methods page)."""
    rule = StopRule()

    def child(*values: float) -> Node:
        node = parent(1.0)
        (a,) = node.children or []
        for value in values:
            tree.back_up(a, Leaf(value), PUBLISHED)
        return a

    assert not rule.met(child(*[1.0] * 6))
    assert rule.met(child(*[1.0] * 7))
    assert rule.met(child(*[1.0] * 6, 0.0))  # 0.857
    assert not rule.met(child(*[1.0] * 6, -1.0))  # 0.714
    assert rule.met(child(*[1.0] * 10, -1.0))  # 0.818
    assert (rule.limit(0), rule.limit(34), rule.limit(36)) == (50, 50, 51)


def test_the_commit_is_the_most_visited_child_shares_included() -> None:
    node = parent(0.4, 0.3, 0.3)
    a, b, c = node.children or []
    a.visits, a.weight, a.value = 5, 5.0, -1.0
    b.visits, b.weight, b.value = 4, 5.2, -1.0
    assert tree.best(node) is b
    c.visits, c.weight, c.value = 4, 5.2, 0.5
    assert tree.best(node) is c


def run(values: dict[tuple[int, ...], float], rule: StopRule, ends: int = 3) -> tuple[Search, list[object]]:
    """A search whose sets are always 0 (p 0.6) and 1 (p 0.4) and whose values are given by path."""
    constants = Constants(set_lengths=(1,), root_noise=0.0, similarity=False)
    search = Search(constants, rule)
    asked: list[object] = []
    steps = search.steps()
    reply: object = None
    try:
        while True:
            step = steps.send(reply)
            reply = None
            if not isinstance(step, Need):
                asked.append(("commit", step.node.path, step.searches))
            elif step.kind == "first":
                end = "length" if len(step.node.path) + 1 == ends else None
                reply = [Draft((t,), p, end=end) for t, p in ((0, 0.6), (1, 0.4))]  # type: ignore[arg-type]
            else:
                asked.append(step.node.path)
                reply = Leaf(values.get(step.node.path, 1.0))
    except StopIteration:
        return search, asked


def test_a_whole_search_by_hand() -> None:
    """Scores c = 2: child 0 has p 0.6, child 1 p 0.4; N counts the root's own visit.

    N=1: 1.2 and 0.8 → 0 (value -1). N=2: 0 + 0.849 and 1.131 → 1 (value 1). N=3: 1.039 and 1 + 0.693 → (1, 0).
    N=4: 1.2 and 1 + 0.533 → (1, 0, 0), an end. Visits of 1: 3 > 2, value 1 > 0.8: commit 1.
    """
    _, asked = run({(0,): -1.0}, StopRule(min_visits=2))
    assert asked[:5] == [(0,), (1,), (1, 0), (1, 0, 0), ("commit", (1,), 4)]
    # The subtree is kept: (1, 0) has two visits and needs one search; then (1, 0, 0), an end, has two of them.
    assert asked[5:] == [(1, 0, 0), ("commit", (1, 0), 1), (1, 0, 0), ("commit", (1, 0, 0), 1)]


def test_a_search_without_a_good_child_ends_at_its_limit() -> None:
    always_bad = {p: -1.0 for p in [(0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1)]}
    _, asked = run(always_bad, StopRule(max_iterations=6, extra_iterations=5), ends=2)
    # The first root's own visit is one of the six.
    first = asked.index(next(a for a in asked if isinstance(a, tuple) and a[0] == "commit"))
    assert first == 5
    # The new root carries its visits: searches to reach 6, or 5 extra ones, whichever is later.
    committed = asked[first]
    assert isinstance(committed, tuple)
    carried = sum(1 for a in asked[:first] if isinstance(a, tuple) and a[:1] == committed[1])
    second = asked[first + 1 :]
    assert carried > 1
    assert len(second) - 1 == max(6 - carried, 5) == 5
