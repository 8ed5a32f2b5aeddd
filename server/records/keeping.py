"""Keeps records while the server runs: the event loop writes down facts, a thread hands them to another process."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

from heedful.retrieval.errors import StoreError
from heedful.server.access.settings import RecordSettings
from heedful.server.log import bug, logger
from heedful.server.observe.facts import RECORDED, Facts
from heedful.server.records.file import NAME, RecordsFile
from heedful.server.records.material import is_large, material
from heedful.server.records.wire import Batch, Erase, Expire, Keep, Work, WriterReply
from heedful.server.records.writer import RecordsWriter

_MOST, _MOST_BYTES = (
    10_000,
    256 << 20,
)  # answers, and bytes of them and their requests, that wait to be written
_BATCH, _BATCH_BYTES = 500, 4 << 20
_PAUSE = (
    0.1  # seconds in which others come along; what a kill -9 loses at most, but for the time of one write
)
_AT_THE_DOOR = frozenset({"rate_limit_exceeded", "insufficient_quota", "server_busy"})
_AGAIN = 1.0  # seconds until a write that failed is tried again
_EXPIRE_EVERY = 60.0  # seconds
_CLOSING = 30.0  # seconds for the last ones


class _Large(NamedTuple):
    """What takes longer to write down than the event loop has."""

    facts: Facts
    settings: RecordSettings
    size: int


class _Job(NamedTuple):
    work: Work | None
    done: Future[Any]


class DecisionRecords:
    """A Sink. Nothing is opened and no thread or process runs before the first record, unless there are
    some already."""

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
        self._queue: deque[bytes | _Large | _Job] = deque()
        self._batch: list[bytes] = []  # taken from the queue, and not in the file yet
        self._batch_bytes = 0
        self._again = False  # whether it may be there all the same
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
        if is_large(facts):
            self._put += size
            self._queue.append(_Large(facts, kept, size))
        elif (made := self._made(facts, kept)) is not None:
            self._put += len(made)
            self._queue.append(made)
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
            days = {tenant: settings.keep_days for tenant, settings in self._settings.items()}
            self._submit(Keep(days, self._clock()))

    def flush(self) -> Future[None]:
        """Done when all that has been put in so far is in the file."""
        return self._submit(None)

    def erase(self, tenant: str, user: str, by: str | None) -> Future[int]:
        """`RecordsFile.erase`, of what is in the queue as well."""
        return self._submit(Erase(tenant, user, by))

    def expire(self) -> Future[None]:
        """Deletes what has been kept long enough, now."""
        return self._submit(Expire(self._clock(), all=True))

    def close(self) -> None:
        """Writes what is left. Blocks."""
        self._closing.set()
        self._urgent.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_CLOSING)
            if self._thread.is_alive():
                logger.error("records can't be written before the end; some %d are lost", len(self._queue))

    def _made(self, facts: Facts, settings: RecordSettings) -> bytes | None:
        try:
            return material(facts, settings)
        except Exception as error:  # notes that nothing can write, say; the others go on
            self.dropped += 1
            bug(error)
            return None

    def _submit(self, work: Work | None) -> Future[Any]:
        """Has it done after all that is in the queue."""
        done: Future[Any] = Future()
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

    # -- the thread

    def _run(self) -> None:
        """Until it is closed and nothing is left. A write that fails is tried again; what comes meanwhile waits."""
        last, writer = False, None
        while not last:
            last = self._closing.is_set()
            try:
                writer = writer or RecordsWriter(self.file().path.parent)
                self._work(writer)
            except StoreError as error:
                logger.error("records can't be written: %s", error)
                self._refuse(error)
                self._closing.wait(_AGAIN)
        self._ended = True
        self.dropped += len(self._batch) + len(self._queue)
        self._tell_dropped()
        if writer is not None:
            writer.end()

    def _work(self, writer: RecordsWriter) -> None:
        """Until it is closed."""
        expired = time.monotonic()
        while True:
            if not self._closing.is_set():
                self._wake.wait(_EXPIRE_EVERY)
                self._urgent.wait(_PAUSE)
            closing = self._closing.is_set()
            self._wake.clear()
            self._urgent.clear()
            # What comes from here on waits for others: each turn takes the interpreter from the event loop.
            left = len(self._queue)
            while left > 0 or self._batch:
                left -= self._some(writer, left)
            self._tell_dropped()
            if closing and not self._queue:
                return
            if time.monotonic() - expired >= _EXPIRE_EVERY:
                if writer.write(Batch((), Expire(self._clock(), all=False))).done:
                    self._wake.set()  # the rest soon, a few at a time
                else:
                    expired = time.monotonic()

    def _some(self, writer: RecordsWriter, most: int) -> int:
        """Has the next ones written, up to the next job, and that done; how many that were. Where it raises
        StoreError they wait on."""
        job, taken = None, 0
        while taken < most and len(self._batch) < _BATCH and self._batch_bytes < _BATCH_BYTES:
            each = self._queue.popleft()
            taken += 1
            if isinstance(each, _Job):
                if each.done.set_running_or_notify_cancel():
                    job = each
                    break
            else:
                self._take(each)
        try:
            reply = writer.write(Batch(self._batch, job and job.work, self._again))
        except StoreError as error:
            self._again = True
            if job is not None:
                job.done.set_exception(StoreError(str(error)))
            raise
        self._batch, self._batch_bytes, self._again = [], 0, False
        self.dropped += len(reply.lost)
        for why in reply.lost:
            logger.error("a record can't be made\n%s", why)
        if job is not None:
            _settle(job, reply)
        return taken

    def _take(self, each: bytes | _Large) -> None:
        if isinstance(each, _Large):
            self._taken += each.size
            made = self._made(each.facts, each.settings)
        else:
            self._taken += len(each)
            made = each
        if made is not None:
            self._batch.append(made)
            self._batch_bytes += len(made)

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


def _settle(job: _Job, reply: WriterReply) -> None:
    if reply.refused is not None:
        job.done.set_exception(StoreError(reply.refused))
    else:
        job.done.set_result(None if job.work is None else reply.done)
