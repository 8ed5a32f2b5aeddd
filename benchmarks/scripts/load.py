"""A load generator on bare protocols: a closed loop over keep-alive connections, as JSON on standard output.

Run: python load.py URL BODY --concurrency 64 --seconds 3
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import time
from typing import cast
from urllib.parse import urlsplit

import httptools
import uvloop


def key(number: int) -> str:
    """The API key of one of several clients."""
    return f"sk-test-{123_456_789 + number:010}"


CONTENT = b'"content": "word', b'"content":"word'


class LoadConnection(asyncio.Protocol):
    """Asks again and again until `state.until`; a server may close in between."""

    def __init__(self, load: ClosedLoop) -> None:
        self._load = load
        self._over = asyncio.get_running_loop().create_future()

    # -- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._load.fail(str(error))
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done:
            self._load.fail(f"connection lost: {exc}")
        if not self._over.done():
            self._over.set_result(None)

    async def over(self) -> None:
        await self._over

    def _ask(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._started, self._first, self._tokens, self._done, self._bad = (
            time.perf_counter(),
            0.0,
            0,
            False,
            b"",
        )
        self._transport.write(next(self._load.requests))

    # -- httptools

    def on_body(self, body: bytes) -> None:
        if self._parser.get_status_code() != 200:
            self._bad += body
        if self._load.streams:
            count = body.count(CONTENT[0]) + body.count(CONTENT[1])
            now = time.perf_counter()
            if count and not self._tokens:
                self._first = now
            self._tokens += count
            if self._load.from_ <= now <= self._load.until:
                self._load.tokens += count

    def on_message_complete(self) -> None:
        now = time.perf_counter()
        self._done = True
        if self._parser.get_status_code() != 200:
            self._load.fail(f"HTTP {self._parser.get_status_code()}: {self._bad[:200]!r}")
        elif self._load.streams and not self._tokens:
            self._load.fail("a stream without a token")
        else:
            self._load.count(self._started, self._first, now)
        if now < self._load.until and self._parser.should_keep_alive():
            self._ask()
        else:
            self._transport.close()


class ClosedLoop:
    """One measurement. What counts is what ends between the warm-up and the end, whenever it began."""

    def __init__(
        self,
        url: str,
        body: bytes,
        *,
        seconds: float,
        warm_up: float,
        ramp: float,
        rounds: int | None,
        keys: int = 1,
    ) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "", parts.port or 80
        self.streams = b'"stream":true' in body or b'"stream": true' in body
        requests = [
            (
                f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
                f"Authorization: Bearer {key(i)}\r\nContent-Length: {len(body)}\r\n\r\n"
            ).encode()
            + body
            for i in range(keys)
        ]
        self.requests = itertools.cycle(requests)
        self.ramp = ramp
        self.from_ = time.perf_counter() + warm_up
        self.until = self.from_ + seconds
        self.rounds = rounds
        self.latencies: list[float] = []
        self.firsts: list[float] = []
        self.tokens = 0
        self.errors: list[str] = []

    def count(self, started: float, first: float, ended: float) -> None:
        if self.rounds is not None:
            self.rounds -= 1
            if self.rounds <= 0:
                self.until = min(self.until, ended)
        if self.from_ <= ended <= self.until:
            self.latencies.append(ended - started)
            if first:
                self.firsts.append(first - started)

    def fail(self, why: str) -> None:
        self.errors.append(why)
        if len(self.errors) > 100:
            self.until = min(self.until, time.perf_counter())

    async def worker(self, wait: float) -> None:
        await asyncio.sleep(wait)
        loop = asyncio.get_running_loop()
        while time.perf_counter() < self.until:
            try:
                _, connection = await loop.create_connection(
                    lambda: LoadConnection(self), self.host, self.port
                )
            except OSError as error:
                self.fail(str(error))
                await asyncio.sleep(0.05)
                continue
            await connection.over()

    async def run(self, concurrency: int) -> dict[str, object]:
        await asyncio.gather(*(self.worker(self.ramp * i / concurrency) for i in range(concurrency)))
        took = self.until - self.from_
        ordered, firsts = sorted(self.latencies), sorted(self.firsts)
        return {
            "requests": len(ordered),
            "requests_per_s": round(len(ordered) / took, 2),
            "p50_ms": _at(ordered, 0.5),
            "p99_ms": _at(ordered, 0.99),
            "tokens_per_s": round(self.tokens / took, 1),
            "first_p50_ms": _at(firsts, 0.5),
            "first_p99_ms": _at(firsts, 0.99),
            "errors": len(self.errors),
            "error": self.errors[0] if self.errors else None,
        }


def _at(ordered: list[float], share: float) -> float | None:
    return round(1000 * ordered[min(int(share * len(ordered)), len(ordered) - 1)], 4) if ordered else None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("body")
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--warm-up", type=float, default=0.5)
    parser.add_argument("--ramp", type=float, default=0, help="seconds over which connections begin")
    parser.add_argument("--requests", type=int, help="stop after so many answers")
    parser.add_argument(
        "--keys", type=int, default=1, help="so many clients in turn, each with a key of its own"
    )
    options = parser.parse_args()
    load = ClosedLoop(
        options.url,
        options.body.encode(),
        seconds=options.seconds,
        warm_up=options.warm_up,
        ramp=options.ramp,
        rounds=options.requests,
        keys=options.keys,
    )
    print(json.dumps(uvloop.run(load.run(options.concurrency))))


if __name__ == "__main__":
    main()
