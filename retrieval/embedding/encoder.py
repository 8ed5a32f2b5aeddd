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

from heedful.retrieval.errors import EmbedderFailed, EmbedderMissing

BUNDLED = "all-MiniLM-L6-v2"
COMMAND = (sys.executable, "-m", "heedful.retrieval.embedding.encoding")
_ENDED = (
    EOFError,
    OSError,
    pickle.UnpicklingError,
)  # it has said nothing, takes nothing, or stopped in mid-answer


class Encoder:
    """Encodes lists of texts, shape (n, d), one list at a time. Not for several threads at once.

    `device` as torch names it; None: a GPU where there is one. `threads`: how many torch may use; None: as many as
    there are cores, which is slow where others work on them too. Its process is started anew where it has ended, then
    or at the next call. Raises EmbedderMissing where the model can't be loaded, EmbedderFailed where it fails.
    """

    def __init__(self, model: str, device: str | None, threads: int | None) -> None:
        self._options = (model, device, threads)
        self._process: subprocess.Popen[bytes] | None = None
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
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:  # something unsent to a process that is gone
                pass
        process.wait()

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

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            self._process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self.longest = self._ask(self._process, self._options)
        except _ENDED as error:
            ended = self._process and self._process.wait()
            self.close()
            raise EmbedderMissing(
                f"its process ended at its start ({error if ended is None else ended})"
            ) from error
        except BaseException:
            self.close()
            raise
        return self._process

    def _ask(self, process: subprocess.Popen[bytes], question: Any) -> Any:
        assert process.stdin is not None and process.stdout is not None
        pickle.dump(question, process.stdin)
        process.stdin.flush()
        answer = pickle.load(process.stdout)
        if isinstance(answer, Exception):
            raise answer
        return answer
