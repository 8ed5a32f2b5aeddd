"""Best of n, segment by segment: what verifiers like best is kept, streams out, and the next segment goes on from it.

Mudgal et al. 2024, "Controlled Decoding from Language Models" (arXiv 2310.17022, section 4: blockwise best-of-K);
rejection of single segments after Li et al. 2025 (CARDS, arXiv 2406.16306); particles after Puri et al. 2025, "A
Probabilistic Inference Approach to Inference-Time Scaling of LLMs using Particle-Based Monte Carlo Methods"
(arXiv 2502.01618), with systematic in place of multinomial resampling, which loses fewer of equals.
"""

from __future__ import annotations

import math
import os.path
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from heedful.strategies.decode.rain.choice import merged
from heedful.strategies.decode.rain.request import RainRequest, read
from heedful.strategies.decode.rain.tree import Draft, End
from heedful.strategies.decode.rain.writer import Writer
from heedful.strategies.decode.segments import Candidate, Path, Segmenter
from heedful.strategies.engine import Capability, Continuation
from heedful.strategies.errors import RequestError
from heedful.strategies.run import DecodingStrategy, Resources, Run, Streaming
from heedful.strategies.tasks import together
from heedful.strategies.thinking import parted
from heedful.strategies.types import Chunk, Context, Event, Finish, text_of
from heedful.strategies.verifiers.panel import Judgement, Panel, Verified

_SHOWN = 200  # segments of a choice that the trace tells one by one
_EDGE = 1e-4  # of a score, so that its odds are finite


@dataclass(frozen=True)
class Blockwise(Verified):
    """Draws `n` candidates for each segment of the answer and streams the one that the verifiers score highest.

    `keep`: "best" of the n; "first" that all verifiers pass, drawn one at first and the others only where it fails;
    "resample": n answers side by side, resampled by their scores after each segment, of which the best goes out (what
    all of them share streams). `segment`: "fixed", of `tokens`; "uncertain", up to a token whose distribution has
    an entropy of `entropy` nats or more, and `tokens` at most. `spread`: of resampling; 1 goes by the odds of the
    scores, towards 0 the best takes all. `temperature`: of candidates, default the client's; at 0 all are one,
    and there is nothing to choose. `on_error`, `verifier_timeout` and `verifiers` are those of `refine`.
    """

    n: Annotated[int, Field(ge=1, le=64)] = 4
    keep: Literal["best", "first", "resample"] = "best"
    segment: Literal["fixed", "uncertain"] = "fixed"
    tokens: Annotated[int, Field(ge=4, le=1024)] = 16
    entropy: Annotated[float, Field(gt=0, le=20)] = 3.0
    spread: Annotated[float, Field(gt=0, le=100)] = 1.0
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] = 2048
    """Length of an answer in tokens, where the client sets none."""
    step: ClassVar[str] = "blockwise"

    def ready(self, resources: Resources) -> DecodingStrategy:
        if not self.verifiers:
            raise RequestError("blockwise: give at least one verifier", param="alignment.blockwise.verifiers")
        return BySegments(self, self.assemble(resources))


@dataclass(frozen=True)
class BySegments(DecodingStrategy):
    """`Blockwise` with its panel of verifiers."""

    options: Blockwise
    panel: Panel
    streaming: ClassVar[Streaming] = "stream"

    @property
    def needs(self) -> Capability:
        return Capability.TOKENS | self.panel.needs

    async def stream(self, context: Context, run: Run) -> AsyncGenerator[Event, None]:
        for name in ("presence_penalty", "frequency_penalty"):
            if context.params.get(name):
                raise RequestError(
                    f"{name}: the alignment 'blockwise' can't honour it; use repetition_penalty", param=name
                )
        request = await read(context, run.engine, self.options.max_tokens, "blockwise")
        choices = [_Choice(self, context, request, run, index) for index in range(request.n)]
        async with aclosing(merged(choices)) as events:
            async for event in events:
                if isinstance(event, Finish) and run.ledger.calls <= 1:
                    # Of a single call the usage is told as it stands here: of all candidates.
                    event = Finish(run.ledger.spent)
                yield event


@dataclass(slots=True)
class _Judged:
    candidate: Candidate
    judgement: Judgement | None
    """None: there is nothing to judge."""
    silent: bool = False
    """Whether it ends the answer without a word."""

    @property
    def rank(self) -> tuple[float, ...]:
        if self.silent:
            return (-1.0,)
        return (0.0, 1.0, 0.0) if self.judgement is None else self.judgement.rank

    @property
    def passed(self) -> bool:
        return not self.silent and (self.judgement is None or self.judgement.passed)

    @property
    def score(self) -> float:
        return 0.0 if self.silent else 1.0 if self.judgement is None else self.judgement.score

    def facts(self) -> dict[str, Any]:
        draft = self.candidate.draft
        return {
            "text": draft.text,
            "tokens": len(draft.tokens),
            "score": round(self.score, 4),
            "passed": self.passed,
        }


@dataclass(slots=True)
class _Particle:
    path: Path = Path()
    rest: Continuation | None = None
    judged: _Judged | None = None


