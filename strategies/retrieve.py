"""Stores, as strategies reach them: retrieval's errors become what a client is told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from pydantic import Field

from heedful.prompts import Use
from heedful.retrieval import InvalidItem, StoreError, UnknownItem, UnknownStore
from heedful.retrieval.items import time_of
from heedful.retrieval.store.readable import Found
from heedful.strategies.errors import NotFound, RequestError, RetrievalError
from heedful.strategies.run import Resources, Run
from heedful.strategies.trace import Span


@contextmanager
def retrieval_errors(where: str = "") -> Iterator[None]:
    """Errors of retrieval as ours; `where` leads the name of the field at fault."""
    try:
        yield
    except UnknownStore as error:
        raise NotFound(str(error), param=f"{where}store", code="store_not_found") from error
    except UnknownItem as error:
        raise NotFound(str(error), param=f"{where}id", code="item_not_found") from error
    except InvalidItem as error:
        raise RequestError(
            str(error), param=f"{where}{error.field or 'item'}", code="invalid_item"
        ) from error
    except StoreError as error:
        raise RetrievalError(str(error)) from error


@contextmanager
def retrieving(run: Run, strategy: str, stores: Iterable[str]) -> Iterator[Span]:
    """A look into stores: its errors as ours, its time in a span."""
    with retrieval_errors(f"alignment.{strategy}."), run.span("retrieval", "+".join(stores)) as span:
        yield span


def require(resources: Resources, strategy: str, stores: Iterable[str], prompt: str, use: Use) -> None:
    """Raises a RequestError where a store or a prompt that a strategy names is not there."""
    resources.prompt(prompt, param=f"alignment.{strategy}.prompt", use=use)
    if resources.stores is None:
        raise RequestError(f"strategy {strategy!r} needs stores, and this server has none", param="alignment")
    for store in stores:
        if resources.named is not None:
            resources.named.add((strategy, store))
        else:
            require_store(resources, strategy, store)


def require_store(resources: Resources, strategy: str, store: str) -> None:
    """Raises a RequestError where there is no such store for the tenant whose resources these are."""
    with retrieval_errors(f"alignment.{strategy}."):
        resources.readable.require(store)


StoreNames = str | Annotated[tuple[str, ...], Field(min_length=1, max_length=16)]
"""An option: a store, or several that are ranked as one."""


def listed(stores: StoreNames) -> tuple[str, ...]:
    return (stores,) if isinstance(stores, str) else stores


AsOf = str | None
"""An option: a time in ISO 8601, and stores are read as they stood then."""


def moment(as_of: AsOf, strategy: str) -> float | None:
    """In seconds since 1970. Raises RequestError for what is no time."""
    if as_of is None:
        return None
    with retrieval_errors(f"alignment.{strategy}."):
        return time_of(as_of, "as_of")


def qualified(stores: StoreNames, found: Found) -> dict[str, Any]:
    """How a trace names an item: where stores are listed, by its store too."""
    if isinstance(stores, str):
        return {"id": found.item.id, "version": found.version}
    return {"id": f"{found.store}/{found.item.id}", "version": found.version, "store": found.store}
