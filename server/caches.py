"""Where the libraries below keep their caches, in a place where the user has none: a container, a service."""

from __future__ import annotations

import os
from pathlib import Path

from heedful.server.models.bundled import home


def keep_caches_in_home() -> None:
    """Sends the caches of vLLM, torch, Triton and Hugging Face to $HEEDFUL_HOME, if the user's can't be written.

    Before any of them is imported. Whatever the environment says of a cache is obeyed.
    """
    if "HEEDFUL_HOME" not in os.environ or _writable(_users()):
        return
    ours = home() / "cache"
    os.environ["XDG_CACHE_HOME"] = str(ours)
    for variable, folder in (
        ("XDG_CONFIG_HOME", ours / "config"),
        ("TRITON_CACHE_DIR", ours / "triton"),
        ("TORCHINDUCTOR_CACHE_DIR", ours / "torchinductor"),
        ("MPLCONFIGDIR", ours / "matplotlib"),
    ):
        os.environ.setdefault(variable, str(folder))


def _users() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))


def _writable(folder: Path) -> bool:
    """Whether it can be written, or made."""
    there = next((parent for parent in (folder, *folder.parents) if parent.exists()), None)
    return there is not None and os.access(there, os.W_OK | os.X_OK)
