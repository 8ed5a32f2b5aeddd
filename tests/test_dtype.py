"""What a model is computed in where the user names no dtype."""

from __future__ import annotations

from typing import Any

import pytest

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
