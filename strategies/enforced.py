"""Steps that a request can't do without: run first, and their words stay whatever the request's own steps do."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from heedful.strategies.errors import BudgetSpent, HeedfulError, NotFound, RequestError, StrategyError
from heedful.strategies.run import FLOOR, ContextStrategy, Run
from heedful.strategies.types import Context, text_of

if TYPE_CHECKING:
    from heedful.strategies.plan import Plan

logger = logging.getLogger("heedful.strategies")


async def enforce(
    context: Context, steps: Sequence[tuple[str, ContextStrategy]], run: Run
) -> tuple[Context, Plan | None]:
    """The context as the server's own steps leave it, and the alignment that a gate among them has chosen: the first.

    Raises RequestError where the request leaves them no place; what else goes wrong in them is told to the log alone.
    """
    chosen: Plan | None = None
    for step, strategy in steps:
        try:
            with run.span("stage", f"{FLOOR}{step}") as span:
                context = (await strategy.prepare(context, run.floor(step, span))).with_enforced()
        except BudgetSpent:
            raise  # of the client's own affairs, which a client that tries again makes no better
        except Exception as error:
            # A store's name, a prompt's text: nothing that a client has to know.
            if isinstance(error, RequestError) and not isinstance(error, NotFound):
                raise
            logger.error("step %r of the floor failed: %s", step, error)
            status = error.status if isinstance(error, HeedfulError) and error.status >= 500 else 500
            raise StrategyError(
                "a step that this server does for every request failed", status=status, code="floor_failed"
            ) from error
        if context.refusal is not None:
            break
        if context.then is not None:
            chosen, context = chosen or context.then, replace(context, then=None)
    run.enforced.extend(_added(context))
    return context, chosen


def check_kept(told: Context, context: Context) -> None:
    """Raises RequestError where a request's own steps took words away that enforced ones have put there."""
    if context.refusal is not None:
        return
    before, after = _whole(told), _whole(context)
    kept = all(after.count(line) >= before.count(line) for line in _added(told))
    in_front = context.prompt is not None or not told.enforced or _begins(context, told.enforced)
    if not (kept and in_front and set(told.norms) <= set(context.norms)):
        raise RequestError(
            "alignment: it can't be used here: it does not keep what this server tells the model first",
            param="alignment",
            code="alignment_not_allowed",
        )


def _begins(context: Context, enforced: str) -> bool:
    first = context.messages[0] if context.messages else {}
    return first.get("role") in ("system", "developer") and text_of(first).startswith(enforced)


def _added(context: Context) -> list[str]:
    """The lines that are in the context and were not in the request, or not as often."""
    new = Counter(_lines(_texts(context))) - Counter(_lines(map(text_of, context.original.messages)))
    return list(new)


def _texts(context: Context) -> Iterable[str]:
    return map(text_of, context.messages) if context.prompt is None else [context.prompt]


def _whole(context: Context) -> str:
    return "\n".join(_texts(context))


def _lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from filter(None, map(str.strip, text.split("\n")))
