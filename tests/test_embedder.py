"""The embedder: batches, remembers, and says what is wrong."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import psutil
import pytest
from waiting import HANG

from heedful.retrieval import Embedder, EmbedderMissing
from heedful.retrieval.embedding.embedder import Encode, Vectors, load


def _lengths(texts: list[str]) -> Vectors:
    return np.array([[len(t), 1.0] for t in texts], np.float32)


async def test_concurrent_requests_share_a_batch() -> None:
    batches: list[list[str]] = []
    begun, go = threading.Event(), threading.Event()

    def encode(texts: list[str]) -> Vectors:
        batches.append(texts)
        begun.set()
        go.wait(HANG)
        return _lengths(texts)

    embedder = Embedder("e", lambda: encode)
    first = asyncio.create_task(embedder.embed(["first"]))
    assert await asyncio.to_thread(begun.wait, HANG)
    rest = [asyncio.create_task(embedder.embed([f"text {i}"])) for i in range(30)]
    await asyncio.sleep(0)
    go.set()
    results = await asyncio.gather(first, *rest)
    assert [len(batch) for batch in batches] == [1, 30]
    assert all(np.linalg.norm(r[0]) == pytest.approx(1) for r in results)
    assert results[3][0] == pytest.approx(_lengths(["text 2"])[0] / np.hypot(6, 1))
    embedder.close()


async def test_a_query_does_not_wait_for_a_whole_import() -> None:
    batches: list[int] = []

    def encode(texts: list[str]) -> Vectors:
        batches.append(len(texts))
        return _lengths(texts)

    embedder = Embedder("e", lambda: encode, batch=10, cache=10)
    vectors = await embedder.embed([f"{'x' * i}" for i in range(1, 96)])
    assert vectors.shape == (95, 2)
    assert vectors[94, 0] == pytest.approx(95 / np.hypot(95, 1))
    assert max(batches) <= 10
    embedder.close()


async def test_recent_texts_are_not_encoded_again() -> None:
    seen: list[str] = []

    def encode(texts: list[str]) -> Vectors:
        seen.extend(texts)
        return _lengths(texts)

    embedder = Embedder("e", lambda: encode, cache=2)
    for text in ("a", "bb", "a", "ccc", "a", "bb"):
        await embedder.embed([text])
    assert seen == ["a", "bb", "ccc", "bb"]
    embedder.close()


async def test_failures_reach_whoever_asked_and_nobody_else() -> None:
    def encode(texts: list[str]) -> Vectors:
        if "bad" in texts:
            raise ValueError("no")
        return _lengths(texts)

    embedder = Embedder("e", lambda: encode)
    with pytest.raises(ValueError, match="no"):
        await embedder.embed(["bad"])
    assert (await embedder.embed(["good"])).shape == (1, 2)
    embedder.close()


async def test_a_model_that_is_not_there_is_named_and_tried_again() -> None:
    there = False

    def get() -> Encode:
        if not there:
            raise OSError("no such file")
        return _lengths

    embedder = Embedder("nowhere/model", get)
    with pytest.raises(EmbedderMissing, match="nowhere/model.*no such file"):
        await embedder.embed(["x"])
    there = True
    assert (await embedder.embed(["x"])).shape == (1, 2)
    assert (await embedder.embed([])).shape == (0, 2)
    embedder.close()


@pytest.mark.engine
async def test_the_bundled_model_knows_what_is_near_and_its_process_is_begun_anew_if_it_is_killed() -> None:
    def encoders() -> list[psutil.Process]:
        mine = psutil.Process().children()
        return [p for p in mine if "heedful.retrieval.embedding.encoding" in p.cmdline()]

    before = set(encoders())
    embedder = load()
    cat, kitten, tax = await embedder.embed(["A cat sleeps.", "A kitten is napping.", "Tax law of 1986."])
    assert embedder.dimension == 384
    assert cat @ kitten > 0.5 > cat @ tax
    (process,) = set(encoders()) - before
    process.kill()
    again = await embedder.embed(["A cat sleeps. ", "Tax law."])
    assert again[0] @ cat > 0.99
    embedder.close()
    assert set(encoders()) == before


async def test_a_model_that_cannot_be_loaded_is_named() -> None:
    embedder = load("/nowhere/at all")
    with pytest.raises(EmbedderMissing, match="'/nowhere/at all' can't be loaded"):
        await embedder.embed(["x"])
