"""Collectors for tests: our own receiver, and in front of it a real one where its package is installed."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from waiting import HANG

Received = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Collector:
    """Addresses to export to, and what has arrived."""

    http: str
    grpc: str
    received_at: str

    def wait(self, enough: Callable[[Received], Any]) -> Received:
        """What has come, once it is enough."""
        deadline = time.monotonic() + HANG
        while time.monotonic() < deadline:
            got: Received = httpx.get(f"{self.received_at}/received").json()
            if enough(got):
                return got
            time.sleep(0.02)
        raise AssertionError(f"not enough has come: {[s['name'] for s in got['spans']]}")


@contextmanager
def receiver() -> Iterator[Collector]:
    """The process of otlp_receiver.py."""
    command = [sys.executable, str(Path(__file__).with_name("otlp_receiver.py"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            ports = json.loads(process.stdout.readline())
            http = f"http://127.0.0.1:{ports['http']}"
            yield Collector(http, f"http://127.0.0.1:{ports['grpc']}", http)
        finally:
            process.terminate()


def rotel() -> Path | None:
    """The collector of that name (a Rust program in a wheel), where it is installed."""
    spec = importlib.util.find_spec("rotel")
    return None if spec is None or spec.origin is None else Path(spec.origin).with_name("rotel-agent")


@contextmanager
def collecting(program: Path, log: Path) -> Iterator[Collector]:
    """A real collector, which sends on what it gets to our receiver."""
    with receiver() as behind, log.open("wb") as out:
        ports = [_free_port(), _free_port()]
        command = [str(program), "start", "--exporter", "otlp", "--otlp-exporter-protocol", "http"]
        command += ["--otlp-exporter-endpoint", behind.http, "--batch-timeout", "50ms"]
        command += ["--otlp-http-endpoint", f"127.0.0.1:{ports[0]}"]
        command += ["--otlp-grpc-endpoint", f"127.0.0.1:{ports[1]}"]
        process = subprocess.Popen(command, stdout=out, stderr=out)
        try:
            deadline = time.monotonic() + HANG
            while not all(map(_listens, ports)):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.02)
            yield Collector(
                f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}", behind.received_at
            )
        finally:
            process.terminate()
            process.wait(HANG)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
