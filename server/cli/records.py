"""`heedful records`: why did it say that? Reads the file beside the stores, whether or not a server runs."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from heedful.retrieval import StoreError, UnknownItem
from heedful.retrieval.items import time_of
from heedful.retrieval.store.backend import backend_of
from heedful.server.access.client import EVERYONE
from heedful.server.cli.errors import CommandError
from heedful.server.cli.explained import explained
from heedful.server.cli.keys import ConfigOption
from heedful.server.cli.store import FolderOption, whole
from heedful.server.config import load
from heedful.server.records import export as exporting
from heedful.server.records.file import NAME, RecordsFile, Wanted
from heedful.server.stores import folder_of, place_of_stores
from heedful.server.terminal import listing, terminal
from heedful.strategies import RequestError

records = typer.Typer(no_args_is_help=True, help="Decision records: show, list, export, erase.")
console = terminal()

OfTenant = Annotated[str | None, typer.Option(help="Of this tenant [all]")]
OfUser = Annotated[str | None, typer.Option(help="Of this user")]
Since = Annotated[str | None, typer.Option(help="From this time on (ISO 8601)")]
Until = Annotated[str | None, typer.Option(help="Before this time")]


def _file(folder: str | None, config: Path | None) -> RecordsFile:
    beside = folder_of(load(config, {"stores": folder}))
    if not (beside / NAME).exists():
        raise StoreError(f"there are no records in {beside}; tenants.NAME.records in heedful.yaml keeps them")
    return RecordsFile(beside)


def _wanted(tenant: str | None, user: str | None, since: str | None, until: str | None) -> Wanted:
    return Wanted(
        tenant=tenant,
        user=user,
        since=time_of(since, "since") if since else None,
        until=time_of(until, "until") if until else None,
    )


@records.command()
def show(
    id: Annotated[str, typer.Argument(help="The response's id, as its client got it")],
    tenant: OfTenant = None,
    json: Annotated[bool, typer.Option("--json", help="The record as it is kept")] = False,
    config: ConfigOption = None,
    folder: FolderOption = None,
) -> None:
    """Explain one answer, with its norms as they stood then."""
    file = _file(folder, config)
    if not (found := file.page(Wanted(tenant=tenant, id=id), limit=1)):
        raise UnknownItem(f"there is no record of a response {id!r}")
    (_, body) = found[0]
    if json:
        sys.stdout.buffer.write(body + b"\n")
    else:
        with closing(backend_of(place_of_stores(load(config, {"stores": folder})))) as stores:
            console.print(explained(msgspec.json.decode(body), stores))


@records.command("list")
def list_(
    tenant: OfTenant = None,
    user: OfUser = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(help="At most so many, the latest ones")] = 50,
    config: ConfigOption = None,
    folder: FolderOption = None,
) -> None:
    """List the latest records."""
    rows = []
    for _, body in _file(folder, config).page(_wanted(tenant, user, since, until), limit=limit):
        record = msgspec.json.decode(body)
        users = ", ".join(record.get("users", ()))
        told = [record.get(name) for name in ("tenant", "model", "alignment", "verdict", "status")]
        rows.append([record["id"], record["time"][:19], *("" if v is None else v for v in told), users])
    listing(("id", "time", "tenant", "model", "alignment", "verdict", "status", "users"), rows)


@records.command()
def export(
    file: Annotated[Path | None, typer.Argument(help="Default: standard output")] = None,
    format: Annotated[str, typer.Option(help="jsonl or parquet")] = "jsonl",
    tenant: OfTenant = None,
    user: OfUser = None,
    since: Since = None,
    until: Until = None,
    config: ConfigOption = None,
    folder: FolderOption = None,
) -> None:
    """Write records to a file, the oldest first."""
    if format not in exporting.FORMATS:
        raise CommandError(f"--format: one of {', '.join(exporting.FORMATS)}")
    pages = _file(folder, config).pages(_wanted(tenant, user, since, until))
    try:
        pieces, _ = exporting.export(format, pages)
    except RequestError as error:
        raise CommandError(error.message) from error
    if file is None:
        sys.stdout.buffer.writelines(pieces)
    else:
        with whole(file) as out:
            out.writelines(pieces)


@records.command()
def erase(
    user: Annotated[str, typer.Option(help="The user whose records go, as requests named them")],
    tenant: Annotated[str, typer.Option(help="Whose user it is")] = EVERYONE,
    config: ConfigOption = None,
    folder: FolderOption = None,
) -> None:
    """Erase all records of a user, so that no byte of them stays in the file; that it was done is recorded."""
    file = _file(folder, config)
    with file.opened() as db:
        erased = file.erase(db, tenant, user, "command line")
    console.print(f"erased {erased}")


@records.command()
def digest(
    file: Annotated[Path | None, typer.Argument(help="A text; default: standard input")] = None,
    config: ConfigOption = None,
    folder: FolderOption = None,
) -> None:
    """Print the digest that records have of a text, to compare with a question's or an answer's."""
    try:
        text = sys.stdin.buffer.read() if file is None else file.read_bytes()
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}") from error
    console.print(_file(folder, config).digests.of(text))
