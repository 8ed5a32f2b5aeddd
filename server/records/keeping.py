"""Keeps records while the server runs: the event loop only puts facts into a queue, a thread does all the rest."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from heedful.retrieval.errors import StoreError
from heedful.retrieval.items import unhurried
from heedful.server.access.settings import RecordSettings
from heedful.server.log import bug, logger
from heedful.server.observe.facts import RECORDED, Facts
from heedful.server.records.file import NAME, RecordsFile
from heedful.server.records.record import Entry, entry

_MOST, _MOST_BYTES = (
    10_000,
    256 << 20,
)  # answers, and bytes of them and their requests, that wait to be written
_BATCH = 500
_PAUSE = (
    0.1  # seconds in which others come along; what a kill -9 loses at most, but for the time of one write
)
_AT_THE_DOOR = frozenset({"rate_limit_exceeded", "insufficient_quota", "server_busy"})
_AGAIN = 1.0  # seconds until a write that failed is tried again
_EXPIRE_EVERY = 60.0  # seconds
_CLOSING = 30.0  # seconds for the last ones
T = TypeVar("T")
_Over = tuple[Facts, RecordSettings]


class _Job(NamedTuple):
    work: Callable[[RecordsFile, sqlite3.Connection], Any]
    done: Future[Any]


class DecisionRecords:
    """A Sink. Nothing is opened and no thread runs before the first record, unless there are some already."""

    def __init__(
        self,
        folder: Path | None,
        settings: Mapping[str, RecordSettings],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`folder`: of the stores; None where there are none. `settings`: the configuration's, by tenant.

        Raises StoreError where records can't be kept there.
        """
        self._folder, self._settings, self._clock = folder, settings, clock
        self._file: RecordsFile | None = None
        self._queue: deque[_Over | _Job] = deque()
        self._entries: list[Entry] = []  # taken from the queue, and not in the file yet
        self._put = self._taken = 0  # bytes; one is the event loop's, the other the thread's
        self._wake, self._urgent, self._closing = threading.Event(), threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._ended = False
        self.dropped = 0
        """Answers whose records are lost, because they could not be written as fast as they came."""
        self._told = 0
        if settings or self.exist:
            self.file()

    def __call__(self, facts: Facts) -> None:
        """Takes in the facts of a request that is over, or counts them as lost. Takes microseconds."""
        client = facts.client
        if client is None or (kept := client.tenant.settings.records) is None or facts.route not in RECORDED:
            return
        if facts.run is None and facts.error is not None and facts.error.code in _AT_THE_DOOR:
            return  # no answer, and there may be as many as a client can ask
        size = facts.received + facts.sent
        full = len(self._queue) >= _MOST or self._put - self._taken + size > _MOST_BYTES
        if full or self._ended:
            if self.dropped == self._told:
                logger.error("records are lost: they come faster than %s takes them", self._folder)
            self.dropped += 1
            return
        self._put += size
        self._queue.append((facts, kept))
        if not self._wake.is_set():
            self._woken()

    @property
    def exist(self) -> bool:
        """Whether there are any, or will be in a moment."""
        return self._thread is not None or self._stored

    @property
    def _stored(self) -> bool:
        return self._folder is not None and (self._folder / NAME).exists()

    def file(self) -> RecordsFile:
        """The file, made where it is missing. Blocks. Raises StoreError."""
        if self._file is None or not self._stored:
            if self._folder is None:
                raise StoreError(
                    "records are kept beside the stores, and this server has no folder for those"
                )
            self._file = RecordsFile(self._folder)
        return self._file

    def settle(self, settings: Mapping[str, RecordSettings]) -> None:
        """Takes up other settings."""
        if settings != self._settings:
            self._settings = settings
            self.start()

    def start(self) -> None:
        """Applies how long records are kept by now, and lets them expire."""
        if self.exist:
            self._submit(self._keep)

    def flush(self) -> Future[None]:
        """Done when all that has been put in so far is in the file."""
        return self._submit(lambda file, db: None)

    def erase(self, tenant: str, user: str, by: str | None) -> Future[int]:
        """`RecordsFile.erase`, of what is in the queue as well."""
        return self._submit(lambda file, db: file.erase(db, tenant, user, by))

    def expire(self) -> Future[None]:
        """Deletes what has been kept long enough, now."""

        def all_of_them(file: RecordsFile, db: sqlite3.Connection) -> None:
            while file.expire(db, self._clock()):
                pass

        return self._submit(all_of_them)

    def close(self) -> None:
        """Writes what is left. Blocks."""
        self._closing.set()
        self._urgent.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_CLOSING)
            if self._thread.is_alive():
                logger.error("records can't be written before the end; some %d are lost", len(self._queue))

    def _submit(self, work: Callable[[RecordsFile, sqlite3.Connection], T]) -> Future[T]:
        """Runs it in the writer's thread, after all that is in the queue."""
        done: Future[T] = Future()
        self._queue.append(_Job(work, done))
        self._urgent.set()
        self._woken()
        return done

    def _woken(self) -> None:
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="records", daemon=True)
                    self._thread.start()
        self._wake.set()

    # -- the writer's thread

    def _keep(self, file: RecordsFile, db: sqlite3.Connection) -> None:
        for tenant, settings in self._settings.items():
            file.keep(db, tenant, settings.keep_days)
        file.expire(db, self._clock())

    def _run(self) -> None:
        """Until it is closed and nothing is left. A write that fails is tried again; what comes meanwhile waits."""
        last = False
        while not last:
            last = self._closing.is_set()
            try:
                file = self.file()
                with file.opened() as db:
                    self._work(file, db)
            except StoreError as error:
                logger.error("records can't be written: %s", error)
                self._refuse(error)
                self._closing.wait(_AGAIN)
        self._ended = True
        self.dropped += len(self._entries) + len(self._queue)
        self._tell_dropped()

    def _work(self, file: RecordsFile, db: sqlite3.Connection) -> None:
        """Until it is closed, or the file is no more."""
        inode, expired = file.inode(), time.monotonic()
        while True:
            if not self._closing.is_set():
                self._wake.wait(_EXPIRE_EVERY)
                self._urgent.wait(_PAUSE)
            closing = self._closing.is_set()
            self._wake.clear()
            self._urgent.clear()
            if file.inode() != inode:
                self._wake.set()
                return
            while self._queue or self._entries:
                self._some(file, db)
            self._tell_dropped()
            if closing:
                return
            if time.monotonic() - expired >= _EXPIRE_EVERY:
                if file.expire(db, self._clock()):
                    self._wake.set()  # the rest soon, a few at a time
                else:
                    expired = time.monotonic()

    def _some(self, file: RecordsFile, db: sqlite3.Connection) -> None:
        """Writes the next ones, up to the next job, and does that. Where it raises sqlite3.Error they wait on."""
        job: _Job | None = None
        for each in unhurried(self._taken_up()):
            if isinstance(each, _Job):
                job = each
                break
            self._take(*each, file)
        try:
            if self._entries:
                file.write(db, self._entries)
                self._entries.clear()
        except sqlite3.Error:
            if job is not None:
                self._queue.appendleft(job)
            raise
        if job is not None:
            _do(job, file, db)

    def _taken_up(self) -> Iterator[_Over | _Job]:
        while self._queue and len(self._entries) < _BATCH:
            yield self._queue.popleft()

    def _take(self, facts: Facts, settings: RecordSettings, file: RecordsFile) -> None:
        self._taken += facts.received + facts.sent
        try:
            self._entries.append(entry(facts, settings, file.digests))
        except Exception as error:  # notes that nothing can write, say; the others go on
            self.dropped += 1
            bug(error)

    def _refuse(self, error: StoreError) -> None:
        """Whoever waits is told; records wait on."""
        waiting = [self._queue.popleft() for _ in range(len(self._queue))]
        self._queue.extendleft(each for each in reversed(waiting) if not isinstance(each, _Job))
        for each in waiting:
            if isinstance(each, _Job) and each.done.set_running_or_notify_cancel():
                each.done.set_exception(StoreError(str(error)))

    def _tell_dropped(self) -> None:
        if (dropped := self.dropped) > self._told:
            logger.error("%d records are lost, %d in all", dropped - self._told, dropped)
            self._told = dropped


def _do(job: _Job, file: RecordsFile, db: sqlite3.Connection) -> None:
    if not job.done.set_running_or_notify_cancel():
        return
    try:
        job.done.set_result(job.work(file, db))
    except sqlite3.Error as error:
        job.done.set_exception(StoreError(f"{file.path}: {error}"))
    except Exception as error:
        job.done.set_exception(error)
