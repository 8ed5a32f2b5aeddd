"""What a server holds while it is under load: memory, descriptors, threads, tasks, requests under way."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import aiohttp

TASKS = "heedful_asyncio_tasks "


class Watch:
    """Looks at one server process and its children from time to time."""

    def __init__(self, url: str, pid: int) -> None:
        self._url, self._pid = url, pid
        self._began = time.monotonic()
        self.seen: list[dict[str, float]] = []

    async def look(self, session: aiohttp.ClientSession) -> dict[str, float]:
        tree = _tree(self._pid)
        now: dict[str, float] = {
            "minute": round((time.monotonic() - self._began) / 60, 2),
            "memory_mb": round(sum(_memory(pid) for pid in tree), 1),
            "own_memory_mb": round(_memory(self._pid), 1),
            "descriptors": _count(self._pid, "fd"),
            "threads": _count(self._pid, "task"),
            "processes": len(tree),
        }
        began = time.monotonic()
        async with session.get(f"{self._url}/metrics") as response:
            lines = (await response.text()).splitlines()
        now["tasks"] = next((float(line.split()[1]) for line in lines if line.startswith(TASKS)), -1)
        async with session.get(f"{self._url}/health") as response:
            now["running"] = (await response.json())["running"]
        now["looked_ms"] = round(1000 * (time.monotonic() - began), 1)
        self.seen.append(now)
        return now

    def figures(self) -> dict[str, Any]:
        """At the start, while it went, at the end; memory's growth over the last two thirds of the time."""
        under = self.seen[1:-1] or self.seen
        late = [s for s in under if s["minute"] >= under[-1]["minute"] / 3]
        figures: dict[str, Any] = {"before": self.seen[0], "after": self.seen[-1]}
        for what in ("descriptors", "threads", "tasks", "running", "looked_ms"):
            figures[f"{what}_p50_max"] = [
                statistics.median(s[what] for s in under),
                max(s[what] for s in under),
            ]
        if len(late) > 5:
            minutes = [s["minute"] for s in late]
            for what in ("memory_mb", "own_memory_mb", "descriptors", "tasks"):
                values = [s[what] for s in late]
                figures[f"{what}_per_minute"] = round(statistics.linear_regression(minutes, values).slope, 3)
        figures["series"] = under[:: max(1, len(under) // 30)]
        return figures


def _tree(pid: int) -> list[int]:
    tree = [pid]
    for each in tree:
        for tasks in Path(f"/proc/{each}/task").glob("*/children"):
            tree += [int(child) for child in tasks.read_text().split()]
    return tree


def _memory(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6


def _count(pid: int, what: str) -> int:
    return len(list(Path(f"/proc/{pid}/{what}").iterdir()))
