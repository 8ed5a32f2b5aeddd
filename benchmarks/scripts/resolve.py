"""How long the event loop is busy with finding a request's plan, and with listing the models.

Run: python resolve.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from heedful.benchmarks.machine import machine
from heedful.prompts import Prompts
from heedful.server.access.client import ANYBODY
from heedful.server.alignments import Alignments
from heedful.server.config import Config
from heedful.server.engines.served import ServedModel
from heedful.server.service import Service, target_of
from heedful.strategies import Resources
from heedful.strategies.scripted import ScriptedEngine

SECONDS = 2.0
CONFIG = Config(alignments={"house": ["urial", {"principles": {"set": "fairness"}}]})
BODIES: dict[str, Any] = {
    "the default": None,
    "a name": "principles",
    "a name of the configuration's": "house",
    "two names": "urial+principles",
    "two names, spelled anew each time": None,
    "steps with options": ["urial", {"principles": {"set": "fairness", "mode": "cot"}}],
    "refine with verifiers": [{"refine": {"verifiers": ["toxicity", {"policy": {"deny": ["x+"]}}]}}],
}


def rate(once: Callable[[int], object]) -> float:
    """Calls a second, one after another."""
    once(0)
    began, calls = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < SECONDS:
        calls += 1
        once(calls)
    return calls / passed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    out: Path | None = parser.parse_args().json
    engines: dict[str, ServedModel] = {f"m{i}": ScriptedEngine(model=f"m{i}") for i in range(10)}
    alignments = Alignments(CONFIG, Resources(Prompts()))
    service = Service(CONFIG, engines, alignments)

    def spelled(i: int) -> str:
        return "urial" + " " * (i % 5000) + "+principles"

    figures: dict[str, float] = {}
    for kind, alignment in BODIES.items():
        anew = kind.endswith("anew each time")

        def once(i: int, anew: bool = anew, alignment: Any = alignment) -> object:
            wish = spelled(i) if anew else alignment
            return target_of({"model": "m3", "alignment": wish}, None, engines, alignments)

        figures[kind] = round(rate(once), 1)
        print(f"{kind:36} {figures[kind]:12,.1f} a second")
    figures["lists of ten models"] = round(rate(lambda _: service.models(ANYBODY)), 1)
    print(f"{'lists of ten models':36} {figures['lists of ten models']:12,.1f} a second")
    if out is not None:
        out.write_text(json.dumps({"machine": machine(), "per_second": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
