"""One process embeds for all workers: started when the first asks, and again where it has died."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from heedful.retrieval import Embedder, EmbedderMissing
from heedful.retrieval.embedding.encoder import Encoder
from heedful.server.workers.embedding import SharedEmbedding

# The real one with another model, which dies once of a text; texts are as long as their vectors' first number.
_PROCESS = """
import os, socket, sys
from functools import cache
from pathlib import Path
import numpy as np
from heedful.retrieval.embedding import encoding

loads = Path(sys.argv[1]) / "loads"

@cache
def load(*options):
    with loads.open("a") as file:
        file.write("x")
    def encode(texts):
        if "die" in texts and loads.read_text() == "x":
            os._exit(9)
        return np.array([[len(t), 1] for t in texts], np.float32)
    return encoding._Loaded(encode, lambda texts: [len(t.split()) for t in texts], 99)

encoding._load = load
encoding._answer_all(socket.socket(fileno=int(sys.argv[2])), sys.stdout.buffer)
"""


@pytest.fixture
async def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SharedEmbedding]:
    command = (sys.executable, "-c", _PROCESS, str(tmp_path))
    monkeypatch.setattr("heedful.server.workers.embedding.COMMAND", command)
    made = SharedEmbedding(tmp_path / "at")
    yield made
    made.close()


def _workers(tmp_path: Path) -> tuple[Embedder, Embedder]:
    def embedder() -> Embedder:
        return Embedder("model", lambda: Encoder("model", None, None, tmp_path / "at"))

    return embedder(), embedder()


async def test_the_model_is_loaded_once(shared: SharedEmbedding, tmp_path: Path) -> None:
    one, other = _workers(tmp_path)
    assert not (tmp_path / "loads").exists()
    for each in (one, other, one):
        assert np.allclose(await each.embed(["sevente"]), np.array([[7, 1]]) / 50**0.5)
        assert await other.tokens(["a b c"]) == [3]
    assert (one.longest, (tmp_path / "loads").read_text()) == (99, "x")
    one.close()
    assert (await other.embed(["four"])).shape == (1, 2)
    other.close()


async def test_it_dies_and_all_go_on(shared: SharedEmbedding, tmp_path: Path) -> None:
    one, other = _workers(tmp_path)
    assert (await other.embed(["four"])).shape == (1, 2)
    assert (await one.embed(["die"])).shape == (1, 2)
    assert (await other.embed(["five!"])).shape == (1, 2)
    assert (tmp_path / "loads").read_text() == "xx"
    one.close()
    other.close()


async def test_whoever_comes_after_the_last_has_gone_starts_it_anew(
    shared: SharedEmbedding, tmp_path: Path
) -> None:
    for loads in ("x", "xx"):
        one, _ = _workers(tmp_path)
        assert (await one.embed(["four"])).shape == (1, 2)
        one.close()
        assert (tmp_path / "loads").read_text() == loads


async def test_one_that_cannot_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "heedful.server.workers.embedding.COMMAND", (sys.executable, "-c", "raise SystemExit(3)")
    )
    made, (one, _) = SharedEmbedding(tmp_path / "at"), _workers(tmp_path)
    with pytest.raises(EmbedderMissing, match="its process ended at its start"):
        await one.embed(["four"])
    made.close()


async def test_one_that_cannot_be_started_is_tried_again(
    shared: SharedEmbedding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks meanwhile is told; that the machine had no room for it once ends nothing for good."""
    place = "heedful.server.workers.embedding"
    monkeypatch.setattr(f"{place}._PAUSE", 0.0)
    (one, _) = _workers(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(f"{place}.COMMAND", (str(tmp_path / "nothing"),))
        with pytest.raises(EmbedderMissing):
            await one.embed(["a"])
    assert (await one.embed(["ab"]))[0].argmax() == 0
    one.close()
