"""What the command line does without: it starts at once, and where only the server's own dependencies are there."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "vllm", "scipy", "matplotlib", "openai", "opentelemetry", "heedful.benchmarks"}
_MODULES = """
import sys
from heedful.server.cli.main import main
sys.argv = ["heedful", *sys.argv[1:]]
try:
    {what}
finally:
    print("\\n".join(["", "loaded:", *sys.modules]))
"""


def _loaded(what: str, *arguments: str) -> set[str]:
    """The modules of a process that has done this."""
    run = subprocess.run(
        [sys.executable, "-c", _MODULES.format(what=what), *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(run.stdout.partition("\nloaded:\n")[2].split())


@pytest.mark.parametrize("what", ["pass", "main()"])
def test_serve_and_its_help_load_nothing_heavy(what: str) -> None:
    loaded = _loaded(what, "serve", "--help")
    assert ("heedful.server.cli.serve" in loaded) == (what == "main()")
    assert not loaded & HEAVY


def test_what_is_heavy_is_seen_where_it_is_loaded() -> None:
    assert _loaded("main()", "bench", "--help") & HEAVY == {"heedful.benchmarks"}


def test_what_writes_records_loads_little() -> None:
    """Its server waits for it to start, at the first record."""
    found = "import sys, heedful.server.records.writing; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", found], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "heedful.server.records.file" in loaded
    assert not loaded & {
        "pydantic",
        "numpy",
        "faiss",
        "jinja2",
        "jsonschema",
        "starlette",
        "heedful.strategies.plan",
    }
