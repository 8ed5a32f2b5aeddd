"""Runs a command as on a processor with AVX2 and no more: python lesser.py COMMAND ...

oneDNN and PyTorch are told by variables of their own. vLLM picks its kernels by what PyTorch finds on the processor,
so that a `sitecustomize` hides it from every process of the command.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

_HIDE = """
import importlib.abc, importlib.util, sys


class Hider(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "torch.cpu":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def hide(module):
            run(module)
            module._is_avx512_supported = lambda: False
            module._is_avx512_bf16_supported = lambda: False
            module._is_amx_tile_supported = lambda: False

        spec.loader.exec_module = hide
        return spec


sys.meta_path.insert(0, Hider())
"""


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "sitecustomize.py").write_text(_HIDE)
        path = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
        less = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "PYTHONPATH": path}
        return subprocess.run(sys.argv[1:], env={**os.environ, **less}).returncode


if __name__ == "__main__":
    sys.exit(main())