@dataclass(slots=True)
class _Choice:
    """One choice under way."""

    strategy: BySegments
    context: Context
    request: RainRequest
    run: Run
    index: int
    writer: Writer = field(init=False)
    segmenter: Segmenter = field(init=False)
    n: int = field(init=False)
    begun: str = field(init=False)
    segments: int = 0
    verdicts: int = 0

    def __post_init__(self) -> None:
        options = self.strategy.options
        sampling = dict(self.request.sampling)
        if options.temperature is not None:
            sampling["temperature"] = options.temperature
        self.n = 1 if sampling.get("temperature") == 0 else options.n
        threshold = options.entropy if options.segment == "uncertain" else None
        seed = None if self.request.seed is None else self.request.seed + self.index
        self.writer = Writer(self.run.engine, self.request, self.index)
        self.segmenter = Segmenter(self.run.engine, self.request, options.tokens, threshold, sampling, seed)
        continues = self.context.params.get("continue_final_message") and self.context.messages
        self.begun = text_of(self.context.messages[-1]) if continues else ""

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """The answer, chunk by chunk; the last one has the finish reason."""
        end: End = "length"
        many = self.strategy.options.keep == "resample" and self.n > 1
        async with aclosing(self._particles() if many else self._kept()) as drafts:
            async for draft in drafts:
                end = draft.end or end
                if (chunk := await self.writer.write(draft)) is not None:
                    yield chunk
        self.run.trace.note(
            "blockwise",
            choice=self.index,
            n=self.n,
            segments=self.segments,
            drafted=self.segmenter.drafted,
            tokens=len(self.writer.tokens),
            judged=self.verdicts,
        )
        yield Chunk.of(index=self.index, finish_reason=end)

    async def _kept(self) -> AsyncGenerator[Draft, None]:
        """Segments, each the best of its candidates, or the first that passes."""
        one_by_one = self.strategy.options.keep == "first"
        path, rest = Path(), None
        while path.end is None:
            at_first = 1 if one_by_one else self.n
            judged = await self._judge(path, await self.segmenter.draw(path, at_first, rest))
            if one_by_one and self.n > 1 and not judged[0].passed:
                judged += await self._judge(path, await self.segmenter.draw(path, self.n - 1))
            best = max(range(len(judged)), key=lambda i: judged[i].rank)
            self._note(len(path.tokens), judged, kept=best)
            draft, rest = judged[best].candidate.draft, judged[best].candidate.rest
            path = path.then(draft)
            yield draft

    async def _particles(self) -> AsyncGenerator[Draft, None]:
        """What all particles share, as they grow; at the end the rest of the best."""
        rng = random.Random(self.request.seed)
        particles = [_Particle() for _ in range(self.n)]
        out = 0
        while any(p.path.end is None for p in particles):
            particles = await together(self._grown(p) for p in particles)
            judged = [p.judged for p in particles if p.judged is not None]
            picked = resampled([j.score for j in judged], self.strategy.options.spread, rng)
            self._note(out, judged, kept=picked)
            # What was drawn beyond a segment's end belongs to one of those that go on from it.
            particles = [
                particles[i] if i not in picked[:place] else replace(particles[i], rest=None)
                for place, i in enumerate(picked)
            ]
            shared = len(os.path.commonprefix([p.path.tokens for p in particles]))
            if shared > out:
                path = particles[0].path
                yield Draft(path.tokens[out:shared], 1.0, "", None, path.logprobs[out:shared])
                out = shared
        best = max(particles, key=lambda p: p.judged.rank if p.judged else (-1.0,)).path
        yield Draft(best.tokens[out:], 1.0, "", best.end, best.logprobs[out:])

    async def _grown(self, particle: _Particle) -> _Particle:
        if particle.path.end is not None:
            return particle
        drawn = await self.segmenter.draw(particle.path, 1, particle.rest)
        (judged,) = await self._judge(particle.path, drawn)
        return _Particle(particle.path.then(drawn[0].draft), drawn[0].rest, judged)

    async def _judge(self, path: Path, candidates: Sequence[Candidate]) -> list[_Judged]:
        """Each answer so far, the same text once; nothing where there is nothing to choose from.

        Thoughts, which go out too, are judged until something is said: they may be all that there will be.
        """
        if self.n == 1:
            return [_Judged(candidate, None) for candidate in candidates]
        parts = [parted(path.text + candidate.draft.text) for candidate in candidates]
        texts = [said or thoughts for thoughts, said in parts]
        different = [text for text in dict.fromkeys(texts) if text.strip()]
        self.verdicts += len(different)
        panel = self.strategy.panel
        found = await together(panel.judge(self.context, self.begun + text, self.run) for text in different)
        known = dict(zip(different, found, strict=True))
        return [
            _Judged(candidate, known.get(text), silent=candidate.draft.end is not None and not said.strip())
            for candidate, text, (_, said) in zip(candidates, texts, parts, strict=True)
        ]

    def _note(self, at: int, judged: Sequence[_Judged], *, kept: int | list[int]) -> None:
        """`at`: the tokens before the segment."""
        self.segments += 1
        if self.segments <= _SHOWN and self.n > 1:
            candidates = [each.facts() for each in judged]
            self.run.trace.note("blockwise", choice=self.index, at=at, candidates=candidates, kept=kept)


def resampled(scores: Sequence[float], spread: float, rng: random.Random) -> list[int]:
    """Which of several go on, as many as there are, by the odds of their scores in [0, 1] to the power 1/`spread`.

    Systematic resampling: each goes on as often as its share says, rounded up or down.
    """
    kept = [min(max(score, _EDGE), 1 - _EDGE) for score in scores]
    logs = [(math.log(s) - math.log1p(-s)) / spread for s in kept]
    weights = [math.exp(log - max(logs)) for log in logs]
    step = sum(weights) / len(weights)
    at, passed = rng.random() * step, 0.0
    picked: list[int] = []
    for i, weight in enumerate(weights):
        passed += weight
        while at < passed and len(picked) < len(weights):
            picked.append(i)
            at += step
    return picked + [len(weights) - 1] * (len(weights) - len(picked))
