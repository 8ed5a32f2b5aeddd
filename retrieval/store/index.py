"""Nearest rows by inner product, with FAISS: exact while few, inverted lists beyond, a filter inside either.

Inverted lists over half-precision vectors take new rows at once, look only at rows that the filter lets through, and
are quickly built anew; benchmarks/scripts/retrieval_scale.py measures them on a million.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import faiss
import numpy as np

from heedful.retrieval.embedding.embedder import Vectors
from heedful.retrieval.store.catalogue import Passing, Rows
from heedful.retrieval.store.files import alone, saved, scratch

# Where exact search still takes 6 ms, and from where on there are enough lists (benchmarks/scripts/index_choice.py).
FLAT_ROWS = 65_536
# Up to this many rows of a million that pass a filter, every list is looked at, which is exact; a smaller index is
# gone through sooner, and so up to more.
_EXACT_ROWS, _OF_ROWS = 4_000, 1_000_000
# Lists looked at without a filter. With one, neighbours lie further off, so more are looked at; how many more was
# tried out on a million (benchmarks/scripts/retrieval_scale.py has the recall that this gives).
_PROBES, _PROBES_GROW = 64, 0.75
_HALF_OF_CORES = max(1, (os.cpu_count() or 2) // 2)
_MANY = 1000  # rows added at once from which on a second core pays
_TRAIN_PER_LIST = 48
_LEFT_BEHIND = 3600  # seconds; nobody takes so long to write an index
_REBUILT_GROWTH, _REBUILT_DEAD = 1.5, 0.3

Chunks = Callable[[], Iterator[tuple[Rows, Vectors]]]


class Index:
    """A FAISS index whose ids are the rows of the database. Rows that have ended stay until it is built anew."""

    def __init__(self, index: Any, built_rows: int = 0, row: int = 0) -> None:
        self._index = index
        self._built_rows = built_rows
        self.row = row
        """Up to which row of the database it has those that stand; whoever adds them says so."""
        self.saved_row = row
        """The same of its copy on the disk."""

    @classmethod
    def flat(cls, dimension: int) -> Index:
        return cls(faiss.IndexIDMap(faiss.IndexFlatIP(dimension)))

    @classmethod
    def flat_in_half_precision(cls, dimension: int) -> Index:
        """Exact over the same numbers as inverted lists have."""
        quantizer = faiss.ScalarQuantizer.QT_fp16
        return cls(
            faiss.IndexIDMap(faiss.IndexScalarQuantizer(dimension, quantizer, faiss.METRIC_INNER_PRODUCT))
        )

    @classmethod
    def build(cls, dimension: int, count: int, chunks: Chunks) -> Index:
        """Over `count` rows that `chunks` goes through, twice if they are many. Uses half of the cores."""
        faiss.omp_set_num_threads(_HALF_OF_CORES)
        if count <= FLAT_ROWS:
            index = cls.flat(dimension)
        else:
            lists = _lists(count)
            # The quantizer takes the nearest centroid by inner product, as the search does.
            ivf = faiss.index_factory(dimension, f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
            ivf.cp.niter = 8
            ivf.train(_sample(chunks, count, min(count, lists * _TRAIN_PER_LIST)))
            index = cls(ivf, count)
        for rows, vectors in chunks():
            index.add(rows, vectors)
        return index

    def __len__(self) -> int:
        """Rows in it, ended ones included."""
        return int(self._index.ntotal)

    @property
    def kind(self) -> str:
        return "flat" if self._is_flat else f"ivf{self._index.nlist}"

    @property
    def _is_flat(self) -> bool:
        return isinstance(self._index, faiss.IndexIDMap)

    def outgrown(self, standing: int) -> bool:
        """Whether it should be built anew for `standing` rows."""
        if len(self) > FLAT_ROWS and len(self) - standing > _REBUILT_DEAD * len(self):
            return True
        if self._is_flat:
            return standing > FLAT_ROWS
        return standing > _REBUILT_GROWTH * self._built_rows

    def add(self, rows: Rows, vectors: Vectors) -> None:
        faiss.omp_set_num_threads(1 if len(rows) < _MANY else _HALF_OF_CORES)
        self._index.add_with_ids(np.ascontiguousarray(vectors, np.float32), np.asarray(rows, np.int64))

    def remove(self, rows: Sequence[int]) -> None:
        """Takes rows out, whether or not they are in it.

        Centroids of lists are made from vectors and may be one, so that it is not kept and counts as outgrown.
        """
        self._index.remove_ids(np.asarray(rows, np.int64))
        self._built_rows = 0

    def search(self, query: Vectors, k: int, passing: Passing) -> tuple[Rows, Vectors]:
        """The nearest rows to one query, shape (d,), best first: at most `k` rows and their inner products.

        `passing` lets rows through. Where as many as `k` pass, as many are returned.
        """
        faiss.omp_set_num_threads(1)  # per thread: requests are many, so each stays on one core
        allowed = passing.count
        k = min(k, allowed)
        if k == 0:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        selector = faiss.IDSelectorBitmap(passing.bits)
        if self._is_flat:
            return self._found(query, k, faiss.SearchParameters(sel=selector))
        lists = self._index.nlist
        exact = allowed < len(self) and allowed <= _EXACT_ROWS * max(1.0, _OF_ROWS / len(self))
        probes = lists if exact else math.ceil(_PROBES * (len(self) / allowed) ** _PROBES_GROW)
        probes = min(lists, probes * max(1, k // 50))
        rows, scores = self._found(query, k, faiss.SearchParametersIVF(sel=selector, nprobe=probes))
        if len(rows) < k and probes < lists:
            return self._found(query, k, faiss.SearchParametersIVF(sel=selector, nprobe=lists))
        return rows, scores

    def _found(self, query: Vectors, k: int, parameters: Any) -> tuple[Rows, Vectors]:
        scores, rows = self._index.search(np.ascontiguousarray(query[None], np.float32), k, params=parameters)
        there = rows[0] >= 0
        return rows[0][there], scores[0][there]

    # -- the copy on the disk: derived, so that any doubt about it means building anew

    def save(self, base: Path, stamp: str, now: Callable[[], str]) -> None:
        """Beside the database, its name saying which vectors it holds; replaces earlier ones.

        `stamp` is theirs, and `now` tells the store's: where something has been erased meanwhile nothing is kept.
        """
        if not self._built_rows or now() != stamp:
            return
        target = base.with_name(f"{base.stem}.{stamp}.{self.row}.{self._built_rows}.faiss")
        written = target.with_name(f".{target.name}.{uuid4().hex}")
        for left in scratch(base):  # by a process that was killed while it wrote
            if time.time() - left.stat().st_mtime > _LEFT_BEHIND:
                left.unlink(missing_ok=True)
        try:
            faiss.write_index(self._index, str(written))
            with alone(base.parent):
                if now() != stamp:
                    return
                os.replace(written, target)
                for old in saved(base):
                    if old != target:
                        old.unlink(missing_ok=True)
        finally:
            written.unlink(missing_ok=True)
        self.saved_row = self.row

    @classmethod
    def load(cls, base: Path, stamp: str, dimension: int, last_row: int) -> Index | None:
        """The saved index of this stamp; None where there is none that fits.

        One that knows rows past the database's `last_row` belongs to a later state than the database (which was
        perhaps restored from a copy) and is deleted, before those row numbers are given out again.
        """
        for path in sorted(saved(base), key=lambda p: p.stat().st_mtime, reverse=True):
            _, made_for, known, built_rows, _ = path.name.rsplit(".", 4)
            if int(known) > last_row:
                path.unlink(missing_ok=True)
            elif made_for == stamp:
                try:
                    index = faiss.read_index(str(path))
                except RuntimeError:  # cut short or damaged
                    continue
                if index.d == dimension:
                    return cls(index, int(built_rows), int(known))
        return None


def _lists(count: int) -> int:
    return 1 << math.ceil(math.log2(4 * math.sqrt(count)))


def _sample(chunks: Chunks, count: int, wanted: int) -> Vectors:
    rng = np.random.default_rng(0)
    share = wanted / count
    return np.concatenate([vectors[rng.random(len(vectors)) < share] for _, vectors in chunks()])
