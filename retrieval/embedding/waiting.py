"""What waits for the embedding model: few texts, such as a question, and many, such as an import, by turns.

A question waits for one piece of an import at most, and an import for one batch of questions; imports take turns
among themselves.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

_FEW_TEXTS, _FEW_CHARACTERS = 16, 16_384
_LEAST = 8  # texts in a piece
# A piece of an import grows while it takes less, and shrinks where it takes more.
_QUICK, _SLOW = 0.04, 0.1  # seconds


class Job:
    """Texts of one caller, who waits for vectors, or (`counts`) for numbers of tokens.

    `owner`: who finds them remembered.
    """

    def __init__(
        self, texts: list[str], future: Future[Any], *, counts: bool = False, owner: str = ""
    ) -> None:
        self.texts, self.future, self.counts, self.owner = texts, future, counts, owner
        self.few = len(texts) <= _FEW_TEXTS and sum(map(len, texts)) <= _FEW_CHARACTERS
        self._next, self._done = 0, list[Any]()

    def piece(self, most: int) -> Piece:
        """The next texts: at most so many, and not too long together."""
        start, size = self._next, 0
        while self._next < len(self.texts) and self._next - start < most:
            size += len(self.texts[self._next])
            if size > _FEW_CHARACTERS and self._next > start:
                break
            self._next += 1
        return Piece(self, self.texts[start : self._next], self.few)

    @property
    def begun_whole(self) -> bool:
        """Whether the last piece has been taken."""
        return self._next == len(self.texts)

    def take(self, part: Any) -> None:
        """What its next piece came to."""
        self._done.append(part)
        if sum(map(len, self._done)) == len(self.texts):
            whole = [n for part in self._done for n in part] if self.counts else np.concatenate(self._done)
            with suppress(InvalidStateError):  # whoever waited has gone
                self.future.set_result(whole)

    def fail(self, error: BaseException) -> None:
        with suppress(InvalidStateError):
            self.future.set_exception(error)


@dataclass(frozen=True, slots=True)
class Piece:
    """Texts of a job that are encoded at once; `soon`: they are few, and all of it."""

    job: Job
    texts: list[str]
    soon: bool


class Queue:
    """For one thread that works and any that ask. `batch`: how many texts at a time, at most."""

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._many = min(batch, _FEW_TEXTS)
        self._changed = threading.Condition()
        self._soon: deque[Job] = deque()
        self._later: deque[Job] = deque()
        self._later_is_next = self._ended = False
        self._taken_many = False

    def put(self, job: Job) -> None:
        with self._changed:
            (self._soon if job.few and len(job.texts) <= self._batch else self._later).append(job)
            self._changed.notify()

    def end(self) -> None:
        """No more will come."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def take(self) -> list[Piece]:
        """What is to be encoded next, at once; none at the end. Waits until there is something."""
        with self._changed:
            while True:
                self._soon = deque(job for job in self._soon if not job.future.done())
                self._later = deque(job for job in self._later if not job.future.done())
                if self._soon or self._later:
                    break
                if self._ended:
                    self._ended = False
                    return []
                self._changed.wait()
            self._taken_many = bool(self._later) and (self._later_is_next or not self._soon)
            self._later_is_next = not self._taken_many
            if self._taken_many:
                job = self._later.popleft()
                piece = job.piece(self._many)
                if not job.begun_whole:
                    self._later.append(job)
                return [piece]
            pieces, size = [self._soon.popleft().piece(self._batch)], 0
            while self._soon and not pieces[0].job.counts:
                size += len(pieces[-1].texts)
                if self._soon[0].counts or size + len(self._soon[0].texts) > self._batch:
                    break
                pieces.append(self._soon.popleft().piece(self._batch))
            return pieces

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Around the work on what was taken: pieces of imports follow what the machine can do."""
        began = time.perf_counter()
        yield
        taken = time.perf_counter() - began
        if self._taken_many and taken > _SLOW:
            self._many = max(min(_LEAST, self._batch), self._many // 2)
        elif self._taken_many and taken < _QUICK:
            self._many = min(self._batch, self._many * 2)

    def fail(self, error: BaseException) -> None:
        """Everything that waits."""
        with self._changed:
            jobs, self._soon, self._later, self._ended = [*self._soon, *self._later], deque(), deque(), False
        for job in jobs:
            job.fail(error)
