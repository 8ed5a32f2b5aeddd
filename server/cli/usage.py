"""`heedful usage`: what tenants and their keys have used, from the file that a server writes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heedful.server.access.settings import LimitSettings
from heedful.server.cli.errors import CommandError
from heedful.server.cli.store import FolderOption
from heedful.server.config import load
from heedful.server.limits.budgets import Budgets, UsageFailed, iso_seconds
from heedful.server.stores import usage_file
from heedful.server.terminal import listing, terminal


def usage(
    tenant: Annotated[str | None, typer.Option(help="One tenant alone")] = None,
    config: Annotated[
        Path | None, typer.Option(help="heedful.yaml: where the stores are, and the limits of its tenants")
    ] = None,
    folder: FolderOption = None,
) -> None:
    """Show the tokens and requests of this day and month (UTC), by tenant and key."""
    settings = load(config, {"stores": folder})
    file = usage_file(settings)
    if not file.is_file():
        raise CommandError(f"nothing was used yet: there is no {file}")
    budgets = Budgets(file)
    try:
        known, today = budgets.all(), budgets.today
    except UsageFailed as error:
        raise CommandError(str(error)) from error
    shown = []
    rows = [(t, k) for t, k in known if tenant in (None, t)]
    for name in sorted({t for t, _ in rows}):
        limits = settings.tenants[name].limits if name in settings.tenants else LimitSettings()
        keys = [None, *(k for t, k in rows if t == name and k)]
        for key in keys:
            used = budgets.used(name, key)
            of = (limits.tokens_per_day, limits.tokens_per_month) if key is None else (None, None)
            figures = (used.day, of[0] or "", used.month, of[1] or "", used.month_requests)
            shown.append((name, key or "all", *figures))
    budgets.close()
    listing(("tenant", "key", "today", "of", "this month", "of", "requests"), shown)
    terminal().print(
        f"the day ends at {iso_seconds(today.ends)}, the month at {iso_seconds(today.month_ends)}",
        highlight=False,
    )
