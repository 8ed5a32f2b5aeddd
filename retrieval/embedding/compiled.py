"""A sentence-transformers model computed by OpenVINO: on a CPU a question takes about half the time.

OpenVINO puts a layer's small steps together and keeps its weights in the order that the processor wants them in;
PyTorch does every step by itself and reorders the weights each time. Tokens, pooling and all else stay
sentence-transformers' own.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np

from heedful.retrieval.embedding.embedder import SAME_MODEL, Encode, Vectors, unit

# Of several lengths, so that what tracing took for constant shows.
_CHECKED = ["Tell the truth.", "A much longer text, " * 40, "¿Cuánto cuesta un billete a Zúrich?"]


class NotCompiled(Exception):
    """Says why a model is not computed by OpenVINO."""


def compiled(model: Any, threads: int | None) -> Encode:
    """A SentenceTransformer's `encode` for a CPU, shape (n, d), for one thread at a time. It uses the model up.

    `threads` as for `Encoder`. Raises NotCompiled where OpenVINO can't compute it, which leaves the model as it was.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it would report to its makers
    import openvino
    import torch

    if model.default_prompt_name is not None:  # encode() would put it before every text
        raise NotCompiled("it has a prompt of its own")
    example = {k: v for k, v in model.preprocess(_CHECKED[:1]).items() if isinstance(v, torch.Tensor)}

    class Traced(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model.requires_grad_(False)

        def forward(self, *inputs: Any) -> Any:
            return self.model(dict(zip(example, inputs, strict=True)))["sentence_embedding"]

    options = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what tracing takes for constant is checked below
            converted = openvino.convert_model(Traced(), example_input=tuple(example.values()))
        request = openvino.Core().compile_model(converted, "CPU", options).create_infer_request()
    except (
        Exception
    ) as error:  # whatever an unknown model does when it is traced, or its sums on this processor
        raise NotCompiled(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from error

    def encode(texts: list[str]) -> Vectors:
        features = model.preprocess(texts)
        inputs = [features[name].numpy() for name in example]
        return np.array(request.infer(inputs, share_inputs=True, share_outputs=True)[0])

    cosines = (unit(encode(_CHECKED)) * unit(model.encode(_CHECKED, show_progress_bar=False))).sum(axis=1)
    if cosines.min() < SAME_MODEL:
        raise NotCompiled(f"its vectors would differ (cosine {cosines.min():.4f})")
    model.to("meta")  # lets go of its weights: OpenVINO has its own
    return encode
