"""Digests in place of texts: whoever has a text can find its record, and nobody can guess a text from a digest."""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from heedful.server.access.key_text import without_keys

_KEY_BYTES = 32
_LONGEST = 512  # characters of a name
# What a trace says in words of its own, or in the operator's: names, and fixed sayings. All else may quote somebody.
_NAMES = frozenset(
    "step prompt store id tokens form mode outcome verifier passed_through no_opinion model instead_of kind verdict "
    "action on category categories label scope scopes alignment code result".split()
)


class Digests:
    """HMAC-SHA256 with a key of this server's own, which lies in a file beside the records and in no copy of them."""

    def __init__(self, file: Path) -> None:
        """Reads the key, or makes one."""
        if not file.exists():
            scratch = file.with_name(f".{file.name}.{uuid4().hex}")
            with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
                out.write(secrets.token_bytes(_KEY_BYTES))
            try:
                os.link(scratch, file)  # whole at once, and the same for all who make it in this moment
            except FileExistsError:
                pass
            finally:
                scratch.unlink()
        self._key = file.read_bytes()

    def of(self, text: str | bytes) -> str:
        """The digest of a text (UTF-8), in hexadecimal."""
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, data, "sha256").hex()

    def name(self, name: str) -> str:
        """An id that others have made, as records know it: a very long one by its digest, and none with a key."""
        if len(name) > _LONGEST:
            return f"hmac-sha256:{self.of(name)}"
        return without_keys(name.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")

    def trace(self, value: Any, key: str = "") -> Any:
        """A trace with a digest in place of each text that may be the client's, a model's or a third party's."""
        if isinstance(value, str):
            known = key in _NAMES and len(value) <= _LONGEST
            return value if known or not value else f"hmac-sha256:{self.of(value)}"
        if isinstance(value, Mapping):
            return {k: self.trace(v, str(k)) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self.trace(v, key) for v in value]
        return value
