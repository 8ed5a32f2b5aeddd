"""A sentence-transformers model in a process of its own: its hundreds of small steps a text would else take turns
with those of the event loop for the interpreter.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heedful.retrieval.errors import EmbedderMissing

BUNDLED = "all-MiniLM-L6-v2"


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
        command = [sys.executable, "-m", "heedful.retrieval.encoding"]
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
