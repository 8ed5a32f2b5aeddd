"""Measures on this machine, part by part, within a time: what is asked most comes first, and what fails is a result.

`run.sh` calls it. OUT/results.json is written anew after every step, OUT/log.txt has what the parts said.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from heedful.benchmarks.gpu.setting import SAFE, Setting, faster
from heedful.benchmarks.machine import machine, versions

# Seconds each part may take; together more than there are, since few take theirs.
LIMITS = {"rain": 110, "serve": 200, "embedding": 45, "tests": 120}
SAFE_LIMIT, FAST_LIMIT, IMPORT_LIMIT = 75, 150, 90
_WORTH = 100  # what must be left for the parts after a fast setting was tried
_LEAST = 15  # with less time left, a part is not begun
_PATIENCE = 10  # times as long in a rehearsal, on what may be a busy CPU
_TAIL = 6_000  # characters of a failure's output that are a result
PACKAGES = ("heedful", "vllm", "torch", "triton", "transformers", "sentence-transformers", "numpy", "numba")


@dataclass
class Session:
    """One run: its time, its results, its log."""

    out: Path
    scratch: Path
    until: float
    rehearse: bool
    log: IO[str]
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def left(self) -> float:
        return self.until - time.monotonic()

    def write(self) -> None:
        file = self.out / "results.json.new"
        file.write_text(json.dumps(self.results, indent=1) + "\n")
        file.rename(self.out / "results.json")

    def step(
        self, name: str, command: list[str], limit: float, env: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """Runs a command; its status, seconds, and, where it failed, the end of what it said."""
        limit = limit * (_PATIENCE if self.rehearse else 1)
        began, where = time.perf_counter(), self.log.tell()
        print(f"\n== {name}", file=self.log, flush=True)
        process = subprocess.Popen(
            command,
            stdout=self.log,
            stderr=self.log,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        try:
            status: int | str = process.wait(max(1.0, min(limit, self.left)))
        except subprocess.TimeoutExpired:
            status = f"over its time of {time.perf_counter() - began:.0f} s"
        finally:
            _end(process)
        found: dict[str, Any] = {"status": status, "seconds": round(time.perf_counter() - began, 1)}
        if status != 0:
            self.log.flush()
            said = (self.out / "log.txt").read_text(errors="replace")[where:]
            found["error"] = said[-_TAIL:]
        return found

    def part(self, name: str, setting: Setting, limit: float) -> dict[str, Any]:
        """One of `parts.PARTS` in a setting: its rows, also where it was cut off, and how it ended."""
        told, rows = self.scratch / "setting.json", self.scratch / "rows.jsonl"
        setting.write(told)
        rows.unlink(missing_ok=True)
        command = [sys.executable, "-m", "heedful.benchmarks.gpu.parts", name]
        command += ["--setting", str(told), "--out", str(rows), *(["--rehearse"] if self.rehearse else [])]
        found = self.step(f"{name} ({setting.name})", command, limit, setting.env)
        lines = rows.read_text().splitlines() if rows.exists() else []
        found["rows"] = [json.loads(line) for line in lines]
        shown = {k: v for k, v in found.items() if k not in ("rows", "error")}
        print(name, json.dumps({**shown, "setting": setting.name}), flush=True)
        for row in found["rows"]:
            print("  ", json.dumps({k: v for k, v in row.items() if k != "raw"}), flush=True)
        if "error" in found:
            print(found["error"], flush=True)
        return found


def _end(process: subprocess.Popen[Any]) -> None:
    """With all that it started, which is in one group with it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def choose(session: Session) -> Setting | None:
    """The fastest setting that answers; None where none does. All tries are results."""
    tries = session.results.setdefault("settings", [])

    def answers(setting: Setting, limit: float) -> bool:
        found = session.part("engine", setting, limit)
        tries.append({"setting": setting.name, **found})
        session.write()
        return found["status"] == 0 and bool(found["rows"])

    safe = next((s for s in SAFE if session.left > _LEAST and answers(s, SAFE_LIMIT)), None)
    if safe is None:
        return None
    if session.rehearse:  # on a CPU it is eager whatever is said
        return safe
    return next(
        (s for s in faster(safe) if session.left > FAST_LIMIT + _WORTH and answers(s, FAST_LIMIT)), safe
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=470, help="for everything")
    parser.add_argument("--rehearse", action="store_true", help="tiny counts, on whatever is here, a CPU too")
    parser.add_argument("--only", action="append", choices=sorted(LIMITS), help="these parts")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started ends too
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, (options.out / "log.txt").open("a") as log:
        until = time.monotonic() + options.seconds
        session = Session(options.out, Path(scratch), until, options.rehearse, log)
        session.results = {
            **machine(),
            "rehearsal": options.rehearse,
            "versions": versions(*PACKAGES),
            "model": "smollm2-135m-instruct",
        }
        session.write()
        probe = [
            sys.executable,
            "-m",
            "heedful.benchmarks.gpu.probe",
            *(["--cpu"] if options.rehearse else []),
        ]
        session.results["probe"] = session.step("probe", probe, IMPORT_LIMIT)
        print("probe", json.dumps(session.results["probe"]), flush=True)
        session.write()
        setting = choose(session)
        session.results["setting"] = setting and setting.name
        session.write()
        if setting is None:
            print("no setting answers: see the errors above")
            return 1
        for name in options.only or LIMITS:
            if session.left < _LEAST:
                session.results[name] = {"status": "no time left"}
            else:
                session.results[name] = session.part(name, setting, LIMITS[name])
            session.write()
    ended = {name: session.results[name]["status"] for name in options.only or LIMITS}
    print(json.dumps({"setting": setting.name, "parts": ended, "left_s": round(session.left)}), flush=True)
    return 0 if all(status == 0 for status in ended.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
