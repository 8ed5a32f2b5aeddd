"""A sentence-transformers model in a process of its own: its hundreds of small steps a text would else take turns
with those of the event loop for the interpreter.
"""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heedful.retrieval.errors import EmbedderFailed, EmbedderMissing

BUNDLED = "all-MiniLM-L6-v2"
COMMAND = (sys.executable, "-m", "heedful.retrieval.embedding.encoding")
_ENDED = (
    EOFError,
    OSError,
    pickle.UnpicklingError,
)  # it has said nothing, takes nothing, or stopped in mid-answer


class _OwnProcess:
    """Started for one encoder, and ended with it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None and self._process.stdout is not None
        self.asking, self.answers = self._process.stdin, self._process.stdout

    def end(self) -> int | None:
        """Its status."""
        for pipe in (self.asking, self.answers):
            try:
                pipe.close()
            except BrokenPipeError:  # something unsent to a process that is gone
                pass
        return self._process.wait()


class _SharedProcess:
    """One that answers several encoders at a socket, and is somebody else's to start and to end."""

    def __init__(self, at: Path) -> None:
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(at))
            self.asking, self.answers = line.makefile("wb"), line.makefile("rb")

    def end(self) -> int | None:
        for line in (self.asking, self.answers):
            try:
                line.close()
            except OSError:  # something unsent
                pass
        return None


class Encoder:
    """Encodes lists of texts, shape (n, d), one list at a time. Not for several threads at once.

    `device` as torch names it; None: a GPU where there is one. `threads`: how many torch may use; None: as many as
    there are cores, which is slow where others work on them too. `at`: the socket of a process that several share;
    None: one of its own. Its process is started anew where it has ended, then
    or at the next call. Raises EmbedderMissing where the model can't be loaded, EmbedderFailed where it fails.
    """

    def __init__(self, model: str, device: str | None, threads: int | None, at: Path | None = None) -> None:
        self._options, self._at = (model, device, threads), at
        self._process: _OwnProcess | _SharedProcess | None = None
        self.longest: int | None = None
        """How many tokens of a text the model reads; None: all of them."""
        self._start()

    def __call__(self, texts: list[str]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self._answer(("encode", texts))
        return found

    def count(self, texts: list[str]) -> list[int]:
        """How many tokens texts have, those that the model adds included, whether or not it reads them all."""
        counted: list[int] = self._answer(("count", texts))
        return counted

    def close(self) -> None:
        """Ends the process."""
        process, self._process = self._process, None
        if process is not None:
            process.end()

    def _answer(self, question: Any) -> Any:
        """To what is asked of the process, which may have been killed, for example by a lack of memory."""
        for last in (False, True):
            try:
                return self._ask(self._process or self._start(), question)
            except _ENDED as error:
                self.close()
                if last:
                    raise EmbedderFailed(
                        f"the embedding model's process ended twice at these texts: {error}"
                    ) from error
            except EmbedderMissing as error:
                raise EmbedderMissing(
                    f"the embedding model {self._options[0]!r} can't be loaded anew: {error}"
                ) from error
            except EmbedderFailed:
                raise
            except BaseException:  # who knows what of the answer has been read
                self.close()
                raise

    def _start(self) -> _OwnProcess | _SharedProcess:
        try:
            self._process = _OwnProcess() if self._at is None else _SharedProcess(self._at)
            self.longest = self._ask(self._process, self._options)
        except _ENDED as error:
            process, self._process = self._process, None
            ended = process and process.end()
            raise EmbedderMissing(
                f"its process ended at its start ({error if ended is None else ended})"
            ) from error
        except BaseException:
            self.close()
            raise
        return self._process

    def _ask(self, process: _OwnProcess | _SharedProcess, question: Any) -> Any:
        pickle.dump(question, process.asking)
        process.asking.flush()
        answer = pickle.load(process.answers)
        if isinstance(answer, Exception):
            raise answer
        return answer
