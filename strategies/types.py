"""The values that travel through the pipeline: a request, the context a model sees, and the events it emits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from heedful.strategies.errors import RequestError

if TYPE_CHECKING:
    from heedful.strategies.plan import Plan

Message = Mapping[str, Any]
"""One chat message exactly as the client wrote it: role, content (text or parts), tool calls, ..."""

# What a hidden call (a critique, a judgement, a reasoning step) must not inherit from the client's request:
# these shape the *answer*, while all else (temperature, seed, user, priority, ...) steers sampling or routing.
_ANSWER_PARAMS = frozenset(
    "n tools tool_choice parallel_tool_calls functions function_call response_format structured_outputs "
    "logprobs top_logprobs prompt_logprobs stop stop_token_ids include_stop_str_in_output max_tokens "
    "max_completion_tokens min_tokens stream_options echo continue_final_message add_generation_prompt "
    "logit_bias prediction modalities audio return_token_ids request_id".split()
)
# OpenAI's limit on `n`.
MOST_CHOICES = 128


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What the client asked. `params` holds every other body field (temperature, tools, ...) untouched."""

    model: str
    messages: tuple[Message, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """One request to an engine. With `prompt` set the model continues that raw text and `messages` is unused."""

    messages: tuple[Message, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    prompt: str | None = None
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Context:
    """What the model will see, beside what the client sent.

    Context strategies return a new Context with other `messages`, `params` or `prompt`; `original` is never
    rewritten (but where values are redacted, which no model may see), so any strategy can still read the unaligned
    conversation. `norms` are the texts of the rules that bind this answer, for strategies that judge by them: each
    step adds to them. `ahead` is what steps have put into the system message, before the client's own, and `enforced`
    the beginning of it, which stays its beginning.
    """

    original: ChatRequest
    messages: tuple[Message, ...]
    params: Mapping[str, Any]
    prompt: str | None = None
    norms: tuple[str, ...] = ()
    refusal: str | None = None
    """The whole answer, settled without a model: nothing is generated."""
    restore: Mapping[str, str] = field(default_factory=dict)
    """Placeholders that the answer may hold, and the values that go out in their place."""
    then: Plan | None = None
    """The alignment that answers in place of the one that was asked for."""
    judged: Literal["answer", "question"] = "answer"
    """What verifiers are given to judge: an answer to `original`, or what its last turn asks."""
    ahead: str = ""
    enforced: str = ""

    @classmethod
    def of(cls, request: ChatRequest) -> Context:
        return cls(original=request, messages=request.messages, params=request.params)

    def call(self, *, stream: bool | None = None) -> Call:
        """The engine call that answers this context; streams when the client does unless told otherwise."""
        streams = self.original.stream if stream is None else stream
        params = self.params
        if self.original.stream and not streams:
            # The client streams but not this call, and engines refuse a stream's options where there is none.
            params = {k: v for k, v in params.items() if k != "stream_options"}
        return Call(self.messages, params, self.prompt, streams)

    def with_messages(self, messages: Sequence[Message]) -> Context:
        return replace(self, messages=tuple(messages))

    def with_params(self, **params: Any) -> Context:
        """Sets parameters, whatever the client sent."""
        return replace(self, params={**self.params, **params})

    def with_defaults(self, **params: Any) -> Context:
        """Sets parameters that the client left open."""
        return replace(self, params={**params, **self.params})

    def with_norms(self, texts: Iterable[str]) -> Context:
        """Adds rules that bind the answer; none that is there already goes."""
        return replace(self, norms=tuple(dict.fromkeys((*self.norms, *texts))))

    def with_system(self, text: str) -> Context:
        """Adds `text` to the system message: what is enforced, ours, then the client's own, kept whole.

        One message and not two, because many chat templates accept a single system message only.
        """
        rest = self.ahead.removeprefix(self.enforced).removeprefix("\n\n")
        ahead = "\n\n".join(filter(None, (self.enforced, text, rest)))
        messages = list(self.messages)
        if not (messages and messages[0].get("role") in ("system", "developer")):
            messages.insert(0, {"role": "system", "content": ahead})
        else:
            content = messages[0].get("content")
            if isinstance(content, str):
                own = content.removeprefix(self.ahead).removeprefix("\n\n") if self.ahead else content
                # Ours may stand alone there; the client's own may be empty.
                merged: Any = f"{ahead}\n\n{own}" if own or not self.ahead else ahead
            else:
                parts = list(content or [])
                merged = [{"type": "text", "text": f"{ahead}\n\n"}, *(parts[1:] if self.ahead else parts)]
            messages[0] = {**messages[0], "content": merged}
        return replace(self, messages=tuple(messages), ahead=ahead)

    def with_enforced(self) -> Context:
        """The same, where what steps have put into the system message so far stays ahead of what later ones do."""
        return replace(self, enforced=self.ahead)

    def hidden_params(self, **own: Any) -> dict[str, Any]:
        """Parameters for a hidden call: the client's sampling and routing fields, then `own`."""
        return {k: v for k, v in self.params.items() if k not in _ANSWER_PARAMS} | own

    def last_user(self) -> str:
        """The text of the last user turn, or "" where there is none."""
        for message in reversed(self.original.messages):
            if message.get("role") == "user":
                return text_of(message)
        return ""


# What shapes the prompt beside the messages. (Whether the last message is left open is said apart.)
_PROMPT_FIELDS = (
    "chat_template",
    "chat_template_kwargs",
    "tools",
    "tool_choice",
    "documents",
    "reasoning_effort",
    "add_generation_prompt",
    "add_special_tokens",
    "mm_processor_kwargs",
)


def prompt_fields(params: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a request's parameters by which its messages become another prompt."""
    return {k: params[k] for k in _PROMPT_FIELDS if params.get(k) is not None}


def choices_wanted(params: Mapping[str, Any]) -> int:
    """How many choices a request asks for. Raises RequestError for what is no such number."""
    n = params.get("n")
    if n is None:
        return 1
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= MOST_CHOICES:
        raise RequestError(f"n: must be a whole number from 1 to {MOST_CHOICES}", param="n")
    return n


def text_of(message: Message, *, between: str = "\n") -> str:
    """The plain text of a message, its text parts joined by newlines; other parts are left out."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [p.get("text") for p in content if isinstance(p, dict) and p.get("type") == "text"]
        return between.join(p for p in parts if isinstance(p, str))
    return ""


def text_in(content: Any) -> str:
    """The text of an answer's content: a string, or text parts one after the other."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return text_of({"content": content}, between="")
    return ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts. `extra` keeps whatever else the engine reported (cached tokens, ...)."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens
        )


class Chunk:
    """A piece of output, as a list of choices in the shape of OpenAI's `chat.completion.chunk`.

    An engine that already speaks that format hands over its JSON (`from_json`), which is decoded only if
    somebody looks, and otherwise leaves the server as it came. A chunk is not to be changed: make another.
    """

    __slots__ = ("_choices", "raw")

    def __init__(self, choices: Sequence[Mapping[str, Any]]) -> None:
        self.raw: bytes | None = None
        self._choices: Sequence[Mapping[str, Any]] | None = choices

    @classmethod
    def from_json(cls, raw: bytes) -> Chunk:
        chunk = cls.__new__(cls)
        chunk.raw = raw
        chunk._choices = None
        return chunk

    @classmethod
    def of(
        cls,
        text: str = "",
        *,
        index: int = 0,
        finish_reason: str | None = None,
        logprobs: Mapping[str, Any] | None = None,
    ) -> Chunk:
        """A chunk of plain text for one choice."""
        delta = {"content": text} if text else {}
        return cls([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}])

    @property
    def choices(self) -> Sequence[Mapping[str, Any]]:
        if self._choices is None:
            assert self.raw is not None
            self._choices = msgspec.json.decode(self.raw)["choices"]
        return self._choices

    def text(self, index: int = 0) -> str:
        """The text that this chunk adds to one choice."""
        return "".join(
            text_in((c.get("delta") or {}).get("content")) for c in self.choices if c.get("index", 0) == index
        )

    def __repr__(self) -> str:
        return f"Chunk({list(self.choices)!r})"


@dataclass(frozen=True, slots=True)
class Finish:
    """The last event of every stream, exactly once. `extra` are top-level response fields (id, ...)."""

    usage: Usage
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Nothing to say yet, but still at work: becomes an SSE comment, and nothing in a plain response."""

    note: str = ""


Event = Chunk | Finish | KeepAlive
