"""Collects pieces, checks them, and unpacks them once all are there. Runs by itself: it imports nothing of heedful.

    python3 benchmarks/gpu/receive.py PIECE_FOLDER STORE

Copies what lies in PIECE_FOLDER to STORE and says what is missing (status 3 until nothing is). Then the wheels are
in STORE/wheels. A piece that is there already may come again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

MISSING = 3


def collect(source: Path, store: Path) -> list[str]:
    """Takes what is in `source`; returns the pieces that `store` still lacks. Raises ValueError for a damaged one."""
    store.mkdir(parents=True, exist_ok=True)
    if (source / "manifest.json").exists():
        new = (source / "manifest.json").read_bytes()
        kept = store / "manifest.json"
        if kept.exists() and kept.read_bytes() != new:
            for old in store.iterdir():  # of another bundle
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        kept.write_bytes(new)
    if not (store / "manifest.json").exists():
        raise ValueError(
            f"{source} has no manifest.json, and none came before: let it travel with every piece"
        )
    pieces = _pieces(store)
    for piece in pieces:
        path = source / piece["name"]
        if not path.exists():
            continue
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != piece["sha256"]:
            raise ValueError(
                f"{path}: SHA-256 {found}, where the manifest has {piece['sha256']}: send it again"
            )
        shutil.copyfile(path, store / f"{piece['name']}.part")
        (store / f"{piece['name']}.part").rename(store / piece["name"])
    return [piece["name"] for piece in pieces if not (store / piece["name"]).exists()]


def unpack(store: Path) -> Path:
    """The folder of the wheels, made of all pieces. Raises ValueError where one is not as the manifest has it."""
    wheels = store / "wheels"
    manifest = json.loads((store / "manifest.json").read_text())
    archive = store / "archive.tar"
    with archive.open("wb") as whole:
        for piece in _pieces(store):
            with (store / piece["name"]).open("rb") as part:
                shutil.copyfileobj(part, whole)
    with tarfile.open(archive) as tar:
        tar.extractall(wheels, filter="data")
    archive.unlink()
    for name, told in manifest["wheels"].items():
        if (wheels / name).stat().st_size != told["size"]:
            raise ValueError(
                f"{name}: {(wheels / name).stat().st_size} bytes, where {told['size']} were packed"
            )
    return wheels


def _pieces(store: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((store / "manifest.json").read_text())["pieces"]
    return found


def main() -> int:
    source, store = Path(sys.argv[1]), Path(sys.argv[2])
    missing = collect(source, store)
    if missing:
        print(f"still to come: {' '.join(missing)}")
        return MISSING
    print(f"all there: {len(list(unpack(store).glob('*.whl')))} wheels in {store}/wheels")
    return 0


if __name__ == "__main__":
    sys.exit(main())
