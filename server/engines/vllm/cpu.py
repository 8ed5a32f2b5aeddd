"""What fits the processor that a model runs on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # Intel's and AMD's, Intel's tiles, ARM's


def default_dtype(capabilities: Mapping[str, Any]) -> str:
    """vLLM's --dtype where the user names none: "auto", the model's own, on a processor that computes bfloat16, else
    "float32", since bfloat16 without units for it is slow. `capabilities`: as torch.cpu.get_capabilities() has them.
    """
    return "auto" if any(capabilities.get(name) for name in _BFLOAT16) else "float32"
