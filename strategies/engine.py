"""What a strategy may ask of a language model, whoever runs it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from enum import Flag, auto
from typing import Any, Literal, Protocol

from heedful.strategies.types import Call, Event, Message, Usage


class Capability(Flag):
    """What an engine can do. A strategy names what it needs and is refused where that is missing."""

    NONE = 0
    CHAT = auto()
    """Answers a conversation (a chat API, or a model with a chat template)."""
    COMPLETION = auto()
    """Continues a raw text prompt."""
    PREFILL = auto()
    """Continues an assistant message that the request has begun."""
    LOGPROBS = auto()
    """Reports log-probabilities of the tokens it writes."""
    TOKENS = auto()
    """Token level: tokenizer, chat template and continuation from token ids with log-probabilities."""

    @property
    def names(self) -> list[str]:
        return [c.name.lower() for c in type(self) if c in self and c.name]


@dataclass(slots=True)
class Habits:
    """What use has shown of a model, shared by all requests to it."""

    lacks: Capability = Capability.NONE
    """Capabilities that it was taken to have. An engine no longer counts them among its own."""
    thinks: bool = False
    """Whether it thinks before it speaks, so that a short answer needs more room than its words."""


@dataclass(frozen=True, slots=True)
class Extension:
    """A continuation from token ids: the one token-level request, from a ten-token rollout to a score.

    `logprob_token_ids` are scored as the next token (in the first step's `logprobs`). `logprobs=k` reports the k
    likeliest at every step beside the one taken (None: nothing), before temperature and cuts. `top_k=0` means
    all tokens. Two equal extensions with the same `seed` are the same draw.
    """

    token_ids: Sequence[int]
    max_tokens: int = 16
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    logprob_token_ids: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Continuation:
    """One sampled continuation.

    `logprobs[i]`, where asked for, maps token ids to natural-log probabilities at step i: the token taken,
    and what the extension asked for. `finish_reason` is "stop" (an end token, included in `token_ids` where
    the model wrote it, or a stop string, then named in `stop`) or "length".
    """

    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[Mapping[int, float], ...] = ()
    finish_reason: Literal["stop", "length"] = "length"
    stop: str | None = None


class Engine(Protocol):
    """A language model behind the pipeline. Engines live in `heedful.server.engines` and are handed in.

    Cancelling the task or closing the generator aborts the work at once, everywhere.
    Token-level methods exist only with `Capability.TOKENS`; others raise `MissingCapability`.
    Errors: `RequestError` for what the request has wrong, `EngineError` and its children for the rest.
    """

    @property
    def model(self) -> str: ...
    @property
    def capabilities(self) -> Capability: ...
    @property
    def habits(self) -> Habits: ...
    @property
    def context_length(self) -> int | None:
        """Longest prompt plus answer in tokens, where known."""
        ...

    def chat(self, call: Call) -> AsyncGenerator[Event, None]:
        """Answers a conversation, or continues `call.prompt`. With `call.stream` false: one chunk, whole."""
        ...

    async def render(
        self,
        messages: Sequence[Message],
        *,
        continue_final: bool = False,
        shape: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Token ids of a conversation under the model's chat template, ready for the assistant's turn.

        `continue_final` leaves the last message open so that the model writes on in it. `shape`: the request's fields
        that shape a prompt beside its messages (`prompt_fields`). TOKENS and CHAT.
        """
        ...

    async def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of a text; `special` adds what the model puts around a prompt (BOS). TOKENS."""
        ...

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out. TOKENS."""
        ...

    @property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end an answer. TOKENS."""
        ...

    async def extend(self, extension: Extension) -> list[Continuation]:
        """Continues token ids; `n` results. Concurrent calls share the engine's batch. TOKENS."""
        ...

    async def score(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[list[float]]:
        """Natural-log probability of every token of every continuation of `prompt`, at temperature 1. TOKENS.

        `prompt` and each continuation hold at least one token.
        """
        ...


@dataclass(slots=True)
class StageUsage:
    """What one stage of a request has cost."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Account(Protocol):
    """Who pays for a request."""

    def charge(self, tokens: int) -> None:
        """Takes what a call has cost. Negative: it was less than estimated."""
        ...

    def check(self) -> None:
        """Raises BudgetSpent where no further call may be made."""
        ...


@dataclass(slots=True)
class Ledger:
    """The model calls of one request, by stage (the name of the strategy that made them)."""

    stages: dict[str, StageUsage] = field(default_factory=dict)
    answer: Usage | None = None
    """What the answer itself has cost, once it is finished; all else was hidden."""
    account: Account | None = None
    estimated: bool = False
    """Whether some of it is no engine's count: calls that were cut off."""
    _cut: dict[int, tuple[Call, str, Usage]] = field(default_factory=dict)

    def add(self, stage: str, *, calls: int = 1, prompt_tokens: int, completion_tokens: int) -> None:
        usage = self.stages.setdefault(stage, StageUsage())
        usage.calls += calls
        usage.prompt_tokens += prompt_tokens
        usage.completion_tokens += completion_tokens
        if self.account is not None:
            self.account.charge(prompt_tokens + completion_tokens)

    def check(self) -> None:
        """Before each call. Raises BudgetSpent."""
        if self.account is not None:
            self.account.check()

    @contextmanager
    def reserved(self, tokens: int) -> Iterator[None]:
        """While a call is under way that will read so many: others that would begin meanwhile are checked against
        what it will cost at the least. Raises BudgetSpent."""
        self.check()
        if self.account is None:
            yield
            return
        self.account.charge(tokens)
        try:
            yield
        finally:
            self.account.charge(-tokens)

    def cut_off(self, stage: str, call: Call, estimate: Usage) -> None:
        """A call that was closed before its Finish."""
        self.book(stage, estimate)
        self.estimated = True
        self._cut[id(call)] = call, stage, estimate

    def last_cut(self, stage: str) -> Call | None:
        """The latest call of a stage that was cut off and not counted anew since."""
        return next((call for call, at, _ in reversed(self._cut.values()) if at == stage), None)

    def recount(self, stage: str, call: Call, usage: Usage) -> None:
        """The same call, by who has counted it."""
        if (cut := self._cut.pop(id(call), None)) is not None:
            _, at, estimate = cut
            self.add(
                at,
                calls=-1,
                prompt_tokens=-estimate.prompt_tokens,
                completion_tokens=-estimate.completion_tokens,
            )
        self.book(stage, usage)

    def book(self, stage: str, usage: Usage) -> None:
        """One call, by what its Finish says."""
        self.add(stage, prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)

    @property
    def calls(self) -> int:
        return sum(s.calls for s in self.stages.values())

    @property
    def spent(self) -> Usage:
        """All calls so far."""
        stages = self.stages.values()
        return Usage(sum(s.prompt_tokens for s in stages), sum(s.completion_tokens for s in stages))

    def usage(self, answer: Usage) -> Usage:
        """The whole request's usage. One call: the engine's own figures, whole. More: the sum, split by stage."""
        self.answer = answer
        return answer if self.calls <= 1 else self.split

    @property
    def split(self) -> Usage:
        """The same as `spent`, with what each stage has cost; nothing where no call was made."""
        if not self.stages:
            return Usage()
        stages = {name: asdict(stage) for name, stage in self.stages.items()}
        return replace(self.spent, extra={"alignment_details": stages})
