"""A server whose user has no folder of its own, and a system that can't be written: all it writes is in its home."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from heedful.server.caches import keep_caches_in_home
from heedful.server.models.bundled import home


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("XDG_CONFIG_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/cache")  # which not even root can make
    monkeypatch.setenv("HEEDFUL_HOME", str(tmp_path))


def test_caches_that_can_not_be_written_are_kept_at_home(tmp_path: Path) -> None:
    keep_caches_in_home()
    assert os.environ["XDG_CACHE_HOME"] == str(tmp_path / "cache")
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "cache" / "triton")


def test_what_the_environment_says_of_a_cache_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "/fast/triton")
    keep_caches_in_home()
    assert os.environ["TRITON_CACHE_DIR"] == "/fast/triton"


def test_a_users_own_cache_stays_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = str(tmp_path / "not" / "made" / "yet")
    monkeypatch.setenv("XDG_CACHE_HOME", own)
    keep_caches_in_home()
    assert os.environ["XDG_CACHE_HOME"] == own and "TRITON_CACHE_DIR" not in os.environ


def test_home_is_known_where_the_user_is_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", unknown)
    assert home() == tmp_path
