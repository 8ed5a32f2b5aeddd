"""`heedful store`: stores from the command line. A running server sees every change at its next search."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated
from uuid import uuid4

import typer
from rich.table import Table
from rich.text import Text

from heedful.retrieval import Filter, InvalidItem, StoreError, UnknownItem
from heedful.retrieval.embedding.embedder import load
from heedful.retrieval.embedding.encoder import BUNDLED
from heedful.retrieval.ingest import FORMATS, decoded, export_lines, import_items, parse
from heedful.retrieval.items import iso, item_of, time_of
from heedful.retrieval.store.any_store import AnyStore
from heedful.retrieval.store.backend import Backend, backend_of
from heedful.retrieval.store.place import place_of
from heedful.retrieval.store.stores import Stores
from heedful.server.access.client import EVERYONE
from heedful.server.cli.store_copy import copy_stores
from heedful.server.config import STORES_ENV
from heedful.server.models.bundled import home
from heedful.server.stores import stores_of
from heedful.server.terminal import bar, listing, plain, terminal

stores = typer.Typer(
    no_args_is_help=True, help="Norms and demonstrations: add, find, list, import, export, delete."
)
stores.command("copy")(copy_stores)
console, errors = terminal(), terminal(stderr=True)
_SHOWN = 20  # bad lines; a file of the wrong kind has thousands

Name = Annotated[str, typer.Argument(help="The store")]
FolderOption = Annotated[
    str | None,
    typer.Option(
        "--folder",
        "--stores",
        envvar=STORES_ENV,
        help="Folder of the stores, or postgresql://USER@HOST/DATABASE [stores in $HEEDFUL_HOME]",
    ),
]
EmbedderOption = Annotated[
    str | None, typer.Option("--embedder", help="Embedding model, a folder or an id [the store's own]")
]
TenantOption = Annotated[str, typer.Option("--tenant", help="Whose stores")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="A tag; may be repeated")]


def _backend(folder: str | None) -> Backend:
    return backend_of(place_of(folder) or home() / "stores")


@contextmanager
def _opened(
    name: str, folder: str | None, tenant: str, embedder: str | None, *, create: bool = False
) -> Iterator[AnyStore]:
    """With the embedder that is named, or else the store's own: no command embeds a store anew by accident."""
    backend = _backend(folder)
    own = backend if tenant == EVERYONE else backend.below(tenant)
    if embedder is None and name in own.names():
        embedder = own.embedder_of(name)
    every = Stores(backend, load(embedder or BUNDLED))
    try:
        all_stores = stores_of(every, tenant)
        if create and all_stores.create(name)[1]:
            console.print(f"made store {name}", highlight=False)
        with bar(name) as progress:
            store = all_stores.get(name, progress)
        yield store
    finally:
        every.close()


@stores.command()
def add(
    name: Name,
    text: Annotated[str, typer.Argument(help="The norm, or the prompt of a demonstration")],
    answer: Annotated[str | None, typer.Option(help="The answer of a demonstration")] = None,
    id: Annotated[str | None, typer.Option(help="Replaces the item of this id")] = None,
    source: Annotated[str, typer.Option(help="Where it comes from; stands before it in prompts")] = "",
    scope: Annotated[str, typer.Option(help="Where it holds; default: everywhere")] = "",
    tag: Tags = None,
    mandatory: Annotated[bool, typer.Option(help="Binds every answer in its scope")] = False,
    valid_from: Annotated[
        str | None, typer.Option("--from", help="Valid from this time on (ISO 8601)")
    ] = None,
    valid_until: Annotated[str | None, typer.Option("--until", help="Valid until this time")] = None,
    folder: FolderOption = None,
    tenant: TenantOption = EVERYONE,
    embedder: EmbedderOption = None,
) -> None:
    """Add one item, or replace the one of the same id; durable when it returns."""
    value = {"text": text, "answer": answer, "id": id, "source": source, "scope": scope, "tags": tag or []}
    times = {"valid_from": valid_from, "valid_until": valid_until}
    item = item_of({**value, **times, "mandatory": mandatory})
    with _opened(name, folder, tenant, embedder, create=True) as store:
        written = store.add([item])
    what = "added" if written.added else "replaced" if written.replaced else "unchanged"
    console.print(f"{what} {item.id}", highlight=False, markup=False)
    _tell_truncated(len(written.truncated), store)


