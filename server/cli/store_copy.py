"""`heedful store copy`: stores from a folder into a database, or back, with their history."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated

import typer

from heedful.retrieval import StoreError, UnknownStore
from heedful.retrieval.embedding.embedder import Embedder, load
from heedful.retrieval.store.backend import Backend, backend_of
from heedful.retrieval.store.copying import copy
from heedful.retrieval.store.place import place_of
from heedful.retrieval.store.stores import Stores
from heedful.server.access.client import EVERYONE
from heedful.server.stores import stores_of
from heedful.server.terminal import bar, terminal

console = terminal()

PlaceArgument = Annotated[str, typer.Argument(help="A folder, or postgresql://USER@HOST/DATABASE")]


def copy_stores(
    source: PlaceArgument,
    target: PlaceArgument,
    store: Annotated[list[str] | None, typer.Option(help="This one; may be repeated [all]")] = None,
    tenant: Annotated[str | None, typer.Option(help="Of this tenant [of all]")] = None,
) -> None:
    """Copy stores from one place to another, every version and vector; what is in the way stays as it is."""
    with ExitStack() as stack:
        here, there = (_closed_at_the_end(stack, place) for place in (source, target))
        here.look()
        wanted = _wanted(here, store, tenant)
        embedders: dict[str, Embedder] = {}
        left = []
        for whose, name in wanted:
            made_by = (here if whose == EVERYONE else here.below(whose)).embedder_of(name)
            if made_by not in embedders:
                embedders[made_by] = load(made_by)
                stack.callback(embedders[made_by].close)
            pair = [stores_of(Stores(place, embedders[made_by]), whose) for place in (here, there)]
            called = name if whose == EVERYONE else f"{name} of {whose}"
            try:
                with bar(called) as progress:
                    versions = copy(name, pair[0], pair[1], progress)
            except StoreError as error:
                left.append(f"{called}: {error}")
            else:
                console.print(f"copied {called}: {versions} versions", highlight=False)
    if left:
        raise StoreError(f"not copied: {'; '.join(left)}")


def _closed_at_the_end(stack: ExitStack, place: str) -> Backend:
    backend = backend_of(place_of(place))
    stack.callback(backend.close)
    return backend


def _wanted(here: Backend, stores: list[str] | None, tenant: str | None) -> list[tuple[str, str]]:
    """Tenants and names. Raises UnknownStore where there is none of a name that is asked for."""
    tenants = [EVERYONE, *here.tenants()] if tenant is None else [tenant]
    names = {each: (here if each == EVERYONE else here.below(each)).names() for each in tenants}
    found = [(each, name) for each in tenants for name in names[each] if not stores or name in stores]
    known = {name for _, name in found}
    if missing := [name for name in stores or () if name not in known]:
        raise UnknownStore(f"there is no store {missing[0]!r}")
    return found
