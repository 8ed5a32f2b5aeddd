"""What goes into the log: a line for what is foreseen, a traceback for what is not, and nothing again and again."""

from __future__ import annotations

import logging
import time
import traceback
from collections import OrderedDict

from heedful.server.access.key_text import without_keys
from heedful.strategies import EngineError, HeedfulError, VerifierError

logger = logging.getLogger("heedful.server")
EVERY = 10.0
"""Seconds in which the same line stands in the log once."""
_KINDS = 256  # lines that are remembered
_LONGEST = 500  # characters: an upstream may answer a whole page
_BUG = 500  # the status of what nobody foresaw; 502 to 504 are an upstream's, a verifier's or a store's fault


class Repeats(logging.Filter):
    """Lets the same line through once in a while, and says then how often it was left out."""

    def __init__(self, every: float = EVERY) -> None:
        super().__init__()
        self._every = every
        self._seen: OrderedDict[tuple[int, str], tuple[float, int]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        key, now = (record.levelno, record.getMessage()), time.monotonic()
        said, left_out = self._seen.get(key, (now - self._every, 0))
        if now - said < self._every:
            self._seen[key] = said, left_out + 1
            return False
        self._seen[key] = now, 0
        self._seen.move_to_end(key)
        if len(self._seen) > _KINDS:
            self._seen.popitem(last=False)
        if left_out:
            record.msg, record.args = f"{key[1]} (and {left_out} more times since)", ()
        return True


class OneLine(logging.Filter):
    """What others log, who may quote anybody, as a line."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = one_line(record.getMessage()), ()
        return True


logger.addFilter(Repeats())
for _filter in (OneLine(), Repeats()):
    logging.getLogger("heedful.strategies").addFilter(_filter)


def failed(error: HeedfulError) -> None:
    """Logs a fault that is no client's: in one line, whatever its text holds."""
    unforeseen = error if _unforeseen(error) else None
    logger.error("%s: %s", type(error).__name__, one_line(str(error)), exc_info=unforeseen)


def bug(error: Exception) -> None:
    """Logs what nobody foresaw with its traceback. Each place has a line of its own, so that none hides another."""
    place = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" in {place[0].filename}:{place[0].lineno}" if place else ""
    logger.error("unforeseen %s%s", type(error).__name__, where, exc_info=error)


def one_line(text: str) -> str:
    """What others wrote, as the log can hold it: no line of its own, nothing that a terminal obeys, not too long."""
    text = without_keys(text.encode("utf-8", "replace")).decode()
    text = "".join(c if c.isprintable() else " " for c in text[: 4 * _LONGEST])
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _unforeseen(error: HeedfulError) -> bool:
    if isinstance(error, VerifierError) and (cause := error.__cause__) is not None:
        return not isinstance(cause, HeedfulError | TimeoutError | OSError)  # a third party's
    # An engine's own word for a failure is its log's affair; what was raised inside one is ours.
    told = isinstance(error, EngineError) and error.__cause__ is None
    return error.status == _BUG and not told
