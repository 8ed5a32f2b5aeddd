"""Errors under a floor: they quote neither what the server tells the model nor what a model said unchecked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from heedful.server.log import failed
from heedful.strategies import HeedfulError, Plan, Run, StrategyError, VerifierError

_WINDOW = 16  # letters and digits in a row that both have: no chance
_LEAST = 6  # of a line that is worth hiding
_SIGNS = re.compile(r"[\W_]+")


@contextmanager
def concealing(plan: Plan, run: Run) -> Iterator[None]:
    """Raises what its body raises, concealed."""
    try:
        yield
    except HeedfulError as error:
        if (told := concealed(error, plan, run)) is not error:
            raise told from error
        raise


def concealed(error: HeedfulError, plan: Plan, run: Run) -> HeedfulError:
    """The error as a client may read it. Its status, code and field stay."""
    if not plan.on_the_floor or plan.shows == "full":
        return error
    if isinstance(error, VerifierError | StrategyError):
        # A judge's words, or a strategy's about them.
        if error.status >= 500:
            failed(error)
        return _told(
            error, "the answer could not be checked, so it is not given; the server's log has the details"
        )
    if any(_quotes(error.message, line) for line in run.enforced):
        return _told(error, f"{error.code or error.type}; what was said of it quotes this server's own words")
    return error


def _told(error: HeedfulError, message: str) -> HeedfulError:
    told = HeedfulError(
        message,
        param=error.param,
        code=error.code,
        status=error.status,
        type=error.type,
        headers=error.headers,
    )
    told.__cause__ = error
    return told


def _quotes(message: str, line: str) -> bool:
    """Whether a line stands in a message, or a good part of it, whatever signs are between the letters."""
    text, letters = (_SIGNS.sub("", each).casefold() for each in (message, line))
    windows = range(max(1, len(letters) - _WINDOW + 1))
    return len(letters) >= _LEAST and any(letters[at : at + _WINDOW] in text for at in windows)
