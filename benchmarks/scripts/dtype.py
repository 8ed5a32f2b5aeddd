"""float32 beside bfloat16 on a CPU with and without bfloat16 units: first token, and tokens a second.

A processor without the units is this one with them hidden: from oneDNN and PyTorch by their own variables, from vLLM,
which picks its kernels by what PyTorch finds, by a `sitecustomize` of ours. Beside each time stand the processor's
seconds, which mean something on a busy machine too. Run: python dtype.py [--json FILE]; a run that was cut off
goes on from the FILE.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil

from heedful.benchmarks.scripts import servers

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
ROUNDS, WRITTEN = 3, 64
TEXTS = {"100 tokens": "Name three colours. " * 20, "1,000 tokens": "Name three colours. " * 240}


class Meter:
    """Times a request: seconds on the clock, and seconds of the processor in all processes of the server."""

    def __init__(self, http: httpx.Client, server: psutil.Process) -> None:
        self._http, self._processes = http, [server, *server.children(recursive=True)]

    def post(self, **body: Any) -> tuple[float, float]:
        began, worked = time.perf_counter(), self._worked()
        asked = {"model": MODEL, "cache_salt": uuid4().hex, **body}
        self._http.post("/v1/completions", json=asked).raise_for_status()
        return time.perf_counter() - began, self._worked() - worked

    def _worked(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self._processes)


def first_token(meter: Meter, text: str) -> dict[str, float]:
    """To the first token of a prompt that no cache knows; medians."""
    took = [meter.post(prompt=text, max_tokens=1, temperature=0) for _ in range(ROUNDS)]
    return {"s": statistics.median(t for t, _ in took), "processor_s": statistics.median(w for _, w in took)}


def decoding(meter: Meter, choices: int) -> dict[str, float]:
    """All choices of one prompt together, without the reading of it; medians."""
    rates, works = [], []
    for _ in range(ROUNDS):
        body = {"prompt": "Once", "n": choices, "temperature": 1.0, "ignore_eos": True}
        one, all_ = (meter.post(**body, max_tokens=tokens) for tokens in (1, WRITTEN + 1))
        rates.append(choices * WRITTEN / (all_[0] - one[0]))
        works.append((all_[1] - one[1]) / (choices * WRITTEN))
    return {"tokens_per_s": statistics.median(rates), "processor_s_per_token": statistics.median(works)}


@contextmanager
def hiding(hidden: tuple[str, str, bool] | None) -> Iterator[None]:
    """Processes that are started meanwhile do not find what is hidden of this processor."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        if hidden is not None:
            onednn, aten, avx512 = hidden
            Path(folder, "sitecustomize.py").write_text(_HIDE.format(avx512=avx512))
            path = [folder, *filter(None, [before.get("PYTHONPATH")])]
            os.environ |= {"ONEDNN_MAX_CPU_ISA": onednn, "ATEN_CPU_CAPABILITY": aten}
            os.environ["PYTHONPATH"] = os.pathsep.join(path)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def measure(dtype: str) -> dict[str, Any]:
    port = servers.free_port()
    command = [sys.executable, "-m", "heedful.server", "serve", MODEL, "--port", str(port)]
    command += ["--max-model-len", "4096", "--dtype", dtype]
    url = f"http://127.0.0.1:{port}"
    with servers.process(command, f"{url}/health") as server, httpx.Client(base_url=url, timeout=600) as http:
        meter = Meter(http, psutil.Process(server.pid))
        figures: dict[str, Any] = {
            f"first token of {name}": first_token(meter, t) for name, t in TEXTS.items()
        }
        figures |= {f"writing, {n} at once": decoding(meter, n) for n in (1, 8)}
        sky = {"model": MODEL, "prompt": "The sky", "max_tokens": 1, "temperature": 0, "logprobs": 1}
        told = http.post("/v1/completions", json=sky).json()["choices"][0]["logprobs"]
        figures["a log-probability"] = told["token_logprobs"][0]  # differs: the settings reach the sums
    return {"machine_load": os.getloadavg()[1], **figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    out: Path | None = parser.parse_args().json
    result: dict[str, Any] = {"machine": servers.machine(), "model": MODEL, "figures": {}}
    if out and out.exists() and (earlier := json.loads(out.read_text()))["machine"] == result["machine"]:
        result = earlier
    for processor, hidden in PROCESSORS.items():
        found = result["figures"].setdefault(processor, {})
        for dtype in ("bfloat16", "float32"):
            if dtype in found:
                continue
            with hiding(hidden):
                found[dtype] = measure(dtype)
            print(processor, dtype, json.dumps(found[dtype]), flush=True)
            if out:
                out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
