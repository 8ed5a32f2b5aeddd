"""One store of norms kept twice: by heedful, and as a LanceDB table that promises as much of the same as it can.

LanceDB versions its table, not an item. So an item's versions are rows here as in heedful: a replacement ends the old
row and brings the new one in one commit (`merge_insert`), and the key `id@version` is declared as the primary key, so
that LanceDB notices two writers that make the same version. `ended IS NULL` is then part of every search.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from heedful.benchmarks.scripts.retrieval_scale import D
from heedful.retrieval import Embedder, Filter, Item
from heedful.retrieval.embedding.embedder import Vectors
from heedful.retrieval.store import files
from heedful.retrieval.store.store import Store

_TRIES = 50
PROBES = (20, 64, 128, 256, None)
"""Inverted lists to look at, the fewest first, which are LanceDB's own choice; None: no index, which is exact."""


class Side(Protocol):
    def grow(self, items: Sequence[Item], vectors: Vectors) -> None:
        """Adds items known to be new, by the quickest way."""
        ...

    def add(self, items: Sequence[Item], vectors: Vectors) -> None:
        """Adds or replaces items, a vector each; on the disk when it returns, or so it says."""
        ...

    def settle(self) -> None:
        """Builds the index, or waits for it."""
        ...

    def search(self, query: Vectors, k: int, tag: str | None) -> list[str]:
        """Ids of the nearest, best first."""
        ...

    def history(self, id: str) -> list[str]:
        """Texts of all versions of an item, the oldest first."""
        ...

    def as_of(self, id: str, at: float) -> str | None:
        """The text that stood at a time."""
        ...

    def delete(self, ids: Sequence[str]) -> None: ...

    def export(self) -> Iterator[str]:
        """Ids of all that stands now, whatever is written meanwhile."""
        ...

    def remove(self) -> None:
        """Deletes the store."""
        ...

    def close(self) -> None: ...


class Ours:
    """heedful's store, its vectors given to it."""

    def __init__(self, folder: Path, *, create: bool = False) -> None:
        self._embedder = Embedder("synthetic", lambda: _no_model)
        self._path = folder / "norms.db"
        folder.mkdir(parents=True, exist_ok=True)
        self._store = (Store.create if create else Store)(self._path, self._embedder)

    def grow(self, items: Sequence[Item], vectors: Vectors) -> None:
        self.add(items, vectors)

    def add(self, items: Sequence[Item], vectors: Vectors) -> None:
        self._store.add(items, {item.text: vector for item, vector in zip(items, vectors, strict=True)})

    def settle(self) -> None:
        self._store.settle()

    def search(self, query: Vectors, k: int, tag: str | None) -> list[str]:
        tags = frozenset[str]() if tag is None else frozenset({tag})
        hits = self._store.search(query, k, Filter(kind="norm", tags=tags, at=time.time()))
        return [hit.item.id for hit in hits]

    def history(self, id: str) -> list[str]:
        return [version.item.text for version in self._store.history(id)]

    def as_of(self, id: str, at: float) -> str | None:
        versions = self._store.history(id)
        stood = (v.item.text for v in versions if v.began <= at and (v.ended is None or at < v.ended))
        return next(stood, None)

    def delete(self, ids: Sequence[str]) -> None:
        self._store.delete(ids)

    def export(self) -> Iterator[str]:
        return (item.id for item in self._store)

    def remove(self) -> None:
        files.remove(self._path)

    def close(self) -> None:
        self._store.close()
        self._embedder.close()


