"""`heedful keys`: who may ask a server. Works on the stores' folder, beside servers that run or without one."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from heedful.retrieval.items import time_of
from heedful.server.access.client import EVERYONE, Role
from heedful.server.access.database import KeyDatabase, no_key
from heedful.server.access.file_keys import file_keys
from heedful.server.access.key import AccessKey
from heedful.server.access.key_text import OURS
from heedful.server.access.settings import LimitSettings
from heedful.server.cli.errors import CommandError
from heedful.server.cli.store import FolderOption
from heedful.server.config import Config, load
from heedful.server.stores import folder_of
from heedful.server.terminal import listing, terminal
from heedful.strategies import HeedfulError

keys = typer.Typer(no_args_is_help=True, help="Keys: make, list, revoke, rotate.")
console, errors = terminal(), terminal(stderr=True)
_SPAN = re.compile(r"(\d+)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

ConfigOption = Annotated[
    Path | None, typer.Option(help="heedful.yaml: its stores' folder, its tenants and keys")
]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON, for programs")]
Id = Annotated[str, typer.Argument(help="The key's id, as `list` shows it")]


def opened(config: Path | None, folder: str | None) -> tuple[Config, KeyDatabase]:
    """The configuration, where one is named, and the database that belongs to it."""
    settings = load(config, {"stores": folder})
    return settings, KeyDatabase(folder_of(settings))


@contextmanager
def telling() -> Iterator[None]:
    """What is refused, as a command tells it."""
    try:
        yield
    except HeedfulError as error:
        raise CommandError(error.message) from error


def written(value: Any) -> None:
    """Onto standard output, for programs."""
    typer.echo(msgspec.json.format(msgspec.json.encode(value)).decode())


@keys.command()
def create(
    tenant: Annotated[str, typer.Option(help="Whose key it is")] = EVERYONE,
    role: Annotated[str, typer.Option(help="user, author or admin")] = "user",
    name: Annotated[str, typer.Option(help="What it is for, in your words")] = "",
    expires: Annotated[
        str | None, typer.Option(help="When it ends: a time (ISO 8601), or from now on: 12h, 30d [never]")
    ] = None,
    store: Annotated[
        list[str] | None,
        typer.Option(help="A store that an author may write; may be repeated [all of the tenant's]"),
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="A limit of its own")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(help="A limit of its own")] = None,
    concurrent: Annotated[int | None, typer.Option(help="A limit of its own")] = None,
    tokens_per_day: Annotated[int | None, typer.Option(help="A limit of its own")] = None,
    tokens_per_month: Annotated[int | None, typer.Option(help="A limit of its own")] = None,
    config: ConfigOption = None,
    folder: FolderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key. It is printed this once, alone, so that KEY=$(heedful keys create) holds it."""
    if role.upper() not in Role.__members__:
        raise CommandError("--role: user, author or admin")
    limits = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "concurrent": concurrent,
        "tokens_per_day": tokens_per_day,
        "tokens_per_month": tokens_per_month,
    }
    if low := [name for name, limit in limits.items() if limit is not None and limit < 1]:
        raise CommandError(f"--{low[0].replace('_', '-')}: at least 1")
    settings, database = opened(config, folder)
    first = not database.exists()
    with telling():
        try:
            key, text = database.create_key(
                tenant,
                Role[role.upper()],
                name=name,
                expires=None if expires is None else _when(expires),
                stores=frozenset(store or ()),
                limits=LimitSettings(**limits),
                others=list(settings.tenants),
            )
        except HeedfulError as error:
            if error.code != "tenant_not_found":
                raise
            raise CommandError(
                f"{error.message}: make it with heedful tenants create {tenant}, or name the --config that has it"
            ) from error
    if as_json:
        written({**key.as_json(time.time()), "key": text})
        return
    errors.print(f"{key.id}: {role} of the tenant {tenant}; this is shown once:", highlight=False)
    typer.echo(text)
    if first:
        errors.print(
            f"Servers on {database.path.parent} want a key from now on, for /metrics an admin's (or metrics: open).",
            highlight=False,
        )


@keys.command("list")
def list_(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's")] = None,
    config: ConfigOption = None,
    folder: FolderOption = None,
    as_json: JsonOption = False,
) -> None:
    """List keys, those that have ended too; with --config also those that it holds."""
    settings, database = opened(config, folder)
    with telling():
        found = [*file_keys(settings), *database.all().keys]
    now = time.time()
    rows = [key.as_json(now) for key in found if tenant in (None, key.tenant)]
    if as_json:
        written(rows)
        return
    fields = ("id", "tenant", "role", "state", "name")
    listing(
        (*fields, "expires", "stores", "from"),
        [
            [
                *(row[field] for field in fields),
                (row["expires"] or "")[:16],
                ", ".join(row["stores"]),
                row["from"],
            ]
            for row in rows
        ],
    )


@keys.command()
def revoke(
    id: Id, config: ConfigOption = None, folder: FolderOption = None, as_json: JsonOption = False
) -> None:
    """End a key for good, and within a second all that runs under it."""
    settings, database = opened(config, folder)
    with telling():
        key = _in_database(id, settings, database).revoke(id)
    if as_json:
        written(key.as_json(time.time()))
    else:
        console.print(f"revoked {key.id}", highlight=False)


@keys.command()
def rotate(
    id: Id,
    grace: Annotated[str, typer.Option(help="How long the old one still works: 90s, 30m, 12h, 7d")] = "0s",
    config: ConfigOption = None,
    folder: FolderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a new key of the same id and settings. It is printed this once, alone."""
    if (seconds := _span(grace)) is None:
        raise CommandError("--grace: a time such as 90s, 30m, 12h or 7d")
    settings, database = opened(config, folder)
    with telling():
        key, text = _in_database(id, settings, database).rotate(id, seconds)
    if as_json:
        written({**key.as_json(time.time()), "key": text})
        return
    ends = f"works for {grace} more" if seconds else "works no more"
    errors.print(f"{key.id}: the old one {ends}; the new one is shown once:", highlight=False)
    typer.echo(text)


def _in_database(id: str, settings: Config, database: KeyDatabase) -> KeyDatabase:
    """Raises CommandError for a key that the configuration holds, and for a key in place of its id."""
    if OURS.search(id.encode()):
        raise CommandError(
            "give the key's id, which stands between its underscores, and rotate it: what a command line "
            "has held, others may have seen"
        )
    held: list[AccessKey] = file_keys(settings)
    if any(key.id == id for key in held):
        raise CommandError(f"the key {id} stands in the configuration: change it there")
    if not database.exists():
        raise no_key(id)
    return database


def _when(text: str) -> float:
    span = _span(text)
    return time_of(text, "--expires") if span is None else time.time() + span


def _span(text: str) -> int | None:
    found = _SPAN.fullmatch(text.strip())
    return int(found[1]) * _SECONDS[found[2]] if found else None
