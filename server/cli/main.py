"""The `heedful` command: one file a command, and those that others mount (others.py)."""

from __future__ import annotations

import typer

from heedful.prompts import PromptError
from heedful.retrieval import StoreError
from heedful.server.cli.chat import chat
from heedful.server.cli.demo import demo
from heedful.server.cli.errors import CommandError, fail
from heedful.server.cli.keys import keys
from heedful.server.cli.models import models
from heedful.server.cli.others import WithOthers
from heedful.server.cli.records import records
from heedful.server.cli.serve import serve
from heedful.server.cli.store import stores
from heedful.server.cli.tenants import tenants
from heedful.server.cli.usage import usage
from heedful.server.config import ConfigError
from heedful.server.models.bundled import ModelUnavailable

app = typer.Typer(
    cls=WithOthers,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Make any language model heed norms.",
)
# What is not among its options goes to vLLM as it is.
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(serve)
app.command()(chat)
app.command()(demo)
app.command()(usage)
app.add_typer(models, name="models", invoke_without_command=True)
app.add_typer(stores, name="store")
app.add_typer(keys, name="keys")
app.add_typer(tenants, name="tenants")
app.add_typer(records, name="records")


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except (CommandError, ConfigError, PromptError, StoreError, ModelUnavailable) as error:
        fail(str(error))
