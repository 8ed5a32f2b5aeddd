"""The house: which room may import which, how long a file may be, and that the map of it is true."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAP = ROOT / "docs" / "layout.md"
# What each room may import beside itself.
MAY = {
    "benchmarks": {"server", "strategies", "retrieval", "prompts"},
    "server": {"strategies", "retrieval", "prompts"},
    "strategies": {"retrieval", "prompts"},
    "retrieval": set[str](),
    "prompts": set[str](),
}
# Within the server: who is imported by nobody but these.
ONLY_BY = {
    "server/cli/": ("server/cli/", "server/__main__.py"),
    "server/api/": ("server/api/", "server/app.py"),
}
OUTSIDE = {"starlette", "fastapi", "uvicorn", "vllm", "typer"}
"""What strategies, retrieval and prompts know nothing of."""


def _tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / line for line in listed.stdout.split("\n") if line and (ROOT / line).is_file()]


def _imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at its top or later, or names in a string to import."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if named := re.match(r"heedful(\.[a-z_]+){2,}(?=:|$)", node.value):
                yield named[0]


@pytest.mark.parametrize("room", MAY)
def test_imports_go_one_way(room: str) -> None:
    for path in _tracked(f"{room}/**.py"):
        for module in _imports(path):
            if (parts := module.split("."))[0] == "heedful" and len(parts) > 1 and parts[1] in MAY:
                assert parts[1] in {room, *MAY[room]}, f"{path.relative_to(ROOT)} imports {module}"
            if room not in ("server", "benchmarks"):
                assert parts[0] not in OUTSIDE, f"{path.relative_to(ROOT)} imports {module}"


@pytest.mark.parametrize("folder", ONLY_BY)
def test_the_servers_rooms(folder: str) -> None:
    """Engines know no API, and no room but the command line knows a command."""
    package = f"heedful.{folder.rstrip('/').replace('/', '.')}"
    for path in _tracked("server/**.py"):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith(ONLY_BY[folder]):
            found = [m for m in _imports(path) if m == package or m.startswith(f"{package}.")]
            assert not found, f"{name} imports {found[0]}"


def test_files_fit_into_a_head() -> None:
    for path in _tracked("*.py"):
        limit = 500 if path.is_relative_to(ROOT / "tests") else 400
        lines = len(path.read_text().splitlines())
        assert lines <= limit, f"{path.relative_to(ROOT)} has {lines} lines, {limit} at most"


def test_the_map_is_true() -> None:
    text = MAP.read_text()
    named = set(re.findall(r"`([a-z_.]+(?:/[a-z_.]+)+/?|[a-z_]+/)`", text))
    assert len(named) > 30
    for path in named:
        assert (ROOT / path).exists(), f"docs/layout.md names {path}, which is not there"


def test_every_room_is_on_the_map() -> None:
    text = MAP.read_text()
    rooms = {
        path.parent.relative_to(ROOT).as_posix() for path in _tracked(*(f"{room}/**.py" for room in MAY))
    }
    for room in sorted(rooms):
        assert f"`{room}/`" in text, f"docs/layout.md does not name {room}/"


def test_one_name_is_one_thing() -> None:
    """Of classes and of types that have a name, wherever they are."""
    places: dict[str, list[str]] = {}
    for path in _tracked(*(f"{room}/**.py" for room in MAY)):
        for node in ast.parse(path.read_text()).body:
            names = [node.name] if isinstance(node, ast.ClassDef) else []
            if isinstance(node, ast.Assign):
                names = [t.id for t in node.targets if isinstance(t, ast.Name) and _is_type(t.id)]
            for name in names:
                places.setdefault(name, []).append(path.relative_to(ROOT).as_posix())
    twice = {name: where for name, where in places.items() if len(where) > 1 and not name.startswith("_")}
    assert not twice


def _is_type(name: str) -> bool:
    return name[:1].isupper() and not name.isupper()
