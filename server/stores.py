"""Where a server and the command line find the stores, a tenant's too: in one folder, for several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from rich.text import Text

from heedful.retrieval.embedding.embedder import load
from heedful.retrieval.errors import StoreError
from heedful.retrieval.store.stores import Stores
from heedful.server.access.client import EVERYONE
from heedful.server.config import STORES_ENV, Config, ConfigError
from heedful.server.models.bundled import home
from heedful.server.terminal import terminal


def place_of_stores(config: Config) -> Path | str:
    """A folder, or the address of a database."""
    return config.stores or home() / "stores"


def folder_of(config: Config) -> Path:
    """Where a server keeps what else it keeps: beside stores that are files, else where those would be."""
    return config.stores if isinstance(config.stores, Path) else home() / "stores"


def usage_file(config: Config) -> Path:
    """Where it is written what each key has used: beside the stores, whose files end otherwise."""
    return folder_of(config) / "usage.sqlite"


def stores_of(stores: Stores, tenant: str) -> Stores:
    """A tenant's stores; those of `default` are where a server without tenants has its own."""
    return stores if tenant == EVERYONE else stores.below(tenant)


def drop_stores_of(stores: Stores, tenant: str) -> list[str]:
    """Deletes all stores of a tenant that is deleted itself, history and all; returns their names. Blocks."""
    if tenant == EVERYONE:
        raise ValueError(f"the stores of {EVERYONE!r} are this server's own")
    return stores.drop_below(tenant)


def open_stores(config: Config, embedding: Path | None = None) -> Stores:
    """The stores of a configuration. Makes the starter ones where they are missing; loads nothing else yet.

    `embedding`: the socket of a process that embeds for several servers; None: one of this server's own.

    Embeds on a few cores: the GPU is the model's, and on a CPU the engine's threads are on all of them.
    """
    place = place_of_stores(config)
    threads = max(1, (os.cpu_count() or 1) // 4)
    try:
        embedder = load(config.embedder, device="cpu", threads=threads, at=embedding)
        stores = Stores(place, embedder, folder=folder_of(config))
        stores.kept.look()
    except StoreError as error:
        raise ConfigError(str(error)) from error
    if config.starter_stores and stores.missing_starters():
        missing = ", ".join(stores.missing_starters())
        with terminal(stderr=True).status(Text(f"making the starter stores ({missing}) …")):
            # In a process of its own: FAISS starts threads, and an engine is to be forked off from here later.
            command = [
                sys.executable,
                "-m",
                "heedful.server",
                "store",
                "starter",
                "--embedder",
                config.embedder,
            ]
            # An address may have a password, which is not for the list of processes.
            where = {**os.environ, STORES_ENV: str(place)}
            made = subprocess.run(command, capture_output=True, text=True, env=where)
        if made.returncode:
            raise ConfigError(
                f"starter_stores: can't make them: {made.stderr.strip()} (set starter_stores: false to go without)"
            )
    return stores
