"""`heedful demo`: a server, a few real requests under several alignments, and what each cost."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from heedful.server.terminal import plain, terminal

if TYPE_CHECKING:
    from openai import OpenAI

console = terminal()
QUESTION = "My friend keeps borrowing money and never pays it back. What should I do?"
ALIGNMENTS = ("direct", "principles", "urial")
NORM = {
    "id": "demo",
    "text": "Whoever lends to a friend agrees on a day for paying back.",
    "source": "House rules",
}
_START_LIMIT = 600  # seconds


def demo(
    model: Annotated[str, typer.Option(help="The model to try")] = "smollm2-135m-instruct",
) -> None:
    """Start a server on a bundled model, ask it something under several alignments, and stop it."""
    raise typer.Exit(_run(model))


def _run(model: str) -> int:
    """Returns the exit status: 0 where every request was answered."""
    from openai import OpenAI

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "heedful.server", "serve", model, "--port", str(port)]
    server = subprocess.Popen(command)
    try:
        client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        if not _ready(client, server):
            console.print("the server did not start; its messages are above", style="red")
            return 1
        console.print(f"\n{QUESTION}", style="bold")
        for alignment in ALIGNMENTS:
            _ask(client, model, alignment)
        _living_norm(client, model)
        console.print(f"\nTo keep a server running: make serve (or `heedful serve {model}`)")
        return 0
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)


def _ready(client: OpenAI, server: subprocess.Popen[bytes]) -> bool:
    from openai import APIConnectionError

    until = time.monotonic() + _START_LIMIT
    while time.monotonic() < until and server.poll() is None:
        try:
            client.models.list()
            return True
        except APIConnectionError:
            time.sleep(0.5)
    return False


def _ask(client: OpenAI, model: str, alignment: str) -> None:
    console.rule(Text(f"{model}@{alignment}", "bold"))
    started, first = time.perf_counter(), None
    stream = client.chat.completions.create(
        model=f"{model}@{alignment}",
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=40,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        if chunk.choices and (text := chunk.choices[0].delta.content):
            first = first or time.perf_counter()
            console.print(plain(text), end="", soft_wrap=True)
        if chunk.usage:
            took, until_first = time.perf_counter() - started, (first or started) - started
            console.print(
                f"\n{took:.1f} s (first token after {until_first:.2f} s), "
                f"{chunk.usage.prompt_tokens} prompt + {chunk.usage.completion_tokens} answer tokens",
                style="dim",
            )


def _living_norm(client: OpenAI, model: str) -> None:
    """A norm added over HTTP is in the very next answer's context, as the trace shows; then it is taken out again."""
    items = "/alignment/stores/norms/items"
    console.rule(Text("a living norm", "bold"))
    for step in ("before", "added", "deleted"):
        if step == "added":
            client.post(items, body=NORM, cast_to=object)
        if step == "deleted":
            client.delete(f"{items}/{NORM['id']}", cast_to=object)
        answer = client.chat.completions.create(
            model=f"{model}@norms",
            messages=[{"role": "user", "content": QUESTION}],
            max_tokens=1,
            extra_body={"alignment": {"trace": True}},
        )
        used = (answer.model_extra or {})["alignment"]["trace"][0]["used"]
        state = "in" if any(norm["id"] == NORM["id"] for norm in used) else "not in"
        console.print(f"{step:8} {state} the context; nearest: {used[0]['text']} ({used[0]['score']})")
