"""float32 beside bfloat16 on a CPU with and without bfloat16 units: first token, and tokens a second.

A processor without the units is this one with them hidden: from oneDNN and PyTorch by their own variables, from vLLM,
which picks its kernels by what PyTorch finds, by a `sitecustomize` of ours. Run: python dtype.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import servers

MODEL = "smollm2-135m-instruct"
_HIDE = """
import torch.cpu
torch.cpu._is_avx512_bf16_supported = torch.cpu._is_amx_tile_supported = lambda: False
torch.cpu._is_avx512_supported = lambda: {avx512}
"""
# What oneDNN, PyTorch and vLLM may use.
PROCESSORS: dict[str, tuple[str, str, bool] | None] = {
    "as it is": None,
    "AVX-512 without bfloat16": ("AVX512_CORE_VNNI", "avx512", True),
    "AVX2": ("AVX2", "avx2", False),
}
ROUNDS, WRITTEN = 5, 128
TEXTS = {"100 tokens": "Name three colours. " * 20, "1,000 tokens": "Name three colours. " * 240}


def first_token(http: httpx.Client, text: str) -> float:
    """Seconds to the first token of a prompt that no cache knows; the median of some."""
    took = []
    for _ in range(ROUNDS):
        body = {"model": MODEL, "prompt": text, "max_tokens": 1, "temperature": 0, "cache_salt": uuid4().hex}
        began = time.perf_counter()
        http.post("/v1/completions", json=body).raise_for_status()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def decoding(http: httpx.Client, clients: int) -> float:
    """Tokens a second of all choices of one prompt together, the median of some; its reading is not counted."""
    rates = []
    for _ in range(ROUNDS):
        body = {"model": MODEL, "prompt": "Once", "n": clients, "temperature": 1.0, "ignore_eos": True}
        times = []
        for tokens in (1, WRITTEN + 1):
            began = time.perf_counter()
            http.post("/v1/completions", json={**body, "max_tokens": tokens}).raise_for_status()
            times.append(time.perf_counter() - began)
        rates.append(clients * WRITTEN / (times[1] - times[0]))
    return statistics.median(rates)


def measure(dtype: str, hidden: tuple[str, str, bool] | None) -> dict[str, float]:
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        if hidden is not None:
            onednn, aten, avx512 = hidden
            Path(folder, "sitecustomize.py").write_text(_HIDE.format(avx512=avx512))
            path = [folder, *filter(None, [before.get("PYTHONPATH")])]
            os.environ |= {"ONEDNN_MAX_CPU_ISA": onednn, "ATEN_CPU_CAPABILITY": aten}
            os.environ["PYTHONPATH"] = os.pathsep.join(path)
        try:
            with (
                servers.heedful(MODEL, "--max-model-len", "4096", "--dtype", dtype) as url,
                httpx.Client(base_url=url, timeout=600) as http,
            ):
                figures = {f"first token, {name} (s)": first_token(http, t) for name, t in TEXTS.items()}
                figures |= {f"tokens/s, {n} at once": decoding(http, n) for n in (1, 8)}
                asked = {
                    "model": MODEL,
                    "prompt": "The sky",
                    "max_tokens": 1,
                    "temperature": 0,
                    "logprobs": 1,
                }
                told = http.post("/v1/completions", json=asked).json()["choices"][0]["logprobs"]
                figures["a log-probability"] = told["token_logprobs"][
                    0
                ]  # shows that the settings reach the sums
        finally:
            os.environ.clear()
            os.environ.update(before)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    out: Path | None = parser.parse_args().json
    result: dict[str, Any] = {"machine": servers.machine(), "model": MODEL, "figures": {}}
    for processor, hidden in PROCESSORS.items():
        for dtype in ("bfloat16", "float32"):
            figures = measure(dtype, hidden)
            result["figures"].setdefault(processor, {})[dtype] = figures
            print(processor, dtype, {k: round(v, 4) for k, v in figures.items()}, flush=True)
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
