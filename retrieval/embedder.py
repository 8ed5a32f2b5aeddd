"""Texts to vectors, off the event loop, the texts of all concurrent requests in one batch."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue

import numpy as np
from numpy.typing import NDArray

from heedful.retrieval.encoder import BUNDLED, Encoder
from heedful.retrieval.errors import EmbedderMissing

Vectors = NDArray[np.float32]
Encode = Callable[[list[str]], Vectors]
# Two models are the same where they agree on these; a name or a path says little.
SAME_MODEL = 0.9995  # cosine
_PROBES = ["Tell the truth.", "¿Cuánto cuesta un billete a Zúrich?", "def add(a, b): return a + b"]


def unit(vectors: Vectors) -> Vectors:
    """Vectors, shape (n, d), as long as 1 each; a zero stays zero."""
    scaled: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return scaled


class Embedder:
    """Unit vectors (float32) of texts, so that an inner product is a cosine.

    `load` returns the function that encodes a list of texts, shape (n, d); it is called once, in the embedder's
    own thread, at first use. That thread takes whatever is waiting, up to `batch` texts, and encodes it at once.
    `cache` is how many recent texts are remembered.
    """

    def __init__(self, name: str, load: Callable[[], Encode], *, batch: int = 64, cache: int = 2048) -> None:
        self.name = name
        self._load, self._batch, self._keep = load, batch, cache
        self._waiting: SimpleQueue[tuple[list[str], Future[Vectors]] | None] = SimpleQueue()
        self._recent: OrderedDict[str, Vectors] = OrderedDict()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._probe: Vectors | None = None

    @property
    def probe(self) -> Vectors:
        """Vectors of fixed texts, shape (3, d): what a store keeps to know its embedder again. Blocks."""
        if self._probe is None:
            self._probe = self.embed_now(_PROBES)
        return self._probe

    @property
    def dimension(self) -> int:
        """Length of a vector. Loads the model at first use, and blocks meanwhile."""
        return int(self.probe.shape[1])

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of `texts`, shape (n, d). Raises EmbedderMissing where the model can't be loaded."""
        return await asyncio.wrap_future(self._submit(texts))

    def embed_now(self, texts: Sequence[str]) -> Vectors:
        """The same for a caller that may block."""
        return self._submit(texts).result()

    def close(self) -> None:
        """Ends the thread, and the model's process, once what is waiting is done. Blocks."""
        with self._lock:
            thread = self._thread
            if thread is not None:
                self._waiting.put(None)
        if thread is not None:
            thread.join()

    def _submit(self, texts: Sequence[str]) -> Future[Vectors]:
        result: Future[Vectors] = Future()
        if not texts:
            result.set_result(np.zeros((0, self.dimension), np.float32))
            return result
        with self._lock:
            known = [self._recent.get(t) for t in texts]
            if all(v is not None for v in known):
                for text in texts:
                    self._recent.move_to_end(text)
                result.set_result(np.stack([v for v in known if v is not None]))
                return result
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="embedder", daemon=True)
                self._thread.start()
            # Large inputs go in pieces, so that a query never waits for a whole import.
            if len(texts) <= self._batch:
                self._waiting.put((list(texts), result))
                return result
            parts: list[Future[Vectors]] = [Future() for _ in range(0, len(texts), self._batch)]
            for i, part in enumerate(parts):
                self._waiting.put((list(texts[i * self._batch : (i + 1) * self._batch]), part))
        _joined(parts, result)
        return result

    def _work(self) -> None:
        try:
            encode = self._load()
        except Exception as error:
            self._fail(error)
            return
        try:
            self._serve(encode)
        finally:
            if isinstance(encode, Encoder):
                encode.close()

    def _serve(self, encode: Encode) -> None:
        while (first := self._waiting.get()) is not None:
            jobs, size, end = [first], len(first[0]), False
            while size < self._batch:
                try:
                    job = self._waiting.get_nowait()
                except Empty:
                    break
                if job is None:
                    end = True
                    break
                jobs.append(job)
                size += len(job[0])
            self._encode(encode, [job for job in jobs if job[1].set_running_or_notify_cancel()])
            if end:
                return

    def _encode(self, encode: Encode, jobs: list[tuple[list[str], Future[Vectors]]]) -> None:
        texts = list(dict.fromkeys(text for job, _ in jobs for text in job))
        try:
            found = np.asarray(encode(texts), np.float32) if texts else np.zeros((0, 0), np.float32)
            found = unit(found)
        except Exception as error:
            for _, future in jobs:
                future.set_exception(error)
            return
        vectors = dict(zip(texts, found, strict=True))
        with self._lock:
            self._recent.update(vectors)
            while len(self._recent) > self._keep:
                self._recent.popitem(last=False)
        for job, future in jobs:
            future.set_result(np.stack([vectors[t] for t in job]))

    def _fail(self, error: Exception) -> None:
        """A model that can't be loaded stays so until the next request, which tries again."""
        told = EmbedderMissing(f"the embedding model {self.name!r} can't be loaded: {error}")
        with self._lock:
            self._thread = None
            while True:
                try:
                    job = self._waiting.get_nowait()
                except Empty:
                    return
                if job is not None and job[1].set_running_or_notify_cancel():
                    job[1].set_exception(told)


def load(model: str = BUNDLED, *, device: str | None = None, threads: int | None = None) -> Embedder:
    """The bundled all-MiniLM-L6-v2, or any sentence-transformers model by name or folder; loaded at first use.

    `device` and `threads` as for `Encoder`, the process that it runs in.
    """
    return Embedder(model, lambda: Encoder(model, device, threads))


def _joined(parts: list[Future[Vectors]], result: Future[Vectors]) -> None:
    """Completes `result` with all parts in order, or with the first failure."""
    left, lock = len(parts), threading.Lock()

    def done(part: Future[Vectors]) -> None:
        nonlocal left
        with lock:
            left -= 1
            last = left == 0
        if not last:
            return
        if not result.set_running_or_notify_cancel():
            return
        try:
            result.set_result(np.concatenate([p.result() for p in parts]))
        except BaseException as error:
            result.set_exception(error)

    for part in parts:
        part.add_done_callback(done)
