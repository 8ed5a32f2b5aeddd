"""Mends for vLLM, which loads them in each of its processes (entry point `vllm.general_plugins`).

vLLM 0.32 on a CPU dies of a request with a seed whose prompt is read in several pieces: each piece but the last
samples a token to be thrown away, and the generator is then to be set back by an offset, which those of a CPU lack.
"""

from __future__ import annotations

from typing import Any


def register() -> None:
    """Called by vLLM."""
    from vllm.platforms import current_platform

    from heedful.server.engines.vllm import grammars as vllm_grammars

    vllm_grammars.register()

    if not current_platform.is_cpu():
        return
    import numpy as np
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    original = CPUModelRunner._bookkeeping_sync

    def _bookkeeping_sync(self: Any, *args: Any, **kwargs: Any) -> Any:
        generators = self.input_batch.generators
        pieces = np.nonzero(self.discard_request_mask.np[: self.input_batch.num_reqs])[0]
        set_aside = {i: generators.pop(i) for i in map(int, pieces) if i in generators}
        for generator in set_aside.values():
            # Nothing that counts has been drawn from it, so its start is where it stood. (A request that was
            # preempted in mid-answer and is read again draws anew from its seed.)
            generator.manual_seed(generator.initial_seed())
        try:
            return original(self, *args, **kwargs)
        finally:
            generators.update(set_aside)

    CPUModelRunner._bookkeeping_sync = _bookkeeping_sync
