"""The embedding model as OpenVINO computes it: the same vectors, or PyTorch."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytestmark = pytest.mark.engine  # torch and the bundled embedding model

TEXTS = ["Tell the truth.", "", "¿Cuánto cuesta?", "A rule that goes on and on. " * 90, "x"]


# See `lesser.py`: OpenVINO itself looks past that limit and then finds none of the kernels that it wants.
runs = pytest.mark.skipif("ONEDNN_MAX_CPU_ISA" in os.environ, reason="oneDNN is held below the processor")


def bundled() -> Any:
    from heedful.retrieval.embedding.encoding import model

    return model("all-MiniLM-L6-v2", "cpu", 1)


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    scale = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    found: NDArray[np.float32] = (a * b).sum(axis=1) / scale
    return found


@runs
def test_vectors_are_those_of_pytorch_in_any_company_and_of_any_length() -> None:
    from heedful.retrieval.embedding.compiled import compiled

    expected = bundled().encode(TEXTS)
    encode = compiled(bundled(), threads=1)
    together, alone = encode(TEXTS), np.concatenate([encode([text]) for text in TEXTS])
    assert together.shape == expected.shape
    assert cosines(together, expected).min() > 0.9995
    assert cosines(alone, expected).min() > 0.9995
    # A later answer does not write over an earlier one, and nothing is reported to anybody.
    before = together.copy()
    encode(["Something else."] * len(TEXTS))
    assert np.array_equal(together, before)
    assert sys.modules["openvino_telemetry"] is None


@runs
def test_a_model_that_openvino_would_compute_wrongly_stays_pytorchs() -> None:
    import torch
    from sentence_transformers.sentence_transformer.modules import Pooling

    from heedful.retrieval.embedding.compiled import NotCompiled, compiled

    model = bundled()

    class Fickle(torch.nn.Module):  # type: ignore[misc]
        def forward(self, features: dict[str, Any]) -> dict[str, Any]:
            if features["input_ids"].shape[1] > 50:  # which tracing takes for constant
                features["sentence_embedding"] = features["sentence_embedding"].flip(1)
            return features

    assert isinstance(model[1], Pooling)
    model.append(Fickle())
    expected = model.encode(TEXTS)
    with pytest.raises(NotCompiled, match="vectors would differ"):
        compiled(model, threads=1)
    assert cosines(model.encode(TEXTS), expected).min() > 0.9999


def test_a_model_that_puts_a_prompt_before_texts_stays_pytorchs() -> None:
    from heedful.retrieval.embedding.compiled import NotCompiled, compiled

    model = bundled()
    model.prompts, model.default_prompt_name = {"query": "query: "}, "query"
    with pytest.raises(NotCompiled, match="a prompt of its own"):
        compiled(model, threads=1)


def test_a_model_that_openvino_fails_on_stays_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    from heedful.retrieval.embedding.compiled import NotCompiled, compiled

    def fails(*_: Any) -> None:
        raise RuntimeError("Exception from src/inference/src/cpp/core.cpp:117:")

    monkeypatch.setattr(openvino.Core, "compile_model", fails)
    model = bundled()
    with pytest.raises(NotCompiled, match="RuntimeError: Exception from"):
        compiled(model, threads=1)
    assert model.encode(TEXTS).shape == (len(TEXTS), 384)
