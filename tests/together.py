"""Tests that ask a real engine, several at once: it answers many requests in about the time of one.

Those of a module that are marked `together`. Each fails or passes for itself, when its turn comes; what it was asked
with is its parameters and fixtures that live as long as the module or longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import pytest
from engine_fixtures import turn

AT_ONCE = 12
"""Tests, each with a few requests: more of them would only wait for each other's prompts to be read."""


class Together:
    def __init__(self) -> None:
        self._begun: dict[pytest.Item, Future[None]] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool | None:
        if pyfuncitem.get_closest_marker("together") is None:
            return None
        if pyfuncitem not in self._begun:
            calls = {item: _call(item, pyfuncitem) for item in _with(pyfuncitem)}
            with ThreadPoolExecutor(AT_ONCE) as pool:
                self._begun |= {item: pool.submit(call) for item, call in calls.items()}
        self._begun.pop(pyfuncitem).result()
        return True


def _with(first: pytest.Function) -> Iterator[pytest.Function]:
    """It and all others of its module that ask the same engine."""
    for item in first.session.items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("together") is not None:
            if item.module is first.module and turn(item) == turn(first):
                yield item


def _call(item: pytest.Function, first: pytest.Function) -> Callable[[], None]:
    """Its function with what it asks for, before pytest has set it up."""
    given = dict(item.callspec.params) if hasattr(item, "callspec") else {}
    for name in item._fixtureinfo.argnames:
        if name not in given:
            assert item._fixtureinfo.name2fixturedefs[name][-1].scope != "function", f"{item.nodeid}: {name}"
            given[name] = first._request.getfixturevalue(name)
    return partial(item.function, **given)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Together())
