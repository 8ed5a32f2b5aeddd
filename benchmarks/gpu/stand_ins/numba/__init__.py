"""Stands in for numba where it does not load: what it would compile runs as it is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__version__ = "0.65.0"
prange = range


def jit(*given: Any, **_: Any) -> Any:
    """`@jit` and `@jit(options)`, a signature too."""

    def same(function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    return given[0] if len(given) == 1 and callable(given[0]) else same


njit = jit


def get_num_threads() -> int:
    return 1


def set_num_threads(n: int) -> None:
    """There is one, whatever is asked."""
