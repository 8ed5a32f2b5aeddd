"""The embedding process dies: it comes back, at once or as soon as it can."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from heedful.retrieval import Embedder, EmbedderFailed, EmbedderMissing
from heedful.retrieval.embedding.encoder import Encoder

# Speaks like heedful.retrieval.embedding.encoding; texts are as long as their vectors' first number.
_PROCESS = """
import os, pickle, sys
from pathlib import Path
import numpy as np
folder = Path(sys.argv[1])
started = folder / "started"
started.write_text((started.read_text() if started.exists() else "") + "x")
pickle.load(sys.stdin.buffer)
if (folder / "broken").exists():
    sys.exit(3)
out = sys.stdout.buffer
pickle.dump(99, out); out.flush()
while True:
    what, texts = pickle.load(sys.stdin.buffer)
    if "die" in texts:
        os._exit(9)
    if "die in the middle" in texts and started.read_text() == "x":
        out.write(pickle.dumps(np.ones((1000, 2), np.float32))[:100]); out.flush(); os._exit(9)
    pickle.dump([len(t.split()) for t in texts] if what == "count" else
                np.array([[len(t), 1] for t in texts], np.float32), out)
    out.flush()
"""


@pytest.fixture
def embedder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Embedder:
    command = (sys.executable, "-c", _PROCESS, str(tmp_path))
    monkeypatch.setattr("heedful.retrieval.embedding.encoder.COMMAND", command)
    return Embedder("model", lambda: Encoder("model", None, None))


async def test_a_failed_restart_is_tried_again_at_the_next_request(
    embedder: Embedder, tmp_path: Path
) -> None:
    assert (await embedder.embed(["one"])).shape == (1, 2)
    assert embedder.longest == 99
    (tmp_path / "broken").touch()
    for text in ("die", "four", "five"):
        with pytest.raises(
            EmbedderMissing, match="'model' can't be loaded anew: its process ended at its start"
        ):
            await embedder.embed([text])
    (tmp_path / "broken").unlink()
    assert (await embedder.embed(["six"])).shape == (1, 2)
    assert await embedder.tokens(["a b c"]) == [3]
    embedder.close()
    assert len((tmp_path / "started").read_text()) == 5


async def test_texts_that_kill_the_process_harm_no_others(embedder: Embedder) -> None:
    with pytest.raises(EmbedderFailed, match="ended twice at these texts"):
        await embedder.embed(["die"])
    assert (await embedder.embed(["one"])).shape == (1, 2)
    embedder.close()


async def test_an_answer_that_breaks_off_is_asked_for_again(embedder: Embedder) -> None:
    assert (await embedder.embed(["die in the middle"])).shape == (1, 2)
    embedder.close()


async def test_no_process_can_be_started(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("heedful.retrieval.embedding.encoder.COMMAND", (os.devnull,))
        with pytest.raises(EmbedderMissing, match="can't be loaded"):
            await embedder.embed(["one"])
    assert np.isclose(np.linalg.norm(await embedder.embed(["one"])), 1)
    embedder.close()
