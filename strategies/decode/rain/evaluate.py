"""Answers the search's needs through the engine: a node's drafts, or what it is worth as a leaf."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from heedful.retrieval.embedding.embedder import Embedder
from heedful.retrieval.errors import EmbedderMissing
from heedful.strategies.decode.rain.drafts import Drafter, together
from heedful.strategies.decode.rain.search import Need, SearchReply
from heedful.strategies.decode.rain.tree import Evaluation, Node, Vector
from heedful.strategies.decode.rain.value import LeafJudge, LeafValue
from heedful.strategies.errors import RetrievalError


@dataclass(slots=True)
class Evaluator:
    """Pure in the node: asked twice, it answers the same. `embedder` None: no similarity update."""

    drafter: Drafter
    judge: LeafJudge
    embedder: Embedder | None
    _ended: dict[tuple[int, ...], Evaluation] = field(default_factory=dict)
    """Of finished answers, by their token ids."""

    async def reply(self, need: Need) -> SearchReply:
        if need.kind == "first":
            return await self.drafter.first(need.node)
        if need.kind == "samples":
            return await self.drafter.samples(need.node)
        if need.kind == "add":
            return await self.drafter.sample(need.node, need.number)
        return await self._evaluate(need.node, need.starts)

    async def _evaluate(self, node: Node, starts: Sequence[int]) -> Evaluation:
        """A rollout, its value and embeddings. A finished answer is scored once, however often reached.

        `starts`: where in the text, in characters, each set on the path begins that gets an embedding.
        """
        if node.end is not None and (known := self._ended.get(node.path)) is not None:
            return known
        tokens, text = await self.drafter.simulate(node)
        if self.embedder is None:
            verdict, vectors = await self.judge.judge(tokens, text), list[Vector]()
        else:
            verdict, vectors = await self._both(tokens, text, [text[start:] for start in starts])
        found = Evaluation(verdict.value, vectors, verdict.opinion)
        if node.end is not None:
            self._ended[node.path] = found
        return found

    async def _both(
        self, tokens: Sequence[int], text: str, texts: list[str]
    ) -> tuple[LeafValue, list[Vector]]:
        assert self.embedder is not None
        embedder = self.embedder
        found: list[Vector] = []
        verdicts: list[LeafValue] = []

        async def judge() -> None:
            verdicts.append(await self.judge.judge(tokens, text))

        async def embed() -> None:
            try:
                found.extend(await embedder.embed(texts))
            except EmbedderMissing as error:
                raise RetrievalError(str(error)) from error

        await together([judge(), embed()], self.drafter.batched)
        return verdicts[0], found
