"""All keys of one server, and the tenants that they belong to: those of its configuration and of its database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import ParamSpec, TypeVar

from heedful.server.access.client import ANYBODY, EVERYONE, Client, Tenant
from heedful.server.access.credential import Credential, refused
from heedful.server.access.database import AccessFailed, Holdings, KeyDatabase
from heedful.server.access.file_keys import file_keys
from heedful.server.access.key import AccessKey
from heedful.server.access.settings import TenantSettings
from heedful.server.config import Config, ConfigError
from heedful.server.log import bug, failed, logger, one_line
from heedful.strategies import HeedfulError

P = ParamSpec("P")
T = TypeVar("T")
SettingsCheck = Callable[[str, TenantSettings], None]
"""Raises HeedfulError or ConfigError for settings that a tenant of this name can't have."""
LOOK = 0.5
"""Seconds between two looks at the database, and at what has expired."""
_LEAVING = 5.0  # seconds that requests get to end once they are cancelled: one may wait for a slow reader
_HEAD = 8  # bytes of a digest by which keys are looked up; the rest is compared in constant time
_MOST, _LONGEST = 4, 512  # keys of one request, and the bytes of one, that are looked at


class Access:
    """Who is behind a key. For the event loop's thread, but for its construction.

    Keys are wanted as soon as there is one, and from then on: the end of the last one opens nothing. Raises
    ConfigError for keys of the configuration that can't be used and a database that can't be read.
    """

    def __init__(self, config: Config, folder: Path | None = None) -> None:
        self.database = None if folder is None else KeyDatabase(folder)
        self.checks: list[SettingsCheck] = []
        """What settings must pass before they are written, and before those that others wrote are taken up."""
        self.changed: list[Callable[[], None]] = []
        """Called after tenants or keys have changed."""
        self._config = config
        self._file_keys = file_keys(config)
        self._credentials: dict[bytes, Credential] = {}
        self._tenants: dict[str, Tenant] = {}
        self._texts: dict[str, str] = {}
        """Settings of the database's tenants as they stand there, of those that are in force."""
        self._keys: list[AccessKey] = []
        self._ended: list[Credential] = []
        """Those that are no longer in force and have requests that are still ending."""
        self.anybody: Client | None = None
        """Who asks where no keys are wanted; None where they are."""
        self._lock = asyncio.Lock()
        self._reader = ThreadPoolExecutor(1, "heedful-keys")
        holdings = None
        if self.database is not None and self.database.exists():
            try:
                holdings = self.database.news()
            except AccessFailed as error:
                raise ConfigError(error.message) from error
        self._take(holdings or Holdings({}, []), starting=True)

    # -- who asks

    @property
    def wanted(self) -> bool:
        """Whether requests must bring a key."""
        return self.anybody is None

    def find(self, keys: Iterable[bytes]) -> Credential | None:
        """The key in force among what a request brings; others beside it don't matter.

        Raises RequestError where it brings two, which may be two tenants'.
        """
        found = None
        for i, key in enumerate(keys):
            if i == _MOST:
                raise refused("the request brings too many keys; send one")
            if len(key) > _LONGEST:
                continue
            digest = sha256(key).digest()
            known = self._credentials.get(digest[:_HEAD])
            if known is None or not compare_digest(known.digest, digest) or time.time() >= known.until:
                continue
            if found is not None and found.key.id != known.key.id:
                raise refused("the request brings two different keys of this server; send one")
            found = known
        return found

    # -- what there is

    def tenant(self, name: str) -> Tenant | None:
        return self._tenants.get(name)

    def tenants(self) -> list[Tenant]:
        """By name."""
        return [self._tenants[name] for name in sorted(self._tenants)]

    def origin(self, tenant: str) -> str:
        """Where a tenant's settings stand: "file" or "database"; "default" where nowhere."""
        if tenant in self._config.tenants:
            return "file"
        return "database" if tenant in self._texts else "default"

    def named(self, key_id: str) -> Client | None:
        """Whose key in force has this id."""
        held = self._credentials.values()
        return next((each.client for each in held if each.key.id == key_id), None)

    def keys(self) -> list[AccessKey]:
        """Those of the configuration, then the database's by age, with those that have ended."""
        return [*self._file_keys, *self._keys]

    # -- how it changes

    async def write(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a method of the database that writes, and takes up at once what it has written."""
        result = await asyncio.to_thread(function, *args, **kwargs)
        await self.look()
        return result

    async def look(self) -> None:
        """Takes up what has been written to the database, by anybody, and ends what has expired.

        Raises AccessFailed where the database can't be read: all stays then as it was, but for a server that had no
        keys: that one wants a key from now on, since it may be that there is one.
        """
        if self.database is not None and self.database.exists():
            # What has been read is news once: it is taken up even where the one who looks is cancelled.
            self._looking = asyncio.ensure_future(self._look(self.database))
            await asyncio.shield(self._looking)
        now = time.time()
        for credential in self._credentials.values():
            if credential.until <= now and credential.running:
                credential.end("expired")

    async def _look(self, database: KeyDatabase) -> None:
        async with self._lock:
            try:
                news = await asyncio.get_running_loop().run_in_executor(self._reader, database.news)
            except AccessFailed:
                self.anybody = None
                raise
            if news is not None:
                self._take(news)

    async def ended(self, tenant: str) -> None:
        """Once what ran under a tenant's keys that have ended is over, or after some seconds."""
        ending = {r.task for each in self._ended if each.key.tenant == tenant for r in each.running}
        if ending:
            await asyncio.wait(ending, timeout=_LEAVING)

    async def watch(self) -> None:
        """Looks again and again, whatever goes wrong."""
        while True:
            await asyncio.sleep(LOOK)
            try:
                await self.look()
            except HeedfulError as error:
                failed(error)
            except Exception as error:
                bug(error)

    def close(self) -> None:
        """Ends the thread that looks."""
        self._reader.shutdown()
        if self.database is not None:
            self.database.close()

    def check(self, name: str, settings: TenantSettings) -> None:
        """Raises HeedfulError or ConfigError for settings that a tenant can't have."""
        for each in self.checks:
            each(name, settings)

    # -- taking it up

    def _take(self, holdings: Holdings, *, starting: bool = False) -> None:
        self._keys = holdings.keys
        self._tenants = self._tenants_of(holdings.tenants, starting)
        unknown = [key for key in self._file_keys if key.tenant not in self._tenants]
        if unknown and starting:
            raise ConfigError(
                f"keys: unknown tenant {unknown[0].tenant!r}; known: {', '.join(self._tenants)}"
            )
        before = self._credentials
        self._credentials = self._credentials_of(self.keys())
        once = bool(self._file_keys or self._keys or holdings.purges.keys)
        wanted = once or (not starting and self.anybody is None)
        self.anybody = None if wanted else Client(self._tenants[EVERYONE], ANYBODY.role)
        gone = [each for head, each in before.items() if self._credentials.get(head) is not each]
        for credential in gone:
            credential.end("been revoked")
        self._ended = [each for each in (*self._ended, *gone) if each.running]
        if starting:
            for name in sorted(holdings.purges.pending):
                logger.warning("the purge of the tenant %r was cut off: ask for it again", name)
        for tell in self.changed:
            tell()

    def _tenants_of(self, written: Mapping[str, str], starting: bool) -> dict[str, Tenant]:
        """What is the same stays the same object."""
        settings = {
            EVERYONE: TenantSettings(),
            **self._settings_of(written, starting),
            **self._config.tenants,
        }
        before = self._tenants
        return {
            name: before[name] if name in before and before[name].settings == each else Tenant(name, each)
            for name, each in settings.items()
        }

    def _settings_of(self, written: Mapping[str, str], starting: bool) -> dict[str, TenantSettings]:
        """The database's tenants. One whose settings can't be used keeps those that it had, and is not there if it
        had none: its keys open nothing then."""
        texts, self._texts = self._texts, {}
        found = {}
        for name, text in written.items():
            try:
                if text != texts.get(name):
                    found[name] = TenantSettings.model_validate_json(text)
                    self.check(name, found[name])
                else:
                    found[name] = self._tenants[name].settings
                self._texts[name] = text
            except (ValueError, HeedfulError, ConfigError) as error:
                why = (
                    f"the tenant {name!r}: its settings in the database can't be used: {one_line(str(error))}"
                )
                if starting:
                    raise ConfigError(f"{why} (heedful tenants set {name})") from error
                logger.error("%s", why)
                found.pop(name, None)
                if name in texts:
                    found[name], self._texts[name] = self._tenants[name].settings, texts[name]
        return found

    def _credentials_of(self, keys: Iterable[AccessKey]) -> dict[bytes, Credential]:
        """What is in force. A text that stays keeps its requests, and its client where nothing has changed."""
        found: dict[bytes, Credential] = {}
        for key in keys:
            tenant = self._tenants.get(key.tenant)
            if tenant is None:
                if key.revoked is None:
                    logger.warning("the key %s opens nothing: there is no tenant %r", key.id, key.tenant)
                continue
            client: Client | None = None
            for digest, until in key.secrets():
                credential = self._credentials.get(digest[:_HEAD])
                if credential is None or credential.digest != digest:
                    client = client or Client(tenant, key.role, key.id, key.stores, key.limits)
                    credential = Credential(digest, key, client, until)
                elif credential.key != key or credential.client.tenant is not tenant:
                    client = client or Client(tenant, key.role, key.id, key.stores, key.limits)
                    credential.key, credential.client, credential.until = key, client, until
                found[digest[:_HEAD]] = credential
        return found
