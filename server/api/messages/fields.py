"""Every field of Anthropic's Messages API, beta fields too, and what becomes of it (the table in docs/proxy.md)."""

from __future__ import annotations

HONOURED = frozenset(
    "model messages max_tokens system stop_sequences stream tools tool_choice metadata thinking output_config "
    "output_format".split()
)
IGNORED = {
    "cache_control": "the engine keeps prefixes by itself",
    "context_management": "nothing is kept here between requests, so there is nothing to clear: what is sent is read",
    "service_tier": "there are no tiers",
    "speed": "there is one speed",
    "betas": "what a beta allows is allowed or refused field by field",
    "diagnostics": "no earlier request is kept to compare with",
    "billing_policy": "nobody is billed",
    "fallback_credit_token": "nobody is billed",
    "fallbacks": "this server declines nothing by itself; other models are the operator's choice (`fallbacks`)",
    "user_profile_id": "the operator's key speaks for all",
    "workspace_id": "there are no workspaces",
}
"""Harmless: the answer is the same with and without."""
REFUSED = {
    "container": "tools run at the client, not in containers here",
    "mcp_servers": "this server calls no tools; give them to the model as `tools` and run them at the client",
    "thread": "this server keeps no conversations; send all messages",
    "compaction": "this server summarizes no conversations; ask for a summary in a message",
    "inference_geo": "this server can't promise where a model runs",
}
"""The answer would not be what was asked for."""
