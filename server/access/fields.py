"""A request's fields under a floor: none that might undo what holds goes to an engine, none is above a cap."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from heedful.server.access.allowed import Allowed, at_most
from heedful.strategies import RequestError

NEUTRAL = frozenset(
    "model messages stream stream_options alignment temperature top_p top_k min_p presence_penalty "
    "frequency_penalty repetition_penalty seed stop stop_token_ids min_tokens ignore_eos max_tokens "
    "max_completion_tokens n tools tool_choice parallel_tool_calls functions function_call response_format "
    "structured_outputs logprobs top_logprobs logit_bias prediction modalities user metadata reasoning_effort "
    "verbosity service_tier safety_identifier prompt_cache_key prompt_cache_retention prompt_cache_options store "
    "continue_final_message add_generation_prompt".split()
)
"""They change no prompt and choose no model: sampling, limits, form, tools, and who asks."""
_OF_A_MESSAGE = frozenset(
    "role content name tool_calls tool_call_id function_call refusal reasoning_content reasoning annotations audio "
    "cache_control id type".split()
)
_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_LONGEST = 200  # characters of a field's name, which may be as long as a body
_LEGACY = 16  # tokens that a legacy completion has by default


def fitted(fields: Mapping[str, Any], own: Set[str], allowed: Allowed, *, strict: bool) -> dict[str, Any]:
    """A body within what is allowed, limits put in where it names none.

    `own`: the fields that the API reads itself, and hands to nobody; `strict`: whether no other than neutral ones may
    go on. Raises RequestError that names the field.
    """
    if strict:
        known = own | NEUTRAL | allowed.fields
        for name, value in fields.items():
            if value is not None and name not in known:
                raise _not_here(name)
        if fields.get("add_generation_prompt") is not None and not _leaves_open(fields):
            raise _not_here("add_generation_prompt")
        _check_inside(fields, own, allowed)
    return _capped(dict(fields), own, allowed.caps)


def _not_here(name: str, top: str | None = None) -> RequestError:
    shown = name[:_LONGEST]
    return RequestError(
        f"{shown}: this server passes it on to no model; leave it out, or ask the operator to list "
        f"{(top or shown)!r} under the floor's `allow.fields`",
        param=shown or None,
        code="field_not_allowed",
    )


def _leaves_open(fields: Mapping[str, Any]) -> bool:
    """With an answer that the request has begun, engines want to be told that no other begins."""
    return fields["add_generation_prompt"] is False and fields.get("continue_final_message") is True


def _check_inside(fields: Mapping[str, Any], own: Set[str], allowed: Allowed) -> None:
    messages, tools = fields.get("messages"), fields.get("tools")
    for i, message in enumerate(messages if isinstance(messages, list) else ()):
        for key in message if isinstance(message, dict) else ():
            if (
                key not in _OF_A_MESSAGE
                and message[key] is not None
                and f"messages.{key}" not in allowed.fields
            ):
                raise _not_here(f"messages.{i}.{key}", f"messages.{key}")
    if "tools" in own or "tools.type" in allowed.fields:
        return
    for i, tool in enumerate(tools if isinstance(tools, list) else ()):
        # Those that a server runs may ask other models, or bring texts of their own.
        if isinstance(tool, dict) and tool.get("type", "function") not in ("function", "custom"):
            raise _not_here(f"tools.{i}.type", "tools.type")


def _capped(fields: dict[str, Any], own: Set[str], caps: Mapping[str, float]) -> dict[str, Any]:
    if (most := caps.get("n")) is not None:
        for name in ("n", "best_of"):
            at_most(name, fields.get(name), most, name)
        prompts = fields.get("prompt")
        several = isinstance(prompts, list) and any(isinstance(each, str | list) for each in prompts)
        if isinstance(prompts, list) and several and len(prompts) * (fields.get("n") or 1) > most:
            raise RequestError(
                f"prompt: its texts and `n` make more than {most:g} choices, which is the most here",
                param="prompt",
                code="above_limit",
            )
    if (most := caps.get("max_tokens")) is not None:
        for name in _LIMITS:
            at_most(name, fields.get(name), most, name)
        if all(fields.get(name) is None for name in _LIMITS):
            if "max_output_tokens" in own:
                fields["max_output_tokens"] = most
            elif "messages" in own:
                fields["max_tokens"] = most
            elif "prompt" in own:
                fields["max_tokens"] = min(most, _LEGACY)
    return fields
