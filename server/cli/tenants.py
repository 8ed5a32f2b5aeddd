"""`heedful tenants`: those who share a floor, limits, stores and records."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
import yaml
from pydantic import ValidationError

from heedful.prompts.yaml_file import YamlError, load_yaml
from heedful.retrieval.embedding.embedder import load
from heedful.retrieval.store.stores import Stores
from heedful.server.access.access import LOOK
from heedful.server.access.client import EVERYONE
from heedful.server.access.database import KeyDatabase, no_tenant
from heedful.server.access.file_keys import file_keys
from heedful.server.access.settings import TENANT, TenantSettings
from heedful.server.cli.errors import CommandError
from heedful.server.cli.keys import ConfigOption, JsonOption, opened, telling, written
from heedful.server.cli.store import FolderOption
from heedful.server.config import Config
from heedful.server.leftovers import TenantData, name_in_use
from heedful.server.stores import place_of_stores, usage_file
from heedful.server.terminal import listing, terminal

tenants = typer.Typer(no_args_is_help=True, help="Tenants: make, list, show, set, delete.")
console = terminal()
_NOTICED = 2 * LOOK  # seconds until servers have seen that keys are revoked, and ended what ran under them

TenantName = Annotated[str, typer.Argument(help="The tenant")]
SettingsFile = Annotated[
    Path | None,
    typer.Option(
        "--settings", help="YAML or JSON, as under tenants.NAME in heedful.yaml; - reads standard input"
    ),
]


@tenants.command()
def create(
    name: TenantName,
    settings: SettingsFile = None,
    reuse: Annotated[
        bool, typer.Option("--reuse", help="Give it what is left of a tenant that had the name")
    ] = False,
    config: ConfigOption = None,
    folder: FolderOption = None,
) -> None:
    """Make a tenant."""
    if not re.fullmatch(TENANT, name):
        raise CommandError(
            "a tenant's name has lower-case letters, digits, - and _, 64 at most, and begins with no sign"
        )
    database, read = _changing(name, config, folder), _read(settings)
    if not reuse:
        with telling(), _data(config, folder) as data:
            left = data.in_the_way(name)
        if left:
            purge = f"heedful tenants delete {name} --purge"
            fix = f"{purge} deletes it for good, --reuse hands it over"
            raise CommandError(name_in_use(name, left, fix).message)
    with telling():
        database.put_tenant(name, read, new=True)
    console.print(f"made the tenant {name}", highlight=False)


@tenants.command("list")
def list_(config: ConfigOption = None, folder: FolderOption = None, as_json: JsonOption = False) -> None:
    """List the tenants; with --config also those that it holds."""
    settings, database = opened(config, folder)
    known = {name: origin for name, (_, origin) in _all(settings, database).items()}
    known |= dict.fromkeys(database.all().purges.pending, "a purge that was cut off")
    rows = [{"name": name, "from": origin} for name, origin in sorted(known.items())]
    if as_json:
        written(rows)
        return
    listing(("tenant", "from"), [list(row.values()) for row in rows])


@tenants.command()
def show(
    name: TenantName, config: ConfigOption = None, folder: FolderOption = None, as_json: JsonOption = False
) -> None:
    """Show a tenant's settings, as --settings takes them."""
    known = _all(*opened(config, folder))
    if name not in known:
        raise CommandError(f"unknown tenant {name!r}; known: {', '.join(sorted(known))}")
    settings = known[name][0].model_dump(mode="json", exclude_defaults=True)
    if as_json:
        written(settings)
    else:
        typer.echo(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), nl=False)


@tenants.command("set")
def set_(
    name: TenantName, settings: SettingsFile = None, config: ConfigOption = None, folder: FolderOption = None
) -> None:
    """Give a tenant these settings in place of those that it has. Servers take them up within a second."""
    if settings is None:
        raise CommandError("--settings: name a file, or - for standard input")
    database = _changing(name, config, folder)
    with telling():
        database.put_tenant(name, _read(settings), new=False)
    console.print(f"set {name}", highlight=False)


@tenants.command()
def delete(
    name: TenantName,
    purge: Annotated[
        bool, typer.Option("--purge", help="Its stores, records, usage and keys too, to the last byte")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask before a purge")] = False,
    config: ConfigOption = None,
    folder: FolderOption = None,
) -> None:
    """Delete a tenant's settings and revoke its keys; with --purge all that there is of it."""
    database = _changing(name, config, folder)
    if purge:
        _purge(name, database, config, folder, yes=yes)
        return
    with telling():
        revoked = database.delete_tenant(name)
    console.print(
        f"deleted the tenant {name}; keys revoked: {revoked}; its stores, records and usage stay (--purge)",
        highlight=False,
    )


def _purge(name: str, database: KeyDatabase, config: Path | None, folder: str | None, *, yes: bool) -> None:
    if held := [key.id for key in file_keys(opened(config, folder)[0]) if key.tenant == name]:
        raise CommandError(f"the key {held[0]} of the tenant {name} stands in {config}: take it out first")
    with telling(), _data(config, folder) as data:
        there = data.of(name)
        if not there and name not in database.all().tenants:
            raise no_tenant(name)
        if not yes:
            typer.confirm(f"delete the tenant {name} for good, with {there}?", abort=True)
        if database.begin_purge(name, "command line"):
            time.sleep(_NOTICED)
        gone = data.purge(name)
    console.print(f"deleted the tenant {name}, with {gone}", highlight=False)


@contextmanager
def _data(config: Path | None, folder: str | None) -> Iterator[TenantData]:
    settings, database = opened(config, folder)
    stores = Stores(place_of_stores(settings), load(settings.embedder))
    try:
        yield TenantData(database, stores, usage_file(settings))
    finally:
        stores.close()


def _changing(name: str, config: Path | None, folder: str | None) -> KeyDatabase:
    """Raises CommandError for a tenant that the configuration holds."""
    held, database = opened(config, folder)
    if name in held.tenants:
        raise CommandError(f"the tenant {name} stands in {config}: change it there")
    return database


def _all(config: Config, database: KeyDatabase) -> dict[str, tuple[TenantSettings, str]]:
    """Settings by name, and where they stand."""
    with telling():
        found = {
            name: (TenantSettings.model_validate_json(text), "database")
            for name, text in database.all().tenants.items()
        }
    held = {name: (settings, "file") for name, settings in config.tenants.items()}
    return {EVERYONE: (TenantSettings(), "default"), **found, **held}


def _read(file: Path | None) -> TenantSettings:
    if file is None:
        return TenantSettings()
    try:
        raw = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        return TenantSettings.model_validate(load_yaml(raw) or {})
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}") from error
    except YamlError as error:
        raise CommandError(f"{file}:{error.line}: {error}") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise CommandError(f"{file}: {problems}") from error
