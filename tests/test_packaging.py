"""The wheel: complete, and importable as `heedful` alone."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built through the sdist, as a release is."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (path,) = out.glob("*.whl")
    return path


def test_it_holds_everything_under_one_name(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"heedful"}
    for folder in ("server", "strategies", "prompts", "retrieval"):
        ours = {
            f"heedful/{p.relative_to(ROOT).as_posix()}"
            for p in (ROOT / folder).rglob("*")
            if p.is_file() and "__pycache__" not in p.parts
        }
        assert ours <= set(names)


def test_a_clean_environment_gets_no_generic_names(wheel: Path, tmp_path: Path) -> None:
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*install, str(wheel)], check=True, env=bare)
    code = (
        "import importlib.util as u, importlib.metadata as m\n"
        "names = ['server', 'retrieval', 'strategies', 'prompts', 'tests', 'benchmarks']\n"
        "print([n for n in names if u.find_spec(n)], m.version('heedful'), u.find_spec('heedful.server').origin)\n"
        "print([e.value for e in m.entry_points(group='console_scripts', name='heedful')])"
    )
    told = subprocess.run(
        [python, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path, env=bare
    )
    first, second = told.stdout.splitlines()
    assert first.startswith("[] 0.") and "site-packages/heedful/server/__init__.py" in first
    assert second == "['heedful.server.cli.main:main']"
