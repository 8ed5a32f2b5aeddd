"""All vectors of a store made anew, by another embedding model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from heedful.retrieval.embedding.embedder import Vectors
from heedful.retrieval.store.database import Database, identify

_MISSING = (
    "SELECT v.row, i.text FROM vectors v JOIN items i USING (row) "
    "WHERE NOT EXISTS (SELECT 1 FROM next_vectors n WHERE n.row = v.row) ORDER BY v.row LIMIT 512"
)


def reembed(
    database: Database,
    embedder: str,
    probe: Vectors,
    embed: Callable[[list[str]], Vectors],
    progress: Callable[[str, float], None],
) -> None:
    """Makes them beside the old ones, and swaps them in in one transaction. Goes on where it stopped."""
    with database.writing(None) as (db, _):
        begun = db.execute("SELECT value FROM meta WHERE key = 'next_probe'").fetchone()
        if begun is None or begun[0] != probe.tobytes():
            db.execute("DROP TABLE IF EXISTS next_vectors")
            db.execute("CREATE TABLE next_vectors (row INTEGER PRIMARY KEY, vector BLOB NOT NULL)")
            db.execute("INSERT OR REPLACE INTO meta VALUES ('next_probe', ?)", [probe.tobytes()])
    total, done = max(1, database.count()), 0
    while True:
        with database.reading() as db:
            left = db.execute(_MISSING).fetchall()
        made = embed([text for _, text in left]) if left else None
        with database.writing(None) as (db, _):
            if made is None:
                if db.execute(_MISSING).fetchone():  # written by another process in this moment
                    continue
                db.execute("DELETE FROM next_vectors WHERE row NOT IN (SELECT row FROM vectors)")
                db.execute("DROP TABLE vectors")
                db.execute("ALTER TABLE next_vectors RENAME TO vectors")
                db.execute("DELETE FROM meta WHERE key = 'next_probe'")
                identify(db, embedder, probe)
                return
            db.executemany(
                "INSERT OR REPLACE INTO next_vectors VALUES (?, ?)",
                [(row, v.astype(np.float32).tobytes()) for (row, _), v in zip(left, made, strict=True)],
            )
        done += len(left)
        progress(f"embedding with {embedder}", min(1.0, done / total))
