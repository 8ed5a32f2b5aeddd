"""Stores, as strategies reach them: retrieval's errors become what a client is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from heedful.prompts import Use
from heedful.retrieval import InvalidItem, StoreError, UnknownItem, UnknownStore
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
def retrieving(run: Run, strategy: str, store: str) -> Iterator[Span]:
    """A look into a store: its errors as ours, its time in a span."""
    with retrieval_errors(f"alignment.{strategy}."), run.span("retrieval", store) as span:
        yield span


def require(resources: Resources, strategy: str, store: str, prompt: str, use: Use) -> None:
    """Raises a RequestError where a store or a prompt that a strategy names is not there."""
    resources.prompt(prompt, param=f"alignment.{strategy}.prompt", use=use)
    if resources.stores is None:
        raise RequestError(f"strategy {strategy!r} needs stores, and this server has none", param="alignment")
    with retrieval_errors(f"alignment.{strategy}."):
        resources.stores.require(store)
