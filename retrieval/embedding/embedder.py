"""Texts to vectors, off the event loop, the texts of all concurrent requests in one batch."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from heedful.retrieval.embedding.encoder import BUNDLED, Encoder
from heedful.retrieval.embedding.waiting import Job, Piece, Queue
from heedful.retrieval.errors import EmbedderMissing, StoreError

Vectors = NDArray[np.float32]
Encode = Callable[[list[str]], Vectors]
# Two models are the same where they agree on these; a name or a path says little.
SAME_MODEL = 0.9995  # cosine
_PROBES = ["Tell the truth.", "¿Cuánto cuesta un billete a Zúrich?", "def add(a, b): return a + b"]
_REMEMBERED = 4096  # characters of a text whose vector is remembered


@runtime_checkable
class Tokenizing(Protocol):
    """An encoder that knows the tokens of its model."""

    @property
    def longest(self) -> int | None:
        """How many tokens of a text it reads; None: all of them."""
        ...

    def count(self, texts: list[str]) -> list[int]:
        """How many tokens texts have, those that the model adds included, whether or not it reads them all."""
        ...


def unit(vectors: Vectors) -> Vectors:
    """Vectors, shape (n, d), as long as 1 each; a zero stays zero."""
    scaled: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return scaled


class Embedder:
    """Unit vectors (float32) of texts, so that an inner product is a cosine.

    `load` returns the function that encodes a list of texts, shape (n, d); it is called once, in the embedder's
    own thread, at first use. That thread takes whatever is waiting, up to `batch` texts, and encodes it at once; many
    texts go in pieces between those of others (`Queue`). `cache` is how many recent texts are remembered.
    """

    def __init__(self, name: str, load: Callable[[], Encode], *, batch: int = 64, cache: int = 2048) -> None:
        self.name = name
        self._load, self._keep = load, cache
        self._queue = Queue(batch)
        self._recent: OrderedDict[tuple[str, str], Vectors] = OrderedDict()
        """By owner and text: how soon an answer comes tells nobody what another has asked."""
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._probe: Vectors | None = None
        self._longest: int | None = None

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

    @property
    def longest(self) -> int | None:
        """How many tokens of a text the model reads, once it is loaded; None: all of them."""
        return self._longest

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of `texts`, shape (n, d). Raises EmbedderMissing where the model can't be loaded."""
        return await asyncio.wrap_future(self._submit(texts))

    def embed_now(self, texts: Sequence[str]) -> Vectors:
        """The same for a caller that may block."""
        return self._submit(texts).result()

    async def tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has. Raises StoreError where the model does not tell."""
        return await asyncio.wrap_future(self._count(texts))

    async def truncated(self, texts: Sequence[str]) -> set[str]:
        """Those of texts it has embedded that are longer than the model reads."""
        long = self._perhaps_long(texts)
        return self._longer(long, await self.tokens(long)) if long else set()

    def truncated_now(self, texts: Sequence[str]) -> set[str]:
        """The same for a caller that may block."""
        long = self._perhaps_long(texts)
        return self._longer(long, self._count(long).result()) if long else set()

    def apart(self, owner: str) -> Embedder:
        """The same model for somebody whose texts no other is to find remembered. Closing it does nothing."""
        return _Apart(self, owner)

    def forget(self, owner: str = "") -> None:
        """Remembers none of an owner's texts any more."""
        with self._lock:
            for key in [key for key in self._recent if key[0] == owner]:
                del self._recent[key]

    def close(self) -> None:
        """Ends the thread, and the model's process, once what is waiting is done. Blocks."""
        with self._lock:
            thread = self._thread
            if thread is not None:
                self._queue.end()
        if thread is not None:
            thread.join()

    def _perhaps_long(self, texts: Sequence[str]) -> list[str]:
        """A token has at least a character; two are put around a text."""
        longest = self.longest
        return [] if longest is None else [text for text in texts if len(text) + 2 > longest]

    def _longer(self, texts: list[str], counts: list[int]) -> set[str]:
        return {text for text, n in zip(texts, counts, strict=True) if n > (self.longest or n)}

    def _submit(self, texts: Sequence[str], owner: str = "") -> Future[Vectors]:
        result: Future[Vectors] = Future()
        if not texts:
            result.set_result(np.zeros((0, self.dimension), np.float32))
            return result
        with self._lock:
            known = [self._recent.get((owner, t)) for t in texts]
            if all(v is not None for v in known):
                for text in texts:
                    self._recent.move_to_end((owner, text))
                result.set_result(np.stack([v for v in known if v is not None]))
                return result
        return self._put(Job(list(texts), result, owner=owner))

    def _count(self, texts: Sequence[str]) -> Future[list[int]]:
        return self._put(Job(list(texts), Future(), counts=True))

    def _put(self, job: Job) -> Future[Any]:
        with self._lock:
            self._queue.put(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="embedder", daemon=True)
                self._thread.start()
        return job.future

    def _work(self) -> None:
        """Until the end is asked for. A model that can't be loaded is tried again at the next request."""
        encode: Encode | None = None
        failed: BaseException = StoreError(f"the embedding model {self.name!r} was closed")
        try:
            encode = self._load()
            self._longest = encode.longest if isinstance(encode, Tokenizing) else None
            while pieces := self._queue.take():
                with self._queue.timed():
                    self._do(encode, pieces)
        except Exception as error:
            failed = error
            if encode is None:
                failed = EmbedderMissing(f"the embedding model {self.name!r} can't be loaded: {error}")
        finally:
            with self._lock:
                self._thread = None
                self._queue.fail(failed)
            if isinstance(encode, Encoder):
                encode.close()

    def _do(self, encode: Encode, pieces: list[Piece]) -> None:
        """All at once; each by itself where that fails, so that nobody has the failure of another's text."""
        try:
            found = self._encoded(encode, pieces)
        except Exception as error:
            if len(pieces) == 1:
                pieces[0].job.fail(error)
            else:
                for piece in pieces:
                    self._do(encode, [piece])
            return
        for piece, part in zip(pieces, found, strict=True):
            try:
                piece.job.take(part)
            except Exception as error:  # no memory for all of its vectors
                piece.job.fail(error)

    def _encoded(self, encode: Encode, pieces: list[Piece]) -> list[Any]:
        if pieces[0].job.counts:
            if not isinstance(encode, Tokenizing):
                raise StoreError(f"the embedding model {self.name!r} does not tell its tokens")
            return [encode.count(piece.texts) for piece in pieces]
        texts = list(dict.fromkeys(text for piece in pieces for text in piece.texts))
        vectors = dict(zip(texts, unit(np.asarray(encode(texts), np.float32)), strict=True))
        with self._lock:
            for piece in pieces:
                if piece.soon:  # what is imported would drive out what is asked
                    short = (t for t in piece.texts if len(t) <= _REMEMBERED)
                    self._recent.update({(piece.job.owner, t): vectors[t] for t in short})
            while len(self._recent) > self._keep:
                self._recent.popitem(last=False)
        return [np.stack([vectors[t] for t in piece.texts]) for piece in pieces]


