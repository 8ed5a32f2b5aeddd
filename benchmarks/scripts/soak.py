"""Mixed load for a long time: does anything crash, hang, break its promises or grow?

Every strategy over a scripted engine and, with --model, over a bundled model on vLLM; an upstream that fails in every
way; stores written, read and deleted; a fifth of the clients vanish. Run:
    python soak.py [--minutes 30] [--model smollm2-135m-instruct] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from heedful.benchmarks.scripts import servers, soak_requests
from heedful.benchmarks.scripts.soak_upstream import faulty_upstream
from heedful.benchmarks.scripts.soak_watch import Watch

HERE = Path(__file__).parent
HANG = 90.0  # seconds; the scripted server's request_timeout is 20, the real one's 60
VANISH = 0.2


@dataclass
class Tally:
    """What the clients saw of one server. `wrong` are the answers that no client should get, by kind."""

    statuses: Counter[str] = field(default_factory=Counter)
    vanished: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def fault(self, kind: str, example: object) -> None:
        self.wrong[kind] += 1
        if kind not in self.examples and len(self.examples) < 40:
            self.examples[kind] = str(example)[:1200]
            print(f"  {kind}: {self.examples[kind]}", flush=True)


async def client(
    session: aiohttp.ClientSession, url: str, kinds: list[Any], told: Tally, until: float
) -> None:
    """One client after another, until the time is up."""
    while time.monotonic() < until:
        asked: soak_requests.Asked = random.choice(kinds)()
        try:
            async with asyncio.timeout(HANG):
                await _ask(session, url, asked, told)
        except TimeoutError:
            told.fault(f"hang: {asked.kind}", asked)
        except aiohttp.ClientError as error:
            # A torn answer is the client's word for an upstream that broke off a whole one; else it is ours.
            if asked.torn_allowed and isinstance(error, aiohttp.ClientPayloadError):
                told.statuses["torn"] += 1
            else:
                told.fault(f"connection: {type(error).__name__}: {asked.kind}", f"{error} {asked}")
                await asyncio.sleep(0.05)


async def _ask(session: aiohttp.ClientSession, url: str, asked: soak_requests.Asked, told: Tally) -> None:
    leaves = random.random() < VANISH
    patience = random.choice((0.0, 0.001, 0.01, 0.1, 0.5)) if leaves else None
    try:
        async with asyncio.timeout(patience):
            async with session.request(asked.method, url + asked.path, data=asked.body) as response:
                if leaves and random.random() < 0.5:
                    await response.content.read(random.randint(1, 400))
                    response.close()
                    told.vanished += 1
                    return
                body = await response.read()
    except TimeoutError:
        if not leaves:
            raise
        told.vanished += 1
        return
    told.statuses[f"{asked.kind}: {response.status}"] += 1
    if wrong := asked.wrong(response.status, body):
        told.fault(f"{asked.kind}: {wrong}", f"{response.status} {body[:150]!r} … {body[-300:]!r} {asked}")


async def soak(targets: dict[str, tuple[str, int, list[Any], int]], minutes: float) -> dict[str, Any]:
    """`targets`: by name, the address, the process, the kinds of requests and how many clients at once."""
    until = time.monotonic() + 60 * minutes
    told = {name: Tally() for name in targets}
    watches = {name: Watch(url, pid) for name, (url, pid, _, _) in targets.items()}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, read_bufsize=1 << 20) as session:
        for watch in watches.values():
            await watch.look(session)
        watching = asyncio.create_task(_watch(session, watches, told))
        clients = [
            client(session, url, kinds, told[name], until)
            for name, (url, _, kinds, count) in targets.items()
            for _ in range(count)
        ]
        await asyncio.gather(*clients)
        watching.cancel()
        await asyncio.sleep(15)  # what was left behind has ended by now
        for watch in watches.values():
            await watch.look(session)
    return {
        name: {
            "requests": told[name].statuses.total() + told[name].vanished,
            "vanished": told[name].vanished,
            "answers": dict(sorted(told[name].statuses.items())),
            "wrong": dict(told[name].wrong),
            "examples": told[name].examples,
            **watches[name].figures(),
        }
        for name in targets
    }


async def _watch(session: aiohttp.ClientSession, watches: dict[str, Watch], told: dict[str, Tally]) -> None:
    while True:
        await asyncio.sleep(10)
        for name, watch in watches.items():
            print(name, await watch.look(session), f"wrong {told[name].wrong.total()}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--model", help="a bundled model, served by vLLM beside the scripted engine")
    parser.add_argument("--clients", type=int, default=24, help="at once, on the scripted engine")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = stack.enter_context(faulty_upstream())
        targets: dict[str, tuple[str, int, list[Any], int]] = {}

        def start(name: str, command: list[str], url: str, kinds: list[Any], clients: int) -> None:
            log = (folder / f"{name}.log").open("wb")
            process = stack.enter_context(servers.process(command, f"{url}/health", errors=log))
            targets[name] = (url, process.pid, kinds, clients)

        port = servers.free_port()
        command = [sys.executable, str(HERE / "soak_server.py"), str(port), upstream, str(folder / "stores")]
        url = f"http://127.0.0.1:{port}"
        start("scripted", command, url, soak_requests.scripted(), options.clients)
        if options.model:
            port = servers.free_port()
            config = folder / "heedful.yaml"
            config.write_text(f"request_timeout: 60\nstores: {folder}/real-stores\n")
            command = [sys.executable, "-m", "heedful.server", "serve", options.model]
            command += ["--config", str(config), "--port", str(port), "--max-model-len", "4096"]
            url = f"http://127.0.0.1:{port}"
            start(options.model, command, url, soak_requests.real(options.model), 6)
        report: dict[str, Any] = {
            "machine": servers.machine(),
            "commit": _commit(),
            "minutes": options.minutes,
        }
        report["servers"] = asyncio.run(soak(targets, options.minutes))
        for name, figures in report["servers"].items():
            text = (folder / f"{name}.log").read_text(errors="replace")
            figures["log"] = {"bytes": len(text), "tracebacks": text.count("Traceback (most recent")}
            if figures["log"]["tracebacks"]:
                figures["log"]["first"] = text[max(text.find("Traceback") - 300, 0) :][:12000]
    text = json.dumps(report, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    if any(s["wrong"] or s["log"]["tracebacks"] for s in report["servers"].values()):
        raise SystemExit("something went wrong: see `wrong` and `log`")


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
