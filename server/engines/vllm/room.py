"""What vLLM's second model runner, which a GPU has, keeps room for: a request with more ends its engine for all.

vLLM 0.32 says so in the engine's own process only (`vllm/v1/worker/gpu/sample/logit_bias.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heedful.strategies import RequestError

_ROOM = {"allowed_token_ids": 1024, "logit_bias": 1024}
_STOPS = 112  # of 128 some are the model's own ends; kept for requests with `min_tokens`


def check(body: Mapping[str, Any]) -> None:
    """Raises RequestError for a list or an object of a request that is longer than the room for it."""
    rooms = {**_ROOM, **({"stop_token_ids": _STOPS} if body.get("min_tokens") else {})}
    for field, most in rooms.items():
        given = body.get(field)
        if isinstance(given, list | dict) and len(given) > most:
            raise RequestError(
                f"{field}: {len(given)} entries, where {most} are the most on a GPU", param=field
            )