class _Apart(Embedder):
    """An embedder of one owner; the model, its thread and what is remembered are those of the one that it is of."""

    def __init__(self, embedder: Embedder, owner: str) -> None:
        self.name = embedder.name
        self._embedder, self._owner = embedder, owner

    @property
    def probe(self) -> Vectors:
        return self._embedder.probe

    @property
    def longest(self) -> int | None:
        return self._embedder.longest

    def apart(self, owner: str) -> Embedder:
        return self._embedder.apart(owner)

    def forget(self, owner: str = "") -> None:
        self._embedder.forget(owner or self._owner)

    def close(self) -> None:
        pass

    def _submit(self, texts: Sequence[str], owner: str = "") -> Future[Vectors]:
        return self._embedder._submit(texts, owner or self._owner)

    def _count(self, texts: Sequence[str]) -> Future[list[int]]:
        return self._embedder._count(texts)


def load(
    model: str = BUNDLED, *, device: str | None = None, threads: int | None = None, at: Path | None = None
) -> Embedder:
    """The bundled all-MiniLM-L6-v2, or any sentence-transformers model by name or folder; loaded at first use.

    `device`, `threads` and `at` as for `Encoder`, the process that it runs in.
    """
    return Embedder(model, lambda: Encoder(model, device, threads, at))
