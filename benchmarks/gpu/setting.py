"""How vLLM is told to run, from what is fastest to what asks least of the machine."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Setting:
    """`flags`: of vLLM's command line. `env`: variables."""

    name: str
    flags: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> Setting:
        told: dict[str, Any] = json.loads(file.read_text())
        return cls(told["name"], tuple(told["flags"]), told["env"])

    def write(self, file: Path) -> None:
        file.write_text(json.dumps({"name": self.name, "flags": self.flags, "env": self.env}))


_NO_COMPILE = ("--compilation-config", '{"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}')
_V1 = {"VLLM_USE_V2_MODEL_RUNNER": "0"}
_TRITON = ("--attention-backend", "TRITON_ATTN")
# Tried in this order until one answers: whether anything runs here at all, and how it has to be asked.
SAFE = (
    Setting("eager", ("--enforce-eager",)),
    Setting("eager, first runner", ("--enforce-eager",), _V1),
    Setting("eager, Triton attention", ("--enforce-eager", *_TRITON)),
    Setting("eager, Triton attention, first runner", ("--enforce-eager", *_TRITON), _V1),
)
# Tried after that, each with what the safe one had to be asked; the first that answers is measured.
FAST = (Setting("vLLM's defaults"), Setting("CUDA graphs, no compiler", _NO_COMPILE))


def faster(safe: Setting) -> list[Setting]:
    """The fast settings, with the attention and the runner that worked."""
    kept = tuple(flag for flag in safe.flags if flag != "--enforce-eager")
    note = safe.name.removeprefix("eager")
    return [Setting(f"{f.name}{note}", (*f.flags, *kept), {**f.env, **safe.env}) for f in FAST]
