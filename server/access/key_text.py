"""A key as its client has it: made, recognised, and blotted out of what somebody wrote."""

from __future__ import annotations

import re
import secrets
from hashlib import sha256

OURS = re.compile(rb"hk_[a-z2-9]{8}_[A-Za-z0-9_-]{43}")
"""What `heedful keys create` makes, for scanners of secrets too."""
_MARK = b"hk_"
_ID = "abcdefghijkmnpqrstuvwxyz23456789"  # none that is taken for another
_SHOWN = len("hk_01234567_0123")


def new_id() -> str:
    return "".join(secrets.choice(_ID) for _ in range(8))


def new_text(id: str) -> str:
    """A new key's text: 256 bits of chance behind its id."""
    return f"hk_{id}_{secrets.token_urlsafe(32)}"


def digest_of(text: str) -> bytes:
    """Long random texts need no slower hash."""
    return sha256(text.encode()).digest()


def prefix_of(text: str) -> str:
    """By which people recognise a key."""
    return text[:_SHOWN]


def holds_key(text: bytes) -> bool:
    """Whether a key that was made here stands in what somebody wrote."""
    return _MARK in text and OURS.search(text) is not None


def without_keys(text: bytes) -> bytes:
    """What somebody wrote, with no more of each key than people recognise it by."""
    return OURS.sub(lambda found: found[0][:_SHOWN] + b"***", text) if _MARK in text else text
