"""Every field of OpenAI's Responses API and what becomes of it here (the table in docs/proxy.md)."""

from __future__ import annotations

HONOURED = frozenset(
    "model input instructions max_output_tokens stream tools tool_choice text reasoning top_logprobs include".split()
)
PASSED_ON = frozenset(
    "temperature top_p parallel_tool_calls metadata user safety_identifier service_tier moderation prompt_cache_key "
    "prompt_cache_options prompt_cache_retention".split()
)
"""Chat completions have them under the same name; so has whatever is in no list here."""
IGNORED = {
    "store": "nothing is stored; the answer says `store: false`",
    "truncation": "nothing is cut away: a conversation that is too long is refused, as with `disabled`",
    "context_management": "nothing is kept here between requests, so there is nothing to compact",
    "max_tool_calls": "it bounds tools that a server runs, and this one runs none",
    "background_options": "nothing runs in the background",
    "stream_options": "no padding is added to events",
    "image": "images go on as they are",
    "access_programs": "there are none",
}
"""Harmless: the answer is the same with and without."""
REFUSED = {
    "previous_response_id": "this server keeps no responses; send the whole conversation in `input`",
    "conversation": "this server keeps no conversations; send the whole conversation in `input`",
    "background": "this server keeps no responses, so nobody could fetch one later",
    "prompt": "this server keeps no prompt templates; write the prompt out in `instructions` and `input`",
}
"""The answer would not be what was asked for."""
