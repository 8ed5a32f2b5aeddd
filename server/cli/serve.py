"""`heedful serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heedful.server.cli.errors import fail
from heedful.server.config import STORES_ENV, load, with_upstream


def serve(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Argument(help="A bundled name, a local folder, or a Hugging Face id.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="heedful.yaml")] = None,
    ray: Annotated[
        Path | None, typer.Option(help="heedful.yaml, served by replicas on Ray Serve (docs/operate/ray.md)")
    ] = None,
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
    stores: Annotated[
        str | None,
        typer.Option(
            envvar=STORES_ENV,
            help="Folder of the stores, or postgresql://USER@HOST/DATABASE [stores in $HEEDFUL_HOME]",
        ),
    ] = None,
    reports: Annotated[
        Path | None, typer.Option(help="A folder of evaluations' records that the page shows [none]")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="So many processes answer, where only upstreams are served [1]")
    ] = None,
    page: Annotated[
        bool | None,
        typer.Option("--page/--no-page", help="The page at / to see what an alignment does [it is]"),
    ] = None,
) -> None:
    """Serve MODEL. Any option not listed here goes to vLLM as it is (--max-model-len 4096, --dtype bfloat16, …)."""
    if model is not None and model.startswith("-"):
        # Options of vLLM's are positional to the parser, so a first one stands where MODEL belongs.
        fail(f"no such option: {model}" if upstream else "MODEL comes first, before the options of vLLM's")
    if upstream is None and (upstream_models or upstream_key_env):
        fail("--model and --upstream-key-env belong to --upstream; MODEL itself comes without a flag")
    if ray is not None and config is not None:
        fail("--ray takes the place of --config: give one of them")
    overrides = {
        "model": model,
        "host": host,
        "port": port,
        "default_alignment": default_alignment,
        "served_name": served_name,
        "prompts": prompts or None,
        "page": page,
        "reports": reports,
        "stores": stores,
        "workers": workers,
    }
    settings = load(config if ray is None else ray.resolve(), overrides)
    if upstream is not None:
        named = {"url": upstream, "models": upstream_models or [], "api_key_env": upstream_key_env}
        settings = with_upstream(settings, named)
    if settings.model is None and context.args:
        fail(f"no such option: {context.args[0]}")
    if settings.workers > 1:
        if ray is not None:
            fail("workers: with --ray say how many replicas there are, in `ray: {num_replicas: …}`")
        from heedful.server.workers.supervisor import supervise

        raise typer.Exit(supervise(settings))
    if ray is None:
        from heedful.server.serve import run
    else:
        from heedful.server.ray import run
    raise typer.Exit(run(settings, context.args))
