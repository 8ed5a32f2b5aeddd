"""Keys that are deployed with the configuration: those of `keys`, and the one of `api_key_env`."""

from __future__ import annotations

from datetime import UTC
from hashlib import sha256

from heedful.server.access.client import EVERYONE, Role
from heedful.server.access.key import AccessKey
from heedful.server.access.key_text import digest_of
from heedful.server.access.settings import KeySettings
from heedful.server.config import Config, ConfigError
from heedful.server.key_files import key_in, key_of

_LEAST = 16  # characters: a text that can be guessed needs more than a digest to be safe


def file_keys(config: Config) -> list[AccessKey]:
    """Raises ConfigError that names the place of what is wrong, and never shows a key."""
    found: dict[bytes, AccessKey] = {}
    if (admin := config.api_key()) is not None:
        digest = digest_of(admin)
        found[digest] = AccessKey("api_key_env", EVERYONE, Role.ADMIN, digest, "api_key_env", origin="file")
    for i, settings in enumerate(config.keys):
        try:
            digest = _digest(settings)
        except ValueError as error:
            raise ConfigError(f"keys.{i}.{error}") from error
        if digest in found:
            raise ConfigError(f"keys.{i}: the same key stands here twice")
        expires = settings.expires
        if expires is not None and expires.tzinfo is None:
            expires = expires.replace(tzinfo=UTC)
        found[digest] = AccessKey(
            # Of the digest's own digest, since ids stand in logs.
            f"file-{sha256(digest).hexdigest()[:8]}",
            settings.tenant,
            Role[settings.role.upper()],
            digest,
            settings.name,
            expires=None if expires is None else expires.timestamp(),
            stores=frozenset(settings.stores),
            limits=settings.limits,
            origin="file",
        )
    return list(found.values())


def _digest(settings: KeySettings) -> bytes:
    if settings.sha256 is not None:
        return bytes.fromhex(settings.sha256)
    if settings.env is not None:
        text, where = key_of(settings.env, "env"), f"env: the environment variable {settings.env}"
    else:
        assert settings.file is not None
        text, where = key_in(settings.file, "file"), f"file: {settings.file}"
    if len(text) < _LEAST:
        raise ValueError(f"{where}: a key has at least {_LEAST} characters")
    return digest_of(text)
