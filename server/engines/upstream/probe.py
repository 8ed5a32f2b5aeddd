"""What a model of an upstream can do, found by asking it for a word in each way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heedful.server.engines.upstream.client import Upstream
from heedful.server.engines.upstream.dialect import Dialect, cut_short, names_the_limit
from heedful.server.engines.upstream.tokens import RemoteTokens
from heedful.strategies import Capability, HeedfulError

# Asked for nothing but a sign of life; two tokens, so that models that open with a special one still speak.
_TURN = {"role": "user", "content": "Say yes."}
_PROBE: dict[str, Any] = {"messages": [_TURN], "max_tokens": 2}
_ROOM = 64  # tokens for a model that refuses so few


async def probe(upstream: Upstream, model: str, dialect: Dialect) -> Capability:
    """Asks for one token in each way. Raises HeedfulError where the upstream can't be asked at all."""
    found = Capability.NONE
    chat = {"model": model, **_PROBE}
    answer = await _chat(upstream, chat | {"logprobs": True, "top_logprobs": 1}, dialect)
    if answer is None:  # some refuse the parameter instead of leaving it out
        answer = await _chat(upstream, chat, dialect)
    if answer is not None:
        found |= Capability.CHAT
        if any((choice.get("logprobs") or {}).get("content") for choice in answer):
            found |= Capability.LOGPROBS
        # Who knows both fields refuses the pair, as they exclude each other; who does not know them answers.
        both = {"continue_final_message": True, "add_generation_prompt": True}
        begun = {"messages": [_TURN, {"role": "assistant", "content": "Yes"}]}
        if await _chat(upstream, chat | begun | both, dialect) is None:
            only = {"continue_final_message": True, "add_generation_prompt": False}
            if await _chat(upstream, chat | begun | only, dialect) is not None:
                found |= Capability.PREFILL
    raw = {"model": model, "max_tokens": 1}
    if await _ask(upstream, "/completions", raw | {"prompt": "Yes", "logprobs": 1}) is not None:
        found |= Capability.COMPLETION
        if await _has_tokens(upstream, model):
            found |= Capability.TOKENS | Capability.LOGPROBS
    return found


async def _has_tokens(upstream: Upstream, model: str) -> bool:
    try:
        tokens = await RemoteTokens(upstream, model, frozenset()).tokenize("Yes")
    except HeedfulError:
        return False
    body = {"model": model, "prompt": tokens, "max_tokens": 1, "return_token_ids": True}
    answer = await _ask(upstream, "/completions", body)
    return bool(answer and answer[0].get("token_ids"))


async def _chat(upstream: Upstream, body: dict[str, Any], dialect: Dialect) -> list[dict[str, Any]] | None:
    """As `_ask`, in the model's own dialect. One that thinks, or has a least length, gets more room."""

    async def send(adapted: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        return _choices(await upstream.json("/chat/completions", adapted))

    with_room = body | {"max_tokens": _ROOM}
    for given in (body, with_room):
        try:
            return await dialect.speak(given, {}, send)
        except HeedfulError as error:
            if cut_short(error):
                return []
            if not _refused(error):
                raise
            if not names_the_limit(error):
                return None
    return None


async def _ask(upstream: Upstream, path: str, body: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The choices of an answer, or None where the request is refused as such."""
    try:
        return _choices(await upstream.json(path, body))
    except HeedfulError as error:
        if _refused(error):
            return None
        raise


def _refused(error: HeedfulError) -> bool:
    return error.status in (400, 404, 405, 422, 501)


def _choices(answer: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    choices = answer.get("choices")
    return choices if isinstance(choices, list) else None
