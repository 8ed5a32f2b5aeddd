"""Where stores are kept: a folder, or a PostgreSQL of which there is one a session; a test runs in each in turn."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from heedful.benchmarks.postgres_server import PostgresProcess, postgres
from heedful.retrieval import Embedder
from heedful.retrieval.embedding.scripted import word_embedder

_schemas = count()


@pytest.fixture
def embedder() -> Iterator[Embedder]:
    """Words as vectors: it loads nothing."""
    embedder = word_embedder()
    yield embedder
    embedder.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresProcess]:
    """Not to be killed by a test: it is everybody's."""
    # What is written outlives its processes, but not the machine: a test needs no more, and is twice as fast.
    with postgres(fsync="off", shared_buffers="32MB", max_connections="200") as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresProcess) -> str:
    """The address of a schema of one's own, in which nothing is yet."""
    return f"{postgres_server.url}&schema=test_{next(_schemas)}"


@pytest.fixture(params=["folder", "postgres"])
def place(request: pytest.FixtureRequest) -> Path | str:
    """A place for stores, of each kind in turn."""
    return place_of_kind(request, request.param)


def place_of_kind(request: pytest.FixtureRequest, kind: str) -> Path | str:
    """For fixtures of modules of which not every test runs in each."""
    if kind == "folder":
        folder: Path = request.getfixturevalue("tmp_path")
        return folder / "stores"
    url: str = request.getfixturevalue("postgres_url")
    return url