@stores.command("list")
def list_(
    name: Annotated[str | None, typer.Argument(help="A store; none: all stores")] = None,
    limit: Annotated[int, typer.Option(help="At most so many items")] = 100,
    as_of: Annotated[str | None, typer.Option(help="What stood at this time (ISO 8601)")] = None,
    folder: FolderOption = None,
    tenant: TenantOption = EVERYONE,
    embedder: EmbedderOption = None,
) -> None:
    """List the stores, or the items of one."""
    if name is None:
        backend = _backend(folder)
        found = backend if tenant == EVERYONE else backend.below(tenant)
        rows = [(each, found.count(each), found.embedder_of(each)) for each in found.names()]
        backend.close()
        listing(("store", "items", "embedder"), rows)
        return
    at = time_of(as_of, "as_of") if as_of else None
    with _opened(name, folder, tenant, embedder) as store:
        after, left = 0, limit
        while left > 0 and (page := store.page(after, min(left, 500), as_of=at)):
            for _, version in page:
                sys.stdout.buffer.write(next(export_lines([version.item])))
            after, left = page[-1][0], left - len(page)


@stores.command()
def search(
    name: Name,
    query: Annotated[str, typer.Argument(help="What to look for")],
    k: Annotated[int, typer.Option("-k", help="How many")] = 10,
    scope: Annotated[
        list[str] | None, typer.Option(help="Only what holds here or everywhere; may be repeated")
    ] = None,
    tag: Tags = None,
    folder: FolderOption = None,
    tenant: TenantOption = EVERYONE,
    embedder: EmbedderOption = None,
) -> None:
    """Find the items nearest in meaning."""
    scopes = None if scope is None else frozenset(scope)
    filter = Filter(scopes=scopes, tags=frozenset(tag or ()), at=time.time())
    with _opened(name, folder, tenant, embedder) as store:
        for hit in store.search(store.embedder.embed_now([query])[0], k, filter):
            line = (f"{hit.score:.3f} ", plain(hit.item.id, "dim"), " ", plain(hit.item.text))
            console.print(Text.assemble(*line), soft_wrap=True)


@stores.command()
def delete(
    name: Name,
    ids: Annotated[list[str], typer.Argument()],
    folder: FolderOption = None,
    tenant: TenantOption = EVERYONE,
    embedder: EmbedderOption = None,
) -> None:
    """End items by id; their history stays."""
    with _opened(name, folder, tenant, embedder) as store:
        gone = store.delete(ids)
    if missing := [id for id in ids if id not in gone]:
        raise UnknownItem(f"deleted {len(gone)}; these do not stand in {name!r}: {', '.join(missing)}")
    console.print(f"deleted {len(gone)}")


@stores.command()
def erase(
    name: Name,
    ids: Annotated[list[str], typer.Argument()],
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask")] = False,
    folder: FolderOption = None,
    tenant: TenantOption = EVERYONE,
    embedder: EmbedderOption = None,
) -> None:
    """Remove every version of items from the store's files, history and all; that it was done is all that stays."""
    if not yes:
        typer.confirm(f"erase {len(set(ids))} items of {name!r} for good?", abort=True)
    with _opened(name, folder, tenant, embedder) as store:
        erased = store.erase(ids, "command line")
    console.print(f"erased {len(erased)} items, {sum(erased.values())} versions")
    if missing := [id for id in ids if id not in erased]:
        raise UnknownItem(f"these never were in {name!r}: {', '.join(missing)}")


