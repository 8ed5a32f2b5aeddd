"""The search tree and its published rules: selection, priors, back-up, similarity update, dynamic addition.

Pure and synchronous; no engine. Li et al. 2023, "RAIN: Your Language Models Can Align Themselves without Finetuning"
(arXiv 2309.07124), with the details of the authors' released code where paper and code differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

Vector = NDArray[np.float32]
"""An embedding, of shape (the embedder's dimension,)."""
End = Literal["stop", "length"]
"""Why an answer ends, as OpenAI's finish_reason has it."""
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Constants:
    """The published constants of the search (task HH harmlessness)."""

    set_lengths: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 2, 4, 10)
    """Tokens in a set at depth 0, 1, 2, ...; the last holds for all deeper ones."""
    children: Annotated[int, Field(ge=1, le=20)] = 10
    """Children of an expanded node: the likeliest tokens, or one greedy continuation and samples."""
    top_k: Annotated[int, Field(ge=1, le=20)] = 15
    """Sampled sets are drawn from the k likeliest tokens."""
    temperature: Positive = 1.0
    """Of the sampled sets."""
    exploration: Annotated[float, Field(ge=0)] = 2.0
    """c in u = c · p · sqrt(N) / (1 + n)."""
    root_noise: Share = 0.25
    """Share of the uniform distribution in the priors of a root's children."""
    similarity: bool = True
    """Whether siblings whose texts mean the same share values."""
    similarity_threshold: Annotated[float, Field(ge=-1, le=1)] = 0.95
    similarity_weight: Annotated[float, Field(ge=0, le=1)] = 0.2
    max_children: Annotated[int, Field(ge=1, le=20)] = 20
    """Dynamic addition stops at this many children."""
    add_variance: Annotated[float, Field(ge=0)] = 0.03
    """A child is added where the norm of the children's embedding variance is below this, per token of the set."""
    add_below: float = 0.0
    """... and the best child's value is below this."""
    simulate: Literal["clause", "end"] = "clause"
    """How far a leaf's text is sampled on before it is judged: to the end of its clause, or of the answer."""
    clause_ends: str = ",.?:;\n"
    max_simulation: Annotated[int, Field(ge=1)] | None = None
    """Tokens after which a simulation stops anyway; unset: the answer's own limit."""

    def set_length(self, depth: int) -> int:
        return self.set_lengths[min(depth, len(self.set_lengths) - 1)]


