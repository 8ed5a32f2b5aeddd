"""Starts what is measured: heedful and vLLM's own server, on this machine, with the same engine options."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from heedful.benchmarks.machine import gpu
from heedful.benchmarks.machine import machine as machine
from heedful.server.models import bundled

# What heedful sets for itself on a CPU, so that both engines run alike. On a GPU it leaves all of that to vLLM.
ON_CPU = {"VLLM_CPU_KVCACHE_SPACE": "2", "TORCH_COMPILE_DISABLE": "1"}
_START_LIMIT = 400


@contextmanager
def heedful(model: str, *options: str) -> Iterator[str]:
    """`heedful serve`; yields its address."""
    port = free_port()
    command = [sys.executable, "-m", "heedful.server", "serve", model, "--port", str(port), *options]
    with running(command, f"http://127.0.0.1:{port}") as url:
        yield url


@contextmanager
def vllm(model: str, *options: str) -> Iterator[str]:
    """vLLM's own OpenAI server on the same model folder; yields its address."""
    port = free_port()
    folder = str(bundled.prepare(bundled.MODELS[model]))
    module = "vllm.entrypoints.openai.api_server"
    command = [
        sys.executable,
        "-m",
        module,
        "--model",
        folder,
        "--served-model-name",
        model,
        "--port",
        str(port),
    ]
    command += ["--host", "127.0.0.1", "--disable-uvicorn-access-log", *options]
    if not gpu():
        command.append("--enforce-eager")
    with running(command, f"http://127.0.0.1:{port}") as url:
        yield url


@contextmanager
def running(command: list[str], url: str) -> Iterator[str]:
    with process(command, f"{url}/health"):
        yield url


@contextmanager
def process(
    command: list[str],
    health: str,
    environment: dict[str, str] | None = None,
    errors: IO[bytes] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A server as a process of its own, once `health` answers; it is told to stop at the end.

    `errors`: where its messages go.
    """
    started = subprocess.Popen(
        command,
        env={
            "VLLM_LOGGING_LEVEL": "ERROR",
            **({} if gpu() else ON_CPU),
            **os.environ,
            **(environment or {}),
        },
        stdout=errors or subprocess.DEVNULL,
        stderr=errors or (None if environment is None else subprocess.DEVNULL),
    )
    try:
        until = time.monotonic() + _START_LIMIT
        while not _healthy(health):
            if started.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"did not start: {' '.join(command)}")
            time.sleep(0.3)
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(30)
        except subprocess.TimeoutExpired:
            started.kill()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False