class Lance:
    """A table of LanceDB with strong consistency: every read looks for what other processes have written."""

    def __init__(self, folder: Path, *, create: bool = False) -> None:
        # Before the import: it reads them then, and says a warning for every search.
        os.environ.setdefault("LANCE_LOG", "error")
        os.environ.setdefault("RUST_LOG", "error")
        import lancedb

        self.probes: int | None = PROBES[0]
        self._db = lancedb.connect(folder, read_consistency_interval=timedelta(0))
        if create:
            self._table = self._db.create_table("norms", schema=_schema())
            self._table.set_unenforced_primary_key("key")
        else:
            self._table = self._db.open_table("norms")

    def grow(self, items: Sequence[Item], vectors: Vectors) -> None:
        """A plain append."""
        self._table.add(_rows(items, [1] * len(items), time.time(), vectors))

    def add(self, items: Sequence[Item], vectors: Vectors) -> None:
        import pyarrow

        for _ in range(_TRIES):
            names = ", ".join(f"'{item.id}'" for item in items)
            # All versions: one that was deleted and comes back goes on counting.
            found = self._table.search().where(f"id IN ({names})").to_arrow()
            last = dict.fromkeys((item.id for item in items), 0)
            for id, version in zip(found["id"].to_pylist(), found["version"].to_pylist(), strict=True):
                last[id] = max(last[id], version)
            now = time.time()
            new = _rows(items, [last[item.id] + 1 for item in items], now, vectors)
            standing = found.filter(pyarrow.compute.is_null(found["ended"])).select(_schema().names)
            if not len(standing):
                source = new
            else:
                at = standing.schema.get_field_index("ended")
                ended = standing.set_column(at, "ended", pyarrow.array([now] * len(standing), "float64"))
                source = pyarrow.concat_tables([ended.cast(_schema()), new])
            merge = self._table.merge_insert("key")
            merge = merge.when_matched_update_all(where="source.ended IS NOT NULL AND target.ended IS NULL")
            result = merge.when_not_matched_insert_all().execute(source)
            if result.num_inserted_rows == len(new):
                return  # else another writer has made that version first
        raise RuntimeError(f"{_TRIES} writers were quicker")

    def settle(self) -> None:
        from lancedb.index import Bitmap, BTree, IvfFlat, LabelList

        self._table.optimize()
        scalars = {"id": BTree(), "key": BTree(), "tags": LabelList(), "kind": Bitmap(), "ended": BTree()}
        for column, config in scalars.items():
            self._table.create_index(column, config=config)
        if (rows := self._table.count_rows()) > 10_000:
            lists = int(rows**0.5)
            # Of the distances, all the same over unit vectors, the one that finds most.
            vector = IvfFlat(distance_type="l2", num_partitions=lists, max_iterations=8, sample_rate=64)
            self._table.create_index("vector", config=vector)

    def optimize(self) -> None:
        """What LanceDB wants after some twenty writes: small files together, new rows into the indexes."""
        self._table.optimize()

    def search(self, query: Vectors, k: int, tag: str | None) -> list[str]:
        passes = "ended IS NULL AND kind = 'norm'"
        if tag is not None:
            passes += f" AND array_has_any(tags, ['{tag}'])"
        return self._found(self._table.search(query).where(passes, prefilter=True), k)

    def unfiltered(self, query: Vectors, k: int) -> list[str]:
        """As if nothing ever ended."""
        return self._found(self._table.search(query), k)

    def _found(self, asked: Any, k: int) -> list[str]:
        asked = asked.distance_type("l2").limit(k)
        asked = asked.bypass_vector_index() if self.probes is None else asked.nprobes(self.probes)
        return [str(hit["id"]) for hit in asked.select([*_FIELDS, "_distance"]).to_list()]

    def history(self, id: str) -> list[str]:
        rows = self._table.search().where(f"id = '{id}'").select(["version", "text"]).to_list()
        return [str(row["text"]) for row in sorted(rows, key=lambda row: int(row["version"]))]

    def as_of(self, id: str, at: float) -> str | None:
        stood = f"id = '{id}' AND began <= {at} AND (ended IS NULL OR ended > {at})"
        rows = self._table.search().where(stood).select(["text"]).to_list()
        return str(rows[0]["text"]) if rows else None

    def as_of_by_table_version(self, id: str, at: float) -> str | None:
        """With LanceDB's own time travel: of the whole table, by its list of versions."""
        before = [v for v in self._table.list_versions() if v["timestamp"].timestamp() <= at]
        table = self._db.open_table("norms")
        table.checkout(max(v["version"] for v in before))
        rows = table.search().where(f"id = '{id}' AND ended IS NULL").select(["text"]).to_list()
        return str(rows[0]["text"]) if rows else None

    def delete(self, ids: Sequence[str]) -> None:
        names = ", ".join(f"'{id}'" for id in ids)
        self._table.update(where=f"id IN ({names}) AND ended IS NULL", values={"ended": time.time()})

    def export(self) -> Iterator[str]:
        table = self._db.open_table("norms")
        table.checkout(self._table.version)
        batches: Iterable[Any] = table.search().where("ended IS NULL").select(["id"]).to_batches(256)
        return itertools.chain.from_iterable(batch["id"].to_pylist() for batch in batches)

    def remove(self) -> None:
        self._db.drop_table("norms")

    def close(self) -> None:
        pass


SIDES: dict[str, type[Ours] | type[Lance]] = {"heedful": Ours, "lancedb": Lance}
_FIELDS = ["id", "kind", "text", "answer", "source", "scope", "tags", "mandatory", "meta"]
_FIELDS += ["valid_from", "valid_until"]


def _no_model(texts: list[str]) -> Vectors:
    """For the vectors by which a store knows its embedder; every other is handed in."""
    return np.eye(D, dtype=np.float32)[: len(texts)]


def _schema() -> Any:
    import pyarrow as pa

    texts = [(name, pa.string()) for name in ("id", "kind", "text", "answer", "source", "scope", "meta")]
    times = [(name, pa.float64()) for name in ("valid_from", "valid_until", "began", "ended")]
    rest = [("version", pa.int64()), ("mandatory", pa.bool_()), ("tags", pa.list_(pa.string()))]
    key = pa.field("key", pa.string(), nullable=False)
    return pa.schema([key, *texts, *times, *rest, ("vector", pa.list_(pa.float32(), D))])


def _rows(items: Sequence[Item], versions: Sequence[int], now: float, vectors: Vectors) -> Any:
    import pyarrow as pa

    columns: dict[str, Any] = {name: [getattr(item, name) for item in items] for name in _FIELDS}
    columns["key"] = [f"{item.id}@{version}" for item, version in zip(items, versions, strict=True)]
    columns |= {"meta": ["{}"] * len(items), "version": versions, "began": [now] * len(items)}
    columns["ended"] = [None] * len(items)
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).ravel())
    columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, D)
    return pa.table(columns, schema=_schema())
