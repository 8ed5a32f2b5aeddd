"""What the search needs to know of a request, read from its context; what it can't honour is refused.

The fields' shapes have been checked before (strategies/params.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from heedful.strategies.engine import Engine
from heedful.strategies.errors import ContextOverflow, RequestError
from heedful.strategies.types import Context, choices_wanted, prompt_fields

_REFUSED = (
    "tools functions function_call structured_outputs guided_json guided_regex guided_choice guided_grammar "
    "logit_bias bad_words allowed_token_ids min_tokens stop_token_ids prompt_logprobs echo audio "
    "chat_template chat_template_kwargs include_stop_str_in_output"
).split()
_SAMPLING = ("temperature", "top_p", "top_k", "min_p")
_SET_ASIDE = (*_SAMPLING, "presence_penalty", "frequency_penalty")
_MAX_TOP_LOGPROBS = 20


@dataclass(frozen=True, slots=True)
class RainRequest:
    """What was asked, once for all choices.

    `prompt`: the token ids the answer continues, under the chat template. `limit`: the answer's greatest length in
    tokens. `stops`: strings that end it. `n`: how many choices. `sampling`: the client's own, by which plain decoding
    draws; `set_aside`: the names of those fields that the search itself does not follow.
    """

    prompt: tuple[int, ...]
    limit: int
    stops: tuple[str, ...] = ()
    n: int = 1
    seed: int | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    repetition_penalty: float = 1.0
    ignore_eos: bool = False
    sampling: Mapping[str, Any] = field(default_factory=dict)
    set_aside: tuple[str, ...] = ()

    def cut(self, text: str) -> str | None:
        """The text before its first stop string, or None where it holds none."""
        found = [at for at in (text.find(s) for s in self.stops) if at >= 0]
        return text[: min(found)] if found else None

    def held_back(self, text: str) -> int:
        """How many characters at the end of a text may still turn out to belong to a stop string."""
        return max(
            (n for s in self.stops for n in range(1, min(len(s), len(text) + 1)) if text.endswith(s[:n])),
            default=0,
        )


async def read(context: Context, engine: Engine, max_tokens: int, step: str = "rain") -> RainRequest:
    """Reads a request for the strategy `step`; `max_tokens` is the limit where the client sets none.

    Raises RequestError, which names the field, for what a search can't honour.
    """
    params = context.params
    for name in _REFUSED:
        if params.get(name):
            raise RequestError(f"{name}: the alignment {step!r} can't honour it", param=name)
    format = params.get("response_format")
    if isinstance(format, Mapping) and format.get("type") not in (None, "text"):
        raise RequestError(
            f"response_format: the alignment {step!r} searches over free text and can't promise a format",
            param="response_format",
        )
    if params.get("modalities") not in (None, [], ["text"]):
        raise RequestError(f"modalities: the alignment {step!r} answers in text only", param="modalities")
    prompt = await _prompt(context, engine, step)
    top = params.get("top_logprobs") or 0
    if not 0 <= top <= _MAX_TOP_LOGPROBS:
        raise RequestError(
            f"top_logprobs: give a whole number from 0 to {_MAX_TOP_LOGPROBS}", param="top_logprobs"
        )
    stop = params.get("stop") or ()
    return RainRequest(
        prompt=prompt,
        limit=_limit(params, max_tokens, engine.context_length, len(prompt)),
        stops=tuple(s for s in ([stop] if isinstance(stop, str) else stop) if s),
        n=choices_wanted(params),
        seed=params.get("seed"),
        logprobs=bool(params.get("logprobs")),
        top_logprobs=top,
        repetition_penalty=float(params.get("repetition_penalty") or 1.0),
        ignore_eos=bool(params.get("ignore_eos")),
        sampling={name: params[name] for name in _SAMPLING if params.get(name) is not None},
        set_aside=tuple(name for name in _SET_ASIDE if params.get(name) is not None),
    )


async def _prompt(context: Context, engine: Engine, step: str) -> tuple[int, ...]:
    if context.prompt is not None:
        return tuple(await engine.tokenize(context.prompt, special=True))
    for i, message in enumerate(context.messages):
        parts = message.get("content")
        if isinstance(parts, list) and any(p["type"] != "text" for p in parts):
            raise RequestError(
                f"messages.{i}.content: the alignment {step!r} reads text only",
                param=f"messages.{i}.content",
            )
    begun = bool(context.params.get("continue_final_message"))
    return tuple(
        await engine.render(context.messages, continue_final=begun, shape=prompt_fields(context.params))
    )


def _limit(params: Mapping[str, Any], default: int, context_length: int | None, used: int) -> int:
    name = "max_completion_tokens" if params.get("max_completion_tokens") is not None else "max_tokens"
    limit = params.get(name) or default
    if context_length is None:
        return limit
    if (room := context_length - used) < 1:
        raise ContextOverflow(context_length, used, param="messages")
    return min(limit, room)


def fitting(request: RainRequest, context_length: int | None, overhead: int) -> RainRequest:
    """The request with answers short enough to be judged, too: a judgement needs `overhead` tokens beside them."""
    if context_length is None:
        return request
    room = context_length - overhead
    if room < 1:
        raise ContextOverflow(
            context_length, overhead, param="messages", what="a self-evaluation of your messages"
        )
    return replace(request, limit=min(request.limit, room))
