"""What a model is computed in where the user names no dtype."""

from __future__ import annotations

from typing import Any

import pytest

from heedful.server.engines.vllm import start as vllm
from heedful.server.engines.vllm.cpu import default_dtype

INTEL: dict[str, Any] = {"architecture": "x86_64", "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        (INTEL, "float32"),
        (INTEL | {"avx512_bf16": True}, "auto"),
        (INTEL | {"amx_bf16": True}, "auto"),
        ({"architecture": "aarch64", "bf16": True}, "auto"),
        ({"architecture": "aarch64", "bf16": False}, "float32"),
        ({}, "float32"),
    ],
)
def test_float32_without_units_for_bfloat16(capabilities: dict[str, Any], dtype: str) -> None:
    assert default_dtype(capabilities) == dtype


@pytest.mark.engine
def test_the_processor_decides_unless_the_user_does(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("on a GPU the dtype is vLLM's to choose")

    def chosen(*options: str) -> str:
        return str(vllm.engine_arguments("m", "m", options).dtype)

    chosen()  # vLLM loads its kernels once, by what the processor really has
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: INTEL)
    assert chosen() == "float32" and chosen("--dtype", "bfloat16") == "bfloat16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert chosen() == "auto" and chosen("--dtype", "float32") == "float32"
