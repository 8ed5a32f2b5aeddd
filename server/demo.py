"""`heedful demo`: a server, a few real requests under several alignments, and what each cost."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time

from openai import APIConnectionError, OpenAI
from rich.console import Console

console = Console()
QUESTION = "My friend keeps borrowing money and never pays it back. What should I do?"
ALIGNMENTS = ("direct", "principles", "urial")
_START_LIMIT = 600  # seconds


def run(model: str) -> int:
    """Returns the exit status: 0 where every request was answered."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "heedful.server", "serve", model, "--port", str(port)]
    server = subprocess.Popen(command)
    try:
        client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        if not _ready(client, server):
            console.print("[red]the server did not start; its messages are above[/]")
            return 1
        console.print(f"\n[bold]{QUESTION}[/]")
        for alignment in ALIGNMENTS:
            _ask(client, model, alignment)
        console.print(f"\nTo keep a server running: [bold]make serve[/] (or `heedful serve {model}`)")
        return 0
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)


def _ready(client: OpenAI, server: subprocess.Popen[bytes]) -> bool:
    until = time.monotonic() + _START_LIMIT
    while time.monotonic() < until and server.poll() is None:
        try:
            client.models.list()
            return True
        except APIConnectionError:
            time.sleep(0.5)
    return False


def _ask(client: OpenAI, model: str, alignment: str) -> None:
    console.rule(f"[bold]{model}@{alignment}")
    started, first = time.perf_counter(), None
    stream = client.chat.completions.create(
        model=f"{model}@{alignment}",
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=120,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        if chunk.choices and (text := chunk.choices[0].delta.content):
            first = first or time.perf_counter()
            console.print(text, end="", markup=False, highlight=False)
        if chunk.usage:
            took, until_first = time.perf_counter() - started, (first or started) - started
            console.print(
                f"\n[dim]{took:.1f} s (first token after {until_first:.2f} s), "
                f"{chunk.usage.prompt_tokens} prompt + {chunk.usage.completion_tokens} answer tokens[/]"
            )