@dataclass(frozen=True, slots=True)
class Draft:
    """One token set that a node may be continued with: an edge of the tree.

    `tokens`: their ids, as many as `Constants.set_length` says, or fewer where the answer ends. `p` is the set's
    probability, in [0, 1], under the cut distribution it was drawn from. `text` is what it adds to the node's. `end`:
    an end token, a stop string or the length limit is reached. `logprobs`, where the client wants them, has one
    entry per token: natural-log probabilities by token id.
    """

    tokens: tuple[int, ...]
    p: float
    text: str = ""
    end: End | None = None
    logprobs: tuple[Mapping[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a rollout and its judge found out about a leaf.

    `value` in [-1, 1]. `vectors`: embeddings of the text from the beginning of each set on the path to the end of
    the rollout; the last one belongs to the leaf itself. `opinion` is false where the two orders cancelled.
    """

    value: float
    vectors: Sequence[Vector] = ()
    opinion: bool = True


@dataclass(slots=True, eq=False)
class Node:
    """A state of the answer: the tokens up to here, and what the search knows about it.

    `depth` counts token sets from the answer's beginning. `path` are all the answer's token ids up to here, the
    prompt's not among them, and `text` what they say. `prior` is the node's share of its siblings, in [0, 1]; `value`
    the mean of what was backed up, in [-1, 1]; `vector` the mean embedding of the rollouts through it.
    `visits` counts true visits (the stop rule's), `weight` also the shares from similar siblings (selection's and
    the commit's). `children` is None until the node is first passed through, and the greedy continuation alone
    until a sampled one could be chosen before it; `whole` says that they are all there.
    """

    depth: int = 0
    path: tuple[int, ...] = ()
    text: str = ""
    starts: tuple[int, ...] = ()
    """Where in the text, in characters, the sets on the path begin; one for each, from the first of the answer."""
    draft: Draft = Draft((), 1.0)
    prior: float = 1.0
    parent: Node | None = None
    end: End | None = None
    visits: int = 0
    weight: float = 0.0
    value: float = 0.0
    vector: Vector | None = None
    children: list[Node] | None = None
    whole: bool = False
    ranking: list[tuple[Draft, float]] = field(default_factory=list)
    """All drafts seen for this node with their weights, as dynamic addition ranks them."""
    greedy: Draft | None = None
    additions: int = 0

    def lineage(self) -> Iterator[Node]:
        """This node and its ancestors, up to the root's child."""
        node = self
        while node.parent is not None:
            yield node
            node = node.parent

    def copy(self, parent: Node | None = None) -> Node:
        """The tree below, to be changed independently. Drafts and vectors are shared: they never change."""
        # Positional: this runs for every node of every prediction.
        twin = Node(
            self.depth,
            self.path,
            self.text,
            self.starts,
            self.draft,
            self.prior,
            parent,
            self.end,
            self.visits,
            self.weight,
            self.value,
            self.vector,
            None,
            self.whole,
            self.ranking,
            self.greedy,
            self.additions,
        )
        if self.children is not None:
            twin.children = [child.copy(twin) for child in self.children]
        return twin


def weigh(drafts: Sequence[Draft]) -> list[tuple[Draft, float]]:
    """Prior weights of a greedy set (the first) and sampled ones, before they are normalised.

    A sample weighs its probability. The greedy set's is capped to the samples' sum, then raised at least to their
    maximum plus minimum. Sets of one token weigh their probabilities.
    """
    if not drafts or len(drafts) == 1 or all(len(d.tokens) == 1 for d in drafts):
        return [(d, d.p) for d in drafts]
    greedy, *samples = drafts
    ps = [s.p for s in samples]
    first = max(min(greedy.p, sum(ps)), max(ps) + min(ps))
    return [(greedy, first), *((s, s.p) for s in samples)]


def normalised(weights: Sequence[float], noise: float = 0.0) -> list[float]:
    """Weights as probabilities, with a share `noise` of the uniform distribution mixed in."""
    total, n = sum(weights), len(weights)
    # Long sets can be so unlikely that all weights vanish.
    flat = [w / total for w in weights] if total > 0 else [1 / n] * n
    return [(1 - noise) * p + noise / n for p in flat]


def expand(node: Node, drafts: Sequence[Draft], constants: Constants) -> None:
    """Gives a node its children; of single tokens the likeliest, the rest being kept for dynamic addition.

    Equal drafts count once. A greedy child that is there already stays, and gets its prior.
    """
    distinct: dict[tuple[int, ...], Draft] = {}
    for draft in drafts:
        distinct.setdefault(draft.tokens, draft)
    begun = node.children[0] if node.children and not node.whole else None
    node.greedy, node.whole = drafts[0], True
    node.ranking = weigh(list(distinct.values()))
    chosen = node.ranking[: constants.children]
    noise = constants.root_noise if node.parent is None else 0.0
    priors = normalised([w for _, w in chosen], noise)
    node.children = [_child(node, d, p) for (d, _), p in zip(chosen, priors, strict=True)]
    if begun is not None:
        begun.prior, node.children[0] = priors[0], begun


def begin(node: Node, greedy: Draft) -> None:
    """Gives a node its greedy child alone: the first choice whatever the samples are, since its prior is no smaller.

    That holds for sets of several tokens; single ones weigh what they weigh.
    """
    node.greedy = greedy
    node.children = [_child(node, greedy, 1.0)]


def wants_samples(node: Node, constants: Constants) -> bool:
    """Whether a sample that isn't drawn yet could be selected before the greedy child, the only one known.

    Of two priors that sum to at most 1 the greedy one is no smaller, so a sample gains most on it where both are 1/2:
    then by c · sqrt(N) · (1/2) · (1 - 1 / (1 + n)), against the greedy child's scaled value.
    """
    if node.whole or not node.children:
        return False
    (greedy,) = node.children
    gain = constants.exploration * math.sqrt(node.weight) * greedy.weight / (1 + greedy.weight) / 2
    # The margin is for rounding: a tie goes to the greedy child, the first.
    return greedy.weight > 0 and gain > _scaled(greedy) - 1e-9


def _child(node: Node, draft: Draft, prior: float) -> Node:
    return Node(
        depth=node.depth + 1,
        path=node.path + draft.tokens,
        text=node.text + draft.text,
        starts=(*node.starts, len(node.text)),
        draft=draft,
        prior=prior,
        parent=node,
        end=draft.end,
    )


def select(node: Node, constants: Constants) -> Node:
    """The child with the largest qh + u; the first of equals.

    qh is the mean value on [0, 1], u = c · p · sqrt(N) / (1 + n): p the child's prior, n its visits and N the node's,
    both with similarity shares.
    """
    assert node.children
    scale = constants.exploration * math.sqrt(node.weight)
    return max(node.children, key=lambda c: _scaled(c) + scale * c.prior / (1 + c.weight))


def _scaled(node: Node) -> float:
    """The mean value on [0, 1]: values lie in [-1, 1], and so do the published running bounds."""
    return (node.value + 1) / 2 if node.weight else 0.0


def best(node: Node) -> Node:
    """The child with the most visits, similarity shares included; of equals the one of the highest value."""
    assert node.children
    return max(node.children, key=lambda c: (c.weight, c.value))


def back_up(leaf: Node, found: Evaluation, constants: Constants) -> None:
    """Adds a leaf's value to its whole path, and a share of it to siblings along the path that mean the same.

    n += 1, q += (v - q) / n on the path; a sibling of cosine similarity s gets the weight s · similarity_weight.
    """
    vectors = list(found.vectors)
    node: Node | None = leaf
    while node is not None:
        node.visits += 1
        node.weight += 1
        if node.parent is not None and vectors:
            vector = vectors.pop()
            old = node.vector
            node.vector = vector if old is None else old + (vector - old) / np.float32(node.visits)
            _share(node, found.value, constants)
        node.value += (found.value - node.value) / node.weight
        node = node.parent


def _share(node: Node, value: float, constants: Constants) -> None:
    assert node.parent is not None and node.parent.children is not None and node.vector is not None
    for sibling in node.parent.children:
        if sibling is node or sibling.vector is None:
            continue
        cosine = _cosine(node.vector, sibling.vector)
        if cosine >= constants.similarity_threshold:
            share = constants.similarity_weight * cosine
            sibling.weight += share
            sibling.value += (value - sibling.value) * share / sibling.weight


def _cosine(a: Vector, b: Vector) -> float:
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm else 0.0


def wants_addition(node: Node, constants: Constants) -> bool:
    """Whether the children are few, all known, all alike and all bad."""
    children = node.children
    if not children or not 2 <= len(children) < constants.max_children:
        return False
    if max(c.value for c in children) >= constants.add_below:
        return False
    vectors = [c.vector for c in children if c.vector is not None]
    if len(vectors) < len(children):
        return False
    spread = float(np.linalg.norm(np.var(np.stack(vectors), axis=0, ddof=1)))
    return spread < constants.add_variance * set_length(children)


def set_length(children: Sequence[Node]) -> int:
    """Tokens in a whole set; one that met its end may be shorter."""
    return max(len(c.draft.tokens) for c in children)


def add(node: Node, sample: Draft | None, constants: Constants) -> None:
    """Adds one child: the next most probable token (`sample` None), or a fresh sample if it is new.

    Its prior is its share among the drafts ranked so far; those of the other children stay as they are.
    """
    assert node.children is not None and node.greedy is not None
    node.additions += 1
    if sample is not None:
        fresh = [node.greedy] if sample.tokens == node.greedy.tokens else [node.greedy, sample]
        node.ranking = weigh(fresh) + node.ranking
    ranked = node.ranking[: len(node.children) + 1]
    noise = constants.root_noise if node.parent is None else 0.0
    priors = normalised([w for _, w in ranked], noise)
    known = {c.draft.tokens for c in node.children}
    for (draft, _), prior in zip(ranked, priors, strict=True):
        if draft.tokens not in known:
            node.children.append(_child(node, draft, prior))
            return


def make_root(node: Node, constants: Constants) -> None:
    """Cuts a committed child off from its parent; its children's priors get the root's noise."""
    node.parent = None
    if node.children:
        for child, prior in zip(
            node.children, normalised([c.prior for c in node.children], constants.root_noise), strict=True
        ):
            child.prior = prior
