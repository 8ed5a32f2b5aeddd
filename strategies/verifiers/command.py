"""A program of the operator's as verifier: the question on its standard input, the verdict on its output."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from shutil import which
from typing import Annotated, ClassVar, Self

from pydantic import Field

from heedful.strategies.engine import Capability
from heedful.strategies.errors import RequestError, VerifierError
from heedful.strategies.run import Resources, Run
from heedful.strategies.tasks import together
from heedful.strategies.types import Context
from heedful.strategies.verifiers.base import Verdict, Verifier
from heedful.strategies.verifiers.report import question, verdict

_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")


@dataclass(frozen=True)
class Command(Verifier):
    """Runs a program without a shell, in a process group of its own, which is killed when its time is up.

    `argv`: the program and its arguments. It reads `{"messages", "norms", "answer"}` and writes `{"score", "passed",
    "critique"}`, both JSON; another exit status than 0 is a failure. `timeout`: seconds. `max_output`: bytes it may
    write. `environment`: variables it gets beside PATH, HOME, language and time zone. `concurrency`: how many run at
    once; others wait. `threshold`: of the score, where it does not say `passed`.
    """

    argv: Annotated[tuple[str, ...], Field(min_length=1)] = ()
    timeout: Annotated[float, Field(gt=0, le=600)] = 10.0
    max_output: Annotated[int, Field(ge=2, le=1 << 20)] = 1 << 16
    environment: tuple[str, ...] = ()
    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    needs: ClassVar[Capability] = Capability.NONE
    configured_only: ClassVar[bool] = True

    def ready(self, resources: Resources) -> Self:
        if not self.argv or which(self.argv[0]) is None:
            name = self.argv[0] if self.argv else ""
            raise RequestError(f"command: argv: no program {name!r} can be run", param="argv")
        return self

    @cached_property
    def _places(self) -> asyncio.Semaphore:
        return asyncio.Semaphore(self.concurrency)

    async def verify(self, context: Context, answer: str, run: Run) -> Verdict:
        async with self._places:
            try:
                async with asyncio.timeout(self.timeout):
                    return verdict(await self._output(question(context, answer)), self.threshold)
            except TimeoutError as error:
                raise VerifierError(f"its program took longer than {self.timeout:g} s") from error

    async def _output(self, data: bytes) -> bytes:
        start = asyncio.create_subprocess_exec(
            *self.argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={k: os.environ[k] for k in (*_ENVIRONMENT, *self.environment) if k in os.environ},
            start_new_session=True,
        )
        # Shielded: a start that is cancelled half-way would kill the program, and not what it has started.
        starting = asyncio.ensure_future(start)
        try:
            process = await asyncio.shield(starting)
            assert process.stdin and process.stdout
            _, output = await together([_write(process.stdin, data), self._read(process.stdout)])
            if status := await process.wait():
                raise VerifierError(f"its program ended with status {status}")
            return output
        finally:
            process = await starting
            # The group, so that what it has started goes too; it may be gone already.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            # asyncio's wait ends when the pipes have, which one that nobody reads any more never does by itself.
            process._transport.close()  # type: ignore[attr-defined]
            await process.wait()

    async def _read(self, stream: asyncio.StreamReader) -> bytes:
        output = bytearray()
        while piece := await stream.read(1 << 14):
            output += piece
            if len(output) > self.max_output:
                raise VerifierError(f"its program wrote more than {self.max_output} bytes")
        return bytes(output)


async def _write(stream: asyncio.StreamWriter, data: bytes) -> bytes:
    # A program that does not read all of it may still have a verdict.
    with suppress(BrokenPipeError, ConnectionResetError):
        stream.write(data)
        await stream.drain()
    stream.close()
    return b""
