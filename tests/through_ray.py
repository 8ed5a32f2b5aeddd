"""`heedful serve --ray` for tests. With HEEDFUL_TEST_RAY=1 in the environment, what tests ask of `proxied` goes
through it."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from waiting import HANG, until_ready

THROUGH_RAY = "HEEDFUL_TEST_RAY" in os.environ


@contextmanager
def ray_replicas(folder: Path, **settings: Any) -> Iterator[tuple[str, psutil.Process]]:
    """Two replicas on this machine: their address, and the process that deployed them, which has to end with 0."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    ray = {"num_replicas": 2, "ray_actor_options": {"num_cpus": 0}}
    config, log = folder / "heedful.yaml", folder / "log"
    config.write_text(json.dumps({"stores": "stores", "port": port, "ray": ray, **settings}))
    with log.open("wb") as out:
        command = [sys.executable, "-m", "heedful.server", "serve", "--ray", str(config)]
        process = psutil.Popen(command, stdout=out, stderr=out, env=os.environ)
    try:
        until_ready(lambda: b"is listening" in log.read_bytes(), process, log)
        yield f"http://127.0.0.1:{port}", process
    finally:
        if process.is_running():
            process.send_signal(signal.SIGTERM)
        status = process.wait(HANG)
    assert status == 0, log.read_text()
