"""Commands of ours and those that others mount: entry points of the group `heedful.commands`, as `heedful eval` is.

A command is a function with Typer's annotations, or a `typer.Typer` with commands of its own; imported when it is
asked for, and for the list of `heedful --help`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

from heedful.server.cli.errors import CommandError

GROUP = "heedful.commands"


class WithOthers(TyperGroup):
    """Our commands, then those of others; a name of ours stays ours."""

    ours: Mapping[str, str] = {}
    """By name where they are: `module:name`."""
    settings: Mapping[str, dict[str, Any]] = {}
    """Click's context settings of those that have any."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*self.ours, *sorted(_mounted().keys() - self.ours.keys())]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if where := self.ours.get(cmd_name):
            return _made(cmd_name, EntryPoint(cmd_name, where, GROUP).load(), self.settings.get(cmd_name))
        entry = _mounted().get(cmd_name)
        return None if entry is None else _command(entry)


@cache
def _mounted() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


@cache
def _command(entry: EntryPoint) -> Any:
    """Where it can't be loaded, a command that says why: the others work on."""
    try:
        command = entry.load()
        return _made(entry.name, command)
    except (Exception, SystemExit) as error:
        why = f"{entry.name} ({entry.value}) can't be loaded: {error}"

        def broken() -> None:
            raise CommandError(why)

        broken.__doc__ = escape(why)
        return _made(entry.name, broken, {"allow_extra_args": True, "ignore_unknown_options": True})


def _made(name: str, command: Any, settings: dict[str, Any] | None = None) -> Any:
    parent = typer.Typer(add_completion=False)
    if isinstance(command, typer.Typer):
        parent.add_typer(command, name=name)
    else:
        parent.command(name, context_settings=settings)(command)
        parent.callback()(lambda: None)  # makes it a group even with one command
    group: Any = typer.main.get_command(parent)
    return group.commands[name]
