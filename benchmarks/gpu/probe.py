"""What is there and whether it loads, said in full: nobody can look a second time.

    python -m heedful.benchmarks.gpu.probe [--cpu]

Every check is made whatever the others found; the status is 1 where one that is needed failed.
"""

from __future__ import annotations

import platform
import sys
import traceback
from collections.abc import Callable
from importlib import import_module


def torch_and_card() -> str:
    import torch

    told = f"torch {torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}"
    if "--cpu" in sys.argv:
        return told
    free, total = torch.cuda.mem_get_info()
    name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    return f"{told}, {name}, capability {capability}, {free >> 20} of {total >> 20} MiB free"


def triton_compiles() -> str:
    """A compiler on the machine, which Triton needs for what calls its kernels."""
    import torch
    from vllm.triton_utils import HAS_TRITON

    if "--cpu" in sys.argv:
        return f"HAS_TRITON {HAS_TRITON}"
    scores = torch.randn(4, 1000, device="cuda")
    from vllm.v1.worker.gpu.sample.gumbel import apply_temperature

    apply_temperature(scores, torch.arange(4, device="cuda", dtype=torch.int32), torch.ones(4, device="cuda"))
    torch.cuda.synchronize()
    return f"HAS_TRITON {HAS_TRITON}, a kernel ran"


def kernels() -> str:
    """vLLM's own, whose code for other cards was cut away."""
    import torch
    from vllm.platforms import current_platform

    current_platform.import_kernels()
    if "--cpu" in sys.argv:
        return f"platform {current_platform.device_type}"
    x, weight = torch.randn(8, 576, device="cuda").bfloat16(), torch.ones(576, device="cuda").bfloat16()
    out = torch.empty_like(x)
    torch.ops._C.rms_norm(out, x, weight, 1e-5)
    torch.cuda.synchronize()
    wanted = torch.nn.functional.rms_norm(x.float(), (576,), weight.float(), 1e-5)
    return f"platform {current_platform.device_type}; rms_norm off by {(out - wanted).abs().max().item():.4f}"


def flash_attention() -> str:
    from vllm.vllm_flash_attn import flash_attn_interface as flash

    reasons = {v: flash.fa_version_unsupported_reason(v) for v in (2, 3, 4)}
    return "; ".join(f"version {v}: {why or 'usable'}" for v, why in reasons.items())


def imports() -> str:
    names = ("numba", "vllm.v1.engine.async_llm", "heedful.server.engines.vllm.engine", "heedful.server.app")
    return ", ".join(import_module(name).__name__ for name in names)


def model() -> str:
    """The bundled one, made into what vLLM serves, so that no engine's start pays for it."""
    from heedful.server.models import bundled

    return str(bundled.prepare(bundled.MODELS["smollm2-135m-instruct"]))


def runners() -> str:
    """What only the engine's own process loads."""
    if "--cpu" in sys.argv:
        return "not looked for"
    names = (
        "vllm.v1.worker.gpu_worker",
        "vllm.v1.worker.gpu_model_runner",
        "vllm.v1.worker.gpu.model_runner",
        "vllm.v1.attention.backends.triton_attn",
        "vllm.model_executor.models.llama",
    )
    return ", ".join(import_module(name).__name__ for name in names)


# The second: whether nothing works without it.
CHECKS: dict[Callable[[], str], bool] = {
    torch_and_card: True,
    imports: True,
    model: True,
    kernels: True,
    runners: True,
    triton_compiles: False,
    flash_attention: False,
}


def main() -> int:
    failed = 0
    for check, needed in CHECKS.items():
        try:
            print(f"{check.__name__}: {check()}", flush=True)
        except Exception:
            failed += needed
            print(f"{check.__name__}: FAILED\n{traceback.format_exc()}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
