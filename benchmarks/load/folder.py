"""The folder of a measurement: its settings, the machine, and the records."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from heedful.benchmarks.journal import Journal
from heedful.benchmarks.load.records import BenchError, RequestRecord
from heedful.benchmarks.machine import machine


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """What all cells of one folder have in common: figures made with other settings do not belong beside them."""

    url: str
    prompts: str
    requests: int
    warmup: int
    max_tokens: int
    ignore_eos: bool
    seed: int
    seeded: bool
    """Whether requests carry a sampling seed."""


def opened(folder: Path, settings: LoadSettings) -> Journal[RequestRecord]:
    """The folder's records, new or as an earlier run left them.

    Raises BenchError where the earlier run had other settings or another machine, and JournalError for a bad line.
    """
    path = folder / "latency.run.json"
    here = {"settings": asdict(settings), "machine": machine()}
    if path.exists():
        there = json.loads(path.read_text())
        for part, names in (("settings", here["settings"]), ("machine", ("cpu", "cores"))):
            for name in names:
                old, new = there.get(part, {}).get(name), here[part][name]
                if old != new:
                    raise BenchError(
                        f"{folder}: was measured with {name} {old!r}, and now it is {new!r}: "
                        f"take the same, or another --out"
                    )
    else:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(here, indent=1) + "\n")
    return Journal(folder / "latency.jsonl", RequestRecord)
