"""The `heedful` command: one file a command, imported when it is asked for, and what others mount (others.py)."""

from __future__ import annotations

import typer

from heedful.server.cli.errors import CommandError, fail
from heedful.server.cli.others import WithOthers


class Commands(WithOthers):
    ours = {
        "serve": "heedful.server.cli.serve:serve",
        "chat": "heedful.server.cli.chat:chat",
        "demo": "heedful.server.cli.demo:demo",
        "usage": "heedful.server.cli.usage:usage",
        "models": "heedful.server.cli.models:models",
        "store": "heedful.server.cli.store:stores",
        "keys": "heedful.server.cli.keys:keys",
        "tenants": "heedful.server.cli.tenants:tenants",
        "records": "heedful.server.cli.records:records",
    }
    # What is not among its options goes to vLLM as it is.
    settings = {"serve": {"allow_extra_args": True, "ignore_unknown_options": True}}


app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def heedful() -> None:
    """Make any language model heed norms."""


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except CommandError as error:
        fail(str(error))
    except Exception as error:
        if isinstance(error, _told()):
            fail(str(error))
        raise


def _told() -> tuple[type[Exception], ...]:
    """What says by itself what is wrong; imported once something is, which halves the start of a small command."""
    from heedful.prompts import PromptError
    from heedful.retrieval import StoreError
    from heedful.server.config import ConfigError
    from heedful.server.models.bundled import ModelUnavailable

    return ConfigError, PromptError, StoreError, ModelUnavailable
