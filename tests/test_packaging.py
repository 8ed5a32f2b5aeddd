"""The wheel: complete, and importable as `heedful` alone."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from functools import partial
from pathlib import Path

import pytest
from report_records import write
from running import at_once

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
    for folder in ("server", "strategies", "prompts", "retrieval", "benchmarks"):
        ours = {
            f"heedful/{p.relative_to(ROOT).as_posix()}"
            for p in (ROOT / folder).rglob("*")
            if p.is_file() and "__pycache__" not in p.parts and "results" not in p.parts
        }
        assert ours <= set(names)
    assert not any("results" in name for name in names)


BARE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An environment with the wheel and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    python = str(folder / "venv" / "bin" / "python")
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
    subprocess.run([*install, str(wheel)], check=True, env=BARE)
    return python


def test_a_clean_environment_gets_no_generic_names(python: str, tmp_path: Path) -> None:
    code = (
        "import importlib.util as u, importlib.metadata as m\n"
        "names = ['server', 'retrieval', 'strategies', 'prompts', 'tests', 'benchmarks']\n"
        "print([n for n in names if u.find_spec(n)], m.version('heedful'), u.find_spec('heedful.server').origin)\n"
        "print([e.value for e in m.entry_points(group='console_scripts', name='heedful')])"
    )
    told = subprocess.run(
        [python, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path, env=BARE
    )
    first, second = told.stdout.splitlines()
    assert first.startswith("[] 0.") and "site-packages/heedful/server/__init__.py" in first
    assert second == "['heedful.server.cli.main:main']"


def test_every_command_works_from_the_wheel(python: str, tmp_path: Path) -> None:
    """Outside the checkout. Dependencies are this environment's, whose own heedful is hidden by the wheel's."""
    (site,) = Path(python).parent.parent.glob("lib/*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    heedful = Path(python).with_name("heedful")

    def run(*arguments: str) -> str:
        command = [str(heedful), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=BARE)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = "import heedful.server as s; print(s.__file__)"
    asked = subprocess.run([python, "-c", where], capture_output=True, text=True, cwd=tmp_path, env=BARE)
    assert asked.stdout.startswith(str(site))
    told = run("--help")
    commands = ("serve", "chat", "demo", "models", "store", "bench", "eval", "recommend", "report")
    assert all(command in told for command in commands)
    assert all(at_once(*(partial(run, command, "--help") for command in commands)))
    assert "smollm2-135m-instruct" in run("models")
    write(tmp_path / "records", ["tiny"], ["direct", "urial"], items=20, requests=10)
    run("report", str(tmp_path / "records"))
    assert "</svg>" in (tmp_path / "records" / "report.html").read_text()
