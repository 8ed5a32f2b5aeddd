"""Figures of several workers: each counts in files of its own, and whoever is scraped adds them up."""

from __future__ import annotations

import os
from pathlib import Path

import prometheus_client.values
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.values import MultiProcessValue

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


def share_figures(folder: Path, worker: int) -> None:
    """From here on, all figures of this process are in `folder`, under the worker's number: its successor goes on
    counting where it was killed. Call it before there are any."""
    os.environ[_FOLDER] = str(folder)
    prometheus_client.values.ValueClass = MultiProcessValue(lambda: worker)  # type: ignore[no-untyped-call]


def all_figures() -> CollectorRegistry | None:
    """Of all workers together; None where this process is the only one."""
    if _FOLDER not in os.environ:
        return None
    registry = CollectorRegistry()
    MultiProcessCollector(registry, os.environ[_FOLDER])  # type: ignore[no-untyped-call]
    return registry
