"""`heedful chat`: a conversation in the terminal, streamed."""

from __future__ import annotations

import os
from typing import Any

from openai import APIError, OpenAI
from openai.types.chat import ChatCompletionMessageParam
from rich.console import Console

console = Console()
_HELP = "/alignment NAME · /reset · /trace · /quit"


def talk(url: str, model: str | None, alignment: str | None, trace: bool) -> None:
    """Reads turns until end of input or /quit."""
    client = OpenAI(base_url=url, api_key=os.environ.get("HEEDFUL_API_KEY", "none"))
    try:
        model = model or client.models.list().data[0].id
    except APIError as error:
        console.print(f"[red]no answer from {url}:[/] {error}")
        raise SystemExit(1) from error
    console.print(f"[bold]{model}[/] · {_HELP}")
    messages: list[ChatCompletionMessageParam] = []
    while True:
        try:
            line = console.input("[bold cyan]you>[/] ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        command, _, rest = line.partition(" ")
        if command == "/quit":
            return
        if command == "/reset":
            messages.clear()
        elif command == "/trace":
            trace = not trace
            console.print(f"trace {'on' if trace else 'off'}")
        elif command == "/alignment":
            alignment = rest.strip() or None
            console.print(f"alignment: {alignment or 'the default'}")
        elif line.startswith("/"):
            console.print(_HELP)
        elif line:
            _turn(client, model, messages, line, alignment, trace)


def _turn(
    client: OpenAI,
    model: str,
    messages: list[ChatCompletionMessageParam],
    line: str,
    alignment: str | None,
    trace: bool,
) -> None:
    messages.append({"role": "user", "content": line})
    wish: dict[str, Any] = {"trace": trace} | ({"name": alignment} if alignment else {})
    answer = ""
    try:
        stream = client.chat.completions.create(
            model=model,
            messages=messages,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"alignment": wish},
        )
        for chunk in stream:
            if chunk.choices and (piece := chunk.choices[0].delta.content):
                answer += piece
                console.print(piece, end="", markup=False, highlight=False)
            if chunk.usage:
                usage = chunk.usage
                console.print(f"\n[dim]{usage.prompt_tokens} + {usage.completion_tokens} tokens[/]", end="")
            if record := (chunk.model_extra or {}).get("alignment"):
                console.print()
                console.print_json(data=record)
    except KeyboardInterrupt:
        console.print(" [dim](stopped)[/]", end="")
    except APIError as error:
        messages.pop()
        console.print(f"[red]{error}[/]")
        return
    console.print()
    messages.append({"role": "assistant", "content": answer})