@stores.command("import")
def import_(
    name: Name,
    files: Annotated[
        list[Path],
        typer.Argument(help="JSON lines, CSV, Markdown (a rule per heading) or plain text (per paragraph)"),
    ],
    format: Annotated[
        str | None, typer.Option(help="jsonl, csv, markdown or text [by the file's name]")
    ] = None,
    field: Annotated[
        list[str] | None, typer.Option(help="OURS=THEIRS, such as text=principle; may be repeated")
    ] = None,
    extra_to_meta: Annotated[bool, typer.Option(help="Keep fields that are not ours, in meta")] = False,
    source: Annotated[str, typer.Option(help="Source of items that name none")] = "",
    scope: Annotated[str, typer.Option(help="Scope of items that name none")] = "",
    tag: Tags = None,
    skip_bad: Annotated[bool, typer.Option(help="Import the good lines though there are bad ones")] = False,
    encoding: Annotated[
        str | None,
        typer.Option(help="Such as latin-1 or cp1252 [UTF-8, or UTF-16 that begins with its mark]"),
    ] = None,
    folder: FolderOption = None,
    tenant: TenantOption = EVERYONE,
    embedder: EmbedderOption = None,
) -> None:
    """Import files. Bad lines stop it before anything is written; after a break, run it again to go on."""
    rename = {}
    for pair in field or []:
        ours, sign, theirs = pair.partition("=")
        if not sign:
            raise InvalidItem(f"--field {pair}: write OURS=THEIRS, such as text=principle")
        rename[theirs] = ours
    defaults = {k: v for k, v in {"source": source, "scope": scope, "tags": tag}.items() if v}
    items, bad = [], 0
    for file in files:
        kind = format or FORMATS.get(file.suffix.lower())
        if kind is None:
            raise InvalidItem(f"{file}: say --format; known endings: {', '.join(FORMATS)}")
        parsed = parse(
            _read(file, encoding), kind, defaults=defaults, rename=rename, extra_to_meta=extra_to_meta
        )
        if len(parsed.problems) > _SHOWN:
            errors.print(f"{file}: {len(parsed.problems)} bad lines, the first {_SHOWN}:", highlight=False)
        for line, problem in parsed.problems[:_SHOWN]:
            errors.print(f"{file}:{line}: {problem}", highlight=False, soft_wrap=True)
        bad += len(parsed.problems)
        items += parsed.items
    if bad and not skip_bad:
        raise InvalidItem(
            f"{bad} bad lines, nothing was imported; mend them, or pass over them with --skip-bad"
        )
    with _opened(name, folder, tenant, embedder, create=True) as store, bar(name) as progress:
        done = import_items(store, items, progress)
    console.print(
        f"{done.added} added, {done.replaced} replaced, {done.unchanged} unchanged, {bad} bad lines"
    )
    _tell_truncated(done.truncated, store)


@stores.command()
def export(
    name: Name,
    file: Annotated[Path | None, typer.Argument(help="Default: standard output")] = None,
    folder: FolderOption = None,
    tenant: TenantOption = EVERYONE,
    embedder: EmbedderOption = None,
) -> None:
    """Write all standing items as JSON lines, which import reads again."""
    with _opened(name, folder, tenant, embedder) as store:
        if file is None:
            sys.stdout.buffer.writelines(export_lines(store))
        else:
            with whole(file) as out:
                out.writelines(export_lines(store))


@stores.command()
def history(
    name: Name,
    id: str,
    folder: FolderOption = None,
    tenant: TenantOption = EVERYONE,
    embedder: EmbedderOption = None,
) -> None:
    """Show every version of an item: what it said, and from when to when."""
    with _opened(name, folder, tenant, embedder) as store:
        erased, versions = store.erasures(id), store.history(id)
    if not versions and not erased:
        raise UnknownItem(f"there never was an item {id!r} in {name!r}")
    table = Table("version", "recorded", "ended", "scope", "text")
    for each in erased:
        table.add_row(f"{each.versions} versions", "", f"erased {iso(each.at)}", "", "")
    for v in versions:
        table.add_row(
            str(v.version), iso(v.began), iso(v.ended) if v.ended else "", v.item.scope, v.item.text
        )
    console.print(table)


@stores.command()
def starter(
    folder: FolderOption = None, tenant: TenantOption = EVERYONE, embedder: EmbedderOption = None
) -> None:
    """Make the stores `norms` and `demos` from the sets that ship with heedful, where they are missing."""
    every = Stores(_backend(folder), load(embedder or BUNDLED))
    try:
        made = stores_of(every, tenant).add_starters()
    except OSError as error:
        raise StoreError(f"{error.filename or 'the folder of the stores'}: {error.strerror}") from error
    finally:
        every.close()
    console.print(f"made {', '.join(made)}" if made else "nothing to do: the stores are there")


def _tell_truncated(texts: int, store: AnyStore) -> None:
    if texts:
        limit = f"the {store.embedder.longest} tokens that the embedding model reads"
        errors.print(f"{texts} longer than {limit}: found by the beginning only", highlight=False)


@contextmanager
def whole(file: Path) -> Iterator[IO[bytes]]:
    """A file that gets all of its content or stays as it was."""
    special = file.exists() and not file.is_file()  # /dev/stdout
    scratch = file if special else file.with_name(f".{file.name}.{uuid4().hex}")
    try:
        with scratch.open("wb") as out:
            yield out
        if not special:
            scratch.replace(file)
    except OSError as error:
        raise StoreError(f"{file}: {error.strerror}") from error
    finally:
        if not special:
            scratch.unlink(missing_ok=True)


def _read(file: Path, encoding: str | None) -> str:
    try:
        return decoded(file.read_bytes(), encoding)
    except OSError as error:
        raise StoreError(f"{file}: {error.strerror}") from error
    except InvalidItem as error:
        raise InvalidItem(f"{file}: {error}") from error
