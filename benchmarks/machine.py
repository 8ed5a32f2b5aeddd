"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import date
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """Where and when: goes beside every measured figure."""
    found = {
        "date": date.today().isoformat(),
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    return found | ({"gpu": gpu()} if gpu() else {})


@cache
def gpu() -> str | None:
    """The first NVIDIA card with its memory and driver; None where there is none. Loads no CUDA."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return told.stdout.strip().partition("\n")[0] or None if told.returncode == 0 else None


def versions(*packages: str) -> dict[str, str | None]:
    """Of what was measured; None for what is not installed."""
    return {package: _version(package) for package in packages}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
